"""What is odd about a checkpoint's numbers: not finite, constant, denormal, the same twice, fresh among trained layers.

Only finiteness takes every byte; the rest looks at samples, and at whole tensors where a sample gives reason to. Where
only samples are wanted, no tensor is read whole but small ones. An anomaly is no verdict: a tied weight that was saved
twice is two equal tensors, and a head may begin at zero.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np

from manifest.checkpoint import Checkpoint, CompositeTensor, StoredTensor, StridedTensor
from manifest.initialisation.distributions import FEWEST
from manifest.initialisation.examination import Examination, is_matrix
from manifest.initialisation.values import FAR_SMALL, Sample, constant, not_finite, sample
from manifest.schema.name_ranges import listed

_LOOKED_AT = 2_048
"""Values by which equal tensors are suspected and denormals counted."""
_MANY_DENORMALS = 0.05
_SMALL = 1 << 18
"""Bytes up to which a tensor is read whole where samples are wanted: norms and biases are."""
_SCALES = ("weight", "gamma", "scale")
_FEWEST_IN_A_HOLE = 6
"""Matrices of zeros, one after the other in a file, that no architecture begins with."""


@dataclass(frozen=True)
class Anomaly:
    """Something odd about some tensors.

    Attributes:
        kind: `not-finite`, `hole`, `all-zero`, `constant`, `denormal`, `duplicate`, or `fresh-layers`.
        names: The tensors, or for fresh layers what their names begin with.
        message: One sentence.
    """

    kind: str
    names: tuple[str, ...]
    message: str


def anomalies_of(checkpoint: Checkpoint, names: Iterable[str] | None = None, *, sampled: bool = False) -> list[Anomaly]:
    """What is odd about a checkpoint's tensors, in one pass over the bytes of those that can be not finite.

    Args:
        checkpoint: The weights.
        names: The tensors to look at; all unless given. One that shares the storage of an earlier one is passed over.
        sampled: Whether large tensors are only looked at in samples: what is odd there is told, and not all of it is
            found. Equal large tensors are not looked for.
    """
    # By name once each, in order, and looked up at once: a file can have many.
    chosen = dict.fromkeys(
        name for name in (checkpoint.tensors if names is None else names) if name in checkpoint.tensors
    )
    tied = checkpoint.aliases()
    tensors = {
        name: checkpoint.tensors[name]
        for name in chosen
        if tied.get(name) not in chosen and not isinstance(checkpoint.tensors[name], CompositeTensor)
    }
    matrices = {name: tensor for name, tensor in tensors.items() if is_matrix(name, tensor)}
    samples = {name: some for name, tensor in matrices.items() if (some := sample(checkpoint, tensor, _LOOKED_AT))}
    most = FAR_SMALL if checkpoint.mirror else _SMALL
    large = {name for name, tensor in tensors.items() if sampled and tensor.nbytes > most}
    constants = _constants(checkpoint, matrices, samples, large)
    varied = {name: some for name, some in samples.items() if name not in constants}
    holes = _holes(checkpoint, constants, tensors, large)
    never_written = {name for hole in holes for name in hole.names}
    return [
        *_not_finite(checkpoint, {name: tensor for name, tensor in tensors.items() if name not in large}),
        *_not_finite_in_samples({name: some for name, some in samples.items() if name in large}),
        *holes,
        *_of_one_value({name: value for name, value in constants.items() if name not in never_written}, large),
        *_denormals(varied),
        *_duplicates(checkpoint, {name: some for name, some in varied.items() if name not in large}),
        *_fresh_layers(checkpoint, tensors),
    ]


def _not_finite(checkpoint: Checkpoint, tensors: Mapping[str, StoredTensor]) -> list[Anomaly]:
    # A mask is made of infinities.
    scanned = {name: tensor for name, tensor in tensors.items() if not name.endswith("mask")}
    return [
        Anomaly(
            "not-finite",
            (name,),
            f"{name} has {_counted(found.nans, 'NaN')} and {_counted(found.infinities, 'infinite value')} "
            f"among its {tensors[name].numel:,}, the first at {_index(found.first, tensors[name].shape)}.",
        )
        for name, found in not_finite(checkpoint, scanned).items()
    ]


def _not_finite_in_samples(samples: Mapping[str, Sample]) -> list[Anomaly]:
    counts = {name: int((~np.isfinite(some.values)).sum()) for name, some in samples.items()}
    return [
        Anomaly(
            "not-finite",
            (name,),
            f"{name} has {_counted(count, 'value')} that {'are' if count > 1 else 'is'} not finite among the "
            f"{samples[name].values.size:,} that were looked at.",
        )
        for name, count in counts.items()
        if count
    ]


def _constants(
    checkpoint: Checkpoint, matrices: Mapping[str, StoredTensor], samples: Mapping[str, Sample], large: Set[str]
) -> dict[str, float]:
    suspects = {name: some.constant for name, some in samples.items() if some.constant is not None}
    found = (
        (name, value if name in large else constant(checkpoint, matrices[name])) for name, value in suspects.items()
    )
    return {name: value for name, value in found if value is not None}


def _holes(
    checkpoint: Checkpoint, constants: Mapping[str, float], tensors: Mapping[str, StoredTensor], large: Set[str]
) -> list[Anomaly]:
    """Stretches of a file that hold nothing but zeros, norms among them: a download leaves such ones.

    Layers that begin closed, such as ControlNet's, lie side by side as well; no norm of theirs is zero.
    """
    zeros = {name for name, value in constants.items() if value == 0}
    if len(zeros) < _FEWEST_IN_A_HOLE:
        return []
    stored = {
        name: tensor for name, tensor in tensors.items() if isinstance(tensor, StridedTensor) and not tensor.deflated
    }
    in_order = sorted(stored, key=lambda name: (stored[name].file, stored[name].offset))

    def is_zero(name: str) -> bool:
        return name in zeros or (name not in large and constant(checkpoint, stored[name]) == 0)

    runs = [
        (file, list(run))
        for file, members in itertools.groupby(in_order, lambda name: stored[name].file)
        for zero, run in itertools.groupby(members, is_zero)
        if zero
    ]
    return [
        Anomaly(
            "hole",
            tuple(run),
            f"Bytes {stored[run[0]].offset:,} to {stored[run[-1]].offset + stored[run[-1]].nbytes:,} of "
            f"{checkpoint.files[file].name} are zero: "
            f"{len(run)} tensors from {run[0]} to {run[-1]} were never written.",
        )
        for file, run in runs
        if sum(name in zeros for name in run) >= _FEWEST_IN_A_HOLE
        and any(len(stored[name].shape) == 1 and name.endswith(_SCALES) for name in run)
        and len(run) < len(stored)
    ]


def _of_one_value(constants: Mapping[str, float], large: Set[str]) -> list[Anomaly]:
    def where(*names: str) -> str:
        return "throughout" if large.isdisjoint(names) else "wherever it was looked at"

    zeros = tuple(name for name, value in constants.items() if value == 0)
    odd = [Anomaly("all-zero", zeros, f"{_subject(zeros)} zero {where(*zeros)}.")] if zeros else []
    return odd + [
        Anomaly("constant", (name,), f"{name} is {value:.6g} {where(name)}.")
        for name, value in constants.items()
        if value != 0
    ]


def _denormals(samples: Mapping[str, Sample]) -> list[Anomaly]:
    shares = {name: share for name, some in samples.items() if (share := _denormal_share(some)) > _MANY_DENORMALS}
    return [
        Anomaly("denormal", (name,), f"{share:.0%} of the values of {name} are too small for all their digits.")
        for name, share in shares.items()
    ]


def _denormal_share(some: Sample) -> float:
    size = np.abs(some.values)
    return float(((size > 0) & (size < some.least_normal)).mean())


def _duplicates(checkpoint: Checkpoint, samples: Mapping[str, Sample]) -> list[Anomaly]:
    """Tensors with the same values, those together that belong to the same two layers."""
    suspects: dict[tuple[object, ...], list[str]] = {}
    for name, some in samples.items():
        tensor = checkpoint.tensors[name]
        if tensor.numel >= FEWEST:
            key = (tensor.dtype, tensor.shape, hashlib.blake2b(some.values.tobytes(), digest_size=16).digest())
            suspects.setdefault(key, []).append(name)
    layers: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for names in suspects.values():
        for first, second in _equal_pairs(checkpoint, names):
            layers.setdefault(_places(first, second), []).append((first, second))
    return [_duplicate(places, pairs) for places, pairs in layers.items()]


def _equal_pairs(checkpoint: Checkpoint, names: list[str]) -> Iterator[tuple[str, str]]:
    """Each name with the first of those that have its values; what stands alone is not read."""
    firsts: dict[str, str] = {}
    for name in names if len(names) > 1 else ():
        first = firsts.setdefault(checkpoint.digest(checkpoint.tensors[name]), name)
        if first != name:
            yield first, name


def _places(first: str, second: str) -> tuple[str, str]:
    """What two names begin with, up to the part in which they differ, where they end alike; else the names."""
    left, right = re.split(r"[./]", first), re.split(r"[./]", second)
    same = 0
    while same < min(len(left), len(right)) - 1 and left[-1 - same] == right[-1 - same]:
        same += 1
    if not same:
        return first, second
    ending = sum(len(part) + 1 for part in left[-same:])
    return first[:-ending], second[:-ending]


def _duplicate(places: tuple[str, str], pairs: list[tuple[str, str]]) -> Anomaly:
    names = tuple(name for pair in pairs for name in pair)
    if len(pairs) == 1:
        return Anomaly("duplicate", names, f"{pairs[0][0]} and {pairs[0][1]} have the same values.")
    return Anomaly("duplicate", names, f"{places[0]} and {places[1]} have the same values in {len(pairs)} weights.")


def _fresh_layers(checkpoint: Checkpoint, names: Iterable[str]) -> list[Anomaly]:
    blocks = tuple(Examination(names, checkpoint).fresh_blocks())
    if not blocks:
        return []
    message = f"{_subject(blocks)} as an initialiser leaves them, and others like them were trained."
    return [Anomaly("fresh-layers", blocks, message)]


def _subject(names: tuple[str, ...]) -> str:
    return f"{listed(names)} {'are' if len(names) > 1 else 'is'}"


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _index(flat: int, shape: tuple[int, ...]) -> list[int]:
    position = []
    for size in reversed(shape):
        flat, index = divmod(flat, size)
        position.append(index)
    return position[::-1]
