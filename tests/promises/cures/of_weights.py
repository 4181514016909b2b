"""Cures of findings on completeness and on numbers; each function is called as its rule is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

import manifest
from manifest.schema.report import Report
from tests.promises.cures.following import Bench, Case, State, trained_state

_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
_TEXT_TOWER = _TEXT[:-1]
_BLOCKS = ("blocks.4.", "blocks.5.")


def _without(state: State, beginnings: str | tuple[str, ...]) -> State:
    return {name: value for name, value in state.items() if not name.startswith(beginnings)}


def _replaced(state: State, other: State, beginnings: tuple[str, ...]) -> State:
    return {name: other[name] if name.startswith(beginnings) else value for name, value in state.items()}


def _fresh_vit() -> State:
    torch.manual_seed(1)
    return dict(timm.create_model("test_vit").state_dict())


def _fresh_clip(bench: Bench) -> Any:
    torch.manual_seed(1)
    return open_clip.create_model(bench.digits.MODEL)


def _saved(bench: Bench, state: State) -> Report:
    """What an audit says of weights that are written to where the first ones were."""
    return manifest.audit(bench.write(state))


def component_missing(bench: Bench) -> Case:
    path = bench.write(bench.clip(), "clip.pt")
    manifest.create(path, bench.digits.MODEL, golden=False)
    bench.write(_without(bench.clip(), _TEXT), "clip.pt")
    advice = yield manifest.verify(path, fast=True)
    advice.says("Get a checkpoint with every tower")
    bench.write(bench.clip(), "clip.pt")
    yield manifest.verify(path, fast=True)
    bench.write(_without(bench.clip(), _TEXT), "clip.pt")
    manifest.create(path, bench.digits.MODEL, golden=False, **advice.argument("partial"))
    yield manifest.verify(path, fast=True)
    command = ("create", path, "--model", bench.digits.MODEL, "--no-golden")
    assert bench.run(*command, *advice.options("--partial")).code == 0
    yield manifest.verify(path, fast=True)


def component_missing_when_audited(bench: Bench) -> Case:
    whole = trained_state(open_clip.create_model("ViT-S-32-alt"))
    path = bench.write(_without(whole, _TEXT))
    advice = yield manifest.audit(path)
    yield bench.report("audit", path, *advice.options("--only"))
    advice.says("Get the whole file")
    bench.write(whole)
    yield manifest.audit(path)


def component_partial(bench: Bench) -> Case:
    advice = yield _saved(bench, _without(bench.state(), "blocks.5.attn."))
    advice.says("Get the whole checkpoint")
    yield _saved(bench, bench.state())


def component_initialised(bench: Bench) -> Case:
    """The text tower was under other names, and `strict=False` passed over it."""
    model, prefixed = _fresh_clip(bench), {f"text.{name}": value for name, value in bench.clip().items()}
    other = {name: prefixed[f"text.{name}"] for name in _without(bench.clip(), _TEXT_TOWER)}
    model.load_state_dict(prefixed | other, strict=False)
    advice = yield _saved(bench, model.state_dict())
    advice.says("Find out where this component's weights were lost: a wrong path, `strict=False`")
    model.load_state_dict({name.removeprefix("text."): value for name, value in prefixed.items()}, strict=True)
    yield _saved(bench, model.state_dict())


def component_initialised_when_nothing_was_trained(bench: Bench) -> Case:
    advice = yield _saved(bench, _fresh_vit())
    advice.says("Find out where the trained weights were lost, and get those")
    yield _saved(bench, bench.state())


def component_initialised_when_a_fresh_model_was_saved(bench: Bench) -> Case:
    path, model = bench.folder / "ckpt.pt", timm.create_model("test_vit")
    manifest.save(model, path, golden=False)
    advice = yield manifest.verify(path, fast=True)
    advice.says("otherwise find out where the weights were lost")
    model.load_state_dict(bench.state())
    manifest.save(model, path, golden=False)
    yield manifest.verify(path, fast=True)


def component_barely_trained(bench: Bench) -> Case:
    def trained(begun: State) -> State:
        model = _fresh_clip(bench)
        model.load_state_dict(begun)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
        texts = torch.randint(0, model.vocab_size, (2, model.context_length))
        images, texts, scale = model.train()(torch.randn(2, 3, 32, 32), texts)[:3]
        torch.nn.functional.cross_entropy(scale * images @ texts.T, torch.arange(2)).backward()
        optimizer.step()
        return dict(model.state_dict())

    lost = _replaced(bench.clip(), _fresh_clip(bench).state_dict(), _TEXT_TOWER)
    advice = yield _saved(bench, trained(lost))
    advice.says("Find out where this component's weights were lost before these steps")
    yield _saved(bench, trained(bench.clip()))


def layers_fresh(bench: Bench) -> Case:
    advice = yield _saved(bench, _replaced(bench.state(), _fresh_vit(), _BLOCKS))
    advice.says("get the weights that have them")
    yield _saved(bench, bench.state())


def not_finite(bench: Bench) -> Case:
    """A training that diverged in its second epoch."""
    model, inputs = timm.create_model("test_vit"), torch.randn(2, 3, 160, 160)
    model.load_state_dict(bench.state())
    before = bench.write(bench.state(), "epoch_1.pt")
    for _ in range(2):
        (model(inputs) ** 2).sum().backward()
        torch.optim.SGD(model.parameters(), 1e30).step()
    advice = yield manifest.audit(bench.write(model.state_dict(), "epoch_2.pt"))
    advice.says("go back to a checkpoint from before the training diverged")
    yield manifest.audit(before)


def weights_constant(bench: Bench) -> Case:
    lost = bench.state()
    lost["blocks.3.mlp.fc1.weight"] = torch.zeros_like(lost["blocks.3.mlp.fc1.weight"])
    advice = yield _saved(bench, lost)
    advice.says("find out where its weights were lost, and get those")
    yield _saved(bench, bench.state())


def weights_constant_when_a_download_was_cut(bench: Bench) -> Case:
    path = bench.write(bench.state())
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(len(whole) - half))
    advice = yield manifest.audit(path)
    advice.says("Get the file again")
    path.write_bytes(whole)
    yield manifest.audit(path)


def weights_constant_when_all_features_go_through_them(bench: Bench) -> Case:
    lost = bench.clip()
    lost["text_projection"] = torch.zeros_like(lost["text_projection"])
    advice = yield _saved(bench, lost)
    advice.says("Get weights that have it")
    yield _saved(bench, bench.clip())


def layers_duplicated(bench: Bench) -> Case:
    copied = bench.state()
    copied["blocks.3.mlp.fc1.weight"] = copied["blocks.2.mlp.fc1.weight"].clone()
    advice = yield manifest.audit(bench.write(copied, "weights.pt"))
    advice.says("otherwise get the file again")
    yield manifest.audit(bench.write(bench.state(), "weights.pt"))


def denormals(bench: Bench) -> Case:
    scaled = bench.state()
    name = "blocks.1.mlp.fc1.weight"
    scaled[name] = (scaled[name] * 1e-6).half()
    advice = yield _saved(bench, scaled)
    advice.says("save them as they were, in `float32`")
    yield _saved(bench, bench.state())


def scale_exponentiated(bench: Bench) -> Case:
    model = _fresh_clip(bench)
    model.load_state_dict(bench.clip())
    model.logit_scale.data.exp_()
    advice = yield _saved(bench, model.state_dict())
    advice.evaluated(r"`(model\.logit_scale[^`]*)`", model=model)
    yield _saved(bench, model.state_dict())


def tensors_empty(bench: Bench) -> Case:
    """What each of two processes holds, as ZeRO-3 has it: half of the values, in a row, and placeholders for names."""
    whole = bench.state()
    empty = {name: value if value.ndim < 2 else value.new_empty(0) for name, value in whole.items()}
    shards = {name: value.flatten().chunk(2) for name, value in whole.items() if value.ndim > 1}
    advice = yield _saved(bench, empty)
    advice.says("put the shards together")
    gathered = {name: torch.cat(parts).view_as(whole[name]) for name, parts in shards.items()}
    yield _saved(bench, empty | gathered)


def _decoder(place: Path, lacking: str) -> Path:
    """A Qwen2 that lacks one of two tensors that are tied; its config lies in `config`."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}
    config = Qwen2Config(**sizes, num_key_value_heads=1, intermediate_size=48, tie_word_embeddings=True)
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(place / "config")
    state = _without(trained_state(Qwen2ForCausalLM(config)), lacking)
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    return place / "model.safetensors"


