"""Pickles that name nothing but harmless things, and do harm by how they use them: none of them is called safe.

`make` gives opcodes, which are put as one more item into the pickle of a real file of `torch.save`; nothing is unpickled
here but what torch itself refuses or what is named so, in a process of its own.
"""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import manifest
from manifest.checkpoint.named_globals import Effect, judge
from tests.promises.attempts import Attempt

SAFE = "safe to load, plain data (F011)"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(dotted: str, module: str = "") -> bytes:
    """A global by STACK_GLOBAL, which follows dots from protocol 4 on."""
    owner = module or dotted.rpartition(".")[0]
    return text(owner) + text(dotted.removeprefix(f"{owner}.")) + b"\x93"


def call(dotted: str, *arguments: bytes, module: str = "") -> bytes:
    return name(dotted, module) + b"(" + b"".join(arguments) + b"tR"


def new(dotted: str, **state: bytes) -> bytes:
    return name(dotted) + b")\x81" + mapping(**state) + b"b"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def bound(dotted: str, *arguments: bytes) -> bytes:
    return call("functools.partial", name(dotted), *arguments)


def pickled(value: Any) -> bytes:
    """The opcodes of a real object, without their beginning and end."""
    return pickle.dumps(value, 2)[2:-1]


def beside_weights(folder: Path, odd: bytes) -> Path:
    """A file of `torch.save` with one more item in its dictionary."""
    buffer = io.BytesIO()
    torch.save({"w": torch.linspace(-1, 1, 64).sin()}, buffer)
    path = folder / "odd.pt"
    with zipfile.ZipFile(buffer) as saved, zipfile.ZipFile(path, "w") as forged:
        for record in saved.namelist():
            data = saved.read(record)
            if record.endswith("/data.pkl"):
                data = b"\x80\x04" + data[2:-1] + text("odd") + odd + b"s."
            forged.writestr(record, data)
    return path


def unsafe(title: str, make: Callable[[], bytes], before: str | None = SAFE) -> Attempt:
    return Attempt(title, make, 1, "F010", before)


def benign(title: str, value: Any) -> Attempt:
    return Attempt(title, lambda: pickled(value), 0, None)


REACHED = [
    unsafe(f"{module}: {dotted}", lambda module=module, dotted=dotted: name(f"{module}.{dotted}", module))
    for module, dotted in (
        ("torch.quantization.fx.graph_module", "ObservedGraphModule"),
        ("torch.ao.quantization.fx.graph_module", "ObservedStandaloneGraphModule"),
        ("torchvision.models.feature_extraction", "DualGraphModule"),
        ("torchvision.models.feature_extraction", "fx.Graph"),
        ("torchvision.models.feature_extraction", "NodePathTracer"),
        ("torch.nn.functional", "torch.PyTorchFileWriter"),
        ("torch.nn.functional", "torch.distributed.TCPStore"),
        ("torch.nn.functional", "torch.distributed.FileStore"),
        ("torch.nn.functional", "torch.package.PackageImporter"),
        ("torch.nn.functional", "torch.jit.CompilationUnit"),
        ("torch.nn.parallel.distributed", "logging.handlers.RotatingFileHandler"),
        ("torch.nn.parallel", "DistributedDataParallel"),
        ("torch.nn", "Linear"),
        ("torchvision.models.resnet", "nn.Linear"),
        ("timm.layers.mlp", "nn.Linear"),
        ("torch.optim.optimizer", "Any"),
    )
]

CALLED = [
    unsafe("a tower that asks a hub", lambda: call("open_clip.timm_model.TimmModel", text("hf-hub:x/y"), b"K\x01")),
    unsafe("a tokenizer that opens a file", lambda: call("open_clip.tokenizer.SimpleTokenizer", text("/etc/passwd"))),
    unsafe(
        "a mesh that starts a process group",
        lambda: call("torch.distributed.device_mesh.DeviceMesh", text("cpu"), b"](K\x00e"),
    ),
    unsafe("a module by its constructor", lambda: call("torch.nn.modules.linear.Linear", number(10**6), number(10**6))),
    unsafe("the same by INST", lambda: b"(" + number(10**6) + number(10**6) + b"itorch.nn.modules.linear\nLinear\n"),
    unsafe("the same by OBJ", lambda: b"(" + name("torch.nn.modules.linear.Linear") + number(9) + number(9) + b"o"),
    unsafe(
        "the same as the base of a copy",
        lambda: call(
            "copyreg._reconstructor",
            name("torch.nn.modules.linear.Linear"),
            name("open_clip.tokenizer.SimpleTokenizer"),
            text("/etc/passwd"),
        ),
    ),
    unsafe("what partial bound, called", lambda: bound("open_clip.timm_model.TimmModel", text("x"), b"K\x01") + b")R"),
    unsafe("a function of torch, called", lambda: call("torch.nn.functional.interpolate", b"K\x01", number(10**9))),
    unsafe(
        "a generator of numpy's, made by another function",
        lambda: call(
            "numpy.random._pickle.__generator_ctor", text("/etc/passwd"), name("open_clip.tokenizer.SimpleTokenizer")
        ),
    ),
    unsafe(
        "a tensor that another function rebuilds",
        lambda: call(
            "torch._tensor._rebuild_from_type_v2",
            name("open_clip.tokenizer.SimpleTokenizer"),
            name("torch.Tensor"),
            text("/etc/passwd") + b"\x85",
            b"}",
        ),
    ),
    unsafe("an enumeration that is made anew", lambda: call("signal.Signals", text("X"), mapping(a=b"K\x01"))),
    unsafe(
        "a configuration by its constructor",
        lambda: call("transformers.models.clip.configuration_clip.CLIPConfig", b"}"),
    ),
]

