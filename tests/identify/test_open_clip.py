"""Every model of open_clip is told by its own names and shapes, and those that share them are told together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from manifest.identification import index
from manifest.identification.identify import identify

NAMES = [known.name for known in index.architectures() if known.library == "open_clip"]
QUICK = [
    *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"),
    *("ViT-H-14-378", "ViT-bigG-14", "ViT-L-14-worldwide", "ViT-H-14-worldwide"),
]
COLLIDING = {
    *(frozenset({name, f"{name}-quickgelu"}) for name in QUICK),
    frozenset({"convnext_base_w", "convnext_base_w_320"}),
    frozenset({"convnext_large_d", "convnext_large_d_320"}),
    frozenset({"convnext_xxlarge", "convnext_xxlarge_320"}),
    frozenset({"ViT-SO400M-14-SigLIP-378", "ViT-SO400M-14-SigLIP-384"}),
    frozenset({"ViTamin-XL-256", "ViTamin-XL-336", "ViTamin-XL-384"}),
    frozenset({"MobileCLIP-B", "MobileCLIP2-B"}),
    frozenset({"MobileCLIP-S2", "MobileCLIP2-S2"}),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", NAMES if metafunc.config.getoption("--whole") else NAMES[::10])


@pytest.mark.xdist_group("open_clip by shapes")
def test_weights_of_a_config_are_identified_as_it_and_all_that_share_them(
    name: str, state: Callable[..., dict[str, tuple[int, ...]]]
) -> None:
    found = identify(state("open_clip", name))
    assert found.exact
    assert found.renaming == ()
    expected = next((group for group in COLLIDING if name in group), {name})
    assert {candidate.name for candidate in found.candidates} == expected
    assert {candidate.library for candidate in found.candidates} == {"open_clip"}


def test_configs_that_collide_are_those_that_are_known_to() -> None:
    groups: dict[int, set[str]] = {}
    for known in index.architectures():
        if known.library == "open_clip":
            groups.setdefault(known.entry, set()).add(known.name)
    assert (len(NAMES), len(groups)) == (134, 112)
    assert {frozenset(group) for group in groups.values() if len(group) > 1} == COLLIDING


def test_twins_by_activation_when_identified_then_tags_with_quick_gelu_are_told(
    state: Callable[..., dict[str, tuple[int, ...]]],
) -> None:
    found = identify(state("open_clip", "ViT-B-32"))
    assert found.untold == (
        "The weights are the same for ViT-B-32 and ViT-B-32-quickgelu, which differ in the activation "
        "(ViT-B-32: not QuickGELU, ViT-B-32-quickgelu: QuickGELU); declare it.",
        "Of the published weights of ViT-B-32, openai, laion400m_e31, laion400m_e32, metaclip_400m and "
        "metaclip_fullcc need QuickGELU, and the others do not.",
    )


def test_twins_that_differ_in_image_size_when_identified_then_it_is_told(
    state: Callable[..., dict[str, tuple[int, ...]]],
) -> None:
    (note,) = identify(state("open_clip", "convnext_base_w")).untold
    assert note == (
        "The weights are the same for convnext_base_w and convnext_base_w_320, which differ in the image size "
        "(convnext_base_w: 256, convnext_base_w_320: 320); declare it."
    )


def test_twins_of_one_config_when_identified_then_nothing_is_said_to_differ(
    state: Callable[..., dict[str, tuple[int, ...]]],
) -> None:
    (note,) = identify(state("open_clip", "MobileCLIP-B")).untold
    assert note == (
        "The weights are the same for MobileCLIP-B and MobileCLIP2-B; which it is, names and shapes do not tell."
    )


def test_openai_archive_when_identified_then_the_twin_with_quick_gelu_comes_first(
    state: Callable[..., dict[str, tuple[int, ...]]],
) -> None:
    found = identify(state("open_clip", "ViT-B-32"), ["context_length", "input_resolution", "vocab_size"])
    assert found.exact
    assert [candidate.name for candidate in found.candidates] == ["ViT-B-32-quickgelu", "ViT-B-32"]
    assert "OpenAI trained its models with QuickGELU." in found.untold
    assert found.renaming == ()


def test_roles_of_a_candidate_are_those_that_the_family_gives(
    state: Callable[..., dict[str, tuple[int, ...]]],
) -> None:
    (candidate,) = identify(state("open_clip", "ViT-B-16-SigLIP")).candidates
    assert candidate.roles["visual.trunk.attn_pool.latent"] == "vision_tower"
    assert candidate.roles["text.text_projection.weight"] == "text_projection"
    assert candidate.roles["logit_bias"] == "logit_bias"
    assert candidate.roles.keys() == candidate.shapes.keys() == candidate.stored.keys()