def tied_tensor_once(bench: Bench) -> Case:
    path = _decoder(bench.folder, "lm_head.")
    advice = yield manifest.audit(path)
    advice.says("Put its config.json beside it, see that `tie_word_embeddings` in it is true")
    text = (bench.folder / "config" / "config.json").read_text()
    assert json.loads(text)["tie_word_embeddings"] is True
    (bench.folder / "config.json").write_text(text)
    yield manifest.audit(path)


def tied_tensor_once_when_under_its_other_name(bench: Bench) -> Case:
    path = _decoder(bench.folder, "model.embed_tokens.")
    (bench.folder / "config" / "config.json").rename(bench.folder / "config.json")
    advice = yield manifest.audit(path)
    advice.says("Load it by transformers 5 or newer and write it anew by `save_pretrained`")
    Qwen2ForCausalLM.from_pretrained(bench.folder).save_pretrained(bench.folder / "anew")
    yield manifest.audit(bench.folder / "anew" / "model.safetensors")


def parent_refuted(bench: Bench) -> Case:
    base = bench.clip_on_record()
    other, path = bench.folder / "origin.pt", bench.folder / "tuned.pt"
    model = manifest.load(base)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(0.05 * torch.randn_like(weight))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    manifest.save(model, other, golden=False)
    _tuned(model, path)  # still on record as begun at the base
    advice = yield manifest.verify(path, fast=True)
    nearest = bench.run(*advice.command("relate", {"FOLDER": bench.folder, "CKPT": path}))
    assert "origin.pt" in nearest.out
    advice.says("save them anew from there")
    manifest.create(bench.write(state, "origin.pt"), bench.digits.MODEL, golden=False)
    _tuned(manifest.load(other), path)
    yield manifest.verify(path, fast=True)


def _tuned(model: Any, path: Path) -> None:
    """Save a model whose weights moved a little."""
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.002 * torch.randn_like(weight)
    manifest.save(model, path, golden=False)
