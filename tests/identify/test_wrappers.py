"""Eight models of three libraries are told whatever wrapped them when they were saved."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from manifest.identification.identify import identify

MODELS = [
    ("open_clip", "ViT-B-16"),
    ("open_clip", "RN50"),
    ("open_clip", "ViT-B-16-SigLIP"),
    ("open_clip", "coca_ViT-B-32"),
    ("timm", "vit_small_patch16_224"),
    ("timm", "convnext_tiny"),
    ("torchvision", "resnet18"),
    ("torchvision", "retinanet_resnet50_fpn"),
]
PREFIXES = {
    "data parallel": "module.",
    "compiled": "_orig_mod.",
    "Lightning": "model.",
    "Lightning over compiled over data parallel": "model._orig_mod.module.",
    "averaged": "ema.",
    "a detector's": "backbone.",
    "a name of its own": "student.encoder_q.",
}
Of = Callable[[str, str], dict[str, tuple[int, ...]]]


@pytest.mark.parametrize("wrapper", PREFIXES)
@pytest.mark.parametrize(("library", "name"), MODELS, ids=[name for _, name in MODELS])
def test_wrapped_model_when_identified_then_its_prefix_is_removed(
    library: str, name: str, wrapper: str, state: Of
) -> None:
    prefix = PREFIXES[wrapper]
    shapes = state(library, name)
    found = identify({f"{prefix}{each}": shape for each, shape in shapes.items()})
    assert found.exact
    assert (library, name) in {(candidate.library, candidate.name) for candidate in found.candidates}
    assert found.renaming == (f'prefix "{prefix}" removed',)
    assert found.candidates[0].stored == {each: f"{prefix}{each}" for each in shapes}


@pytest.mark.parametrize(("library", "name"), MODELS, ids=[name for _, name in MODELS])
def test_averaged_model_when_identified_then_its_counter_does_not_count(library: str, name: str, state: Of) -> None:
    found = identify({"n_averaged": (), **{f"module.{each}": shape for each, shape in state(library, name).items()}})
    assert found.exact
    assert name in {candidate.name for candidate in found.candidates}


@pytest.mark.parametrize(("library", "name"), MODELS, ids=[name for _, name in MODELS])
def test_model_beside_its_average_when_identified_then_the_average_is_unexpected(
    library: str, name: str, state: Of
) -> None:
    shapes = state(library, name)
    both = {f"{prefix}{each}": shape for prefix in ("model.", "ema.") for each, shape in shapes.items()}
    found = identify(both)
    best = found.candidates[0]
    assert (best.library, best.fit.missing, dict(best.fit.reshaped)) == (library, (), {})
    assert name in {candidate.name for candidate in found.candidates}
    assert len(best.fit.unexpected) >= len(shapes) - sum(each.endswith("num_batches_tracked") for each in shapes)
    assert found.renaming == ('prefix "model." removed where it is',)


@pytest.mark.parametrize("wrapper", ["_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"])
def test_wrapped_blocks_when_identified_then_the_wrappers_within_are_removed(wrapper: str, state: Of) -> None:
    block = re.compile(r"(resblocks\.[0-9]+\.)")
    wrapped = {block.sub(rf"\1{wrapper}.", each): shape for each, shape in state("open_clip", "ViT-B-16").items()}
    found = identify({f"module.{each}": shape for each, shape in wrapped.items()})
    assert found.exact
    assert found.renaming == ('prefix "module." removed', "wrappers within removed")


def test_tensor_when_there_with_and_without_prefix_then_the_fit_is_not_exact(state: Of) -> None:
    shapes = {f"model.{each}": shape for each, shape in state("torchvision", "resnet18").items()}
    assert not identify({**shapes, "fc.weight": (1000, 512)}).exact


def test_counters_of_norms_when_absent_then_the_fit_is_exact(state: Of) -> None:
    shapes = {each: s for each, s in state("torchvision", "resnet18").items() if "num_batches" not in each}
    found = identify(shapes)
    assert found.exact
    assert found.candidates[0].fit.missing == ()


def test_tables_of_older_versions_when_present_then_the_fit_is_exact(state: Of) -> None:
    assert identify({**state("open_clip", "ViT-B-16"), "attn_mask": (77, 77)}).exact


def test_identification_when_asked_for_what_wrote_the_file_then_it_says(state: Of) -> None:
    found = identify(state("torchvision", "resnet18"), metadata_keys=["epoch", "pytorch-lightning_version"])
    assert found.written_by == "Lightning"
