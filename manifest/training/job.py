"""One checkpoint on its way to a manifest, while a training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manifest.capture.description import Description
from manifest.schema.document import Manifest, Provenance


@dataclass
class Job:
    """A checkpoint that gets its manifest.

    Attributes:
        place: Where it lies now.
        identity: Of the file, by which it is known again.
        descriptions: Of the models in it; empty once they are written down.
        provenance: Where the weights come from.
        runs: The user's own code that made the models.
        copies: Where the script has copied it to.
        manifest: What was published.
    """

    place: Path
    identity: tuple[int, ...]
    descriptions: list[Description]
    provenance: Provenance
    runs: Sequence[str]
    copies: list[Path] = field(default_factory=list)
    manifest: Manifest | None = None
