"""The largest models at full size, from the library's builder to a file and back, within 24 GB. With `--whole` only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from manifest.schema.report import Report

MODELS = ["convnext_xxlarge", "ViT-H-14-378-quickgelu", "ViT-bigG-14"]
_MOST_MEMORY = 24 << 30  # bytes

_ROUND_TRIP = r"""
import os, re, sys, threading, time, warnings
warnings.simplefilter("ignore")
greatest, done = 0, threading.Event()
def watch():
    # A process counts the pages of a file once for each mapping of it; its own memory is what is anonymous.
    global greatest
    while not done.wait(0.02):
        status = open("/proc/self/status").read()
        greatest = max(greatest, int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024)
watching = threading.Thread(target=watch, daemon=True)
watching.start()
import torch, manifest
torch.manual_seed(0)
live = manifest.create_model(sys.argv[1]).eval()
manifest.save(live, sys.argv[2], golden=False)
report = manifest.verify(sys.argv[2])
assert report.passed, [str(finding) for finding in report.findings()]
loaded = manifest.load(sys.argv[2], verify="fast")
there = loaded.state_dict()
assert all(torch.equal(tensor, there[name]) for name, tensor in live.state_dict().items())
with torch.no_grad():
    image = torch.randn(1, 3, *live.visual.image_size)
    text = torch.randint(1, 49000, (1, live.context_length))
    for ask in (lambda model: model.encode_image(image), lambda model: model.encode_text(text)):
        one, other = ask(live), ask(loaded)
        # The weights are the same bits; a convolution may take another kernel where they lie at another alignment.
        distance = float((one - other).norm() / one.norm())
        assert distance < 1e-5, distance
done.set()
watching.join()
print(greatest + os.path.getsize(sys.argv[2]))
"""


_TRAIN_MODE = r"""
import json, sys, warnings
warnings.simplefilter("ignore")
import torch, manifest
torch.manual_seed(0)
live = manifest.create_model("convnext_xxlarge", force_quick_gelu=True).train()
for name, parameter in live.named_parameters():
    if name.endswith("gamma"):  # 1e-6 in a fresh model, so that nobody would miss a block
        parameter.data.fill_(0.5)
    elif parameter.ndim == 1:  # as training moves norms and biases, so that no tower is taken for fresh
        parameter.data.add_(0.01 * torch.randn_like(parameter))
manifest.save(live, sys.argv[1], floor="none")
doctored = manifest.doctor(live)
verified = manifest.verify(sys.argv[1])
compared = manifest.compare(live, sys.argv[1])
for report in (doctored, verified, compared):
    print(report.model_dump_json())
"""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.xdist_group("full size")
def test_model_at_full_size_is_loaded_as_it_was(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    _only_when_asked(request)
    assert int(_printed(_ROUND_TRIP, tmp_path, name).split()[-1]) < _MOST_MEMORY


@pytest.mark.xdist_group("full size")
def test_convnext_xxlarge_in_train_mode_is_told_from_eval_mode_and_its_cause_named(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """P3 itself; `tests/scenarios/test_p3_train_mode.py` has a small model of the same kind."""
    _only_when_asked(request)
    printed = _printed(_TRAIN_MODE, tmp_path).splitlines()[-3:]
    doctored, verified, compared = (Report.model_validate_json(line) for line in printed)
    assert verified.exit_code == 0
    rungs = {rung.name: rung for rung in doctored.rungs}
    (random,) = [found for found in rungs["operators"].findings if found.rule == "D002"]
    assert "drop_path" in random.message
    assert "not the cause: GELU (gelu), QuickGELU (mul, sigmoid)" in rungs["operators"].reason
    assert rungs["repeat"].reason.endswith("cured by model.eval()")
    assert rungs["eval mode"].reason.endswith("the same bit for bit")
    assert "train mode instead of eval mode (mode)" in next(compared.findings()).message


def _only_when_asked(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--whole", default=False):
        pytest.skip("takes minutes and gigabytes; `make sweep` does it")


def _printed(script: str, folder: Path, *arguments: str) -> str:
    """What a script prints in a process of its own; the file that it writes is removed."""
    path = folder / "model.safetensors"
    try:
        command = [sys.executable, "-c", script, *arguments, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout
    finally:
        path.unlink(missing_ok=True)
