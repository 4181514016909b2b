"""Cures of findings on architectures; each function is called as its rule is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import timm
import torch
from torch import nn

import manifest
from manifest.schema.report import Report
from manifest.storage.sidecars import Sidecars
from tests.promises.cures.following import TEST_VIT, Bench, Case, trained_state
from tests.warm import warm_run

_EXAMPLE = Path(__file__).parents[2] / "families" / "example_package"


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Edit the manifest of a checkpoint; what it was is returned."""
    before = Sidecars(path).manifest.read_bytes()
    content = json.loads(before)
    change(content)
    Sidecars(path).manifest.write_text(json.dumps(content))
    return before


def activation_differs(bench: Bench) -> Case:
    path = bench.write(bench.clip(), "clip.pt")
    manifest.create(path, bench.digits.MODEL, golden=False)
    before = edited(path, lambda content: content["architecture"]["config"].update(quick_gelu=False))
    advice = yield manifest.verify(path)
    advice.says("Put back the config that was saved")
    Sidecars(path).manifest.write_bytes(before)
    yield manifest.verify(path)
    edited(path, lambda content: content["architecture"]["config"].update(quick_gelu=False))
    advice.runs("create", {"CKPT": path, "LIBRARY": "open_clip", "NAME": bench.digits.MODEL})
    yield manifest.verify(path)


def structure_differs(bench: Bench) -> Case:
    five = {"arguments": {"num_classes": 5}, "config": {"model_name": "test_vit", "num_classes": 5}}
    path = bench.unsigned()
    edited(path, lambda content: content["architecture"].update(five))
    advice = yield manifest.verify(path)
    advice.runs("create", TEST_VIT | {"CKPT": path})
    yield manifest.verify(path)


weights_do_not_fit = structure_differs
"""A head of five classes is another module, and its tensors have other shapes."""


def structure_differs_when_a_model_of_ones_own_is_compared(bench: Bench) -> Case:
    def built(eps: float) -> nn.Module:
        model = _Net(lambda: nn.Linear(4, 8), eps)
        trained_state(model)
        return model

    path = bench.folder / "net.pt"
    manifest.save(built(1e-5), path, family="opaque")
    advice = yield manifest.compare(built(1e-3), path)
    advice.says("Build it as it is on record, which is named first")
    assert "eps 1e-05" in advice.above
    yield manifest.compare(built(1e-5), path)


