"""From a Hugging Face config, or from the bare module, to an architecture and back to the same module, offline."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.errors import ArchitectureError, InputError, UnknownModelError
from manifest.families import family, family_of
from manifest.families.equivalence import first_difference
from manifest.families.protocol import Creation
from manifest.fingerprints.structure import ties
from manifest.schema.document import Architecture

transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 16}
TEXT = {**SMALL, "vocab_size": 99, "max_position_embeddings": 16}
WORDS = {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98}
CONFIGS: dict[str, dict[str, Any]] = {
    "CLIPModel": {"text_config": {**TEXT, **WORDS}, "vision_config": VISION, "projection_dim": 16},
    "SiglipModel": {"text_config": {**TEXT, **WORDS}, "vision_config": VISION},
    "ViTForImageClassification": {**VISION, "num_labels": 7},
    "BertModel": TEXT,
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, **WORDS},
    "T5ForConditionalGeneration": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, **WORDS},
    "Dinov2Model": VISION,
    "LlamaForCausalLM": {**SMALL, **WORDS, "max_position_embeddings": 64},
    "SwinModel": {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]},
    "ResNetForImageClassification": {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"},
    "Wav2Vec2Model": {**SMALL, "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16},
}
NAMES = list(CONFIGS)

pytestmark = pytest.mark.usefixtures("offline", "alone")


@cache
def live(name: str) -> Any:
    """A model as transformers makes it, with weights drawn from a seed; not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fresh(name)


def fresh(name: str, **changes: Any) -> Any:
    kind = getattr(transformers, name)
    return kind(kind.config_class(**{**CONFIGS[name], **changes}))


def through_json(architecture: Architecture) -> Architecture:
    return Architecture.model_validate(json.loads(architecture.model_dump_json(by_alias=True)))


def hf() -> Any:
    return family("transformers")


@pytest.mark.parametrize("name", NAMES)
def test_bare_module_after_a_round_trip_through_json_is_rebuilt_the_same(name: str) -> None:
    captured = hf().capture(live(name), None).architecture
    built = hf().build(through_json(captured))
    assert first_difference(built, live(name)) is None
    assert captured.class_name == name
    assert all(parameter.is_meta for parameter in built.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_creation_call_describes_what_the_bare_module_shows(name: str) -> None:
    described = hf().describe(Creation(name, {"config": CONFIGS[name]})).architecture
    assert first_difference(hf().build(through_json(described)), live(name)) is None
    assert described.operators == hf().capture(live(name), None).architecture.operators


@pytest.mark.parametrize("name", NAMES)
def test_every_buffer_has_the_values_of_a_normal_build(name: str) -> None:
    built = dict(hf().build(hf().capture(live(name), None).architecture).named_buffers())
    expected = dict(live(name).named_buffers())
    assert built.keys() == expected.keys()
    assert all(torch.equal(built[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("Wav2Vec2Model", "SwinModel")])
def test_operators_are_traced_without_weights(name: str) -> None:
    operators = hf().capture(live(name), None).architecture.operators
    assert operators is not None
    assert not operators.random
    assert any(word in operator for operator in operators.counts for word in ("mm", "convolution"))


@pytest.mark.parametrize(
    "name", ["CLIPModel", "SiglipModel", "ViTForImageClassification", "BertModel", "T5ForConditionalGeneration"]
)
def test_saved_model_verifies_and_is_loaded_with_the_same_outputs(name: str, tmp_path: Path) -> None:
    model = live(name)
    recorded = manifest.save(model, tmp_path / "model.safetensors")
    report = manifest.verify(tmp_path / "model.safetensors")
    loaded: Any = manifest.load(tmp_path / "model.safetensors", verify="fast")
    assert report.exit_code == 0
    assert recorded.architecture.preprocess is None
    assert family_of(loaded).name == "transformers"
    assert ties(loaded) == ties(model)
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    if recorded.golden:
        golden = next(rung for rung in report.rungs if rung.name == "golden")
        assert golden.reason.startswith("exact")
    else:
        tokens = {"input_ids": torch.arange(8)[None]}
        if name.startswith("T5"):
            tokens["decoder_input_ids"] = tokens["input_ids"]
        with torch.no_grad():
            assert torch.equal(loaded(**tokens)[0], model.eval()(**tokens)[0])


def test_tied_head_is_recorded_once_and_stays_tied_after_a_second_save(tmp_path: Path) -> None:
    manifest.save(live("GPT2LMHeadModel"), tmp_path / "a.pt")
    loaded: Any = manifest.load(tmp_path / "a.pt")
    recorded = manifest.save(loaded, tmp_path / "b.pt")
    aliases = {tensor.name: tensor.alias for tensor in recorded.weights.tensors if tensor.alias}
    assert aliases == {"lm_head.weight": "transformer.wte.weight"}
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert recorded.provenance.parents[0].name == "a.pt"


def test_attention_that_was_chosen_is_recorded_and_built_again() -> None:
    model = fresh("CLIPModel")
    model.set_attn_implementation("eager")
    captured = hf().capture(model, None).architecture
    built: Any = hf().build(through_json(captured))
    assert captured.config["attn_implementation"] == "eager"
    assert built.vision_model.config._attn_implementation == "eager"
    assert captured.operators != hf().capture(live("CLIPModel"), None).architecture.operators


@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, "pure_bf16"), (torch.float64, "pure_fp64")])
def test_model_that_was_cast_is_rebuilt_with_its_buffers_cast(dtype: torch.dtype, precision: str) -> None:
    model = fresh("LlamaForCausalLM").to(dtype)
    captured = hf().capture(model, None).architecture
    assert captured.precision == precision
    assert first_difference(hf().build(through_json(captured)), model) is None


