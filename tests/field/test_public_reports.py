"""Situations of public reports (`log.csv` has all of them, with what was said before and after), mended here."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

import manifest
from manifest.errors import ArchitectureError, CheckpointError

DROPPING = """
from torch import nn

class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
    def forward(self, x):
        return nn.functional.dropout2d(self.layer(x), training=True)  # which no mode turns off
"""
LOG = Path(__file__).with_name("log.csv")


def lived(model: Any, deviation: float = 0.02) -> Any:
    """A model that looks trained."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * deviation)
    return model.eval()


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER: dict[str, Any] = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300},
    **TOKENS,
}


def in_full(model: Any) -> dict[str, Any]:
    return {"config": model.config.to_dict()}


def rung(report: Any, name: str) -> str:
    return next(str(rung.reason) for rung in report.rungs if rung.name == name)


def rules(report: Any) -> dict[str, str]:
    return {found.rule: found.message for found in report.findings()}


def test_log_when_read_then_each_report_has_an_address_and_a_verdict() -> None:
    with LOG.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 20
    assert all(row["source"].startswith("https://") for row in rows)
    assert {row[kind] for row in rows for kind in ("verdict", "verdict_now")} <= {"right", "half", "wrong"}
    assert len({row["source"] for row in rows}) == len(rows)


def test_safetensors_when_cut_short_then_says_so(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) * 2 // 3])
    found = rules(manifest.audit(tmp_path / "cut.safetensors"))
    assert "it is cut short, or its header is wrong" in found["F002"]


def test_weights_when_deepspeed_left_them_empty_then_it_is_an_error(tmp_path: Path) -> None:
    state = lived(open_clip.create_model("ViT-S-32-alt")).state_dict()
    empty = {name: value if value.ndim < 2 else value.new_empty(0) for name, value in state.items()}
    torch.save(empty, tmp_path / "zero3.pt")
    report = manifest.audit(tmp_path / "zero3.pt")
    assert report.exit_code == 1
    assert "tensors have no values" in rules(report)["C012"]
    torch.save({**state, "a.buffer": torch.empty(0)}, tmp_path / "one.pt")
    assert "C012" not in rules(manifest.audit(tmp_path / "one.pt"))


@pytest.mark.parametrize("place", ["norm.weight", "blocks.0.norm1.bias", "blocks.2.mlp.fc1.weight"])
def test_audit_when_a_step_left_nan_anywhere_then_ends_with_that(place: str, tmp_path: Path) -> None:
    model = lived(timm.create_model("test_vit"), 1e-5)
    model.get_parameter(place).data.view(-1)[0] = float("nan")
    torch.save(model.state_dict(), tmp_path / "nan.pt")
    assert "has 1 NaN" in rules(manifest.audit(tmp_path / "nan.pt"))["C006"]
    with pytest.raises((ArchitectureError, CheckpointError, manifest.IncompleteModelError)):
        manifest.create(tmp_path / "nan.pt", "test_vit", family="timm")


def test_model_when_in_half_precision_with_float32_norms_then_says_float(digits_model: Any, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "clip.pt", floor="none")
    model: Any = manifest.load(tmp_path / "clip.pt")
    open_clip.model.convert_weights_to_lp(model, torch.float16)
    with pytest.raises(ArchitectureError, match=r"`model.float\(\)`") as caught:
        manifest.compare(model, tmp_path / "clip.pt")
    assert "golden=False" not in str(caught.value)
    assert manifest.compare(model.float(), tmp_path / "clip.pt").exit_code in (0, 1)


