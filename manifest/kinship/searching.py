"""Where weights are searched for: all manifests in a folder, or an index of their sketches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from manifest import progress
from manifest.errors import InputError, ManifestError
from manifest.escaping import printable
from manifest.kinship.index import Index, opened_index
from manifest.kinship.layouts import Batch, batch_of
from manifest.kinship.subjects import read_sketches
from manifest.storage.sidecars import MANIFEST_ENDING, MANIFEST_INSIDE
from manifest.temporaries import is_temporary

_MOST_MANIFESTS = 200_000


class Folder:
    """The manifests in a folder and below it, read one after the other.

    Args:
        place: The folder; names are relative to it.

    Attributes:
        without: How many have no sketches, of those that were read.
        unread: Paths of those that are not valid, each with the reason.

    Raises:
        InputError: It holds too many manifests.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._paths = list(islice(manifests_under(place), _MOST_MANIFESTS + 1))
        if len(self._paths) > _MOST_MANIFESTS:
            raise InputError(
                f"There are more than {_MOST_MANIFESTS:,} manifests in {printable(str(place))}; name less."
            )
        self.without = 0
        self.unread: list[tuple[str, str]] = []

    def batches(self) -> Iterator[Batch]:
        progress.begin(f"{len(self._paths):,} manifests")
        for path in self._paths:
            try:
                found = read_sketches(path, name=described_name(path, self._place))
            except ManifestError as error:
                self.unread.append((str(path), str(error)))
                continue
            if found is None:
                self.without += 1
            else:
                yield batch_of(found)


@contextmanager
def searched(place: Path) -> Iterator[Folder | Index]:
    """What is searched: a folder, or an index.

    Raises:
        InputError: There is no such place.
        DocumentError: The file is no index.
    """
    if place.is_dir():
        yield Folder(place)
        return
    if not place.is_file():
        raise InputError(
            f"{printable(str(place))} is no folder, expected one with manifests in it, or an index; name another."
        )
    with opened_index(place) as index:
        yield index


def manifests_under(folder: Path) -> Iterator[Path]:
    """Every manifest in a folder and below it, in order; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_temporary(name))
        yield from (Path(place) / name for name in sorted(names) if name.endswith(MANIFEST_INSIDE))


def described_name(manifest: Path, root: Path | None = None) -> str:
    """The checkpoint that a manifest lies beside, or in, by its path, from a folder if one is given."""
    path = manifest.parent if manifest.name == MANIFEST_INSIDE else manifest
    shown = path if root is None else path.relative_to(root)
    return (str(shown) if shown.name else path.resolve().name).removesuffix(MANIFEST_ENDING)