def test_model_loaded_in_half_precision_keeps_its_tables_in_full(tmp_path: Path) -> None:
    live("LlamaForCausalLM").save_pretrained(tmp_path)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    captured = hf().capture(model, None).architecture
    assert captured.precision == "bf16"
    assert str(tmp_path) not in captured.model_dump_json()
    assert first_difference(hf().build(through_json(captured)), model) is None


def test_directory_with_a_config_is_a_model_and_leaves_no_path_behind(tmp_path: Path) -> None:
    live("ViTForImageClassification").save_pretrained(tmp_path)
    described = hf().describe(Creation(str(tmp_path), {"attn_implementation": "eager"})).architecture
    assert described.class_name == "ViTForImageClassification"
    assert described.config["attn_implementation"] == "eager"
    assert str(tmp_path) not in described.model_dump_json()


def test_manifest_is_created_for_a_published_directory(tmp_path: Path) -> None:
    live("CLIPModel").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    recorded = manifest.create(path, str(tmp_path), family="transformers", arguments={"precision": "fp32"})
    assert recorded.golden[0].probe == "photos-and-tokens/2"
    assert manifest.verify(path).exit_code == 0


def test_preprocessor_config_that_is_named_is_recorded_and_used() -> None:
    content = {
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "size": {"shortest_edge": 32},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
    }
    arguments = {"config": CONFIGS["CLIPModel"], "preprocessor": content}
    described = hf().describe(Creation("CLIPModel", arguments)).architecture
    assert described.preprocess is not None
    assert (described.preprocess.resize_mode, described.preprocess.mean) == ("shortest", [0.5, 0.5, 0.5])
    assert described.arguments == {}
    assert hf().inputs(described).tensors["images"].shape == (4, 3, 32, 32)
    with pytest.raises(InputError, match=r"cannot be recorded .*; leave it out"):
        hf().describe(Creation("CLIPModel", {**arguments, "preprocessor": {**content, "resample": 0}}))


def roles(kind: str) -> dict[str, str]:
    model = live(kind)
    return hf().roles(hf().capture(model, None).architecture, model.state_dict())


def test_roles_are_those_of_two_towers_or_of_a_backbone_and_its_head() -> None:
    clip = roles("CLIPModel")
    assert clip["vision_model.post_layernorm.weight"] == "vision_tower"
    assert clip["visual_projection.weight"] == "vision_projection"
    assert clip["text_model.final_layer_norm.weight"] == "text_tower"
    assert clip["text_projection.weight"] == "text_projection"
    assert clip["logit_scale"] == "logit_scale"
    assert roles("SiglipModel")["logit_bias"] == "logit_bias"
    vit = roles("ViTForImageClassification")
    assert set(vit.values()) == {"backbone", "head"}
    assert vit["classifier.weight"] == "head"
    assert roles("GPT2LMHeadModel")["lm_head.weight"] == "head"


def test_classifier_is_read_by_its_five_likeliest_labels(tmp_path: Path) -> None:
    model = fresh("ViTForImageClassification", id2label={i: f"kind {i}" for i in range(7)})
    golden = manifest.save(model, tmp_path / "vit.pt").golden[0]
    assert golden.probe == "photos/1"
    assert golden.outputs["class_logits"].shape == [4, 7]
    assert hf().rows["class_logits"] == "images"  # so that the floor has batches of other sizes in it
    assert [len(reading.prompts) for reading in golden.reading] == [5, 5, 5, 5]
    assert all(label.startswith("kind ") for reading in golden.reading for label in reading.prompts)


