"""Cures of findings on environment, golden outputs and determinism; each function is called as its rule is."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

import manifest
from manifest.probes.inputs import photographs
from manifest.schema.report import Report
from manifest.storage.sidecars import Sidecars
from tests.promises.cures.following import TEST_VIT, Bench, Case, trained_state
from tests.promises.cures.of_models import edited
from tests.warm import warm_run


@contextlib.contextmanager
def _installed(bench: Bench, name: str, version: str) -> Iterator[None]:
    """Another version of a library, as an installer lays out what says which version it is."""
    metadata = bench.folder / "site" / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    sys.path.insert(0, str(bench.folder / "site"))
    try:
        yield
    finally:
        sys.path.remove(str(bench.folder / "site"))


def library_differs(bench: Bench) -> Case:
    with _installed(bench, "ftfy", "6.0"):
        path = bench.unsigned()
    advice = yield manifest.verify(path)
    advice.says("install the recorded versions")
    with _installed(bench, "ftfy", "6.0"):
        yield manifest.verify(path)


def flags_differ(bench: Bench) -> Case:
    torch.backends.mkldnn.enabled = False
    try:
        path = bench.unsigned()
        torch.backends.mkldnn.enabled = True
        advice = yield manifest.verify(path)
        advice.says("Set the flags that the manifest records")
        assert "mkldnn.enabled was False and is True" in advice.above
        torch.backends.mkldnn.enabled = False
        yield manifest.verify(path)
    finally:
        torch.backends.mkldnn.enabled = True


def library_builds_otherwise(bench: Bench) -> Case:
    def other_version() -> contextlib.ExitStack:
        """timm in another version, which attends in other steps."""
        stack = contextlib.ExitStack()
        stack.enter_context(_installed(bench, "timm", "1.0"))
        timm.layers.set_fused_attn(False)
        stack.callback(timm.layers.set_fused_attn, True)
        return stack

    with other_version():
        path = bench.unsigned()
    report = manifest.verify(path)
    advice = yield report
    advice.says("Nothing, as long as the golden outputs agree")
    assert report.exit_code == 0
    advice.says("install the recorded versions")
    with other_version():
        yield manifest.verify(path)


def outputs_differ(bench: Bench) -> Case:
    def built(**arguments: Any) -> Any:
        model = open_clip.create_model(bench.digits.MODEL, **arguments)
        model.load_state_dict(bench.clip())
        return model.eval()

    path = bench.clip_on_record()
    wrong = built()
    for module in wrong.modules():
        for name, child in module.named_children():
            if isinstance(child, open_clip.transformer.QuickGELU):
                setattr(module, name, nn.GELU())
    advice = yield manifest.compare(wrong, path)
    yield manifest.compare(built(**advice.argument("force_quick_gelu")), path)


def outputs_differ_when_nothing_explains_it(bench: Bench) -> Case:
    path = bench.clip_on_record()
    model: Any = manifest.load(path)
    model.visual.register_forward_hook(lambda *found: found[-1] * torch.linspace(1, 2, 64))
    advice = yield manifest.compare(model, path)
    yield manifest.compare(advice.evaluated(r"`(manifest\.load\(CKPT\))`", CKPT=path), path)


def outputs_differ_when_weights_do(bench: Bench) -> Case:
    path = bench.clip_on_record()
    model: Any = manifest.load(path)
    model.visual.proj.data[:, 3] = 0
    advice = yield manifest.compare(model, path)
    yield manifest.compare(advice.evaluated(r"`(manifest\.load\(CKPT\))`", CKPT=path), path)
    advice.says("save the model anew")
    manifest.save(model, path, floor="none")
    yield manifest.compare(model, path)


def outputs_differ_when_a_part_is_asked(bench: Bench) -> Case:
    path = bench.clip_on_record()
    model: Any = manifest.load(path)
    advice = yield manifest.compare(model.visual, path)
    advice.says("Pass the whole model")
    yield manifest.compare(model, path)


def live_weights_differ(bench: Bench) -> Case:
    path = bench.signed()
    model: Any = manifest.load(path)
    model.norm.weight.data[0] += 1
    advice = yield manifest.compare(model, path)
    yield manifest.compare(advice.evaluated(r"`(manifest\.load\(CKPT\))`", CKPT=path), path)
    advice.says("save the model anew")
    manifest.save(model, path, floor="none")
    yield manifest.compare(model, path)


def live_weights_differ_when_rounded(bench: Bench) -> Case:
    path = bench.signed()
    advice = yield manifest.compare(manifest.load(path).bfloat16().float(), path)
    advice.says("Load them anew, and cast a copy")
    yield manifest.compare(manifest.load(path), path)


def probe_inputs_differ(bench: Bench) -> Case:
    path = bench.clip_on_record()
    before = edited(path, lambda content: content["golden"][0].update(inputs="blake3:" + "0" * 64))
    advice = yield manifest.verify(path)
    advice.says("Put back the manifest that was saved")
    Sidecars(path).manifest.write_bytes(before)
    yield manifest.verify(path)


def probe_inputs_differ_when_libraries_do(bench: Bench) -> Case:
    def other_version() -> contextlib.ExitStack:
        """pillow in another version, which resizes otherwise."""
        stack, resize = contextlib.ExitStack(), Image.Image.resize
        stack.enter_context(_installed(bench, "pillow", "9.0"))
        stack.enter_context(patch.object(Image.Image, "resize", lambda self, size, *_: resize(self, size, 4)))
        return stack

    with other_version():
        path = bench.unsigned()
    advice = yield manifest.verify(path)
    advice.says("Install the recorded versions of pillow")
    with other_version():
        yield manifest.verify(path)


def no_golden_outputs(bench: Bench) -> Case:
    path, model = bench.folder / "ckpt.pt", timm.create_model("test_vit")
    model.load_state_dict(bench.state())
    manifest.save(model, path, golden=False)
    advice = yield manifest.verify(path)
    manifest.save(model, path, **advice.argument("golden"))
    yield manifest.verify(path)
    manifest.save(model, path, golden=False)
    advice.runs("create", TEST_VIT | {"CKPT": path})
    yield manifest.verify(path)


class OnTwo(nn.Module):
    """Takes a second input, on which some of its parameters depend."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        answers: torch.Tensor = self.first(x) if y is None else self.first(x) + self.second(y)
        return answers


