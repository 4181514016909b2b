"""What is compared: the weights of a checkpoint or of a manifest, as sketches by the model's own names.

A checkpoint is read, so that its own bytes speak, and its manifest gives names and components only if it describes
them. A manifest is taken at its word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from manifest import progress
from manifest.checkpoint import Checkpoint, open_address, open_checkpoint
from manifest.digests import weights_digest
from manifest.errors import DocumentError, InputError, ManifestError
from manifest.escaping import address_in, printable
from manifest.identification.identify import identify
from manifest.kinship.sketch import Sketch, digest_and_sketch
from manifest.kinship.stored import read
from manifest.remote import fetched
from manifest.schema.document import LARGEST, Manifest, parse
from manifest.schema.vocabulary import component_tensors
from manifest.storage.bounded_read import read_small
from manifest.storage.sidecars import (
    MANIFEST_INSIDE,
    bring_sidecars,
    described_checkpoint,
    has_manifest,
    is_manifest,
    select_recorded,
)
from manifest.storage.transaction import read_manifest


@dataclass(frozen=True)
class Tensor:
    """One tensor of the weights.

    Attributes:
        name: The model's own.
        shape: Its sizes.
        dtype: Its element type.
        digest: Of its type, shape and values.
        sketch: None for one that has none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str
    sketch: Sketch | None

    @property
    def is_matrix(self) -> bool:
        """Whether it has two dimensions that are more than one, as what is begun with random numbers has."""
        return sum(size > 1 for size in self.shape) >= 2


@dataclass(frozen=True)
class Subject:
    """One set of weights.

    Attributes:
        name: What it is called in answers.
        tensors: By name, without whole numbers.
        roles: The component of each tensor that belongs to one.
        weights: The weights digest.
        parents: Weights digests of those that they were trained from, as far as that is on record.
        stored: The open checkpoint; None where there is a manifest alone.
    """

    name: str
    tensors: Mapping[str, Tensor]
    roles: Mapping[str, str]
    weights: str
    parents: frozenset[str] = frozenset()
    stored: Checkpoint | None = None

    def close(self) -> None:
        if self.stored is not None:
            self.stored.close()


def opened(path: str | os.PathLike[str]) -> Subject:
    """The weights that a path or an address names: a checkpoint, or a manifest by itself.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        DocumentError: The manifest is not valid, or has no sketches.
        InputError: There is no such file.
    """
    address = address_in(path)
    if address is not None and address.endswith(MANIFEST_INSIDE):
        with fetched(address, LARGEST) as copy:
            return recorded(copy)
    place = Path(path)
    if address is None and is_manifest(place):
        return recorded(place)
    stored = open_checkpoint(described_checkpoint(place)) if address is None else open_address(address)
    try:
        bring_sidecars(stored)
        manifest = None
        with suppress(ManifestError):  # the bytes are there; what cannot be read beside them says nothing
            manifest = read_manifest(stored.path) if has_manifest(stored.path) else None
        return of_checkpoint(stored, manifest)
    except BaseException:
        stored.close()
        raise


def recorded(path: Path) -> Subject:
    """The weights that a manifest describes.

    Raises:
        DocumentError: It is not valid, or has no sketches.
    """
    found = read_sketches(path)
    if found is None:
        raise DocumentError(
            f"{printable(path.name)} has no sketches of the weights that this version reads; name the checkpoint "
            "itself, or describe it anew with `manifest create`."
        )
    return found


def read_sketches(path: Path, name: str | None = None) -> Subject | None:
    """The weights that a manifest describes; None where it has no sketches.

    Args:
        path: The manifest.
        name: What it is called in answers, its file name when None.

    Raises:
        DocumentError: It is not valid.
        InputError: It cannot be read.
    """
    manifest = parse(read_small(path, "manifest", most=LARGEST), source=printable(path.name))
    return of_manifest(manifest, printable(path.name if name is None else name, 200))


def of_manifest(manifest: Manifest, name: str) -> Subject | None:
    """Weights as a manifest describes them; None where it has no sketches.

    Raises:
        DocumentError: The sketches are not those of the tensors.
    """
    weights = manifest.weights
    sketches = read(weights, name)
    if sketches is None:
        return None
    tensors = {
        each.name: Tensor(each.name, tuple(each.shape), each.dtype, each.digest, sketches.get(each.name))
        for each in weights.tensors
        if each.alias is None
    }
    tensors = _numbers_alone(tensors)
    return Subject(name, tensors, _roles(manifest, tensors), weights.digest, _parents(manifest))


def of_checkpoint(stored: Checkpoint, manifest: Manifest | None = None) -> Subject:
    """The weights of an open checkpoint, all of which is read.

    Args:
        stored: The checkpoint.
        manifest: What may describe it; it counts only if it does.
    """
    if manifest is not None:
        try:
            stored = select_recorded(stored, manifest)
        except InputError:
            manifest = None  # it describes what is not there
    roles: Mapping[str, str] = {}
    if manifest is None:
        stored, roles = _identified(stored)
    aliases = stored.aliases()
    listed = {name: each for name, each in stored.tensors.items() if name not in aliases}
    progress.begin(f"sketches of {printable(stored.path.name)}", sum(each.nbytes for each in listed.values()))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda each: digest_and_sketch(stored, each), listed.values()))
    tensors = {
        name: Tensor(name, each.shape, each.dtype, digest, None if sketch is None else _single(sketch))
        for (name, each), (digest, sketch) in zip(listed.items(), found, strict=True)
    }
    digests = {name: tensors[aliases.get(name, name)].digest for name in stored.tensors}
    whole = weights_digest(digests.items())
    if manifest is not None and manifest.weights.digest != whole:
        manifest = None  # it describes other weights, and perhaps another model
    parents: frozenset[str] = frozenset()
    if manifest is not None:
        roles, parents = _roles(manifest, tensors), _parents(manifest)
    name = printable(stored.path.name or str(stored.path))
    return Subject(name, _numbers_alone(tensors), roles, whole, parents, stored)


def _identified(stored: Checkpoint) -> tuple[Checkpoint, Mapping[str, str]]:
    """The checkpoint by the names that its architecture has for its tensors, with their components, where known."""
    known = identify(stored.shapes, [str(key) for key in stored.extras], stored.prefix).candidates
    if not known or not known[0].exact:
        return stored, {}
    others = {there: name for name, there in known[0].stored.items() if there != name}
    named = stored.select(replace(stored.view, names=others)) if others else stored
    return named, {name: role for name, role in known[0].roles.items() if name in named.tensors}


def _parents(manifest: Manifest) -> frozenset[str]:
    return frozenset(each.weights for each in manifest.provenance.parents if each.weights is not None)


def _roles(manifest: Manifest, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for part in manifest.components:
        roles |= dict.fromkeys(component_tensors(part.prefixes, list(tensors)), part.role)
    return roles


def _numbers_alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without tensors of whole numbers: counters and positions say nothing of kinship."""
    whole = ("int", "uint", "bool")
    return {name: each for name, each in tensors.items() if not each.dtype.startswith(whole)}


def _single(sketch: Sketch) -> Sketch:
    """As a manifest would hold it, so that a file and its manifest are the same here."""
    return replace(sketch, numbers=sketch.numbers.astype(np.float32).astype(np.float64))
