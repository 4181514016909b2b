"""What a caller wants recorded of a model, by the keywords that all verbs which record one have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

import torch

from manifest.errors import InputError
from manifest.families.adapter import PRECISIONS
from manifest.golden.thoroughness import Thoroughness, as_thoroughness
from manifest.probes.directory import as_probe
from manifest.probes.inputs import Probe
from manifest.probes.shapes import shapes_probe
from manifest.signing import PrivateSigner, private_key

Key: TypeAlias = "str | os.PathLike[str] | PrivateSigner | None"
"""A private key as a caller gives it: a file, `file:…`, `env:VARIABLE`, or the key itself."""


class RecordKeywords(TypedDict, total=False):
    """The keywords of `record_options`, besides the key and whether to record golden outputs."""

    passphrase: bytes | None
    floor: Thoroughness | str
    probes: Sequence[Probe | str | os.PathLike[str]]
    example_inputs: Mapping[str, torch.Tensor] | None
    precisions: Sequence[str]
    partial: Sequence[str]
    dataset: str | None
    kinship: bool


@dataclass(frozen=True)
class GoldenOptions:
    """What is recorded of a model's outputs.

    Attributes:
        floor: How much time the numerics floor may take.
        probes: What else the model is asked, besides its family's probe.
        precisions: In what else it is asked, besides float32.
        example: Probe by shapes, for a model whose family has none; see `probes.shapes`.
    """

    floor: Thoroughness = Thoroughness.QUICK
    probes: Sequence[Probe] = ()
    precisions: Sequence[str] = ()
    example: str | None = None


@dataclass(frozen=True)
class RecordOptions:
    """What is recorded of a model, and who signs it.

    Attributes:
        signer: Who signs; None for no signature.
        golden: What is recorded of its outputs; None for nothing.
        partial: Roles of components that are absent or untrained by design.
        dataset: A note on what it was trained on.
        kinship: Whether sketches of the weights go on record; see `manifest.kinship`.
    """

    signer: PrivateSigner | None = None
    golden: GoldenOptions | None = None
    partial: Sequence[str] = ()
    dataset: str | None = None
    kinship: bool = True

    @property
    def hint(self) -> str | None:
        """The hint of the key that signs."""
        return self.signer.public.hint if self.signer else None


_signers: list[PrivateSigner | None] = []


@contextmanager
def signing_by_default(signer: PrivateSigner | None) -> Iterator[None]:
    """Inside, in every thread, whoever saves without naming a key signs with this one; with none where it is None."""
    _signers.append(signer)
    try:
        yield
    finally:
        _signers.remove(signer)


def _default_signer() -> PrivateSigner | None:
    return _signers[-1] if _signers else None


def record_options(
    key: Key = None,
    *,
    golden: bool = True,
    passphrase: bytes | None = None,
    floor: Thoroughness | str = Thoroughness.QUICK,
    probes: Sequence[Probe | str | os.PathLike[str]] = (),
    example_inputs: Mapping[str, torch.Tensor] | None = None,
    precisions: Sequence[str] = (),
    partial: Sequence[str] = (),
    dataset: str | None = None,
    kinship: bool = True,
) -> RecordOptions:
    """Options as a caller gives them.

    Args:
        key: Private key to sign with; when None, that of the recording around this, if there is one with a key.
        golden: Whether to record golden outputs.
        passphrase: Of an encrypted key.
        floor: How much time the numerics floor may take: `quick`, `full` or `none`.
        probes: What else the model is asked: `manifest.Probe(…)`, or directories of images with a `prompts.txt`.
        example_inputs: What a network of one's own takes, by the names of the arguments of its `forward`; their shapes
            and types are recorded, and golden outputs taken of numbers that anybody can draw again.
        precisions: In what else its outputs are recorded, besides float32: `["bf16"]`.
        partial: Roles of components that are absent or untrained by design: `["text_tower"]`.
        dataset: A note on what it was trained on.
        kinship: Whether sketches of the weights are recorded, by which checkpoints are compared without their files.

    Raises:
        InputError: One of these cannot be used.
        KeyFileError: The key cannot be used.
    """
    if unknown := [name for name in precisions if name not in PRECISIONS or name == "fp32"]:
        raise InputError(f"The precision is {unknown[0]!r}, expected fp64, fp16 or bf16; float32 is always recorded.")
    example = None if example_inputs is None else shapes_probe(example_inputs)
    asked = GoldenOptions(as_thoroughness(floor), [as_probe(probe) for probe in probes], tuple(precisions), example)
    signer = _default_signer() if key is None else private_key(key, passphrase)
    return RecordOptions(signer, asked if golden else None, partial, dataset, kinship)