def _on_two() -> OnTwo:
    model = OnTwo()
    trained_state(model)
    return model


def no_golden_outputs_when_it_is_of_ones_own(bench: Bench) -> Case:
    path, model, inputs = bench.folder / "own.pt", _on_two(), torch.randn(2, 4)
    torch.save(model.state_dict(), path)
    manifest.create(path, f"{__name__}:OnTwo", family="callable")
    advice = yield manifest.verify(path, allow=[__name__])
    example = advice.found(r"`example_inputs=([^`]*)`")[1].replace("'x': inputs", "'x': inputs, 'y': inputs")
    manifest.save(model, path, example_inputs=eval(example, {"inputs": inputs}))
    yield manifest.verify(path, allow=[__name__])


def no_golden_outputs_when_a_policy_demands_them(bench: Bench) -> Case:
    path, policy = bench.unsigned(), bench.folder / "policy.yaml"
    policy.write_text("schema: policy/v1\ngolden: {required: true}\n")
    advice = yield bench.report("verify", path, "--fast", "--policy", policy)
    advice.says("verify without `--fast`")
    yield bench.report("verify", path, "--policy", policy)


def no_golden_outputs_when_audited(bench: Bench) -> Case:
    path, policy = bench.unsigned(), bench.folder / "policy.yaml"
    policy.write_text("schema: policy/v1\ngolden: {required: true}\n")
    advice = yield bench.report("audit", path, "--policy", policy)
    yield advice.looks("verify", {"CKPT": path, "POLICY": policy})


