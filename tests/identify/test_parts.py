"""What is only a part of a model, or was changed for another purpose, is told as the nearest, with what differs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from manifest.identification.candidates import ArchitectureCandidate
from manifest.identification.identify import identify

Of = Callable[[str, str], dict[str, tuple[int, ...]]]


def missing_roles(candidate: ArchitectureCandidate) -> set[str]:
    return {candidate.roles[name] for name in candidate.fit.missing}


@pytest.mark.parametrize(
    "name", ["ViT-B-16", "RN50", "ViT-B-16-SigLIP", "convnext_base", "EVA02-B-16", "MobileCLIP-S1"]
)
def test_file_without_a_text_tower_when_identified_then_the_text_tower_is_missing(name: str, state: Of) -> None:
    found = identify({each: s for each, s in state("open_clip", name).items() if each.startswith("visual.")})
    assert not found.exact
    assert found.candidates[0].name == name
    assert missing_roles(found.candidates[0]) <= {"text_tower", "text_projection", "logit_scale", "logit_bias"}
    assert "text_tower" in missing_roles(found.candidates[0])
    assert not found.candidates[0].fit.unexpected
    assert not found.candidates[0].fit.reshaped


def test_file_without_a_text_tower_when_identified_then_it_is_said_in_words(state: Of) -> None:
    found = identify({each: s for each, s in state("open_clip", "ViT-B-16").items() if each.startswith("visual.")})
    assert found.notes[-1] == (
        "Of ViT-B-16 there is only the vision tower and vision projection: "
        "no text tower, text projection or logit scale."
    )


def test_vision_tower_saved_by_itself_when_identified_then_it_is_taken_for_that_part(state: Of) -> None:
    shapes = state("open_clip", "ViT-B-16")
    found = identify({each.removeprefix("visual."): s for each, s in shapes.items() if each.startswith("visual.")})
    assert found.candidates[0].name == "ViT-B-16"
    assert found.renaming == ('taken for the part "visual." of a model',)
    assert found.candidates[0].stored["visual.proj"] == "proj"


def test_file_without_vision_tower_when_identified_then_all_with_its_text_are_named(state: Of) -> None:
    found = identify({each: s for each, s in state("open_clip", "ViT-B-32").items() if not each.startswith("visual.")})
    assert missing_roles(found.candidates[0]) == {"vision_tower", "vision_projection"}
    assert {"ViT-B-32", "ViT-B-16"} <= {candidate.name for candidate in found.candidates}
    assert found.notes[-1].startswith("What is there fits ")


def test_captioner_without_its_decoder_when_identified_then_the_decoder_is_missing(state: Of) -> None:
    shapes = state("open_clip", "coca_ViT-B-32")
    found = identify({each: s for each, s in shapes.items() if not each.startswith("text_decoder.")})
    assert found.candidates[0].name == "coca_ViT-B-32"
    assert missing_roles(found.candidates[0]) == {"text_decoder"}


def test_partial_tower_when_identified_then_what_is_missing_of_it_is_named(state: Of) -> None:
    shapes = state("open_clip", "ViT-B-16")
    found = identify({each: s for each, s in shapes.items() if not each.startswith("transformer.resblocks.11.")})
    assert found.candidates[0].name == "ViT-B-16"
    assert len(found.candidates[0].fit.missing) == 12
    assert missing_roles(found.candidates[0]) == {"text_tower"}


def test_timm_tower_of_a_clip_when_identified_then_it_is_said_that_it_is_alone(state: Of) -> None:
    found = identify(state("timm", "vit_base_patch16_clip_224"))
    assert found.exact
    assert found.notes == (
        "vit_base_patch16_clip_224 is the vision tower alone of a CLIP, or was made of one: timm has no text towers.",
        "vit_base_patch16_clip_quickgelu_224 has the same trunk with another activation, whatever its head; "
        "declare which it is.",
    )


def test_timm_tower_in_a_clip_when_identified_then_its_activation_is_not_known(
    state: Of,
) -> None:
    projected = {"head.weight": (512, 768), "head.bias": (512,)}
    found = identify({**state("timm", "vit_base_patch16_clip_224"), **projected})
    assert [candidate.name for candidate in found.candidates] == ["vit_base_patch16_clip_quickgelu_224"]
    assert found.notes[-1] == (
        "vit_base_patch16_clip_224 has the same trunk with another activation, whatever its head; declare which it is."
    )


@pytest.mark.parametrize(
    ("library", "name", "head"),
    [
        ("torchvision", "resnet18", "fc"),
        ("timm", "vit_small_patch16_224", "head"),
        ("timm", "convnext_tiny", "head.fc"),
    ],
)
def test_classifier_of_other_classes_when_identified_then_their_number_is_told(
    library: str, name: str, head: str, state: Of
) -> None:
    shapes = dict(state(library, name))
    for each in (f"{head}.weight", f"{head}.bias"):
        shapes[each] = (10, *shapes[each][1:])
    found = identify(shapes)
    (told, *_) = (candidate for candidate in found.candidates if candidate.name == name)
    assert (told.exact, told.otherwise) == (True, "num_classes=10")


def test_classifier_without_its_head_when_of_timm_then_it_was_built_so(state: Of) -> None:
    shapes = {each: s for each, s in state("timm", "resnet18").items() if not each.startswith("fc.")}
    told = next(candidate for candidate in identify(shapes).candidates if candidate.library == "timm")
    assert (told.name, told.exact, told.otherwise) == ("resnet18", True, "num_classes=0")
    assert missing_roles(told) == set()


def test_other_image_size_when_identified_then_it_is_told_in_pixels(state: Of) -> None:
    found = identify({**state("open_clip", "ViT-B-16"), "visual.positional_embedding": (442, 768)})
    assert {"ViT-B-16", "ViT-B-16-quickgelu"} == {candidate.name for candidate in found.candidates[:2]}
    assert found.candidates[0].otherwise == "force_image_size=336"


def test_text_tower_of_hugging_face_when_identified_then_sizes_are_said_unknown(state: Of) -> None:
    images = {each: s for each, s in state("open_clip", "ViT-B-32").items() if each.startswith("visual.")}
    texts = {f"text.transformer.encoder.layer.{number}.output.dense.weight": (768, 3072) for number in range(12)}
    found = identify({**images, **texts, "logit_scale": ()})
    assert found.candidates[0].name == "ViT-B-32"
    assert found.notes[-1].startswith("The text tower is one of Hugging Face's; open_clip has them in ")


def test_adapter_beside_a_model_when_identified_then_it_is_unexpected(state: Of) -> None:
    found = identify(
        {**state("timm", "vit_small_patch16_224"), "blocks.0.lora_a": (4, 384), "blocks.0.lora_b": (384, 4)}
    )
    assert found.candidates[0].name in {"vit_small_patch16_224", "deit_small_patch16_224"}
    assert found.candidates[0].fit.unexpected == ("blocks.0.lora_a", "blocks.0.lora_b")


@pytest.mark.parametrize(
    "shapes",
    [{}, {"weight": (3, 4)}, {"logit_scale": ()}, {f"thing_{number}.x": (number,) for number in range(500)}],
    ids=["nothing", "one tensor", "a scale", "nonsense"],
)
def test_what_is_like_nothing_when_identified_then_there_are_no_candidates(shapes: dict[str, tuple[int, ...]]) -> None:
    assert identify(shapes).candidates == ()
