"""Fresh weights fit their initialiser, and others do not, at the significance that is claimed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from manifest.initialisation.distributions import (
    SIGNIFICANCE,
    DistributionShape,
    Initialiser,
    fit_distribution,
    fits_some_scale,
    initialisers,
    values_on_lattice,
)
from manifest.initialisation.distributions import _kolmogorov as kolmogorov
from manifest.initialisation.distributions import _prepared as prepared
from manifest.initialisation.distributions import _variance_chance as variance_chance
from manifest.initialisation.values import Sample

DRAWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "torch linear": lambda weight: nn.init.kaiming_uniform_(weight, a=5**0.5),
    "kaiming fan out": lambda weight: nn.init.kaiming_normal_(weight, mode="fan_out"),
    "kaiming uniform": nn.init.kaiming_uniform_,
    "xavier uniform": nn.init.xavier_uniform_,
    "xavier normal": nn.init.xavier_normal_,
    "normal .02": lambda weight: nn.init.normal_(weight, std=0.02),
    "trunc normal .02": lambda weight: nn.init.trunc_normal_(weight, std=0.02),
    "embedding": nn.init.normal_,
}


def sample(values: torch.Tensor) -> Sample:
    return Sample(values.double().flatten().numpy()[:16_384], True, str(values.dtype).removeprefix("torch."))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 48), (256, 16, 3, 3), (512, 384)])
@pytest.mark.parametrize("name", DRAWS)
def test_fresh_weight_fits_in_every_type(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = sample(DRAWS[name](torch.empty(shape)).to(dtype))
    assert fit_distribution(values, initialisers(shape, 1, 0)).initialiser is not None
    assert fits_some_scale(values)


@pytest.mark.parametrize("count", [200, 1_000])
@pytest.mark.parametrize("shape", list(DistributionShape))
def test_distribution_is_judged_as_scipy_judges_it(shape: DistributionShape, count: int) -> None:
    frozen = {
        DistributionShape.NORMAL: scipy.stats.norm(),
        DistributionShape.UNIFORM: scipy.stats.uniform(-(3**0.5), 2 * 3**0.5),
        DistributionShape.TRUNCATED: scipy.stats.truncnorm(-2, 2, scale=1 / scipy.stats.truncnorm(-2, 2).std()),
    }[shape]
    assert frozen.stats("k") + 3 == pytest.approx(shape.value, abs=1e-3)
    for seed in range(20):
        numbers = np.float32(frozen.rvs(count, random_state=seed) * (1 + seed / 50)).astype(float)
        ours = kolmogorov(prepared(Sample(numbers, True, "float32")), Initialiser(shape, 1.0))  # type: ignore[arg-type]
        theirs = scipy.stats.kstest(numbers, frozen.cdf).pvalue
        assert ours == pytest.approx(theirs, rel=0.25, abs=0.01)


@pytest.mark.parametrize("shape", list(DistributionShape))
def test_variance_of_fresh_values_has_the_chance_that_is_claimed(shape: DistributionShape) -> None:
    generator = np.random.default_rng(0)
    draws = {
        DistributionShape.NORMAL: lambda: generator.standard_normal(256),
        DistributionShape.UNIFORM: lambda: generator.uniform(-(3**0.5), 3**0.5, 256),
        DistributionShape.TRUNCATED: lambda: (
            scipy.stats.truncnorm(-2, 2).rvs(256, random_state=generator) / 0.8796256610342398
        ),
    }[shape]
    chances = [
        variance_chance(prepared(Sample(draws(), True, "float64")), Initialiser(shape, 1.0))  # type: ignore[arg-type]
        for _ in range(2_000)
    ]
    assert np.mean(np.array(chances) < 0.01) == pytest.approx(0.01, abs=0.008)


def test_of_two_thousand_fresh_weights_none_is_rejected() -> None:
    torch.manual_seed(0)
    candidates = initialisers((64, 64), 1, 0)
    rejected = sum(
        fit_distribution(sample(draw(torch.empty(64, 64))), candidates).initialiser is None
        for draw in DRAWS.values()
        for _ in range(250)
    )
    assert rejected <= 2_000 * SIGNIFICANCE + 1
    assert rejected == 0


def test_values_of_another_shape_or_scale_do_not_fit() -> None:
    torch.manual_seed(0)
    candidates = initialisers((128, 128), 1, 0)
    heavy = torch.distributions.StudentT(3.0).sample((128, 128)) * 0.02
    assert fit_distribution(sample(heavy), candidates).initialiser is None
    assert not fits_some_scale(sample(heavy))
    assert fit_distribution(sample(torch.randn(128, 128) * 0.37), candidates).initialiser is None
    assert fits_some_scale(sample(torch.randn(128, 128) * 0.37))


@pytest.mark.parametrize("step", [1e-5, 1e-7])
def test_uniform_draw_is_exact_until_the_smallest_step(step: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 128)
    bound = 256**-0.5
    assert values_on_lattice(sample(layer.weight.detach()), bound)
    assert fit_distribution(sample(layer.weight.detach()), initialisers((128, 256), 1, 0)).exact
    moved = layer.weight.detach() + step * torch.randn(128, 256)
    assert not values_on_lattice(sample(moved), bound)
    assert fit_distribution(sample(moved), initialisers((128, 256), 1, 0)).initialiser is not None


def test_shape_with_one_dimension_of_one_has_initialisers() -> None:
    assert initialisers((64, 1, 3, 3), 12, 11)
    assert Initialiser(DistributionShape.NORMAL, (2 / 9) ** 0.5) in initialisers((64, 1, 3, 3), 1, 0)
