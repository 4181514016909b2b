"""Cures of findings of an audit on what weights are; each function is called as its rule is."""

from __future__ import annotations

import json

import peft
import pytest
import timm
import torch
import torchvision
from torch import nn
from transformers import OPTConfig, OPTForCausalLM

import manifest
from tests.promises.cures.following import TEST_VIT, Bench, Case, trained_state
from tests.promises.cures.of_models import Plain


def architecture_unknown(bench: Bench) -> Case:
    others = {f"decoder.{index}.kernel": torch.randn(8, 8) for index in range(200)}
    path = bench.write(bench.state() | others)
    advice = yield manifest.audit(path)
    yield advice.looks("audit", {"CKPT": path, "LIBRARY:NAME": "timm:test_vit"})


def architecture_unknown_when_it_is_of_ones_own(bench: Bench) -> Case:
    path = bench.write(trained_state(Plain(), 0.5), "net.pt")
    advice = yield manifest.audit(path)
    advice.runs("create", {"CKPT": path, "MODULE:CLASS": f"{Plain.__module__}:Plain"})
    yield manifest.verify(path, allow=[Plain.__module__])


def architecture_not_told(bench: Bench) -> Case:
    path = bench.folder / "net.pth"
    torch.save(trained_state(torchvision.models.googlenet(init_weights=False), 1e-3), path)
    advice = yield manifest.audit(path)
    yield advice.looks("audit", {"CKPT": path, "LIBRARY:NAME/TAG": "torchvision:googlenet/IMAGENET1K_V1"})


def claims_contradict(bench: Bench) -> Case:
    path, config = bench.write(bench.state()), bench.folder / "config.json"
    config.write_text(json.dumps({"architecture": "test_resnet"}))
    advice = yield manifest.audit(path)
    advice.says("Find out which of the two is right, and correct the other")
    config.write_text(json.dumps({"architecture": "test_vit"}))
    yield manifest.audit(path)


def claims_contradict_when_a_tag_had_another_activation(bench: Bench) -> Case:
    path = bench.write(bench.clip())
    advice = yield manifest.audit(path, claimed="open_clip:ViT-B-16/openai")
    assert advice.argument("force_quick_gelu") == {"force_quick_gelu": True}
    yield bench.report("audit", path, *advice.options("--as"))


def claims_contradict_when_weights_are_in_half_precision(bench: Bench) -> Case:
    path = bench.write({name: value.half() for name, value in bench.clip().items()}, "half.pt")
    with pytest.warns(UserWarning, match="recorded in fp32"):
        manifest.create(path, bench.digits.MODEL, arguments={"precision": "fp32"}, golden=False)
    advice = yield manifest.verify(path)
    manifest.create(path, bench.digits.MODEL, arguments=advice.argument("precision"), golden=False)
    yield manifest.verify(path)


def tensors_differ(bench: Bench) -> Case:
    state, path = bench.state(), bench.folder / "net.pt"
    torch.save(state | {"decoder.weight": torch.randn(8, 8)}, path)
    advice = yield manifest.audit(path)
    advice.says("leave it out of the file")
    torch.save(state, path)
    yield manifest.audit(path)
    torch.save(trained_state(timm.create_model("test_vit", depth=8)), path)
    assert "A013" in {each.rule for each in manifest.audit(path).findings()}
    advice.runs("create", TEST_VIT | {"CKPT": path, "KEY=VALUE": "depth=8"})
    yield manifest.verify(path)


def adapters_not_merged(bench: Bench) -> Case:
    base = timm.create_model("test_vit")
    base.load_state_dict(bench.state())
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["fc1", "fc2"]))
    trained_state(model)
    advice = yield manifest.audit(bench.write(dict(model.state_dict())))
    names = {"model": model}
    exec(advice.found(r"`(model = [^`]*)`")[1], names)
    yield manifest.audit(bench.write(names["model"].state_dict()))


def adapters_not_merged_when_alone(bench: Bench) -> Case:
    base = timm.create_model("test_vit")
    base.load_state_dict(bench.state())
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["fc1", "fc2"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(bench.folder / "adapter")
    advice = yield manifest.audit(bench.folder / "adapter")
    fresh = timm.create_model("test_vit")
    fresh.load_state_dict(bench.state())
    call = r"`(peft\.PeftModel[^`]*)`"
    loaded = advice.evaluated(call, peft=peft, model=fresh, DIRECTORY=bench.folder / "adapter")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    yield manifest.audit(bench.write(bench.state()))


def architecture_unknown_when_it_is_one_of_several(bench: Bench) -> Case:
    several = {f"model.{name}": value for name, value in bench.state().items()}
    several |= {f"discriminator.{index}.kernel": torch.randn(8, 8) for index in range(200)}
    torch.save({"state_dict": several}, bench.folder / "gan.pt")
    advice = yield manifest.audit(bench.folder / "gan.pt")
    yield bench.report("audit", "gan.pt", *advice.options("--state"))


def architecture_unknown_when_a_config_names_its_class(bench: Bench) -> Case:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = OPTForCausalLM(OPTConfig(**sizes, vocab_size=300, ffn_dim=48, word_embed_proj_dim=32))
    trained_state(model)
    model.save_pretrained(bench.folder)
    path = bench.folder / "model.safetensors"
    advice = yield manifest.audit(path)
    advice.runs("create", {"CKPT": path, "DIRECTORY_OF_CONFIG": bench.folder})
    yield manifest.verify(path, fast=True)


def claims_contradict_when_its_name_has_the_digits_of_another(bench: Bench) -> Case:
    """A published file that was changed keeps its name; one of another name is no such claim."""
    state = trained_state(torchvision.models.mobilenet_v2())
    path = bench.write(state, "mobilenet_v2-b0353104.pth")
    advice = yield manifest.audit(path)
    advice.says("if it is meant to be another, give it a name without digits")
    yield manifest.audit(path.rename(bench.folder / "mobilenet_v2.pth"))


def claims_contradict_when_a_config_has_another_library_load_it(bench: Bench) -> Case:
    path = bench.write(bench.state(), "model.safetensors")
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
    (bench.folder / "config.json").write_text(json.dumps(config))
    advice = yield manifest.audit(path)
    advice.says("with the config of that library beside it")
    (bench.folder / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    yield manifest.audit(path)
