"""Networks that nobody knows how to rebuild: described all the same, verified but for that, and compared."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import manifest
from manifest.errors import ArchitectureError, NotRebuildableError
from manifest.fingerprints.structure import on_meta
from manifest.schema.report import Outcome, Severity, VerificationError
from manifest.storage.transaction import read_manifest
from manifest.training.recorder import CheckpointRecorder
from manifest.weights.assign import twin


class Net(nn.Module):
    """Its argument is a function, which cannot be written down."""

    def __init__(self, make: Callable[[], nn.Module], eps: float = 1e-5) -> None:
        super().__init__()
        self.first = make()
        self.norm = nn.LayerNorm(8, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.norm(self.first(x))
        return answers


class Starred(nn.Module):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.first = nn.Linear(*widths)


def recorded(path: Path, make: Callable[[], nn.Module], **options: object) -> CheckpointRecorder:
    """Save what a call makes inside a recording."""
    with manifest.recording(strict=True, **options) as recorder:  # type: ignore[arg-type]
        torch.manual_seed(0)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.rand_like(parameter))
        torch.save(model.state_dict(), path)
    return recorder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    with pytest.warns(UserWarning, match="Net is recorded, and not how to rebuild it"):
        recorded(tmp_path / "net.pt", lambda: Net(lambda: nn.Linear(4, 8)), golden="none")
    return tmp_path / "net.pt"


def built(path: Path, *, bias: bool = True, eps: float = 1e-5) -> Net:
    """The network as its owner builds it."""
    model = Net(lambda: nn.Linear(4, 8, bias=bias), eps)
    model.load_state_dict(torch.load(path), strict=False)
    return model


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Net(lambda: nn.Linear(4, 8)), "Argument 'make' is <function"),
        (lambda: Starred(4, 8), "it was given *widths, and only named arguments are written down"),
        (lambda: type("Local", (nn.Module,), {"__qualname__": "f.<locals>.Local"})(), "not at the top of a module"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not how to rebuild it")
def test_network_when_its_call_cannot_be_written_then_the_reason_is_on_record(make, why, tmp_path):
    def with_a_layer() -> nn.Module:
        model = make()
        model.last = nn.Linear(2, 2)
        return model

    recorder = recorded(tmp_path / "net.pt", with_a_layer, golden="none")
    assert recorder.described == [tmp_path / "net.pt"]
    record = read_manifest(tmp_path / "net.pt").architecture
    assert record.family == "opaque"
    assert why in record.config["why"]


def test_checkpoint_when_it_cannot_be_rebuilt_then_the_rest_is_verified(saved):
    report = manifest.verify(saved)
    assert report.exit_code == 0
    assert [each.severity for each in report.findings() if each.rule == "A016"] == [Severity.WARNING]
    outcomes = {rung.name: rung.outcome for rung in report.rungs}
    assert outcomes["integrity"] is outcomes["completeness"] is Outcome.PASS
    assert "Argument 'make' is <function" in next(each.message for each in report.findings() if each.rule == "A016")


def test_checkpoint_when_its_bytes_change_then_verify_fails(saved):
    content = bytearray(saved.read_bytes())
    content[content.find(b"norm.weight") - 200] ^= 1
    saved.write_bytes(content)
    assert manifest.verify(saved).exit_code == 1


@pytest.mark.parametrize("verify", ["full", "fast", "none"])
def test_load_when_it_cannot_be_rebuilt_then_is_refused_with_the_reason(saved, verify):
    with pytest.raises((NotRebuildableError, VerificationError), match=r"manifest\.compare\(model, CKPT\)"):
        manifest.load(saved, verify=verify)


def test_policy_when_it_demands_a_model_that_can_be_rebuilt_then_fails(saved, tmp_path):
    (tmp_path / "policy.yaml").write_text("schema: policy/v1\nseverities: {A016: error}\n")
    assert manifest.verify(saved, policy=tmp_path / "policy.yaml").exit_code == 1


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"eps": 1e-3}, "A002", r"norm: eps 1e-05 → 0\.001"),
        ({"bias": False}, "G009", r"first\.bias \(not there\)"),
    ],
)
def test_model_when_built_by_hand_otherwise_then_compare_says_how(saved, changes, rule, words):
    assert manifest.compare(built(saved), saved).exit_code == 0
    report = manifest.compare(built(saved, **changes), saved)
    assert report.exit_code == 1
    assert any(each.rule == rule and re.search(words, each.message) for each in report.findings()), report


def test_weights_when_changed_in_a_model_built_by_hand_then_compare_fails(saved):
    model = built(saved)
    with torch.no_grad():
        model.norm.bias.add_(1)
    report = manifest.compare(model, saved)
    assert report.exit_code == 1
    assert "norm.bias" in " ".join(each.message for each in report.findings())


@pytest.mark.filterwarnings("ignore:.*not how to rebuild it")
def test_outputs_when_inputs_were_given_then_are_recorded_and_compared(tmp_path):
    path = tmp_path / "net.pt"
    recorded(path, lambda: Net(lambda: nn.Linear(4, 8)), example_inputs={"x": torch.randn(3, 4)})
    assert read_manifest(path).golden[0].outputs
    assert manifest.verify(path).exit_code == 0
    report = manifest.compare(built(path), path)
    assert next(rung for rung in report.rungs if rung.name == "golden").reason.startswith("exact")
    other = built(path)
    other.forward = lambda x: torch.relu(other.norm(other.first(x)))  # type: ignore[method-assign]
    report = manifest.compare(other, path)
    assert (report.exit_code, "G001" in {each.rule for each in report.findings()}) == (1, True)


def test_save_when_it_cannot_be_rebuilt_then_says_how_to_record_it_all_the_same(tmp_path):
    model, path = Net(lambda: nn.Linear(4, 8)), tmp_path / "net.pt"
    with torch.no_grad():
        model.norm.bias.add_(1)
    with pytest.raises(ArchitectureError, match=r"Or record what it shows, .*: family='opaque'\.$"):
        manifest.save(model, path)
    assert not path.exists()
    written = manifest.save(model, path, family="opaque", example_inputs={"x": torch.randn(3, 4)})
    assert written is not None
    assert (written.architecture.family, len(written.golden)) == ("opaque", 1)
    assert manifest.verify(path).exit_code == 0
    assert manifest.compare(built(path), path).exit_code == 0
    assert manifest.compare(built(path, eps=1e-3), path).exit_code == 1


class Locked(nn.Module):
    """It holds what cannot be copied, and refuses to be copied itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])
        self.last = self.layers[1]
        self.missing = None
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def __deepcopy__(self, memo: object) -> Locked:
        raise TypeError("one is enough")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.lock:
            answers: torch.Tensor = self.last(self.layers[0](x + self.table))
            return answers


@pytest.mark.parametrize("family", ["callable", "opaque"])
def test_network_when_it_cannot_be_copied_then_is_recorded_and_compared(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Locked()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    name = f"{__name__}:Locked" if family == "callable" else None
    inputs = {"x": torch.randn(3, 4)}
    manifest.save(model, tmp_path / "net.pt", family=family, model_name=name, example_inputs=inputs)
    assert read_manifest(tmp_path / "net.pt").golden
    assert manifest.verify(tmp_path / "net.pt", allow=[__name__]).passed
    assert manifest.compare(model, tmp_path / "net.pt").passed
    with torch.no_grad():
        model.last.bias.add_(0.5)
    assert not manifest.compare(model, tmp_path / "net.pt").passed


def test_copy_when_made_piece_by_piece_then_is_over_the_other_tensors() -> None:
    model = Locked()
    other = twin(model)
    assert other.lock is model.lock
    assert other.last is other.layers[1] is not model.layers[1]
    other.layers[1].bias = nn.Parameter(torch.ones(2))
    assert not torch.equal(model.last.bias, torch.ones(2))
    assert all(tensor.is_meta for tensor in (*on_meta(model).parameters(), *on_meta(model).buffers()))
    assert not model.table.is_meta
