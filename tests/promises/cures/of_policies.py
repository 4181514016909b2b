"""Cures of findings on what a policy demands; each function is called as its rule is."""

from __future__ import annotations

import timm
import torch

import manifest
from manifest.schema.report import Report
from tests.promises.cures.following import Bench, Case

_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
_ODD = "blocks.3.mlp.fc1.weight"


def _policy(bench: Bench, *lines: str) -> None:
    (bench.folder / "policy.yaml").write_text("\n".join(["schema: policy/v1", *lines]))


def _waiver(bench: Bench, expires: str, rule: str = "C007") -> None:
    _policy(bench, f"waivers: [{{rule: {rule}, reason: it begins closed, expires: {expires}}}]")


def _held(bench: Bench, name: str) -> Report:
    return bench.report("audit", bench.folder / name, "--policy", "policy.yaml")


def _odd(bench: Bench) -> None:
    state = bench.state()
    bench.write(state | {_ODD: torch.zeros_like(state[_ODD])})


def waiver_expired(bench: Bench) -> Case:
    _odd(bench)
    _waiver(bench, "2020-01-01")
    advice = yield _held(bench, "weights.safetensors")
    advice.says("agree on another date and write it there")
    _waiver(bench, "2999-01-01")
    yield _held(bench, "weights.safetensors")
    _waiver(bench, "2020-01-01")
    advice.says("Mend what was waived and take the waiver out of the policy")
    bench.write(bench.state())
    _policy(bench)
    yield _held(bench, "weights.safetensors")


def waiver_unused(bench: Bench) -> Case:
    _odd(bench)
    _waiver(bench, "2999-01-01", rule="C008")
    advice = yield _held(bench, "weights.safetensors")
    advice.says("Remove it from the policy if what it excused is mended")
    _policy(bench)
    yield _held(bench, "weights.safetensors")
    advice.says("otherwise correct its rule or path")
    _waiver(bench, "2999-01-01")
    yield _held(bench, "weights.safetensors")


def component_required(bench: Bench) -> Case:
    def save(state: dict[str, torch.Tensor], partial: tuple[str, ...] = ()) -> Report:
        path = bench.write(state, "clip.pt")
        manifest.create(path, bench.digits.MODEL, golden=False, partial=partial)
        return bench.report("verify", path, "--fast", "--policy", "policy.yaml")

    half = {name: value for name, value in bench.clip().items() if not name.startswith(_TEXT)}
    _policy(bench, "components: {require: [vision_tower, text_tower]}")
    advice = yield save(half, ("text_tower", "text_projection"))
    advice.says("Release a checkpoint that has it")
    yield save(bench.clip())
    advice.says("take the role out of `components.require` in the policy")
    _policy(bench, "components: {require: [vision_tower]}")
    yield save(half, ("text_tower", "text_projection"))


def container_forbidden(bench: Bench) -> Case:
    _policy(bench, "containers: {forbid: [torch-zip]}")
    path = bench.write(bench.state(), "weights.pt")
    advice = yield _held(bench, path.name)
    advice.runs("convert", {"CKPT": path, "OUT": bench.folder / "out"})
    yield _held(bench, "out.safetensors")


def container_forbidden_when_unreadable(bench: Bench) -> Case:
    _policy(bench, "containers: {forbid: [torch-zip]}")
    path = bench.write(bench.state())
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    advice = yield _held(bench, path.name)
    advice.says("Get the file again from its source")
    path.write_bytes(whole)
    yield _held(bench, path.name)


def signature_required(bench: Bench) -> Case:
    _policy(bench, "signature: {required: true}")
    demanded = ("--fast", "--policy", "policy.yaml")
    path = bench.signed()
    advice = yield bench.report("verify", path, *demanded)
    yield bench.report(*advice.command("verify", {"CKPT": path}), *demanded)
    bench.unsigned()
    (bench.folder / "ckpt.pt.manifest.sig").unlink(missing_ok=True)
    advice.runs("sign", {"CKPT": path})
    yield bench.report(*advice.command("verify", {"CKPT": path}), *demanded)


def signature_required_when_audited(bench: Bench) -> Case:
    _policy(bench, "signature: {required: true}")
    path = bench.signed()
    advice = yield bench.report("audit", path, "--policy", "policy.yaml")
    yield advice.looks("verify", {"CKPT": path, "POLICY": "policy.yaml"})


def training_required(bench: Bench) -> Case:
    _policy(bench, "components: {trained: true, require: [backbone]}")
    bench.write(dict(timm.create_model("test_vit").state_dict()))
    advice = yield _held(bench, "weights.safetensors")
    advice.says("Find out where its weights were lost")
    bench.write(bench.state())
    yield _held(bench, "weights.safetensors")


def training_required_when_numbers_do_not_show_it(bench: Bench) -> Case:
    bench.write(bench.state())
    _policy(bench, "components: {trained: true}")
    advice = yield _held(bench, "weights.safetensors")
    advice.says("Name in `components.require` the roles that must be trained")
    _policy(bench, "components: {trained: true, require: [backbone]}")
    yield _held(bench, "weights.safetensors")