def test_audit_when_lightning_wrote_it_then_the_prefix_and_the_writer_are_told(tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in lived(timm.create_model("test_vit")).state_dict().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.4", "epoch": 3}, tmp_path / "last.ckpt")
    report = manifest.audit(tmp_path / "last.ckpt")
    identity = next(rung.reason for rung in report.rungs if rung.name == "identity")
    assert identity.startswith("timm test_vit")
    assert 'prefix "model." removed; written by Lightning' in identity
    assert not list(report.findings())


@pytest.mark.parametrize(("name", "said"), [("model.safetensors", True), ("open_clip_model.safetensors", False)])
def test_audit_when_a_config_would_have_transformers_load_other_names_then_says_so(
    name: str, said: bool, tmp_path: Path
) -> None:
    state = lived(open_clip.create_model("ViT-S-32-alt")).state_dict()
    save_file(state, tmp_path / name)
    config = {**CLIPConfig().to_dict(), "architectures": ["CLIPModel"], "model_type": "clip"}
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    found = rules(manifest.audit(tmp_path / name))
    assert ("A012" in found) == said
    assert not said or "`from_pretrained` would leave nearly all of its weights at random" in found["A012"]


def test_doctor_when_it_can_ask_a_model_nothing_then_that_is_no_clean_bill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dropping_network.py").write_text(DROPPING)
    monkeypatch.syspath_prepend(str(tmp_path))
    import dropping_network

    manifest.save(dropping_network.Dropping(), tmp_path / "net.pt")
    report = manifest.doctor(tmp_path / "net.pt", allow=["dropping_network"])
    assert report.exit_code == 2
    assert "it was asked nothing" in rules(report)["G007"]
    example = {"x": torch.randn(2, 3, 8, 8)}
    manifest.save(dropping_network.Dropping(), tmp_path / "net.pt", example_inputs=example)
    report = manifest.doctor(tmp_path / "net.pt", allow=["dropping_network"])
    assert report.exit_code == 1
    assert "asked twice as it is, with other random numbers" in rules(report)["D005"]


def test_audit_when_a_tied_tensor_is_under_its_other_name_alone_then_all_is_there(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=300, n_positions=40, **TOKENS)
    model = lived(GPT2LMHeadModel(config))
    state = {name: value for name, value in model.state_dict().items() if name != "transformer.wte.weight"}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    report = manifest.audit(tmp_path / "model.safetensors")
    assert report.exit_code == 0
    assert rung(report, "completeness") == "2 of 2 components complete"
    found = rules(report)
    assert "has transformer.wte.weight under the name lm_head.weight alone, to which it is tied" in found["C013"]
    assert "C002" not in found
    # What is advised: transformers 5 loads it in full, and writes it under the name that older releases look for.
    config.save_pretrained(tmp_path)
    loaded: Any = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.transformer.wte.weight, state["lm_head.weight"])
    loaded.save_pretrained(tmp_path / "anew")
    assert "C013" not in rules(manifest.audit(tmp_path / "anew" / "model.safetensors"))


