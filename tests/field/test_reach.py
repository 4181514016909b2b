"""What golden outputs reach: a decoder that was replaced is seen, and what no output depends on is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from torch import nn

import manifest
from manifest.probes.inputs import PROMPTS
from manifest.schema.report import Report
from manifest.storage.transaction import read_manifest
from tests.sampling import sampled

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CAPTIONER = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 64, "width": 32, "head_width": 16, "layers": 2, "patch_size": 16, "attentional_pool": True,
        "attn_pooler_heads": 2, "output_tokens": True,
    },
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "layers": 3, "attn_pooler_heads": 2},
    "custom_text": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def coca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CoCa, saved with its manifest."""
    folder = tmp_path_factory.mktemp("coca")
    (folder / "field-coca.json").write_text(json.dumps(CAPTIONER))
    open_clip.add_model_config(folder / "field-coca.json")
    torch.manual_seed(0)
    model = manifest.create_model("field-coca")
    nn.init.normal_(model.text_decoder.text_projection, std=0.1)  # open_clip leaves it as the memory was
    manifest.save(model, folder / "coca.pt")
    return folder / "coca.pt"


def rules(report: Report) -> dict[str, str]:
    return {each.rule: each.message for each in report.findings()}


def noise(model: Any) -> None:
    for parameter in model.text_decoder.parameters():
        nn.init.normal_(parameter, std=0.02)


def quick(model: Any) -> None:
    for block in (*model.text_decoder.resblocks, *model.text_decoder.cross_attn):
        block.mlp.gelu = open_clip.transformer.QuickGELU()


def no_mask(model: Any) -> None:
    model.text_decoder.attn_mask.zero_()


def no_cross(model: Any) -> None:
    for block in model.text_decoder.cross_attn:
        block.register_forward_hook(lambda _, arguments, __: arguments[0])


@pytest.mark.parametrize("change", sampled([noise, quick, no_mask, no_cross], 2))
def test_compare_when_a_decoder_was_changed_then_its_logits_differ(coca: Path, change: Callable[[Any], None]) -> None:
    model = manifest.load(coca)
    with torch.no_grad():
        change(model)
    report = manifest.compare(model, coca)
    assert report.exit_code == 1
    assert "caption_logits" in rules(report)["G001"]


def test_compare_when_a_decoder_is_as_saved_then_agrees(coca: Path) -> None:
    report = manifest.compare(manifest.load(coca), coca)
    assert (report.exit_code, "G001" in rules(report)) == (0, False)


def test_record_of_a_captioner_when_saved_then_reaches_every_parameter(coca: Path) -> None:
    golden = read_manifest(coca).golden[0]
    assert list(golden.outputs) == ["image_features", "text_features", "logits", "caption_logits"]
    assert golden.unreached == []


def auxiliary() -> nn.Module:
    return manifest.torchvision.get_model("googlenet", weights=None, aux_logits=True, init_weights=False)


def segmenter() -> nn.Module:
    return manifest.torchvision.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3
    )


def language_model() -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=100, max_position_embeddings=32)
    return transformers.LlamaForCausalLM(config)


def classifier() -> nn.Module:
    return manifest.timm.create_model("test_vit", num_classes=3)


ROWS: dict[str, tuple[Callable[[], nn.Module], list[str], str | None]] = {
    # Situation: the model, what no output depends on, and what a verify says of it.
    "auxiliary heads, which only train": (auxiliary, ["aux1.", "aux2."], "14 of 16 of the head: aux1, aux2."),
    "a segmenter": (segmenter, [], None),
    "the head of a language model": (language_model, [], None),
    "a classifier": (classifier, [], None),
}


@pytest.mark.parametrize("situation", sampled(ROWS, 3))
def test_record_when_saved_then_names_what_no_output_depends_on(situation: str, tmp_path: Path) -> None:
    make, unreached, words = ROWS[situation]
    torch.manual_seed(0)
    written = manifest.save(make(), tmp_path / "ckpt.pt", floor="none")
    assert written is not None
    assert written.golden[0].unreached == unreached
    report = manifest.verify(tmp_path / "ckpt.pt")
    assert report.exit_code == 0
    found = rules(report).get("G010")
    assert (found is None) if words is None else (found is not None and found.endswith(words))


