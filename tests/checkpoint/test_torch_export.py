"""torch.export: the weights of a program, in the form of today and in that from before torch 2.8."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from manifest.checkpoint import open_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Model(nn.Module):
    """Tied, strided, of many types, with buffers of both kinds, a constant and a parameter without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.tokens.weight
        self.norm = nn.BatchNorm1d(6)
        self.of_half = nn.Parameter(torch.randn(3, 2).half())
        self.brain = nn.Parameter(torch.randn(3, 2).bfloat16())
        self.turned = nn.Parameter(torch.randn(2, 6).t())
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("truth", torch.ones(3, dtype=torch.bool))
        self.register_buffer("part", torch.arange(24.0)[3:15:2])
        self.register_buffer("complex", torch.randn(2, 2, dtype=torch.complex64))
        self.register_buffer("small", torch.randn(4).to(torch.float8_e4m3fn))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.plain = torch.arange(6.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.head(x)) * self.part + self.plain + (x[:1, :2] @ self.turned.t()).sum() + self.cache.sum()


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    return torch.export.export(Model().eval(), (torch.randn(2, 4),))


@pytest.fixture
def save_program(tmp_path) -> Callable[..., Path]:
    def saved(program: torch.export.ExportedProgram, **options: Any) -> Path:
        path = tmp_path / "model.pt2"
        torch.export.save(program, path, **options)
        return path

    return saved


def old_form(path: Path, weights: bytes, name: str = "serialized_state_dict.pt", compression: int = 0) -> Path:
    """What torch.export.save wrote until torch 2.7."""
    records = {
        "serialized_exported_program.json": b"{}",
        name: weights,
        "serialized_constants.pt": saved_bytes({"c": torch.ones(2)}),
        "serialized_example_inputs.pt": saved_bytes(((torch.ones(2),), {})),
        "version": b"8.3",
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for record, data in records.items():
            archive.writestr(record, data)
    return path


def saved_bytes(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_program_when_saved_by_torch_then_has_its_state_dict(program, save_program, check_weights):
    path = save_program(program)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.container == "torch-export"
        assert checkpoint.state_path == ()
        assert set(checkpoint.tensors) == set(program.state_dict)
        check_weights(checkpoint, program.state_dict)
        check_weights(checkpoint, torch.export.load(path).state_dict)


def test_weights_when_exported_then_digest_as_those_of_the_module(save_program, save):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1)).eval()
    exported = torch.export.export(module[:2], (torch.randn(2, 3),))
    with open_checkpoint(save_program(exported)) as one, open_checkpoint(save(module[:2].state_dict())) as other:
        assert {name: one.digest(tensor) for name, tensor in one.tensors.items()} == {
            name: other.digest(tensor) for name, tensor in other.tensors.items()
        }


def test_tied_weights_when_exported_then_are_aliases(program, save_program):
    with open_checkpoint(save_program(program)) as checkpoint:
        assert checkpoint.aliases() == {"head.weight": "tokens.weight"}


def test_constants_when_exported_then_are_no_weights(program, save_program):
    with open_checkpoint(save_program(program)) as checkpoint:
        assert not {"plain", "cache"} & checkpoint.tensors.keys()


def test_extra_files_when_exported_then_are_passed_over(program, save_program, check_weights):
    with open_checkpoint(save_program(program, extra_files={"notes.txt": "x"})) as checkpoint:
        check_weights(checkpoint, program.state_dict)


def test_program_when_it_has_no_weights_then_is_refused(save_program, refusal):
    error = refusal(save_program(torch.export.export(nn.ReLU(), (torch.randn(2),))))
    assert error.rule == "F004"
    assert "whose weights are not in it" in str(error)


def test_old_form_when_read_then_has_the_weights_of_the_record_in_it(program, tmp_path, check_weights):
    path = old_form(tmp_path / "old.pt2", saved_bytes(program.state_dict))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.container == "torch-export"
        check_weights(checkpoint, program.state_dict)
        assert checkpoint.aliases() == {"head.weight": "tokens.weight"}


def test_old_form_when_its_weights_are_called_json_then_is_read(tmp_path, check_weights):
    state = {"w": torch.arange(4.0)}
    path = old_form(tmp_path / "old.pt2", saved_bytes(state), "serialized_state_dict.json")
    with open_checkpoint(path) as checkpoint:
        check_weights(checkpoint, state)


def test_old_form_when_it_would_run_code_then_names_it(tmp_path, strangers):
    path = old_form(tmp_path / "old.pt2", saved_bytes({"w": torch.ones(2), "path": Path("x")}))
    with open_checkpoint(path) as checkpoint:
        assert strangers(checkpoint) == ("pathlib.PosixPath",)


