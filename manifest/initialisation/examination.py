"""Which parts of a model are as an initialiser leaves them: norms, layer scales, matrices, biases, whole blocks.

A tensor's part is told by its name and shape alone, as torch, timm, transformers, flax and their kin name them. Norms
begin at exactly 1 (or 0, where a residual branch starts closed) and 0, and one optimizer step leaves them nowhere near
so exactly; matrices begin as a draw from a known distribution, which says less the fewer steps were taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from enum import Enum

from manifest.checkpoint import Checkpoint, StoredTensor
from manifest.initialisation.distributions import (
    FEWEST,
    DistributionFit,
    DistributionShape,
    Initialiser,
    fit_distribution,
    fits_some_scale,
    initialisers,
)
from manifest.initialisation.values import FLOATING, Sample, all_equal, constant, sample, squares_from

_SCALE_LEAVES = ("weight", "scale", "gamma", "alpha")
_OFFSET_LEAVES = ("bias", "beta")
_LAYER_SCALE = re.compile(r"(?:gamma|lambda|layer_?scale|ls)(?:_?\d+)?$")
_BUFFERS = re.compile(
    r"(?:^|[./_])(?:inv_freq|freqs(?:_cis)?|freqs_cos|freqs_sin|cos|sin|cos_cached|sin_cached|attn_mask|mask|causal_mask"
    r"|position_ids|relative_coords_table|relative_position_index|relative_position_bucket|anchors|filt|kernel_filter)$"
)
"""Last parts of the names of tables that are computed, never trained, and alike in every layer."""
_NUMBER = re.compile(r"\d+(?=[./]|$)")
_WIDEST = 1 << 20
"""Values of the widest norm: more would be read whole for nothing, and a few bytes of a file can claim them."""
_SLOPE = 0.25
"""A learned slope of PReLU begins there; by name and shape it is a norm without a bias."""


class NormState(Enum):
    """What became of a norm."""

    PRISTINE = "pristine"
    RAN = "ran"
    """Its statistics saw batches; its weights are exactly as initialised."""
    MOVED = "moved"


class MatrixState(Enum):
    """How a matrix compares with fresh ones."""

    EXACT = "exact"
    """A draw from a known initialiser, down to the arithmetic of the generator."""
    KNOWN = "known"
    """A draw from a known initialiser, as far as tests tell."""
    CONSTANT = "constant"
    """All values are one: closed at the start, or never filled."""
    OTHER = "other"
    """No draw from a known initialiser."""


class BiasState(Enum):
    """How a bias compares with fresh ones."""

    EXACT = "exact"
    """One value throughout, or a draw down to the arithmetic of the generator."""
    KNOWN = "known"
    """A draw from a known initialiser, or too short to tell."""
    MOVED = "moved"


class Examination:
    """The parts of some tensors of a checkpoint, each looked at when it is first asked for.

    Attributes:
        norms: Stem of each norm: what its tensors' names have in common.
        layer_scales: Names of factors of residual branches, which begin at one value.
        matrices: Names of weights with two dimensions or more, and values enough for a test.
        biases: Names of biases that are no norm's.
        scalars: Names of tensors of one value.
    """

    def __init__(self, names: Iterable[str], checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._names = [name for name in names if name in checkpoint.tensors]
        self._leaves: dict[str, dict[str, str]] = {}
        for name in self._names:
            stem, leaf = split(name)
            self._leaves.setdefault(stem, {})[leaf] = name
        self._norms = {stem: parts for stem in self._leaves if (parts := self._norm_of(stem))}
        in_norms = {name for parts in self._norms.values() for name in parts if name is not None}
        others = [name for name in self._names if name not in in_norms and self._tensor(name).dtype in FLOATING]
        self.norms = list(self._norms)
        self.layer_scales = [name for name in others if self._is_layer_scale(name)]
        self.matrices = [name for name in others if is_matrix(name, self._tensor(name)) and self._is_enough(name)]
        self.biases = [name for name in others if self._is_bias(name)]
        self.scalars = [name for name in others if self._tensor(name).numel == 1]
        self._depths = _depths(self._names)
        self._norm_states: dict[str, NormState] = {}
        self._matrix_states: dict[str, MatrixState] = {}
        self._bias_states: dict[str, BiasState] = {}

    def norm(self, stem: str) -> NormState:
        """The state of a norm of these."""
        if stem not in self._norm_states:
            self._norm_states[stem] = self._norm_state(stem)
        return self._norm_states[stem]

    def departure(self) -> float:
        """How far the weights and biases of these norms are from where they began: root mean square."""
        squares, count = 0.0, 0
        for scale, offset, mean, _ in self._norms.values():
            for name, starts in ((scale, self._scale_starts(offset, mean)), (offset, (0.0,))):
                if name is not None:
                    squares += squares_from(self._checkpoint, self._tensor(name), starts)
                    count += self._tensor(name).numel
        return math.sqrt(squares / count) if count else 0.0

    def tells(self, stem: str) -> bool:
        """Whether a norm of these, had it been trained, would not be pristine.

        Near 0 every type holds the smallest step; near 1, the shorter types round many away. A norm without weights
        has nothing to train.
        """
        scale, offset, *_ = self._norms[stem]
        return offset is not None or (scale is not None and self._tensor(scale).dtype in {"float32", "float64"})

    def matrix(self, name: str) -> MatrixState:
        """The state of a matrix of these."""
        if name not in self._matrix_states:
            self._matrix_states[name] = self._matrix_state(name)
        return self._matrix_states[name]

    def alike(self, name: str) -> bool:
        """Whether a matrix of these is a draw of an initialiser's shape, at whatever scale."""
        values = sample(self._checkpoint, self._tensor(name))
        return values is not None and fits_some_scale(values)

    def bias(self, name: str) -> BiasState:
        """The state of a bias of these."""
        if name not in self._bias_states:
            self._bias_states[name] = self._bias_state(name)
        return self._bias_states[name]

    def layer_scale_departure(self, name: str) -> float:
        """How far the values of a layer scale of these are from their mean: root mean square."""
        values = sample(self._checkpoint, self._tensor(name))
        return math.inf if values is None else float(values.values.std())

    def layer_scale_moved(self, name: str) -> bool:
        """Whether a layer scale of these has more than one value."""
        return self._tensor(name).numel > 1 and constant(self._checkpoint, self._tensor(name)) is None

    def dtypes(self) -> set[str]:
        """Element types of the tensors that are floating-point numbers."""
        return {self._tensor(name).dtype for name in self._names} & FLOATING

    def value(self, name: str) -> float | None:
        """The number that a scalar of these is."""
        found = sample(self._checkpoint, self._tensor(name))
        return None if found is None else float(found.values[0])

    def fresh_blocks(self) -> list[str]:
        """Blocks that are as initialised while others of their kind were trained, the outermost only.

        A block is all under a name that ends in a number. It is fresh when all of its norms are pristine, all of its
        matrices fit, and none of its biases moved; two norms, or a norm and two matrices, are the least that says so.
        """
        blocks = self._blocks()
        moved = {_kind(block) for block, parts in blocks.items() if any(self._moved(stem) for stem in parts.norms)}
        fresh = [block for block, parts in blocks.items() if _kind(block) in moved and self._is_fresh(parts)]
        outermost = [block for block in fresh if not any(outer in fresh for outer in _outer(block))]
        return sorted(outermost, key=_by_number)

    def _blocks(self) -> dict[str, _Block]:
        blocks: dict[str, _Block] = {}
        for kind, members in (
            ("norms", self.norms),
            ("layer_scales", self.layer_scales),
            ("matrices", self.matrices),
            ("biases", self.biases),
        ):
            for member in members:
                for block in _outer(member):
                    getattr(blocks.setdefault(block, _Block()), kind).append(member)
        return blocks

    def _is_fresh(self, parts: _Block) -> bool:
        return (
            any(self.tells(stem) for stem in parts.norms)
            and len(parts.norms) + len(parts.matrices) >= 3
            and all(self.norm(stem) is NormState.PRISTINE for stem in parts.norms)
            and not any(self.layer_scale_moved(name) for name in parts.layer_scales)
            and not any(self.bias(name) is BiasState.MOVED for name in parts.biases)
            and any(self.matrix(name) is not MatrixState.CONSTANT for name in parts.matrices)
            and not any(self.matrix(name) is MatrixState.OTHER for name in parts.matrices)
        )

    def _moved(self, stem: str) -> bool:
        return self.norm(stem) is NormState.MOVED

    def _tensor(self, name: str) -> StoredTensor:
        return self._checkpoint.tensors[name]

    def _norm_of(self, stem: str) -> tuple[str | None, ...] | None:
        """Names of a norm's scale, offset, running mean and running variance; None when it is none."""
        leaves = self._leaves[stem]
        scale = next((leaves[leaf] for leaf in _SCALE_LEAVES if leaf in leaves), None)
        offset = next((leaves[leaf] for leaf in _OFFSET_LEAVES if leaf in leaves), None)
        mean, variance = leaves.get("running_mean"), leaves.get("running_var")
        if scale is None:
            return (None, None, mean, variance) if mean and variance else None
        vector = self._tensor(scale)
        if len(vector.shape) != 1 or not 2 <= vector.numel <= _WIDEST or vector.dtype not in FLOATING:
            return None
        if offset is None and (split(scale)[1] not in {"weight", "scale"} or _is_named_layer_scale(scale)):
            return None
        if offset is not None and self._tensor(offset).shape != vector.shape:
            return None
        return scale, offset, mean, variance

    def _is_layer_scale(self, name: str) -> bool:
        return _is_named_layer_scale(name) and _wide(self._tensor(name)) == 1

    def _is_enough(self, name: str) -> bool:
        return self._tensor(name).numel >= FEWEST

    def _is_bias(self, name: str) -> bool:
        return split(name)[1].endswith("bias") and len(self._tensor(name).shape) == 1 and self._tensor(name).numel > 1

    def _norm_state(self, stem: str) -> NormState:
        scale, offset, mean, variance = self._norms[stem]
        if scale is not None and not self._begins_at(scale, *self._scale_starts(offset, mean)):
            return NormState.MOVED
        if offset is not None and not self._begins_at(offset, 0.0):
            return NormState.MOVED
        if (mean and not self._begins_at(mean, 0.0)) or (variance and not self._begins_at(variance, 1.0)):
            return NormState.RAN
        return NormState.PRISTINE

    @staticmethod
    def _scale_starts(offset: str | None, mean: str | None) -> tuple[float, ...]:
        """The values at which the weights of a norm may begin."""
        return (1.0, 0.0) if offset is not None or mean is not None else (1.0, 0.0, _SLOPE)

    def _begins_at(self, name: str, *values: float) -> bool:
        return all_equal(self._checkpoint, self._tensor(name), values)

    def _matrix_state(self, name: str) -> MatrixState:
        values = sample(self._checkpoint, self._tensor(name))
        if values is None:
            return MatrixState.OTHER
        if values.constant is not None:
            return MatrixState.CONSTANT
        found = fit_distribution(values, self._candidates(name))
        if found.initialiser is not None:
            return MatrixState.EXACT if found.exact else MatrixState.KNOWN
        return MatrixState.OTHER

    def _candidates(self, name: str) -> set[Initialiser]:
        shape = _trimmed(self._tensor(name).shape)
        return initialisers(shape, self._depths[_kind(name)], _first_number(name))

    def _bias_state(self, name: str) -> BiasState:
        values = sample(self._checkpoint, self._tensor(name))
        if values is None:
            return BiasState.MOVED
        if values.constant is not None:
            return BiasState.EXACT
        found = self._bias_fit(name, values)
        if found.exact:
            return BiasState.EXACT
        return BiasState.MOVED if found.initialiser is None else BiasState.KNOWN

    def _bias_fit(self, name: str, values: Sample) -> DistributionFit:
        """A bias begins at one value, or within torch's bound for its layer, or within millionths (vision in flax)."""
        candidates = {Initialiser(DistributionShape.NORMAL, 1e-6)}
        stem, leaf = split(name)
        weight = self._leaves[stem].get(leaf.removesuffix("bias") + "weight")
        if weight is not None and len(self._tensor(weight).shape) > 1 and self._tensor(weight).numel:
            shape = self._tensor(weight).shape
            inputs = self._tensor(weight).numel // shape[0]
            candidates |= {Initialiser(DistributionShape.UNIFORM, (3 * fan) ** -0.5) for fan in {inputs, shape[0]}}
        if values.values.size >= FEWEST:
            return fit_distribution(values, candidates)
        within = [one for one in candidates if abs(values.values).max() <= min(one.bound, 6 * one.deviation) * 1.01]
        return DistributionFit(within[0]) if within else DistributionFit()


