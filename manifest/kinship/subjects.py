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
from pydantic import ValidationError

from manifest import progress
from manifest.checkpoint import Checkpoint, View, open_address, open_checkpoint
from manifest.digests import weights_digest
from manifest.errors import DocumentError, InputError, ManifestError
from manifest.escaping import address_in, printable
from manifest.identification.identify import identify
from manifest.kinship.sketch import Sketch, digest_and_sketch
from manifest.kinship.stored import read
from manifest.remote import fetched
from manifest.schema.document import Manifest, Weights, parse
from manifest.schema.vocabulary import component_tensors
from manifest.storage.bounded_read import read_small
from manifest.storage.sidecars import bring_sidecars, described_checkpoint, has_manifest
from manifest.storage.transaction import read_manifest
from manifest.strict_json import NotStrictError, read_object

MANIFEST_SUFFIX = "manifest.json"
LARGEST_MANIFEST = 256 << 20  # bytes


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
        manifest: What is on record of these weights; None where nothing is.
        stored: The open checkpoint; None where there is a manifest alone.
    """

    name: str
    tensors: Mapping[str, Tensor]
    roles: Mapping[str, str]
    weights: str
    manifest: Manifest | None = None
    stored: Checkpoint | None = None

    def close(self) -> None:
        if self.stored is not None:
            self.stored.close()


def is_manifest(path: Path) -> bool:
    """Whether a path names a manifest by itself."""
    return path.name.endswith(MANIFEST_SUFFIX) and path.is_file()


def opened(path: str | os.PathLike[str]) -> Subject:
    """The weights that a path or an address names: a checkpoint, or a manifest by itself.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        DocumentError: The manifest is not valid, or has no sketches.
        InputError: There is no such file.
    """
    address = address_in(path)
    if address is not None and address.endswith(MANIFEST_SUFFIX):
        with fetched(address, LARGEST_MANIFEST) as copy:
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
        return _read(stored, manifest)
    except BaseException:
        stored.close()
        raise


def recorded(path: Path) -> Subject:
    """The weights that a manifest describes.

    Raises:
        DocumentError: It is not valid, or has no sketches.
    """
    name = printable(path.name)
    manifest = parse(read_small(path, "manifest", most=LARGEST_MANIFEST), source=name)
    found = of_weights(manifest.weights, name)
    if found is None:
        raise DocumentError(
            f"{name} has no sketches of the weights that this version reads; name the checkpoint itself, "
            "or describe it anew with `manifest create`."
        )
    return replace(found, roles=_roles(manifest, found.tensors), manifest=manifest)


def read_weights(path: Path, name: str | None = None) -> Subject | None:
    """The weights of one of many manifests, of which nothing else is read; None of one without sketches.

    Args:
        path: The manifest.
        name: What it is called in answers, its file name when None.

    Raises:
        DocumentError: They are not valid.
        InputError: It cannot be read.
    """
    shown = printable(path.name if name is None else name, 200)
    try:
        content = read_object(read_small(path, "manifest", most=LARGEST_MANIFEST))
        weights = Weights.model_validate(content.get("weights"))
    except (NotStrictError, ValidationError):
        raise DocumentError(f"{shown} is no valid manifest; write it anew with `manifest create`.") from None
    return of_weights(weights, shown)


def of_weights(weights: Weights, name: str) -> Subject | None:
    """Weights as a manifest describes them, without components; None where it has no sketches.

    Raises:
        DocumentError: The sketches are not those of the tensors.
    """
    sketches = read(weights, name)
    if sketches is None:
        return None
    tensors = {
        each.name: Tensor(each.name, tuple(each.shape), each.dtype, each.digest, sketches.get(each.name))
        for each in weights.tensors
        if each.alias is None
    }
    return Subject(name, _numbers_alone(tensors), {}, weights.digest)


def _read(stored: Checkpoint, manifest: Manifest | None) -> Subject:
    """The weights of an open checkpoint."""
    if manifest is not None:
        state, weights = manifest.checkpoint.state, manifest.weights
        try:
            stored = stored.select(View(tuple(state.path), state.prefix, weights.stored)).with_aliases(weights.tied)
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
    if manifest is not None:
        roles = _roles(manifest, tensors)
    name = printable(stored.path.name or str(stored.path))
    return Subject(name, _numbers_alone(tensors), roles, whole, manifest, stored)


def _identified(stored: Checkpoint) -> tuple[Checkpoint, Mapping[str, str]]:
    """The checkpoint by the names that its architecture has for its tensors, with their components, where known."""
    known = identify(stored.shapes, [str(key) for key in stored.extras], stored.prefix).candidates
    if not known or not known[0].exact:
        return stored, {}
    others = {there: name for name, there in known[0].stored.items() if there != name}
    named = stored.select(replace(stored.view, names=others)) if others else stored
    return named, {name: role for name, role in known[0].roles.items() if name in named.tensors}


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
