"""Published weights are told by their hashes and tags."""

from __future__ import annotations

from manifest.identification.pretrained import KnownFile, known_file, of_library, pretrained, quick_gelu_tags

OPENAI = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
"""In the address of OpenAI's ViT-B-32."""


def test_file_of_openai_when_hashed_then_it_is_known_under_the_name_with_quick_gelu() -> None:
    assert known_file(OPENAI) == KnownFile("open_clip", "ViT-B-32-quickgelu", "openai", True, 64)


def test_file_when_its_hash_begins_as_published_then_it_is_known() -> None:
    found = known_file("46683a32" + "0" * 56)
    assert found == KnownFile("open_clip", "ViT-B-32-quickgelu", "laion400m_e32", True, 8)


def test_files_of_timm_and_torchvision_when_hashes_begin_as_published_then_are_known() -> None:
    assert known_file("0676ba61") == KnownFile("torchvision", "resnet50", "IMAGENET1K_V1", None, 8)
    assert known_file("14fe96d1") == KnownFile("timm", "resnet50", "a1_in1k", None, 8)


def test_file_when_only_its_name_is_known_then_no_digit_agrees() -> None:
    assert known_file("", "resnet50-0676ba61.pth") == KnownFile("torchvision", "resnet50", "IMAGENET1K_V1", None, 0)


def test_file_of_a_published_name_when_its_hash_is_another_then_it_is_not_known() -> None:
    assert known_file("f" * 64, "resnet50-0676ba61.pth") is None


def test_hashes_that_are_none_when_looked_up_then_nothing_is_known() -> None:
    assert [known_file(digits) for digits in ("", "40d3", "no hash", "4" * 8, OPENAI + "0")] == [None] * 5


def test_hashes_of_open_clip_are_nine_in_full_and_twelve_in_part() -> None:
    digits = {each.sha256 for each in of_library("open_clip") if each.sha256}
    assert sorted(map(len, digits)) == [8] * 12 + [64] * 9


def test_tags_of_an_architecture_say_which_need_quick_gelu() -> None:
    tags = dict(quick_gelu_tags("ViT-B-16"))
    assert tags["openai"] is True
    assert tags["laion400m_e32"] is False
    assert quick_gelu_tags("no such model") == ()


def test_pretrained_weights_say_how_their_images_are_prepared() -> None:
    found = pretrained("ViT-B-16-SigLIP", "webli")
    assert found is not None
    assert found.preprocess["mean"] == [0.5, 0.5, 0.5]
    assert found.preprocess["resize_mode"] == "squash"
    assert pretrained("ViT-B-16-SigLIP", "no such tag") is None
