"""Pickles that name nothing but harmless things, and do harm by how they use them: none of them is called safe.

`make` gives opcodes, which are put as one more item into the pickle of a real file of `torch.save`; none of them is
unpickled.
"""

from __future__ import annotations

import argparse
import collections
import functools
import importlib
import importlib.machinery
import io
import json
import logging
import pickle
import pkgutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from torch import nn

import manifest
from manifest.checkpoint.pickles.effects import Effect
from manifest.checkpoint.pickles.named_globals import judge
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


def refused(title: str, make: Callable[[], bytes]) -> Attempt:
    """A use that the pickle machine does not follow, so that the file is read no further."""
    return Attempt(title, make, 1, "F002" if "detach" in title else "F004", "safe to load, plain data (F011)")


def unsafe(title: str, make: Callable[[], bytes], before: str | None = SAFE) -> Attempt:
    return Attempt(title, make, 1, "F010", before)


def benign(title: str, value: Any) -> Attempt:
    return Attempt(title, lambda: pickled(value), 0, None)


REACHED = [
    unsafe(f"{module}: {dotted}", lambda module=module, dotted=dotted: name(f"{module}.{dotted}", module))
    for module, dotted in (
        ("torch.quantization.fx.graph_module", "ObservedGraphModule"),
        ("torch.quantization.fx.graph_module", "ObservedStandaloneGraphModule"),
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
    unsafe(
        "source that a function of the file's choice writes",
        lambda: call(
            "torch.ao.quantization.fx.graph_module.ObservedGraphModule",
            mapping(),
            new(
                "torchvision.models.feature_extraction.fx.Graph",
                _codegen=new("torch.fx.graph.CodeGen", _body_transformer=bound("builtins.sum", b"]")),
            ),
            b"]",
        ),
        None,
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
    refused(
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
    refused(
        "an object whose state is what sets its state",
        lambda: new("argparse.Namespace", __setstate__=name("open_clip.timm_model.TimmModel")) + b"}b",
    ),
    refused(
        "an object that is given a state twice",
        lambda: new("torch.nn.modules.linear.Identity", a=b"K\x01") + mapping(b=b"K\x02") + b"b",
    ),
    refused(
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
    refused(
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
    refused(
        "an attribute in place of `keys`",
        lambda: call("builtins.dict", new("argparse.Namespace", keys=bound("open_clip.timm_model.TimmModel"))),
    ),
    unsafe(
        "an attribute in place of `__array__`",
        lambda: call("numpy.float64", new("argparse.Namespace", __array__=bound("open_clip.timm_model.TimmModel"))),
    ),
    refused(
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
    refused = "unsafe" if attempt.says == "F010" else "unreadable"
    assert report.safety == (refused if attempt.exit else "safe"), list(report.findings())
    assert report.exit_code == attempt.exit
    if attempt.says:
        assert attempt.says in rules
    else:
        assert "F010" not in rules


class Generated(nn.Module):
    """Something to trace."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


def chain() -> nn.Module:
    """A module of generated source."""
    from torch.ao.quantization.fx.graph_module import ObservedGraphModule

    traced = torch.fx.symbolic_trace(Generated())
    return ObservedGraphModule(traced, traced.graph, set())


def test_module_of_generated_source_when_audited_then_is_not_safe(tmp_path):
    path = tmp_path / "chain.pt"
    model = nn.Sequential(nn.Linear(4, 4), chain())
    torch.save(model, path)
    report = manifest.audit(path)
    named = {name for found in report.findings() if found.rule == "F010" for name in found.evidence["globals"]}
    assert report.safety == "unsafe"
    assert report.exit_code == 1
    assert any("graph_module" in name for name in named), named


def test_verdict_when_only_unknown_classes_are_named_then_says_so(tmp_path, capsys, monkeypatch):
    from manifest.cli import main

    path = beside_weights(tmp_path, name("mypackage.model.Net"))
    monkeypatch.setattr("sys.argv", ["manifest", "audit", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "names classes that are not known to be harmless" in " ".join(capsys.readouterr().out.split())


MODELS: dict[str, Callable[[], Any]] = {
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224"),
    "timm resnet10t": lambda: timm.create_model("resnet10t"),
    "timm convnext": lambda: timm.create_model("convnext_atto"),
    "timm swin": lambda: timm.create_model("swin_s3_tiny_224"),
    "timm efficientnet": lambda: timm.create_model("test_efficientnet"),
    "torchvision resnet": lambda: torchvision.models.resnet18(),
    "torchvision mobilenet": lambda: torchvision.models.mobilenet_v3_small(),
    "torchvision vit": lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16),
    "torchvision detection": lambda: torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ),
    "open_clip": lambda: small_clip({"layers": 1, "width": 64, "patch_size": 16, "image_size": 32}),
    "open_clip with a tower of timm": lambda: small_clip({"timm_model_name": "resnet10t", "image_size": 64}),
    "recurrent and attention": lambda: nn.Sequential(
        nn.LSTM(2, 2), nn.MultiheadAttention(4, 2), nn.Transformer(4, 2, 1, 1)
    ),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)),
    "optimizer": lambda: optimizer(),
    "transformers": lambda: bert(),
    "a state with its metadata": lambda: nn.BatchNorm2d(4).state_dict(),
    "random states": lambda: {"w": torch.ones(4), "generators": [torch.Generator(), torch.get_rng_state()]},
}


def small_clip(vision: dict[str, Any]) -> nn.Module:
    text_tower = {"context_length": 8, "vocab_size": 32, "width": 64, "heads": 2, "layers": 1}
    return open_clip.CLIP(16, vision, text_tower)


def optimizer() -> dict[str, Any]:
    model = nn.Linear(2, 2)
    made = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    made.step()
    return {"model": model.state_dict(), "optimizer": made, "schedule": torch.optim.lr_scheduler.StepLR(made, 2)}


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return transformers.BertModel(transformers.BertConfig(vocab_size=8, max_position_embeddings=8, **sizes))


@pytest.mark.parametrize("title", MODELS)
def test_whole_model_when_audited_then_is_plain_data(title, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(MODELS[title](), path)
    report = manifest.audit(path)
    assert report.safety == "safe", [found.message for found in report.findings() if found.rule == "F010"]
    assert {found.severity for found in report.findings() if found.rule == "F011"} <= {"note"}


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether all of it is asked for, and not a sample."""
    return bool(request.config.getoption("--whole", default=False))


LIBRARIES = ("torch.nn", "torch.optim", "torch.distributions", "torchvision", "timm", "open_clip")


def modules_of(package: str) -> list[Any]:
    root = importlib.import_module(package)
    found = [root]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in pkgutil.walk_packages(root.__path__, f"{package}.", onerror=lambda _: None):
            try:
                found.append(importlib.import_module(each.name))
            except (ImportError, RuntimeError, AttributeError):
                continue  # needs a library that is not here
    return found


def attributes(owner: Any, prefix: str, depth: int) -> list[tuple[str, Any]]:
    """What can be reached by dots, and can be called."""
    found = []
    for attribute, value in list(vars(owner).items()):
        if attribute.startswith("__"):
            continue
        if callable(value):
            found.append((f"{prefix}.{attribute}", value))
        if depth and isinstance(value, type(pytest)):
            found += attributes(value, f"{prefix}.{attribute}", depth - 1)
    return found


def is_where_it_is_defined(dotted: str, value: Any) -> bool:
    return dotted == f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None)}"


@pytest.mark.parametrize("package", LIBRARIES)
def test_what_can_be_reached_when_not_a_class_in_its_own_module_then_is_not_harmless(package, whole):
    found = [
        reached
        for place, module in enumerate(modules_of(package))
        if whole or place % 5 == 0
        for reached in attributes(module, module.__name__, 1 + bool(whole))
    ]
    assert len(found) > 500
    wrong = [
        dotted
        for dotted, value in found
        if judge(dotted).effect in (Effect.TENSORS, Effect.DATA)
        and not is_where_it_is_defined(dotted, value)
        and dotted not in NAMED_BY_HAND
    ]
    assert not wrong


NAMED_BY_HAND = frozenset(
    {f"torch.nn.functional.{function}" for function in ("gelu", "logsigmoid", "prelu", "relu_", "softplus")}
)
"""Functions of torch's compiled parts, which say that they are of no module."""


def test_list_of_classes_when_made_anew_from_the_same_libraries_then_is_the_same(whole):
    logging.disable(logging.WARNING)
    try:
        script = importlib.machinery.SourceFileLoader(
            "harmless_classes", str(Path(__file__).parents[2] / "fixtures" / "harmless_classes.py")
        ).load_module()
        recorded = json.loads(script.PLACE.read_text(encoding="utf-8"))
        installed = [
            library
            for library, entry in recorded.items()
            if script.version(script.DISTRIBUTIONS[library]).partition("+")[0] == entry["version"]
            and (whole or library != "transformers")
        ]
        if not installed:
            pytest.skip("no library is of the version that was recorded")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = script.recorded(installed)
        assert made == {library: recorded[library] for library in installed}
    finally:
        logging.disable(logging.NOTSET)