def test_library_makes_what_a_call_describes(tmp_path: Path) -> None:
    live("BertModel").save_pretrained(tmp_path)
    stored = hf().create(Creation(str(tmp_path), {"precision": "bf16"}))
    assert torch.equal(stored.pooler.dense.weight, live("BertModel").pooler.dense.weight.bfloat16())
    assert type(hf().create(Creation("BertModel", {"config": CONFIGS["BertModel"]}))) is transformers.BertModel


def test_activation_that_was_mistaken_is_found_and_its_cure_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    recorded = manifest.save(live("CLIPModel"), path)
    activations = recorded.architecture.activations
    assert activations == {"text": {"QuickGELUActivation": 2}, "vision": {"QuickGELUActivation": 2}}
    assert set(recorded.golden[0].contrast) == {"activation gelu", "activation gelu_pytorch_tanh"}
    variants = {variant.there: variant for variant in hf().variants(recorded.architecture)}
    assert variants["gelu"].cure.startswith("config.text_config.hidden_act = config.vision_config.hidden_act = 'gelu'")
    sidecar = path.with_name(f"{path.name}.manifest.json")
    sidecar.write_text(sidecar.read_text().replace('"hidden_act": "quick_gelu"', '"hidden_act": "gelu"'))
    report = manifest.verify(path)
    codes = {finding.rule for rung in report.rungs for finding in rung.findings}
    assert "A001" in codes
    if "G001" in codes:
        assert "config.vision_config.hidden_act = 'quick_gelu'" in report.model_dump_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 10**5}, "gives num_hidden_layers as 100000, expected at most 4,096"),
        ({"vocab_size": 10**12}, "gives vocab_size as .*, expected at most"),
        ({"hidden_size": 10**9}, "gives hidden_size as .*, expected at most"),
        ({"attn_implementation": "someone/kernel"}, "attn_implementation='someone/kernel', expected one of eager"),
        ({"attn_implementation": ["eager"]}, "expected one of eager"),
        ({"quantization_config": {"quant_method": "gptq"}}, "has quantization_config=.*leads to a hub"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}}, "has backbone='hf-hub:a/b'"),
        ({"inner": {"checkpoint_path": "/etc/passwd"}}, "has checkpoint_path='/etc/passwd'"),
    ],
)
def test_config_that_would_exhaust_memory_or_lead_elsewhere_is_refused(change: dict[str, Any], words: str) -> None:
    sound = hf().capture(live("BertModel"), None).architecture
    with pytest.raises(ArchitectureError, match=words):
        hf().build(sound.model_copy(update={"config": {**sound.config, **change}}))


def test_code_that_a_config_names_is_left_out() -> None:
    sound = hf().capture(live("BertModel"), None).architecture
    named = {**sound.config, "auto_map": {"AutoModel": "someone/repository--code.Model"}}
    built: Any = hf().build(sound.model_copy(update={"config": named}))
    assert type(built) is transformers.BertModel
    assert not hasattr(built.config, "auto_map")


def test_backbone_of_timm_is_built_without_its_published_weights() -> None:
    config = {"model_type": "timm_backbone", "backbone": "resnet18", "use_pretrained_backbone": True}
    built = hf().build(hf().describe(Creation("TimmBackbone", {"config": config})).architecture)
    assert all(parameter.is_meta for parameter in built.parameters())


@pytest.mark.parametrize(
    "name", ["NoSuchModel", "AutoModel", "os", "PreTrainedModel", "CLIPModel.__init__", "pipeline"]
)
def test_name_that_is_no_model_class_is_refused(name: str) -> None:
    with pytest.raises(UnknownModelError, match=f"no model class '{name}'"):
        hf().describe(Creation(name))


def test_argument_that_the_family_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="takes no argument 'hidden_size', expected among"):
        hf().describe(Creation("BertModel", {"hidden_size": 32}))


def test_class_of_the_users_own_is_told_how_to_be_saved() -> None:
    class Mine(transformers.BertModel):  # type: ignore[misc]
        pass

    with pytest.raises(ArchitectureError, match=r"no model class 'Mine'.*family='callable'"):
        hf().capture(Mine(live("BertModel").config), None)


def test_missing_library_is_one_sentence_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ArchitectureError, match=r"needs the library transformers, .*\[transformers\]'`\.$"):
        hf().describe(Creation("CLIPModel"))


def test_other_modules_are_not_of_this_family() -> None:
    assert not hf().recognises(nn.Linear(2, 2))