def parameters_unreached(bench: Bench) -> Case:
    path, model = bench.folder / "own.pt", _on_two()
    inputs = {"x": torch.randn(2, 4), "y": torch.randn(2, 4)}
    one, both = manifest.Probe("one", tensors={"x": inputs["x"]}), manifest.Probe("both", tensors=inputs)
    manifest.save(model, path, probes=[one])
    advice = yield manifest.verify(path, allow=[__name__], probes=[one])
    advice.says("give one that does: `manifest.save(…, probes=[manifest.Probe(…)])`")
    manifest.save(model, path, probes=[both])
    yield manifest.verify(path, allow=[__name__], probes=[both])


def cannot_tell(bench: Bench) -> Case:
    path = bench.clip_on_record()
    advice = yield manifest.compare(manifest.load(path).half(), path)
    yield manifest.compare(manifest.load(path).half(), path, **advice.argument("across_precisions"))
    advice.says("Ask the model in float32")
    yield manifest.compare(advice.evaluated(r"`(manifest\.load\(CKPT\))`", CKPT=path), path)


def cannot_tell_when_the_precision_is_too_low_for_it(bench: Bench) -> Case:
    path = bench.clip_on_record()
    advice = yield manifest.compare(manifest.load(path).bfloat16(), path)
    assert "across_precisions" not in advice.text  # it would tell nothing either
    yield manifest.compare(advice.evaluated(r"`(manifest\.load\(CKPT\))`", CKPT=path), path)


def cannot_tell_when_the_preprocessing_draws_at_random(bench: Bench) -> Case:
    path = bench.clip_on_record()
    model = manifest.load(path)
    _, train, _ = open_clip.create_model_and_transforms(bench.digits.MODEL)
    advice = yield manifest.compare(model, path, preprocess=train)
    preprocess, tokenizer = advice.evaluated(r"`(manifest\.load_transforms\(CKPT\))`", CKPT=path)
    yield manifest.compare(model, path, preprocess=preprocess, tokenizer=tokenizer)


def cannot_tell_when_it_is_a_model_of_another_library(bench: Bench) -> Case:
    path = bench.signed()
    advice = yield manifest.compare(torchvision.models.resnet18().eval(), path)
    yield manifest.compare(advice.evaluated(r"`(manifest\.load\(CKPT\))`", CKPT=path), path)


def cannot_tell_when_doctor_knows_no_question(bench: Bench) -> Case:
    path, model, inputs = bench.folder / "own.pt", _on_two(), torch.randn(2, 4)
    manifest.save(model, path)
    advice = yield manifest.doctor(path, allow=[__name__])
    example = advice.found(r"`example_inputs=([^`]*)`")[1]
    manifest.save(model, path, example_inputs=eval(example, {"inputs": inputs}))
    yield manifest.doctor(path, allow=[__name__])


def record_implausible(bench: Bench) -> Case:
    path = bench.unsigned()
    before = edited(path, lambda content: content["golden"][0]["floor"].update(batch=1e300))
    advice = yield manifest.verify(path)
    advice.says("Get the manifest again from its source")
    edited_again = Sidecars(path).manifest.read_bytes()
    Sidecars(path).manifest.write_bytes(before)
    yield manifest.verify(path)
    Sidecars(path).manifest.write_bytes(edited_again)
    advice.runs("create", TEST_VIT | {"CKPT": path})
    yield manifest.verify(path)


def outputs_not_finite(bench: Bench) -> Case:
    path = bench.signed()
    model: Any = manifest.load(path)
    model.blocks[3].mlp.fc1.weight.data[0, 0] = float("nan")
    advice = yield manifest.compare(model, path)
    advice.says("Look for the diverged or corrupted tensors")
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    assert broken == ["blocks.3.mlp.fc1.weight"]
    model.load_state_dict({name: bench.state()[name] for name in broken}, strict=False)
    yield manifest.compare(model, path)