ENDLESS = [
    unsafe("list(count())", lambda: call("builtins.list", call("itertools.count"))),
    unsafe("sum(cycle())", lambda: call("builtins.sum", call("itertools.cycle", b"](K\x01e"))),
    unsafe("pow(10, 10**10)", lambda: call("builtins.pow", number(10), number(10**10))),
    unsafe("list(range(10**12))", lambda: call("builtins.list", call("builtins.range", number(10**12)))),
    unsafe("tuple(range(10**12))", lambda: call("builtins.tuple", call("builtins.range", number(10**12)))),
    unsafe("set(range(10**12))", lambda: call("builtins.set", call("builtins.range", number(10**12)))),
    unsafe("deque(range(10**12))", lambda: call("collections.deque", call("builtins.range", number(10**12)))),
    unsafe(
        "dict of a range as a pair",
        lambda: call("builtins.dict", b"](" + call("builtins.range", number(10**12)) + b"e"),
    ),
    unsafe("array of a range", lambda: call("array.array", text("q"), call("builtins.range", number(10**12)))),
    unsafe("repeat", lambda: call("builtins.list", call("itertools.repeat", b"N"))),
    unsafe("product", lambda: call("itertools.product", b"](K\x01e")),
    unsafe("zip", lambda: call("builtins.zip", b"](K\x01e")),
    unsafe("a fraction with an exponent", lambda: call("fractions.Fraction", text("1e9999999999"))),
    unsafe("a storage of 10**12 elements", lambda: call("torch.FloatStorage", number(10**12))),
    unsafe("an array of numpy's of 10**12 bytes", lambda: call("numpy.ndarray", number(10**12) + b"\x85")),
    unsafe("bytes out of nothing", lambda: call("builtins.bytearray", number(10**7))),
    unsafe(
        "a pattern of every character, without regard to case",
        lambda: call("re._compile", text("[\\0-\\U0010ffff]" * 20), number(2)),
    ),
    unsafe(
        "a recurrent layer of 10**12 layers",
        lambda: new(
            "torch.nn.modules.rnn.LSTM", num_layers=number(10**12), _all_weights=b"](](Nee", bidirectional=b"\x89"
        ),
    ),
    unsafe("memoryview", lambda: call("builtins.memoryview", call("builtins.bytes"))),
    unsafe("repr of an object", lambda: call("builtins.repr", new("argparse.Namespace"))),
]

