"""What a script loads into a model, held against the manifest of the file that it comes from.

A library's own loader, or `load_state_dict`, puts weights into whatever model has their names and shapes. While a
script is recorded, a model that is another than the one recorded is said to be, as `manifest.create_model` would say.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from manifest.errors import ArchitectureError, ManifestError
from manifest.families import creation_of, family
from manifest.families.adapter import Adapter
from manifest.families.wrappers import unwrap
from manifest.storage.transaction import read_manifest
from manifest.weights.assign import twin

_SEEN = frozenset({"A001", "A002"})
"""Rules of differences that the module itself shows; how images are prepared is nobody's concern here."""


def mismatch(module: nn.Module, path: Path) -> str | None:
    """In what a model differs from the one that a file's manifest records, with what mends it; None where it is that.

    Nothing is said of a module that is no whole model of the recorded library.

    Args:
        module: It has taken weights of the file.
        path: The file, which is what its manifest describes.
    """
    module = unwrap(module)
    try:
        recorded = read_manifest(path).architecture
        adapter = family(recorded.family)
        if not adapter.recognises(module):
            return None
        # A library sets how images are prepared after it has loaded the weights; that is not what is asked here.
        whole = adapter.settle(twin(module), recorded) if isinstance(adapter, Adapter) else module
        live = adapter.capture(whole, creation_of(module)).architecture
    except (ArchitectureError, ManifestError):
        return None
    found = [each for each in adapter.differences(live, recorded) if each.rule in _SEEN]
    if not found:
        return None
    said = "; ".join(each.of_live_model for each in found)
    cures = ", ".join(dict.fromkeys(each.cure for each in found if "on_mismatch" not in each.cure))
    made = f"make it with {cures}, or " if cures else ""
    return (
        f"{path.name} was loaded into another model than its manifest records: {said}; {made}load it by manifest.load."
    )