def probe_not_given(bench: Bench) -> Case:
    place, path, model = bench.folder / "street", bench.folder / "ckpt.pt", timm.create_model("test_vit")
    place.mkdir()
    photographs()["chelsea"].save(place / "cat.png")
    model.load_state_dict(bench.state())
    manifest.save(model, path, probes=[place], floor="none")
    advice = yield manifest.verify(path)
    yield bench.report("verify", path, *advice.options("--probe", {"DIR": place}))


def floor_over_bound(bench: Bench) -> Case:
    path, policy = bench.unsigned(), bench.folder / "policy.yaml"
    policy.write_text("schema: policy/v1\ngolden: {max_floor: 1.0e-12}\n")
    advice = yield bench.report("verify", path, "--policy", policy)
    advice.says("raise `golden.max_floor` in the policy")
    policy.write_text("schema: policy/v1\ngolden: {max_floor: 1.0e-3}\n")
    yield bench.report("verify", path, "--policy", policy)


def floor_over_bound_when_none_is_on_record(bench: Bench) -> Case:
    path, policy = bench.folder / "ckpt.pt", bench.folder / "policy.yaml"
    model = timm.create_model("test_vit")
    model.load_state_dict(bench.state())
    manifest.save(model, path, golden=False)
    policy.write_text("schema: policy/v1\ngolden: {max_floor: 1.0e-3}\n")
    advice = yield bench.report("verify", path, "--policy", policy)
    advice.says("Save it with golden outputs")
    manifest.save(model, path)
    yield bench.report("verify", path, "--policy", policy)
    manifest.save(model, path, golden=False)
    advice.says("take `golden.max_floor` out of the policy")
    policy.write_text("schema: policy/v1\n")
    yield bench.report("verify", path, "--policy", policy)


def floor_over_bound_when_audited(bench: Bench) -> Case:
    path, policy = bench.unsigned(), bench.folder / "policy.yaml"
    policy.write_text("schema: policy/v1\ngolden: {max_floor: 1.0e-3}\n")
    advice = yield bench.report("audit", path, "--policy", policy)
    yield advice.looks("verify", {"CKPT": path, "POLICY": policy})


def _dropping(bench: Bench, **arguments: Any) -> nn.Module:
    model: nn.Module = timm.create_model("test_vit", drop_rate=0.3, **arguments)
    model.load_state_dict(bench.state())
    return model.train()


def train_mode(bench: Bench) -> Case:
    model = _dropping(bench)
    advice = yield manifest.doctor(model)
    yield manifest.doctor(advice.evaluated(r"`(model\.eval\(\))`", model=model))


def random_operators(bench: Bench) -> Case:
    model = _dropping(bench)
    advice = yield manifest.doctor(model)
    yield manifest.doctor(advice.evaluated(r"`(model\.eval\(\))`", model=model))


def answers_move(bench: Bench) -> Case:
    model = _dropping(bench)
    advice = yield manifest.doctor(model)
    yield manifest.doctor(advice.evaluated(r"model\.eval\(\)", model=model))


def operators_not_deterministic(bench: Bench) -> Case:
    del bench
    model = timm.create_model("test_resnet").eval()
    advice = yield manifest.doctor(model)
    call = r"`with (manifest\.deterministic\(\)):`"
    with patch.dict(os.environ, PYTHONHASHSEED="0"), advice.evaluated(call):
        yield manifest.doctor(model)


_SETTING = """
import sys
import manifest
CALL
print(manifest.doctor(manifest.load("ckpt.pt")).model_dump_json())
"""


def switches_unset(bench: Bench) -> Case:
    path = bench.unsigned()
    advice = yield manifest.doctor(manifest.load(path))
    call = advice.found(r"`(manifest\.deterministic\(seed=0\))`")[1]
    name, value = advice.found(r"`(PYTHONHASHSEED)=(0)`").groups()
    done = warm_run(["-c", _SETTING.replace("CALL", call)], bench.folder, {**os.environ, name: value})
    yield Report.model_validate_json(done.stdout.splitlines()[-1])