def test_audit_when_tied_names_all_begin_with_model_then_the_class_is_told(tmp_path: Path) -> None:
    config = Qwen2Config(**DECODER, num_key_value_heads=1, intermediate_size=48, tie_word_embeddings=True)
    lived(Qwen2ForCausalLM(config)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    report = manifest.audit(weights)
    assert rung(report, "identity") == "transformers Qwen2ForCausalLM, as config.json beside it says"
    assert rung(report, "completeness") == "2 of 2 components complete"
    assert not list(report.findings())
    (tmp_path / "config.json").unlink()  # tied or cut short: the file alone does not tell
    assert "once more with `tie_word_embeddings=True`, else missing" in rules(manifest.audit(weights))["C013"]
    said = {"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(said))
    report = manifest.audit(weights)
    assert report.exit_code == 1
    assert "The head of transformers Qwen2ForCausalLM is not in model.safetensors" in rules(report)["C001"]


@pytest.mark.parametrize(("tied", "rule"), [(True, "C013"), (False, "C002"), (None, "C013")])
def test_audit_when_embeddings_are_lacking_then_a_tied_head_stands_for_them(
    tied: bool | None, rule: str, tmp_path: Path
) -> None:
    model = lived(Qwen2ForCausalLM(Qwen2Config(**DECODER, num_key_value_heads=1, intermediate_size=48)))
    state = {name: value for name, value in model.state_dict().items() if name != "model.embed_tokens.weight"}
    save_file(state, tmp_path / "model.safetensors")
    said = {"architectures": ["Qwen2ForCausalLM"], **({} if tied is None else {"tie_word_embeddings": tied})}
    (tmp_path / "config.json").write_text(json.dumps(said))
    report = manifest.audit(tmp_path / "model.safetensors")
    assert "model.embed_tokens.weight" in rules(report)[rule]
    assert (report.exit_code, "C002" in rules(report)) == ((1, True) if tied is False else (0, False))


def test_audit_when_a_config_names_a_class_that_the_index_lacks_then_that_is_told(tmp_path: Path) -> None:
    model = OPTForCausalLM(OPTConfig(**DECODER, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=40))
    lived(model).save_pretrained(tmp_path)
    report = manifest.audit(tmp_path / "model.safetensors")
    found = next(each for each in report.findings() if each.rule == "A010")
    assert found.message.endswith("; config.json beside it says OPTForCausalLM.")
    assert "`manifest create CKPT --family transformers --model DIRECTORY_OF_CONFIG`" in found.remedy
    manifest.create(tmp_path / "model.safetensors", str(tmp_path), family="transformers", golden=False)


def test_create_when_an_older_transformers_put_a_prefix_and_tables_then_takes_them(
    tmp_path: Path,
) -> None:
    sizes = {**DECODER, "intermediate_size": 48, "max_position_embeddings": 20}
    model = lived(CLIPTextModel(CLIPTextConfig(**sizes)))
    model.config.save_pretrained(tmp_path)
    state = {f"text_model.{name}": value for name, value in model.state_dict().items()}
    state["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    manifest.create(tmp_path / "model.safetensors", "CLIPTextModel", family="transformers", arguments=in_full(model))
    assert manifest.verify(tmp_path / "model.safetensors").exit_code == 0
    loaded: Any = manifest.load(tmp_path / "model.safetensors")
    tokens = torch.tensor([[1, 7, 9, 2]])
    assert torch.equal(loaded(tokens).pooler_output, model(tokens).pooler_output)
    state.pop("text_model.encoder.layers.1.mlp.fc2.bias")  # what is no file of that class is none still
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(ArchitectureError):
        manifest.create(tmp_path / "cut.safetensors", "CLIPTextModel", family="transformers", arguments=in_full(model))


def test_create_when_names_are_of_an_older_weight_norm_then_takes_them(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2},
        **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 30},
    }
    model = lived(Wav2Vec2ForCTC(Wav2Vec2Config(**sizes)))
    model.config.save_pretrained(tmp_path)
    newer = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, value in model.state_dict().items():
        found = next((each for each in newer if name.endswith(each)), "")
        state[name.removesuffix(found) + newer.get(found, "")] = value
    assert sum("weight_" in name for name in state) == 2
    torch.save(state, tmp_path / "pytorch_model.bin")
    manifest.create(
        tmp_path / "pytorch_model.bin", "Wav2Vec2ForCTC", family="transformers", golden=False, arguments=in_full(model)
    )
    assert manifest.verify(tmp_path / "pytorch_model.bin").exit_code == 0
    loaded: Any = manifest.load(tmp_path / "pytorch_model.bin")
    sound = torch.randn(1, 800)
    assert torch.equal(loaded(sound).logits, model(sound).logits)
    assert torch.equal(loaded(sound).logits, Wav2Vec2ForCTC.from_pretrained(tmp_path).eval()(sound).logits)


def test_model_when_a_setting_that_weights_switch_is_off_then_it_is_the_cause(
    tmp_path: Path,
) -> None:
    asked: dict[str, Any] = {"num_classes": 5, "init_weights": False, "aux_logits": False}
    model = lived(torchvision.models.googlenet(transform_input=True, **asked), 1e-3)
    saved = manifest.save(model, tmp_path / "net.pt", floor="none")
    other = torchvision.models.googlenet(**asked).eval()
    other.load_state_dict(model.state_dict())
    found = next(each for each in manifest.compare(other, tmp_path / "net.pt").findings() if each.rule == "G001")
    assert "answers with transform_input=False instead of transform_input=True (setting)" in found.message
    assert "googlenet(transform_input=True), or `model.transform_input = True` (tried on this model" in found.remedy
    assert not saved.golden[0].contrast  # a record made before this was told is a record still
    other.transform_input = True
    assert manifest.compare(other, tmp_path / "net.pt").exit_code == 0
    whole = lived(torchvision.models.googlenet(init_weights=False), 1e-3)
    torch.save(whole.state_dict(), tmp_path / "bare.pt")
    assert "with transform_input=True for its own weights" in rules(manifest.audit(tmp_path / "bare.pt"))["A011"]
