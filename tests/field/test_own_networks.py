"""Networks of one's own: saved by their class, verified beside their script, told what golden outputs need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.errors import ArchitectureError, InputError
from manifest.probes.shapes import drawn
from manifest.signing import generate_keys

FIRST = [-0.64987481, 0.72357887, -0.19634515]
"""Of the input `x=float32[2,3]`, by the first version."""
NETWORKS = """
import torch

class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)
    def forward(self, x):
        return self.layer(x)

class Wide(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = torch.nn.Linear(8, width)
    def forward(self, x):
        return self.layer(x)

class Needs(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(8, width)
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of one's own, in a directory of its own."""
    (tmp_path / "my_networks_here.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_networks_here

    yield my_networks_here
    del sys.modules["my_networks_here"]


def test_save_when_a_class_takes_nothing_then_it_is_described_by_its_class(networks: Any, tmp_path: Path) -> None:
    written = manifest.save(networks.Plain(), tmp_path / "net.pt")
    assert (written.architecture.family, written.architecture.name) == ("callable", "my_networks_here:Plain")
    assert manifest.verify(tmp_path / "net.pt", allow=["my_networks_here"]).exit_code == 0


@pytest.mark.parametrize("make", ["Wide", "Needs"])
def test_save_when_a_class_was_given_arguments_then_asks_for_them_and_takes_them(
    make: str, networks: Any, tmp_path: Path
) -> None:
    net = getattr(networks, make)(5)
    with pytest.raises(
        ArchitectureError, match=rf"model_name='my_networks_here:{make}', family='callable', arguments="
    ):
        manifest.save(net, tmp_path / "net.pt")
    assert not (tmp_path / "net.pt").exists()
    name = f"my_networks_here:{make}"
    manifest.save(net, tmp_path / "net.pt", model_name=name, family="callable", arguments={"width": 5})
    assert manifest.verify(tmp_path / "net.pt", allow=["my_networks_here"]).exit_code == 0


def test_save_when_made_inside_a_recording_then_its_arguments_are_known(networks: Any, tmp_path: Path) -> None:
    with manifest.recording():
        manifest.save(networks.Wide(6), tmp_path / "net.pt")
    assert manifest.load(tmp_path / "net.pt", allow=["my_networks_here"]).layer.out_features == 6


def test_save_when_a_module_is_of_no_class_of_ones_own_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="is of no known family"):
        manifest.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "net.pt")


def test_verify_when_run_beside_the_script_then_finds_its_module(networks: Any, tmp_path: Path) -> None:
    manifest.save(networks.Plain(), tmp_path / "net.pt")
    program = "import sys; from manifest.cli import main; sys.argv[0] = 'manifest'; main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(manifest.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "verify", "net.pt", "--allow", "my_networks_here"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    refused = manifest.verify(tmp_path / "net.pt")
    assert any("--allow my_networks_here" in found.message for found in refused.findings())


def test_verify_when_nothing_was_asked_of_a_network_of_ones_own_then_says_how_to(networks: Any, tmp_path: Path) -> None:
    manifest.save(networks.Plain(), tmp_path / "net.pt")
    report = manifest.verify(tmp_path / "net.pt", allow=["my_networks_here"])
    remedy = next(found.remedy for found in report.findings() if found.rule == "G003")
    assert "save it with `example_inputs={'x': inputs}`" in remedy
    written = manifest.save(networks.Plain(), tmp_path / "net.pt", example_inputs={"x": torch.randn(2, 8)})
    assert [golden.probe for golden in written.golden] == ["shapes/1 x=float32[2,8]"]
    report = manifest.verify(tmp_path / "net.pt", allow=["my_networks_here"])
    assert next(rung.reason for rung in report.rungs if rung.name == "golden").startswith("exact")
    assert not [found for found in report.findings() if found.rule == "G003"]


def test_compare_when_a_network_of_ones_own_changed_then_says_so(networks: Any, tmp_path: Path) -> None:
    net = networks.Plain()
    manifest.save(net, tmp_path / "net.pt", example_inputs={"x": torch.randn(2, 8)})
    assert manifest.compare(net, tmp_path / "net.pt", allow=["my_networks_here"]).exit_code == 0
    net.layer.weight.data[0, 0] += 1
    report = manifest.compare(net, tmp_path / "net.pt", allow=["my_networks_here"])
    assert {found.rule for found in report.findings()} == {"G001", "G009"}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x": torch.zeros(2, 3, dtype=torch.complex64)}, "expected such as 'shapes/1 x=float32[2,8]'"),
        ({"x": torch.zeros(0, 3)}, "with 0 numbers, expected 1 to"),
        ({"x y": torch.zeros(2)}, "expected such as"),
    ],
)
def test_example_inputs_when_they_cannot_be_recorded_then_says_why(
    tensors: dict[str, torch.Tensor], words: str, networks: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        manifest.save(networks.Plain(), tmp_path / "net.pt", example_inputs=tensors)


def test_probe_by_shapes_when_drawn_then_is_the_same_everywhere() -> None:
    inputs = drawn("shapes/1 x=float32[2,3] ids=int64[2,4]<100")
    assert inputs.tensors["x"].tolist() == drawn("shapes/1 x=float32[2,3]").tensors["x"].tolist()
    assert inputs.tensors["x"][0].tolist() == pytest.approx(FIRST, abs=1e-7)
    assert inputs.tensors["ids"].max() < 100
    large = drawn("shapes/1 x=float64[1000,8]").tensors["x"]
    assert abs(float(large.var()) - 1) < 0.05
    for hostile in (
        "shapes/1 x=float32[999999999,9]",
        "shapes/1 ",
        "shapes/1 x=object[2]",
        "shapes/1 " + "x=bool[1] " * 99,
    ):
        with pytest.raises(ArchitectureError):
            drawn(hostile)


def test_save_when_inside_a_recording_with_a_key_then_it_is_signed_by_that(networks: Any, tmp_path: Path) -> None:
    generate_keys(tmp_path / "release")
    with manifest.recording(key=tmp_path / "release.key", golden="none"):
        manifest.save(networks.Plain(), tmp_path / "signed.pt")
    manifest.save(networks.Plain(), tmp_path / "unsigned.pt")
    for name, signed in (("signed.pt", True), ("unsigned.pt", False)):
        rules = {found.rule for found in manifest.verify(tmp_path / name, fast=True).findings()}
        assert ("T002" not in rules) == signed
