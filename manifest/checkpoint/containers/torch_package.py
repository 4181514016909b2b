"""torch.package: an archive of pickles, of the Python source that they need, and of storages.

Every pickle in it is read inertly and may hold weights; the source is never run. The records are those of
`torch/package/package_exporter.py`.
"""

from __future__ import annotations

from dataclasses import replace

from manifest.checkpoint.containers.torch_archive import BOOKKEEPING, read_archive, storage_ranges
from manifest.checkpoint.containers.torch_zip import read_pickle
from manifest.checkpoint.contents import Container, Contents, alone
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.names import first_extras
from manifest.checkpoint.pickles.stand_ins import over_limit
from manifest.checkpoint.pickles.torch_objects import TorchObjects
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.state_dicts import FoundState, find_states, order
from manifest.checkpoint.storage_layout import candidates, check_tensors
from manifest.errors import CheckpointError

_MARK = ".data/extern_modules"
_HIDDEN = ".data/"
_STORAGE = ".storage"
_PICKLE = ".pkl"
_COMPRESSED = (".py", ".debug_pkl")  # the code of TorchScript programs in it, with what debuggers need
_MOST_PICKLES = 1_000
_MOST_STATES = 1_000


def recognises(sniffed: Sniffed) -> bool:
    """Whether the file is an archive that lists the modules it takes from outside."""
    return _MARK in sniffed.inside


def read(file: FileBytes) -> Contents:
    """Weights in the pickles of a package; each set is under the name of its pickle.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F001` when no pickle holds weights.
    """
    archive = read_archive(
        file,
        lambda name: name.endswith(_STORAGE) or (not name.startswith(_HIDDEN) and not name.endswith(_PICKLE)),
        lambda name: name.endswith(_COMPRESSED),
    )
    pickles = [name for name in archive.records if name.endswith(_PICKLE) and not name.startswith(_HIDDEN)]
    if len(pickles) > _MOST_PICKLES:
        raise CheckpointError(
            f"it holds more than {_MOST_PICKLES:,} pickles; do not load it unless you know who made it.", rule="F003"
        )
    objects = TorchObjects(packaged=True)
    states: list[FoundState] = []
    globals_: dict[str, None] = {}
    refused: dict[str, None] = {}
    for name in pickles:
        interpreted = read_pickle(archive, name, objects)
        globals_.update(dict.fromkeys(interpreted.globals))
        refused.update(dict.fromkeys(interpreted.refused_opcodes))
        try:
            states += [
                replace(state, path=(name, *state.path), extras=tuple(f"{name}.{extra}" for extra in state.extras))
                for state in find_states(interpreted.root)
            ]
        except CheckpointError as error:
            if error.rule not in ("F001", "F004"):
                raise
        if len(states) > _MOST_STATES:
            raise over_limit(f"it holds more than {_MOST_STATES:,} sets of tensors")
    if not states:
        raise CheckpointError(
            f"it is a torch.package whose {len(pickles)} pickles hold no weights; pass one that does.", rule="F001"
        )
    ranges = storage_ranges(objects.storages(), archive.records, lambda key: f"{_HIDDEN}{key}{_STORAGE}")
    check_tensors(objects.tensors, len(file))
    beside = tuple(
        name
        for name in archive.records
        if not name.startswith(_HIDDEN) and not name.endswith(".py") and name not in BOOKKEEPING
    )
    states = [
        replace(state, extras=first_extras([*state.extras, *(name for name in beside if name != state.path[0])]))
        for state in sorted(states, key=order)
    ]
    code = tuple(name for name in archive.records if name.endswith(".py"))
    found = candidates(states, ranges)
    return Contents(found, tuple(globals_), tuple(refused), code, tuple(archive.records.values()))


CONTAINER = Container("torch-package", recognises, alone(read))
