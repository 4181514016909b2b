"""Errors that are heeded: each function tries something, is sent what the error says, and tries again as it says."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from torch import nn

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.storage.sidecars import Sidecars
from tests.promises.cures.following import TEST_VIT, Attempt, Attempts, Bench, trained_state
from tests.promises.cures.of_models import Plain


def _vit(bench: Bench) -> Any:
    model = timm.create_model("test_vit")
    model.load_state_dict(bench.state())
    return model.eval()


def no_manifest(bench: Bench) -> Attempts:
    path = bench.write(bench.state(), "ckpt.pt")
    advice = yield lambda: manifest.verify(path, fast=True)
    advice.runs("create", TEST_VIT)
    yield lambda: manifest.verify(path, fast=True)


def nothing_tells_the_architecture(bench: Bench) -> Attempts:
    path = bench.write(bench.state(), "ckpt.pt")
    advice = yield lambda: manifest.create(path)
    bench.must("create", path, *advice.options("--family", TEST_VIT))
    yield lambda: manifest.verify(path)


def no_library_has_the_model(bench: Bench) -> Attempts:
    path = bench.write(bench.state(), "ckpt.pt")
    advice = yield lambda: manifest.create(path, "test_vi", family="timm")
    name = advice.found(r"did you mean '?(\w+)")[1]
    yield lambda: manifest.create(path, name, family="timm", golden=False)


def weights_were_saved_with_another_image_size(bench: Bench) -> Attempts:
    path = bench.clip_on_record()
    name = bench.digits.MODEL

    def created(**arguments: Any) -> Attempt:
        return lambda: manifest.create_model(name, pretrained=str(path), **arguments)

    advice = yield created(force_image_size=64)
    yield created(**advice.argument("force_image_size"))


def part_was_never_trained(bench: Bench) -> Attempts:
    state, fresh = bench.clip(), manifest.create_model(bench.digits.MODEL).state_dict()
    begun = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
    model = manifest.create_model(bench.digits.MODEL)
    model.load_state_dict({name: (fresh if name.startswith(begun) else state)[name] for name in state})
    path = bench.folder / "clip.pt"
    advice = yield lambda: manifest.save(model, path, golden=False)
    yield lambda: manifest.save(model, path, golden=False, **advice.argument("partial"))


def no_weights_under_a_key(bench: Bench) -> Attempts:
    path = bench.folder / "two.pt"
    torch.save({"model": bench.state(), "model_ema": bench.state()}, path)
    with open_checkpoint(path) as stored:
        advice = yield lambda: stored.select("ema")
        yield lambda: stored.select(advice.found(r"model_ema")[0])


def several_checkpoints_in_a_folder(bench: Bench) -> Attempts:
    for name in ("one.safetensors", "two.safetensors"):
        bench.write(bench.state(), name)
    advice = yield lambda: open_checkpoint(bench.folder)
    yield lambda: open_checkpoint(bench.folder / advice.found(r"one\.safetensors")[0]).close()


def link_leads_out_of_its_directory(bench: Bench) -> Attempts:
    real = bench.write(bench.state())
    place = bench.folder / "linked"
    place.mkdir()
    (place / "model.safetensors").symlink_to(real)
    advice = yield lambda: open_checkpoint(place)
    advice.says("pass the file itself if you do")
    yield lambda: open_checkpoint(real).close()


def output_exists(bench: Bench) -> Attempts:
    path, out = bench.write(bench.state(), "ckpt.pt"), bench.write(bench.state(), "out.safetensors")
    advice = yield lambda: manifest.convert(path, out)
    force = advice.found(r"--force")[0]
    yield lambda: bench.must("convert", path, out, force)


def file_is_not_the_one_described(bench: Bench) -> Attempts:
    path = bench.signed()
    torch.save({name: value + 1 for name, value in bench.state().items()}, path)
    sign = partial(manifest.sign, path, bench.folder / "release.key")
    advice = yield sign
    assert advice.looks("verify", {}).exit_code == 1
    bench.again("ckpt.pt")
    yield sign


def extra_is_no_text(bench: Bench) -> Attempts:
    model = _vit(bench)
    extras = {"optimizer": {"state": {}}}
    advice = yield lambda: manifest.save(model, bench.folder / "a.safetensors", extras=extras, golden=False)
    ending = advice.found(r"save as (\.pt) instead")[1]
    yield lambda: manifest.save(model, bench.folder / f"a{ending}", extras=extras, golden=False)


def extra_would_hide_the_weights(bench: Bench) -> Attempts:
    model, path = _vit(bench), bench.folder / "a.pt"
    advice = yield lambda: manifest.save(model, path, extras={"state_dict": {}}, golden=False)
    advice.says("give it another name")
    yield lambda: manifest.save(model, path, extras={"other": {}}, golden=False)


def tensor_is_sparse(bench: Bench) -> Attempts:
    path, out, table = bench.folder / "a.pt", bench.folder / "out.safetensors", torch.eye(20)
    torch.save(bench.state() | {"table": table.to_sparse()}, path)
    advice = yield lambda: manifest.convert(path, out)
    advice.says("convert it to a plain tensor first")
    torch.save(bench.state() | {"table": table}, path)
    yield lambda: manifest.convert(path, out)


def module_is_not_allowed(bench: Bench) -> Attempts:
    model, path = Plain(), bench.folder / "own.pt"
    trained_state(model)
    manifest.save(model, path)
    advice = yield lambda: manifest.load(path, verify="none")
    yield lambda: manifest.load(path, **advice.argument("allow"))


def model_is_a_wrapper(bench: Bench) -> Attempts:
    layer = nn.Linear(4, 8)
    advice = yield lambda: manifest.save(layer, bench.folder / "a.pt")
    yield lambda: manifest.save(layer, bench.folder / "a.pt", **advice.argument("family"))


def doctor_of_a_network_of_ones_own(bench: Bench) -> Attempts:
    model, path, inputs = Plain(), bench.folder / "own.pt", torch.randn(2, 4)
    trained_state(model)
    advice = yield lambda: manifest.doctor(model)
    example = eval(advice.found(r"`example_inputs=([^`]*)`")[1], {"inputs": inputs})
    manifest.save(model, path, example_inputs=example)
    yield lambda: manifest.doctor(path, allow=[Plain.__module__])


def claim_is_of_no_library(bench: Bench) -> Attempts:
    path = bench.write(bench.state())
    advice = yield lambda: manifest.audit(path, claimed="timm-test_vit:x")
    library, name = advice.found(r"expected (LIBRARY):(NAME)").groups()
    yield lambda: manifest.audit(path, claimed=f"{TEST_VIT[library]}:{TEST_VIT[name]}")


def component_is_of_no_model(bench: Bench) -> Attempts:
    path = bench.write(bench.state())
    advice = yield lambda: manifest.audit(path, only=["trunk"])
    roles = advice.found(r"expected among ([\w, ]+);")[1].split(", ")
    yield lambda: manifest.audit(path, only=roles[:1])


def golden_outputs_are_not_on_record(bench: Bench) -> Attempts:
    model, path = _vit(bench), bench.folder / "a.pt"
    manifest.save(model, path, golden=False)
    advice = yield lambda: manifest.answer(model, path)
    manifest.save(model, path, **advice.argument("golden"))
    yield lambda: manifest.answer(model, path)


def manifest_is_no_json(bench: Bench) -> Attempts:
    path = bench.signed()
    Sidecars(path).manifest.write_bytes(b"{")
    advice = yield lambda: manifest.verify(path, fast=True)
    advice.runs("create", TEST_VIT | {"CKPT": path})
    yield lambda: manifest.verify(path, fast=True)


def key_is_no_key(bench: Bench) -> Attempts:
    path, key = bench.unsigned(), bench.folder / "mine.key"
    key.write_text("no key")
    advice = yield lambda: manifest.sign(path, key)
    key.unlink()
    advice.runs("keygen", {"NAME": key.with_suffix("")})
    yield lambda: manifest.sign(path, key)


def checkpoint_is_mistyped(bench: Bench) -> Attempts:
    path = bench.signed()
    advice = yield lambda: manifest.verify(path.with_name("cktp.pt"), fast=True)
    name = advice.found(r"did you mean (?:\S*/)?(ckpt\.pt)")[1]
    yield lambda: manifest.verify(bench.folder / name, fast=True)
