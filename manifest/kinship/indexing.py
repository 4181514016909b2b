"""Adding to an index what places name: manifests, checkpoints, folders of manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from manifest import progress
from manifest.errors import ManifestError
from manifest.escaping import printable
from manifest.kinship.index import Added, add
from manifest.kinship.searching import described_name, manifests_under
from manifest.kinship.subjects import Subject, opened, read_sketches
from manifest.storage.sidecars import is_manifest, require_checkpoint


@dataclass(frozen=True)
class Indexed(Added):
    """What became of an index, and of what was to be added.

    Attributes:
        without: How many manifests and checkpoints have no sketches.
        unread: Paths of what could not be read, each with the reason.
    """

    without: int
    unread: tuple[tuple[str, str], ...]


def indexed(index: Path, places: Sequence[Path]) -> Indexed:
    """Put the weights that places name into an index.

    Raises:
        InputError: There is no such place.
        DocumentError: The file is there and is no index.
        StorageError: It cannot be written.
    """
    for place in places:
        require_checkpoint(place)
    reading = _Reading()
    added = add(index, reading.each(places))
    return Indexed(added.added, added.updated, added.held, reading.without, tuple(reading.unread))


@dataclass
class _Reading:
    """The weights of several places, and what of them has none or cannot be read."""

    without: int = 0
    unread: list[tuple[str, str]] = field(default_factory=list)

    def each(self, places: Iterable[Path]) -> Iterator[Subject]:
        for place in places:
            manifests = [place] if is_manifest(place) else list(manifests_under(place)) if place.is_dir() else []
            progress.begin(f"{len(manifests):,} manifests")
            for path in manifests or [place]:
                try:
                    found = self._manifest(path) if manifests else self._checkpoint(path)
                except (ManifestError, OSError) as error:
                    self.unread.append((str(path), str(error)))
                    continue
                if found is None or not found.tensors:
                    self.without += 1
                else:
                    yield found

    def _manifest(self, path: Path) -> Subject | None:
        return read_sketches(path, name=described_name(path))

    def _checkpoint(self, path: Path) -> Subject:
        subject = opened(path)
        subject.close()
        return replace(subject, name=printable(str(path), 200))
