"""The distributions that weights begin with, and whether some values are a draw from one of them.

The formulas are those of `torch.nn.init`, of the modules of torch, open_clip 3.3, timm 1.0, torchvision 0.29 and
transformers 5, where each sets its own. Which module a weight belongs to is not known here, only its shape and place,
so that a weight is compared with all that its shape allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cache

import numpy as np
import numpy.typing as npt

from manifest.initialisation.values import Floats, Sample

SIGNIFICANCE = 1e-6
"""The chance that a fresh weight is called something else. Of the million tensors that a file can have, one."""
FEWEST = 128
"""Values below which a test says next to nothing."""
_MOST_ZEROS = 0.1
"""Share of exact zeros, as in the row of a padding token, that a fresh weight may have besides its values."""
_GREATEST = 1e6
"""No initialiser gives a greater value, and it can be squared in any type."""
_CUT = 2.0
"""Standard deviations at which truncated normals are cut."""
_GRID = np.linspace(-8.0, 8.0, 8193)
_MOST_RANKS = 1_024
_LATTICE_NEAR = 64
_FEWEST_ON_LATTICE = 8


class DistributionShape(Enum):
    """A distribution up to its scale; all have mean zero. The value is the fourth moment over the squared variance."""

    NORMAL = 3.0
    UNIFORM = 1.8
    TRUNCATED = 2.3654
    """Normal, cut at two standard deviations."""


_DENSITY_AT_CUT = math.exp(-_CUT * _CUT / 2) / math.sqrt(2 * math.pi)
_WITHIN_CUT = math.erf(_CUT / math.sqrt(2))
_CUT_DEVIATION = math.sqrt(1 - 2 * _CUT * _DENSITY_AT_CUT / _WITHIN_CUT)
"""Standard deviation of a standard normal after cutting: 0.8796."""


@dataclass(frozen=True)
class Initialiser:
    """A shape with the standard deviation that its values have."""

    shape: DistributionShape
    deviation: float

    @property
    def bound(self) -> float:
        """The greatest absolute value that it gives."""
        return {
            DistributionShape.NORMAL: math.inf,
            DistributionShape.UNIFORM: self.deviation * math.sqrt(3),
            DistributionShape.TRUNCATED: self.deviation * _CUT / _CUT_DEVIATION,
        }[self.shape]


def initialisers(shape: tuple[int, ...], layers: int, layer: int) -> set[Initialiser]:
    """Those that a weight may have come from.

    Args:
        shape: Of the weight: rows (outputs), columns (inputs), and the kernel of a convolution.
        layers: How many layers its component stacks; 1 when it is in none of a stack.
        layer: Which of them it is in, from 0.
    """
    kernel = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * kernel, shape[0] * kernel
    # Of flax's kernels, whose outputs come last.
    ends = {fan_in, fan_out, math.prod(shape[:-1]), shape[0], shape[1], shape[-1]}
    found: set[Initialiser] = set()
    for fan in ends:
        found |= _of_one_fan(fan, layers)
    if shape[1] == 1:  # depthwise: timm divides the fan by the number of groups
        found.add(Initialiser(DistributionShape.NORMAL, math.sqrt(2 / kernel)))
    # The second and third: queries, keys and values in one matrix, initialised as three.
    for total in (fan_in + fan_out, fan_in + fan_out / 3):
        found.add(Initialiser(DistributionShape.UNIFORM, math.sqrt(2 / total)))
        found.add(Initialiser(DistributionShape.NORMAL, math.sqrt(2 / total)))
    return found | _of_any_shape(layers, layer)


def _of_one_fan(fan: int, layers: int) -> set[Initialiser]:
    width = 1 / math.sqrt(fan)
    return {
        Initialiser(DistributionShape.UNIFORM, width / math.sqrt(3)),  # torch's own for linear layers and convolutions
        Initialiser(DistributionShape.UNIFORM, width),  # LeCun
        Initialiser(DistributionShape.UNIFORM, width * math.sqrt(2)),  # Kaiming
        Initialiser(DistributionShape.NORMAL, width),  # LeCun, projections and queries of CLIP
        Initialiser(DistributionShape.NORMAL, width * math.sqrt(2)),  # Kaiming
        Initialiser(DistributionShape.NORMAL, width / math.sqrt(2)),  # CLIP's first layer of an MLP
        Initialiser(DistributionShape.NORMAL, width / math.sqrt(2 * layers)),  # CLIP's last layer of a branch
        Initialiser(DistributionShape.TRUNCATED, width),  # LeCun in flax and timm
        Initialiser(DistributionShape.NORMAL, width / _CUT_DEVIATION),  # LeCun in transformers, which cuts further out
        Initialiser(DistributionShape.TRUNCATED, width * math.sqrt(2)),
    }


def _of_any_shape(layers: int, layer: int) -> set[Initialiser]:
    # The least is the head of BEiT and EVA. timm and transformers cut at ±2, which is a hundred deviations away, and
    # torchvision's Inception at two deviations.
    deep = {0.02 / math.sqrt(2 * layers), 0.02 / math.sqrt(2 * (layer + 1))}  # GPT-2; BEiT and EVA
    return {
        *(Initialiser(DistributionShape.NORMAL, deviation) for deviation in (1.0, 0.1, 0.02, 0.01, 0.001, 2e-5, *deep)),
        *(Initialiser(DistributionShape.TRUNCATED, deviation * _CUT_DEVIATION) for deviation in (0.1, 0.02, 0.01)),
    }


@dataclass(frozen=True)
class DistributionFit:
    """The result of comparing values with initialisers.

    Attributes:
        initialiser: The one that fits best; None when none does.
        exact: Whether the values are moreover such as the generator's arithmetic gives, which no training leaves.
    """

    initialiser: Initialiser | None = None
    exact: bool = False


def fit_distribution(values: Sample, candidates: set[Initialiser]) -> DistributionFit:
    """Whether a sample is a draw from one of some initialisers, at `SIGNIFICANCE`.

    Two tests with half of it each: the variance against its known value (chi-square, with the degrees of freedom that
    the shape's kurtosis leaves, by Wilson and Hilferty's cube root), and the distribution at fixed parameters
    (Kolmogorov and Smirnov, by Stephens' correction for few values). A value that was rounded to a shorter type counts
    as its rounding interval, which makes the second test no less strict on what is not fresh than the rounding is.
    """
    prepared = _prepared(values)
    if prepared is None:
        return DistributionFit()
    chances = {candidate: chance for candidate in candidates if (chance := _chance(prepared, candidate)) > SIGNIFICANCE}
    if not chances:
        return DistributionFit()
    lattice = [
        one for one in chances if one.shape is DistributionShape.UNIFORM and values_on_lattice(values, one.bound)
    ]
    best = max(lattice or chances, key=lambda one: chances[one])
    return DistributionFit(best, bool(lattice))


def fits_some_scale(values: Sample) -> bool:
    """Whether a sample is a draw of one of the shapes, whatever its scale; says less than `fit_distribution`."""
    prepared = _prepared(values)
    if prepared is None:
        return False
    deviation = math.sqrt(prepared.mean_square)
    return any(_kolmogorov(prepared, Initialiser(shape, deviation)) > SIGNIFICANCE for shape in DistributionShape)


def values_on_lattice(values: Sample, bound: float) -> bool:
    """Whether float32 values are such as torch draws uniformly from ±bound.

    It multiplies a whole number below 2**24 by the step that divides the range so and subtracts the bound, in one
    rounding: values near zero are whole multiples of the step, as far as their digits tell. One optimizer step leaves
    none of them so. By chance, eight values are within a twentieth of a step with probability 1e-8.
    """
    if values.dtype != "float32" or not math.isfinite(bound):
        return False
    size = np.abs(values.values)
    near = values.values[(size < bound / _LATTICE_NEAR) & (size > 0)]
    if near.size < _FEWEST_ON_LATTICE or float(size.max()) > bound * (1 + 1e-6):
        return False
    steps = near / (bound * 2.0**-24)  # half a step of the CPU's generator
    return bool((np.abs(steps - np.round(steps)) < 0.05).all())


@dataclass(frozen=True)
class _Prepared:
    """What the tests need of a sample.

    Attributes:
        count: How many values it has.
        mean_square: Of all of them.
        ranks: Places of some values among all, from 1: a thousand miss next to nothing of the greatest difference.
        below: The lower end of the rounding interval of each of those.
        above: The upper end.
    """

    count: int
    mean_square: float
    ranks: npt.NDArray[np.int64]
    below: Floats
    above: Floats


def _prepared(values: Sample) -> _Prepared | None:
    numbers = values.values
    kept = numbers[numbers != 0] if (numbers == 0).any() else numbers
    if numbers.size < FEWEST or kept.size < numbers.size * (1 - _MOST_ZEROS):
        return None
    if not bool((np.abs(kept) < _GREATEST).all()):
        return None
    mean_square = float(np.square(kept).mean())  # a dot product would start threads for it
    ranks = _ranks(kept.size)
    chosen = np.sort(kept.astype(np.float32))[ranks - 1].astype(np.float64)  # four times as fast as in double
    if values.dtype in {"float32", "float64"}:
        return _Prepared(kept.size, mean_square, ranks, chosen, chosen)
    half = Sample(chosen, values.whole, values.dtype).half_spacings()
    return _Prepared(kept.size, mean_square, ranks, chosen - half, chosen + half)


@cache
def _ranks(count: int) -> npt.NDArray[np.int64]:
    """The places that are looked at among so many sorted values, from 1."""
    places = np.linspace(1, count, _MOST_RANKS).astype(np.int64)
    return places[np.diff(places, prepend=0) > 0]  # `np.unique` would import all of `numpy.ma`


def _chance(prepared: _Prepared, initialiser: Initialiser) -> float:
    """The probability of values at least as far from the initialiser's as these, from the two tests together."""
    variance = _variance_chance(prepared, initialiser)
    if 2 * variance <= SIGNIFICANCE:
        return 0.0
    return min(1.0, 2 * min(variance, _kolmogorov(prepared, initialiser)))


def _variance_chance(prepared: _Prepared, initialiser: Initialiser) -> float:
    freedom = 2 * prepared.count / (initialiser.shape.value - 1)
    spread = 2 / (9 * freedom)
    score = (math.cbrt(prepared.mean_square / initialiser.deviation**2) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(abs(score) / math.sqrt(2))


def _kolmogorov(prepared: _Prepared, initialiser: Initialiser) -> float:
    shares = prepared.ranks / prepared.count
    over = float((shares - _cumulative(initialiser, prepared.above)).max())
    under = float((_cumulative(initialiser, prepared.below) - shares).max()) + 1 / prepared.count
    root = math.sqrt(prepared.count)
    scaled = max(over, under, 0.0) * (root + 0.12 + 0.11 / root)
    # Kolmogorov's series, whose terms vanish at once where it is small and which is 1 where they do not.
    series = 2 * sum((-1) ** (term - 1) * math.exp(-2 * (term * scaled) ** 2) for term in range(1, 30))
    return min(1.0, max(0.0, series)) if scaled > 0.3 else 1.0


def _cumulative(initialiser: Initialiser, values: Floats) -> Floats:
    standard = values / initialiser.deviation
    if initialiser.shape is DistributionShape.UNIFORM:
        return np.clip((standard / math.sqrt(3) + 1) / 2, 0.0, 1.0)
    if initialiser.shape is DistributionShape.NORMAL:
        return np.interp(standard, _GRID, _normal_on_grid())
    inside = np.interp(standard * _CUT_DEVIATION, _GRID, _normal_on_grid())
    return np.clip((inside - (1 - _WITHIN_CUT) / 2) / _WITHIN_CUT, 0.0, 1.0)


@cache
def _normal_on_grid() -> Floats:
    """The cumulative normal distribution at the grid's points; between them it is straight to 5e-7."""
    return np.array([math.erfc(-point / math.sqrt(2)) / 2 for point in _GRID])
