"""TorchScript: the weights of a program are those that torch.jit.load gives, and its code is only looked at."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from manifest.checkpoint import open_checkpoint

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)


class Attention(nn.Module):
    """Parameters, buffers of both kinds, a plain tensor, and values that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.key = nn.Linear(4, 4, bias=False)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("mask", torch.ones(4, dtype=torch.bool))
        self.register_buffer("cache", torch.zeros(2, 4), persistent=False)
        self.register_buffer("nothing", None)
        self.plain = torch.arange(3.0)
        self.scale = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.key(x) * self.mask + self.plain.sum() + self.cache.sum()
        return self.query(x) * kept * self.temperature * self.scale


class Stack(nn.Module):
    """Modules in lists, dictionaries and sequences, one of them twice, and of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Attention(), Attention()])
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 2).double()})
        self.shared = self.layers[0].query
        self.last = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        self.heads["a"](x)
        self.heads["b"](x.double())
        return self.last(self.shared(x))


class Tied(nn.Module):
    """One parameter by two names, and a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("turned", self.tokens.weight.detach().t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) + self.turned.sum()


class Types(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.complex64, torch.float64):
            self.register_buffer(str(dtype).replace("torch.", "of_"), torch.arange(6).reshape(2, 3).to(dtype))
        self.register_buffer("empty", torch.empty(0, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


MODULES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "attention": (Attention, torch.randn(2, 4)),
    "stack": (Stack, torch.randn(2, 4)),
    "tied": (Tied, torch.randn(2, 4)),
    "types": (Types, torch.randn(2, 4)),
    "one layer": (lambda: nn.Linear(3, 2), torch.randn(1, 3)),
    "convolutions": (lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), torch.randn(1, 3, 5, 5)),
    "recurrent": (lambda: nn.LSTM(3, 2, bidirectional=True), torch.randn(1, 1, 3)),
}


def scripted(kind: str) -> torch.jit.ScriptModule:
    return torch.jit.script(MODULES[kind][0]())


def traced(kind: str) -> torch.jit.ScriptModule:
    make, example = MODULES[kind]
    return torch.jit.trace(make().eval(), example)


@pytest.fixture
def save_program(tmp_path) -> Callable[..., Path]:
    def saved(program: torch.jit.ScriptModule, **options: Any) -> Path:
        path = tmp_path / "program.pt"
        torch.jit.save(program, path, **options)
        return path

    return saved


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("compiled", [scripted, traced])
def test_program_when_saved_by_torch_then_has_the_weights_that_torch_loads(compiled, kind, save_program, check_weights):
    path = save_program(compiled(kind))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.container == "torchscript"
        expected = torch.jit.load(path).state_dict()
        assert set(checkpoint.tensors) == set(expected)
        check_weights(checkpoint, expected)


def test_tied_weights_when_in_a_program_then_are_aliases(save_program):
    with open_checkpoint(save_program(scripted("tied"))) as checkpoint:
        assert checkpoint.aliases() == {"head.weight": "tokens.weight"}


def test_tensor_when_a_plain_attribute_then_is_no_weight(save_program):
    with open_checkpoint(save_program(scripted("attention"))) as checkpoint:
        assert "plain" not in checkpoint.tensors
        assert "mask" in checkpoint.tensors


def test_weights_when_of_a_program_then_digest_as_those_of_the_module(save_program, save):
    module = Stack()
    path = save(module.state_dict(), "weights.pt")
    with open_checkpoint(save_program(torch.jit.script(module))) as program, open_checkpoint(path) as weights:
        for name, tensor in weights.tensors.items():
            assert program.digest(program.tensors[name]) == weights.digest(tensor)


def test_code_when_in_a_program_then_is_named(save_program):
    with open_checkpoint(save_program(scripted("stack"))) as checkpoint:
        assert checkpoint.contents.code
        assert all(name.startswith("code/") and name.endswith(".py") for name in checkpoint.contents.code)


def test_extra_files_when_in_a_program_then_are_passed_over(save_program, check_weights):
    module = torch.jit.script(nn.Linear(3, 2))
    with open_checkpoint(save_program(module, _extra_files={"config.json": "{}", "a/b.txt": "x"})) as checkpoint:
        check_weights(checkpoint, module.state_dict())


def test_program_when_written_for_mobile_then_has_the_same_weights(tmp_path):
    module = scripted("attention")
    module._save_for_lite_interpreter(str(tmp_path / "model.ptl"))
    with open_checkpoint(tmp_path / "model.ptl") as checkpoint:
        assert checkpoint.container == "torchscript"
        assert checkpoint.tensors.keys() >= module.state_dict().keys()


def test_program_when_frozen_then_has_no_weights(save_program, refusal):
    error = refusal(save_program(torch.jit.freeze(scripted("one layer").eval())))
    assert error.rule == "F001"
    assert "a TorchScript program without parameters or buffers" in str(error)


def test_program_when_it_has_no_state_then_has_no_weights(save_program, refusal):
    assert refusal(save_program(torch.jit.script(nn.ReLU()))).rule == "F001"


def repacked(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive written anew, some records changed, or left out for None."""
    again = path.with_name("again.pt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(again, "w") as target:
        for name in source.namelist():
            data = change(name, source.read(name))
            if data is not None:
                target.writestr(name, data, compression if "/code/" in name else zipfile.ZIP_STORED)
    return again


def test_program_when_its_code_is_compressed_then_reads_the_same(save_program, check_weights):
    module = scripted("attention")
    path = repacked(save_program(module), lambda _, data: data, zipfile.ZIP_DEFLATED)
    with open_checkpoint(path) as checkpoint:
        check_weights(checkpoint, torch.jit.load(path).state_dict())


def test_program_when_its_code_is_missing_then_all_its_tensors_count(save_program):
    path = repacked(save_program(scripted("attention")), lambda name, data: None if "/code/" in name else data)
    with open_checkpoint(path) as checkpoint:
        assert "plain" in checkpoint.tensors
        assert checkpoint.contents.code == ()


def test_code_when_its_bytes_are_not_those_that_were_written_then_is_refused(save_program, refusal):
    path = repacked(save_program(scripted("attention")), lambda _, data: data)
    data = path.read_bytes()
    assert b"__buffers__" in data
    path.write_bytes(data.replace(b"__buffers__", b"__bufferz__", 1))
    error = refusal(path)
    assert error.rule == "F002"
    assert "does not have its checksum" in str(error)


def test_object_when_it_is_no_module_then_is_refused(save_program, refusal):
    path = repacked(
        save_program(scripted("one layer")), lambda name, data: b"\x80\x02}." if name.endswith("data.pkl") else data
    )
    error = refusal(path)
    assert error.rule == "F002"
    assert "is no module" in str(error)


def test_storage_when_its_record_is_gone_then_is_refused(save_program, refusal):
    path = repacked(save_program(scripted("one layer")), lambda name, data: None if "/data/0" in name else data)
    error = refusal(path)
    assert error.rule == "F002"
    assert "which the zip archive does not have" in str(error)