class _Block:
    def __init__(self) -> None:
        self.norms: list[str] = []
        self.layer_scales: list[str] = []
        self.matrices: list[str] = []
        self.biases: list[str] = []


def is_matrix(name: str, tensor: StoredTensor) -> bool:
    """Whether a tensor is a weight with two dimensions or more, by its name, type and shape."""
    return _wide(tensor) >= 2 and tensor.dtype in FLOATING and not _BUFFERS.search(name)


def split(name: str) -> tuple[str, str]:
    """A tensor's module and its own name: `blocks.0.norm1` and `weight`; flax puts strokes between them."""
    position = max(name.rfind("."), name.rfind("/"))
    return name[: max(position, 0)], name[position + 1 :]


def _is_named_layer_scale(name: str) -> bool:
    """Whether a name is of a layer scale: `gamma_1`, `ls1.gamma`, `layer_scale1.scale`."""
    stem, leaf = split(name)
    return bool(_LAYER_SCALE.match(leaf) or (leaf in _SCALE_LEAVES and _LAYER_SCALE.match(split(stem)[1])))


def _wide(tensor: StoredTensor) -> int:
    return sum(size > 1 for size in tensor.shape)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without leading ones, as of position embeddings: at least rows and columns."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _outer(name: str) -> Iterator[str]:
    """What a name begins with that ends in a number, the shortest first; never the name itself."""
    return (name[: match.end()] for match in _NUMBER.finditer(name) if match.end() < len(name))


def _kind(name: str) -> str:
    return _NUMBER.sub("*", name)


def _by_number(name: str) -> list[tuple[int, str]]:
    """By which 2 comes before 10."""
    return [(int(part[:18]), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _first_number(name: str) -> int:
    match = _NUMBER.search(name)
    return min(int(match[0][:6]), 10_000) if match else 0


def _depths(names: Iterable[str]) -> dict[str, int]:
    """For names that differ in numbers only: how many layers the first of the numbers counts."""
    depths: dict[str, int] = {}
    for name in names:
        depths[_kind(name)] = max(depths.get(_kind(name), 1), _first_number(name) + 1)
    return depths