class _Net(nn.Module):
    """Its argument is a function, which cannot be written down."""

    def __init__(self, make: Callable[[], nn.Module], eps: float = 1e-5) -> None:
        super().__init__()
        self.first, self.norm = make(), nn.LayerNorm(8, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.norm(self.first(x))
        return answers


class Plain(nn.Module):
    """The same, with an argument that can be written down."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(width, 8), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.norm(self.first(x))
        return answers


def not_rebuildable(bench: Bench) -> Case:
    model, path = _Net(lambda: nn.Linear(4, 8)), bench.folder / "net.pt"
    trained_state(model)
    manifest.save(model, path, family="opaque")
    advice = yield manifest.verify(path)
    yield advice.evaluated(r"`(manifest\.compare\(model, CKPT\))`", model=model, CKPT=path)
    advice.says("Save it as a class of a module, with arguments that can be written down")
    plain = Plain()
    plain.load_state_dict(model.state_dict())
    manifest.save(plain, path)
    yield manifest.verify(path, allow=[__name__])


def operators_differ(bench: Bench) -> Case:
    """A process in which a setting of the library is another."""
    path = bench.unsigned()
    timm.layers.set_fused_attn(False)
    try:
        advice = yield manifest.verify(path)
    finally:
        timm.layers.set_fused_attn(True)
    command = advice.command("verify", {"CKPT": path})
    answer = warm_run(["-m", "manifest", *command, "--format", "json"], bench.folder)
    yield Report.model_validate_json(answer.stdout)


def _package(bench: Bench, parameter: str) -> None:
    """A package of one's own, in the version whose factory has a parameter of that name."""
    sys.modules.pop("own_package", None)
    (bench.folder / "own_package.py").write_text(
        f"from torch import nn\n\ndef build({parameter}):\n    return nn.Sequential(nn.Linear(4, {parameter}))\n"
    )


def cannot_build(bench: Bench) -> Case:
    path, verify = bench.folder / "own.pt", ("verify", "own.pt", "--allow", "own_package")
    _package(bench, "width")
    model = nn.Sequential(nn.Linear(4, 8))
    torch.save(trained_state(model), path)
    bench.must("create", path, "--family", "callable", "--model", "own_package:build", "--argument", "width=8")
    _package(bench, "number_of_outputs")
    advice = yield bench.report(*verify)
    advice.says("of packages of your own")
    _package(bench, "width")
    yield bench.report(*verify)


def cannot_build_when_its_module_is_not_allowed(bench: Bench) -> Case:
    path = bench.folder / "own.pt"
    model = Plain()
    trained_state(model)
    manifest.save(model, path)
    advice = yield bench.report("verify", path)
    advice.says("then allow it as said above")
    yield bench.report("verify", path, *advice.options("--allow", above=True))


def preprocessing_differs(bench: Bench) -> Case:
    one, other = bench.signed(), bench.folder / "other.pt"
    torch.save(bench.state(), other)
    manifest.create(other, "test_vit", family="timm", golden=False)
    edited(other, lambda content: content["architecture"]["preprocess"].update(interpolation="bilinear"))
    advice = yield manifest.diff(one, other)
    advice.says("Keep the one that is meant")
    for path in (other, Sidecars(other).manifest):
        shutil.copy(bench.folder / path.name.replace("other", "ckpt"), path)
    yield manifest.diff(one, other)


def model_misdescribed(bench: Bench) -> Case:
    path = bench.unsigned()
    before = edited(path, lambda content: content["architecture"].update({"class": "ResNet"}))
    advice = yield manifest.verify(path)
    advice.says("Get the manifest again from its source")
    Sidecars(path).manifest.write_bytes(before)
    yield manifest.verify(path)
    edited(path, lambda content: content["architecture"].update({"class": "ResNet"}))
    advice.runs("create", TEST_VIT | {"CKPT": path})
    yield manifest.verify(path)


_WITH_BRICKS = """
import sys
sys.path.insert(0, "site")
import bricks
import manifest
from manifest.cli import main
if sys.argv[1:]:
    main()
else:
    manifest.save(bricks.build("castle"), "wall.safetensors")
"""


def library_missing(bench: Bench) -> Case:
    """A checkpoint of the example family, which is installed for the process that saves it alone."""
    shutil.copytree(_EXAMPLE / "bricks", bench.folder / "site" / "bricks")
    metadata = bench.folder / "site" / "bricks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bricks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[manifest.families]\nbricks = bricks.family:FAMILY\n")
    done = warm_run(["-c", _WITH_BRICKS], bench.folder)
    assert done.returncode == 0, done
    path = bench.folder / "wall.safetensors"
    advice = yield manifest.verify(path)
    yield advice.looks("verify", {"CKPT": path})
    advice.says("Install the package, and verify again")
    done = warm_run(["-c", _WITH_BRICKS, "verify", path, "--format", "json"], bench.folder)
    yield Report.model_validate_json(done.stdout)


_SCRIPT = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=8):
            super().__init__()
            self.body = nn.Linear(4, width)

        def forward(self, x):
            return self.body(x)

    if __name__ == "__main__":
        import manifest
        manifest.save(Net(), "net.pt", golden=False)
"""


def source_changed(bench: Bench) -> Case:
    script, path = bench.folder / "train.py", bench.folder / "net.pt"
    script.write_text(dedent(_SCRIPT))
    done = warm_run([script], bench.folder)
    assert done.returncode == 0, done
    script.write_text(dedent(_SCRIPT).replace("return self.body(x)", "return self.body(x) + 0"))
    advice = yield bench.report("verify", path, "--allow", script)
    allowed = bench.report("verify", path, *advice.options("--allow", {"PATH/SCRIPT": script}))
    assert allowed.exit_code == 0
    advice.says("Get the script as it was when the model was saved")
    script.write_text(dedent(_SCRIPT))
    yield bench.report("verify", path, "--allow", script)


def source_changed_when_that_was_allowed(bench: Bench) -> Case:
    script, path = bench.folder / "train.py", bench.folder / "net.pt"
    script.write_text(dedent(_SCRIPT))
    done = warm_run([script], bench.folder)
    assert done.returncode == 0, done
    script.write_text(dedent(_SCRIPT).replace("return self.body(x)", "return self.body(x) + 0"))
    advice = yield bench.report("verify", path, "--allow", f"changed:{script}")
    advice.says("save the model anew")
    warm_run([script], bench.folder)
    yield bench.report("verify", path, "--allow", script)