def test_record_when_it_says_that_less_is_reached_then_verify_finds_it(coca: Path) -> None:
    sidecar = coca.with_name("coca.pt.manifest.json")
    before = sidecar.read_text()
    content = json.loads(before)
    content["golden"][0]["unreached"] = ["text_decoder."]
    sidecar.write_text(json.dumps(content))
    try:
        found = rules(manifest.verify(coca))
    finally:
        sidecar.write_text(before)
    assert "no output depends" in found["G008"]


def test_record_of_an_earlier_version_when_it_has_no_captions_then_says_so(coca: Path) -> None:
    sidecar = coca.with_name("coca.pt.manifest.json")
    before = sidecar.read_text()
    content = json.loads(before)
    golden = content["golden"][0]
    del golden["unreached"], golden["outputs"]["caption_logits"], golden["brief"]["caption_logits"]
    sidecar.write_text(json.dumps(content))
    try:
        report = manifest.verify(coca)
    finally:
        sidecar.write_text(before)
    assert report.exit_code == 0
    assert "has no caption_logits: it was written before" in rules(report)["G010"]


WITH_ADDED_TOKENS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "width": 32, "head_width": 16, "layers": 2, "patch_size": 16},
    "text_cfg": {
        **TEXT,
        "context_length": 24,
        "vocab_size": 49411,
        "tokenizer_kwargs": {"additional_special_tokens": ["<here>", "<there>"]},
    },
}


@pytest.fixture(scope="module")
def with_added_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with two tokens of its own and one row of its vocabulary that no text has, saved with its manifest."""
    folder = tmp_path_factory.mktemp("added")
    (folder / "field-added.json").write_text(json.dumps(WITH_ADDED_TOKENS))
    open_clip.add_model_config(folder / "field-added.json")
    torch.manual_seed(0)
    manifest.save(manifest.create_model("field-added"), folder / "added.pt", floor="none")
    return folder / "added.pt"


ALTERED: dict[str, tuple[str, int, bool]] = {
    # Situation: the table, the row that becomes noise, and whether a golden output tells.
    "the last position": ("positional_embedding", 23, True),
    "a position past every prompt": ("positional_embedding", 15, True),
    "the first added token": ("token_embedding.weight", 49408, True),
    "the last added token": ("token_embedding.weight", 49409, True),
    "a word that no prompt has": ("token_embedding.weight", 1000, False),
    "a row of no token": ("token_embedding.weight", 49410, False),
}


@pytest.mark.parametrize("situation", sampled(ALTERED, 2))
def test_compare_when_a_row_of_a_table_is_altered_then_golden_tells_it(
    situation: str, with_added_tokens: Path, tmp_path: Path
) -> None:
    table, row, told = ALTERED[situation]
    model = manifest.load(with_added_tokens)
    with torch.no_grad():
        model.get_parameter(table)[row].normal_(generator=torch.Generator().manual_seed(0))
    answers = manifest.answer(model, with_added_tokens)
    (tmp_path / "answers.json").write_text(answers.model_dump_json(by_alias=True))
    report = manifest.compare(tmp_path / "answers.json", with_added_tokens)
    assert report.exit_code == int(told)
    assert ("G001" in rules(report)) is told


def test_readings_when_a_text_only_fills_the_context_then_do_not_show_it(with_added_tokens: Path) -> None:
    record = read_manifest(with_added_tokens).golden[0]
    assert record.outputs["logits"].shape == [4, 8 + 1 + 1]  # the prompts, every position, the added tokens
    assert [len(reading.prompts) for reading in record.reading] == [8] * 4
    assert {*record.reading[0].prompts} == {*PROMPTS}