OLD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "without weights": (lambda path: old_form(path, b"", "other.pt"), "has no weights"),
    "with empty weights": (lambda path: old_form(path, b""), "does not end with a zip directory"),
    "with weights cut short": (lambda path: old_form(path, saved_bytes({"w": torch.ones(2)})[:-1]), "cut short"),
    "deflated": (
        lambda path: old_form(path, saved_bytes({"w": torch.ones(2)}), compression=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
}


@pytest.mark.parametrize("case", OLD)
def test_old_form_when_broken_then_is_refused(case, tmp_path, refusal):
    make, found = OLD[case]
    error = refusal(make(tmp_path / "old.pt2"))
    assert (error.rule, found in str(error)) == ("F002", True), str(error)


def reconfigured(path: Path, **changes: Any) -> Path:
    """The archive with one weight described in other words; a change of None leaves the field out."""
    again = path.with_name("again.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(again, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("_weights_config.json"):
                described = json.loads(data)
                entry = described["config"]["weight"]
                for field, value in changes.items():
                    owner = entry if field in entry else entry["tensor_meta"]
                    owner[field] = value
                    if value is None:
                        del owner[field]
                data = json.dumps(described).encode()
            target.writestr(name, data)
    return again


@pytest.fixture
def linear(save_program) -> Path:
    return save_program(torch.export.export(nn.Linear(3, 2), (torch.randn(1, 3),)))


def sizes(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


CHANGED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a record that is not there": ({"path_name": "weight_9"}, "F002", "'weight' is in no record of the archive"),
    "a record elsewhere": ({"path_name": "../../version"}, "F002", "is in no record of the archive"),
    "no record": ({"path_name": None}, "F002", "is in no record of the archive"),
    "a larger shape": ({"sizes": sizes(2, 4)}, "F002", "reaches to byte 28 of storage"),
    "a shape by strides": ({"strides": sizes(3, 2)}, "F002", "reaches to byte 32 of storage"),
    "an offset": ({"storage_offset": {"as_int": 1}}, "F002", "reaches to byte 28 of storage"),
    "a negative size": ({"sizes": sizes(-2, 3)}, "F002", "that are no natural numbers"),
    "a symbolic size": ({"sizes": [{"as_expr": "s0"}, {"as_int": 3}]}, "F002", "that are no natural numbers"),
    "no sizes": ({"sizes": None}, "F002", "that are no natural numbers"),
    "fewer strides": ({"strides": sizes(1)}, "F002", "has 2 dimensions and 1 strides"),
    "a huge stride of zero": ({"sizes": sizes(2**40), "strides": sizes(0)}, "F003", "out of 24 stored"),
    "no description": ({"tensor_meta": None}, "F002", "'weight' is not described"),
}


def test_program_when_packed_again_then_reads_the_same(linear):
    with open_checkpoint(linear) as one, open_checkpoint(reconfigured(linear)) as other:
        assert one.digest(one.tensors["weight"]) == other.digest(other.tensors["weight"])


@pytest.mark.parametrize("case", CHANGED)
def test_weight_when_its_description_does_not_fit_then_is_refused(case, linear, refusal):
    changes, rule, found = CHANGED[case]
    error = refusal(reconfigured(linear, **changes))
    assert (error.rule, found in str(error)) == (rule, True), str(error)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"use_pickle": True}, "kept as a pickle"),
        ({"dtype": 99}, "of an element type or layout that is not known"),
        ({"layout": 1}, "of an element type or layout that is not known"),
    ],
    ids=["pickle", "type", "layout"],
)
def test_weight_when_it_cannot_be_listed_then_is_named_beside_the_others(changes, kind, linear):
    with open_checkpoint(reconfigured(linear, **changes)) as checkpoint:
        assert list(checkpoint.tensors) == ["bias"]
        assert checkpoint.unlisted == {"weight": kind}


def test_scalar_types_when_compared_with_torch_then_are_the_same():
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE, _TORCH_TO_SERIALIZE_LAYOUT

    from manifest.checkpoint.containers import torch_export

    assert {number: f"torch.{name}" for number, name in torch_export._SCALAR_TYPES.items()} == {
        int(number): str(dtype) for number, dtype in _SERIALIZE_TO_TORCH_DTYPE.items()
    }
    assert _TORCH_TO_SERIALIZE_LAYOUT[torch.strided] == torch_export._STRIDED