TRAPS = [
    unsafe(
        "an object whose state is what sets its state",
        lambda: new("argparse.Namespace", __setstate__=name("open_clip.timm_model.TimmModel")) + b"}b",
    ),
    unsafe(
        "an object that is given a state twice",
        lambda: new("torch.nn.modules.linear.Identity", a=b"K\x01") + mapping(b=b"K\x02") + b"b",
    ),
    unsafe(
        "a configuration that maps the setter of its state",
        lambda: (
            new(
                "transformers.models.clip.configuration_clip.CLIPConfig",
                attribute_map=mapping(__setstate__=text("x")),
                x=name("open_clip.timm_model.TimmModel"),
            )
            + mapping(a=b"N")
            + b"b"
        ),
    ),
    unsafe(
        "a key of a state that a call makes",
        lambda: (
            name("argparse.Namespace")
            + b")\x81}"
            + call("builtins.str", text("__setstate__"))
            + name("open_clip.timm_model.TimmModel")
            + b"sb"
        ),
    ),
    unsafe(
        "an attribute in place of `extend`",
        lambda: new("argparse.Namespace", extend=bound("open_clip.timm_model.TimmModel")) + b"(K\x01e",
    ),
    unsafe(
        "a submodule in place of `append`",
        lambda: (
            new(
                "torch.nn.modules.linear.Identity",
                _modules=mapping(append=bound("open_clip.timm_model.TimmModel")),
            )
            + b"K\x01a"
        ),
    ),
    unsafe(
        "an attribute in place of `add`",
        lambda: new("argparse.Namespace", add=bound("open_clip.timm_model.TimmModel")) + b"(K\x01\x90",
    ),
    unsafe(
        "an attribute in place of `keys`",
        lambda: call("builtins.dict", new("argparse.Namespace", keys=bound("open_clip.timm_model.TimmModel"))),
    ),
    unsafe(
        "an attribute in place of `__array__`",
        lambda: call("numpy.float64", new("argparse.Namespace", __array__=bound("open_clip.timm_model.TimmModel"))),
    ),
    unsafe(
        "an attribute in place of `detach`",
        lambda: call(
            "torch._utils._rebuild_parameter",
            new("argparse.Namespace", detach=bound("open_clip.timm_model.TimmModel")),
            b"\x89",
            b"}",
        ),
    ),
    unsafe(
        "a scalar of objects, which hands back what it is given",
        lambda: call(
            "numpy.core.multiarray.scalar", call("numpy.dtype", text("O8")), new("argparse.Namespace", a=b"N")
        ),
    ),
    unsafe(
        "a method of an optimizer",
        lambda: new("torch.optim.sgd.SGD", _patch_step_function=bound("open_clip.timm_model.TimmModel")),
    ),
    unsafe(
        "a group of an optimizer that is no dictionary",
        lambda: new(
            "torch.optim.sgd.SGD",
            param_groups=b"]" + new("argparse.Namespace", setdefault=bound("open_clip.timm_model.TimmModel")) + b"a",
        ),
    ),
    unsafe(
        "a state that an iterator is, of an optimizer",
        lambda: new("torch.optim.sgd.SGD", param_groups=call("builtins.range", number(10**12))),
    ),
    unsafe(
        "a logger that is changed",
        lambda: call("logging.getLogger") + mapping(disabled=b"\x88") + b"b",
    ),
    unsafe(
        "a named logger that is changed",
        lambda: call("logging.getLogger", text("torch")) + mapping(disabled=b"\x88") + b"b",
    ),
    unsafe(
        "a member of an enumeration that is changed",
        lambda: call("signal.Signals", b"K\x02") + mapping(_value_=b"K\x09") + b"b",
    ),
    unsafe(
        "a type of numpy's that denies its objects",
        lambda: (
            call("numpy.dtype", text("O8"), b"\x89", b"\x88")
            + b"(K\x03"
            + text("|")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        ),
    ),
    unsafe(
        "a type of numpy's that claims objects",
        lambda: (
            call("numpy.dtype", text("f8"), b"\x89", b"\x88")
            + b"(K\x03"
            + text("<")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
        ),
    ),
    unsafe(
        "attributes of an ordered dictionary",
        lambda: call("collections.OrderedDict") + mapping(__setstate__=name("builtins.dict")) + b"b",
    ),
]


class _Attributed(collections.OrderedDict):  # type: ignore[type-arg]
    pass


def _state_with_metadata() -> Any:
    return nn.Linear(2, 2).state_dict()


BENIGN = [
    Attempt(
        "an ordered dictionary that torch's own module is said to have",
        lambda: call("torch.OrderedDict"),
        0,
        None,
        "F010",
    ),
    Attempt("range as Python 2 names it", lambda: b"c__builtin__\nxrange\nK\x00K\x05K\x01\x87R", 0, None, "F010"),
    benign("a namespace", argparse.Namespace(lr=0.1, items=[1, 2], append=True, nested=argparse.Namespace(a=None))),
    benign(
        "numbers of numpy's", [np.float64(1), np.int64(2), np.bool_(True), np.float32(3), np.datetime64("2020-01-01")]
    ),
    benign("arrays of numpy's", [np.ones((2, 3)), np.array(["a", "bc"]), np.array([1, "x", None], dtype=object)]),
    benign("generators of numpy's", [np.random.RandomState(0), np.random.default_rng(0), np.random.get_state()]),
    benign("containers", [collections.deque([1]), collections.defaultdict(list, a=[1]), collections.Counter("aab")]),
    benign("sets and bytes", [{1, "a", (1, 2)}, frozenset([3]), b"\xff\x00", bytearray(b"x"), 1j, slice(1, 2)]),
    benign("a bound class", functools.partial(nn.LayerNorm, eps=1e-6)),
    benign("a module", nn.Sequential(nn.ReLU(), nn.Softmax(1), nn.Identity(), nn.GELU())),
]

ROWS = [*REACHED, *CALLED, *ENDLESS, *TRAPS, *BENIGN]


@pytest.mark.parametrize("attempt", ROWS, ids=str)
def test_use_of_names_when_audited_then_is_safe_only_where_nothing_would_run(attempt: Attempt, tmp_path: Path) -> None:
    report = manifest.audit(beside_weights(tmp_path, attempt.make()))
    rules = {found.rule for found in report.findings()}
    assert report.safety == ("unsafe" if attempt.exit else "safe"), report.findings()
    assert report.exit_code == attempt.exit
    if attempt.says:
        assert attempt.says in rules
    else:
        assert "F010" not in rules
