"""The largest models at full size, from the library's builder to a file and back, within 24 GB. With `--whole` only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.xdist_group("full size")
def test_model_at_full_size_is_loaded_as_it_was(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--whole", default=False):
        pytest.skip("takes minutes and gigabytes; `make sweep` does it")
    path = tmp_path / "model.safetensors"
    try:
        command = [sys.executable, "-c", _ROUND_TRIP, name, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stdout.split()[-1]) < _MOST_MEMORY
    finally:
        path.unlink(missing_ok=True)
