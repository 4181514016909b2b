"""In whatever state a process is: what is loaded is what was recorded, and the process is afterwards as it was."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import manifest
from manifest.digests import tensor_digest
from manifest.errors import ManifestError
from manifest.storage.transaction import read_manifest
from tests.promises.attempts import Attempt
from tests.sampling import sampled
from tests.warm import warm_run

_MODULE = """
from torch import nn

def make(width):
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, 2))
"""


def _transformers() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=16)
    model: nn.Module = transformers.ViTModel(config)
    return model


_FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "open_clip": lambda: manifest.create_model("digits-clip"),
    "timm": lambda: manifest.create_model("test_vit", family="timm"),
    "torchvision": lambda: manifest.create_model("squeezenet1_1", family="torchvision"),
    "transformers": _transformers,
    "callable": lambda: manifest.create_model("promised_model:make", family="callable", width=8),
}


@pytest.fixture(scope="module")
def saved(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Makes and saves a small model of each family, once."""
    del digits  # registers its model
    folder = tmp_path_factory.mktemp("saved")
    (folder / "promised_model.py").write_text(_MODULE, encoding="utf-8")
    sys.path.insert(0, str(folder))

    def path(family: str) -> Path:
        place = folder / f"{family}.safetensors"
        if not place.exists():
            manifest.save(_FAMILIES[family](), place)
        return place

    yield path
    sys.path.remove(str(folder))


class _Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result.double() if isinstance(result, torch.Tensor) and result.dtype == torch.float32 else result


class _Adding(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result + 1 if isinstance(result, torch.Tensor) and result.dtype == torch.float32 else result


@contextlib.contextmanager
def _set(write: Callable[[Any], object], value: Any, back: Any) -> Iterator[None]:
    write(value)
    try:
        yield
    finally:
        write(back)


def _dtype(dtype: torch.dtype) -> Callable[[], Any]:
    return lambda: _set(torch.set_default_dtype, dtype, torch.float32)


def _other_threads(before: int) -> Any:
    return _set(torch.set_num_threads, 1 if before > 1 else 2, before)


@contextlib.contextmanager
def _hooked(register: Callable[[Any], Any], hook: Callable[..., Any]) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


def _in_bfloat16(module: nn.Module, name: str, parameter: Any) -> Any:
    del module, name
    return None if parameter is None else nn.Parameter(parameter.detach().bfloat16())


@contextlib.contextmanager
def _inside_vmap() -> Iterator[None]:
    functorch: Any = torch._C._functorch
    functorch._vmap_increment_nesting(3, "error")
    try:
        yield
    finally:
        functorch._vmap_decrement_nesting()


_future: Any = torch.__future__
_swap = _future.set_swap_module_params_on_conversion
_products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
_everywhere: Any = nn.modules.module
_OTHER_WEIGHTS = "loaded, with other weights than were verified"

CIRCUMSTANCES = [
    Attempt("default bfloat16", _dtype(torch.bfloat16), 0, before=_OTHER_WEIGHTS),
    Attempt("default float16", _dtype(torch.float16), 0, before=_OTHER_WEIGHTS),
    Attempt("default float64", _dtype(torch.float64), 0, before=_OTHER_WEIGHTS),
    Attempt("default device meta", lambda: _set(torch.set_default_device, "meta", None), 0, before="G001"),
    Attempt("with torch.device", lambda: torch.device("meta"), 0, before="G001"),
    Attempt("inference mode", torch.inference_mode, 0, before="A004"),
    Attempt("no gradients", torch.no_grad, 0),
    Attempt("autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16), 0),
    Attempt("matmul", lambda: _set(torch.set_float32_matmul_precision, "medium", "highest"), 0),
    Attempt("products", lambda: _set(lambda v: setattr(_products, "fp32_precision", v), "bf16", "none"), 0),
    Attempt("all products", lambda: _set(lambda v: setattr(torch.backends, "fp32_precision", v), "tf32", "none"), 0),
    Attempt("deterministic", lambda: _set(torch.use_deterministic_algorithms, True, False), 0),
    Attempt("manifest.deterministic", lambda: manifest.deterministic(3, warn_only=True), 0),
    Attempt("generator", lambda: _set(torch.manual_seed, 99, 1), 0),
    Attempt("function mode", _Doubling, 0),
    Attempt("dispatch mode", _Adding, 0),
    Attempt("no function modes", torch._C.DisableTorchFunction, 0),
    Attempt(
        "hook of parameters",
        lambda: _hooked(_everywhere.register_module_parameter_registration_hook, _in_bfloat16),
        0,
    ),
    Attempt("hook of calls", lambda: _hooked(_everywhere.register_module_forward_hook, lambda *_: None), 0),
    Attempt("vmap", _inside_vmap, 0),
    Attempt("swapped parameters", lambda: _set(_swap, True, False), 0),
    Attempt("other threads", lambda: _other_threads(torch.get_num_threads()), 0),
]


def _state() -> tuple[Any, ...]:
    """What a process has set, so far as it can be read."""
    products = [
        torch._C._get_fp32_precision_getter(backend, kind)
        for backend in ("generic", "mkldnn", "cuda")
        for kind in (("all",) if backend == "generic" else ("all", "matmul", "conv", "rnn"))
    ]
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.overrides._get_current_function_mode_stack(),
        torch.utils._python_dispatch._get_current_dispatch_mode_stack(),
        torch._C._is_torch_function_enabled(),
        torch._C._functorch.peek_interpreter_stack() is None,
        torch.__future__.get_swap_module_params_on_conversion(),
        torch.get_num_threads(),
        list(_everywhere._global_parameter_registration_hooks),
        list(_everywhere._global_forward_hooks),
        products,
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )


def _digests(module: nn.Module) -> dict[str, str]:
    found = {}
    for name, tensor in module.state_dict().items():
        values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        found[name] = tensor_digest(str(tensor.dtype).removeprefix("torch."), tensor.shape, values)
    return found


def _loads() -> Iterator[Any]:
    """Each circumstance with one family after the other; with `--whole`, and where types or devices are other, all."""
    for place, attempt in enumerate(CIRCUMSTANCES):
        for number, family in enumerate(_FAMILIES):
            always = place % len(_FAMILIES) == number or attempt.name in ("default bfloat16", "default device meta")
            yield pytest.param(attempt, family, id=f"{attempt}-{family}", marks=[] if always else pytest.mark.whole)


@pytest.mark.parametrize(("attempt", "family"), _loads())
def test_model_loaded_in_any_circumstances_is_the_one_recorded(
    attempt: Attempt, family: str, saved: Callable[[str], Path]
) -> None:
    path = saved(family)
    allow = ["promised_model"] if family == "callable" else []
    recorded = {tensor.name: tensor.digest for tensor in read_manifest(path).weights.tensors}
    generator = torch.default_generator
    drawn = generator.get_state()
    with attempt.make():
        if attempt.name in ("generator", "manifest.deterministic"):
            drawn = generator.get_state()
        before = _state()
        model = manifest.load(path, allow=allow)
        assert _state() == before
    assert attempt.name == "generator" or torch.equal(generator.get_state(), drawn) or attempt.name.startswith("man")
    assert _digests(model) == recorded
    parameters = list(model.parameters())
    assert not any(parameter.is_inference() for parameter in parameters)
    parameters[0].sum().backward()
    assert parameters[0].grad is not None


@pytest.mark.parametrize("attempt", sampled(CIRCUMSTANCES, 3), ids=str)
def test_verify_and_save_in_any_circumstances_say_the_same(
    attempt: Attempt, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    path = saved("timm")
    model = manifest.load(path, verify="none")
    with attempt.make():
        report = manifest.verify(path)
        written = manifest.save(model, tmp_path / "again.pt")
    assert report.exit_code == attempt.exit
    assert {each.rule for each in report.findings()} <= {"T002", "C003", "E002"}
    assert written is not None
    assert written.weights.digest == read_manifest(path).weights.digest
    assert written.architecture.precision == "fp32"
    assert manifest.verify(tmp_path / "again.pt").exit_code == 0


def test_model_of_a_bfloat16_process_is_recorded_as_bfloat16(tmp_path: Path, saved: Callable[[str], Path]) -> None:
    saved("callable")
    with _set(torch.set_default_dtype, torch.bfloat16, torch.float32):
        model = manifest.create_model("promised_model:make", family="callable", width=8)
        written = manifest.save(model, tmp_path / "x.pt")
    assert written is not None
    assert written.architecture.precision == "bf16"
    loaded = manifest.load(tmp_path / "x.pt", allow=["promised_model"])
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def _in_child(action: Callable[[], int]) -> int:
    """The exit status of something done in a child forked off this process, whose threads of torch have run."""
    before = torch.get_num_threads()
    with _set(torch.set_num_threads, 2, before):
        matrix = torch.randn(600, 600)
        assert (matrix @ matrix + matrix.double()).isfinite().all()
        child = os.fork()
        if child == 0:
            status = 70
            try:
                faulthandler.dump_traceback_later(600, exit=True)
                status = action()
            finally:
                os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


FORKED = [
    Attempt("verify", lambda path: manifest.verify(path).exit_code, 0, before="hung"),
    Attempt("load", lambda path: 0 if manifest.load(path) else 1, 0, before="hung"),
    Attempt(
        "save",
        lambda path: 0 if manifest.save(manifest.load(path, verify="none"), path.with_name("child.pt")) else 1,
        0,
        before="hung",
    ),
]


@pytest.mark.parametrize("attempt", FORKED, ids=str)
def test_forked_child_answers_although_threads_had_run(attempt: Attempt, saved: Callable[[str], Path]) -> None:
    assert _in_child(lambda: attempt.make(saved("torchvision"))) == attempt.exit


def test_child_forked_before_the_package_was_imported_answers(saved: Callable[[str], Path]) -> None:
    script = (
        "import os, sys, torch\n"
        "torch.set_num_threads(2)\n"
        "matrix = torch.randn(600, 600); matrix @ matrix + matrix.double()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    import faulthandler; faulthandler.dump_traceback_later(600, exit=True)\n"
        "    import manifest\n"
        "    os._exit(manifest.verify(sys.argv[1]).exit_code)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(saved("torchvision"))], check=False)
    assert done.returncode == 0


_STRIPPED = """
import sys
from importlib.machinery import PathFinder, SourceFileLoader

class Stripped(SourceFileLoader):
    def get_code(self, name):
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True, optimize=2)

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] != "manifest":
            return None
        spec = PathFinder.find_spec(name, path, target)
        spec.loader = Stripped(spec.loader.name, spec.loader.path)
        return spec

sys.meta_path.insert(0, Finder)
"""
_SAVED_AGAIN = """
import sys, manifest
from manifest.workflows import saving

model = manifest.load(sys.argv[1])
written = manifest.save(model, sys.argv[2])
print(saving.__doc__, written.weights.digest, manifest.verify(sys.argv[2]).exit_code)
"""


@pytest.mark.parametrize(
    ("options", "before"),
    [
        pytest.param((), _STRIPPED, id="this package alone"),
        # Unless Python has kept them, it compiles torch and everything else anew.
        pytest.param(("-OO",), "", id="-OO", marks=pytest.mark.whole),
    ],
)
def test_checkpoint_is_verified_and_saved_the_same_without_assertions(
    options: tuple[str, ...], before: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    path = saved("timm")
    words = ["-c", before + _SAVED_AGAIN, str(path), str(tmp_path / "x.pt")]
    if options:
        done = subprocess.run([sys.executable, *options, *words], check=False, capture_output=True, encoding="utf-8")
    else:
        done = warm_run(words, tmp_path)
    assert done.stdout.split() == ["None", read_manifest(path).weights.digest, "0"], done.stderr


_ODD = """
import torch
from torch import nn

def make(kind):
    model = nn.Module()
    model.layer = nn.Linear(2, 2)
    if kind == "meta":
        model.other = nn.Linear(2, 2, device="meta")
    elif kind == "lazy":
        model.other = nn.LazyLinear(3)
    elif kind == "extra state":
        model.__class__ = type("Keeping", (nn.Module,), {"get_extra_state": lambda self: {"step": 1}})
    elif kind == "nested":
        model.register_buffer("other", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    elif kind == "sparse":
        model.register_buffer("other", torch.eye(3).to_sparse())
    elif kind == "compressed":
        model.register_buffer("other", torch.eye(3).to_sparse_csr())
    elif kind == "quantized":
        model.register_buffer("other", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    elif kind == "half complex":
        model.register_buffer("other", torch.ones(3).to(torch.complex32))
    elif kind == "zero":
        model.register_buffer("other", torch.zeros(0, 3))
    elif kind == "subclass":
        model.register_buffer("other", torch.ones(3).as_subclass(type("Local", (torch.Tensor,), {})))
    elif kind.startswith("name "):
        model.register_parameter(kind[5:], nn.Parameter(torch.randn(3)))
    return model
"""


def _odd(kind: str, file: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        model = manifest.create_model("promised_oddities:make", family="callable", kind=kind)
        return manifest.save(model, folder / file, golden=False)

    return make


_PYDANTIC = "pydantic's own error"
ODD = [
    Attempt("file name with a newline", _odd("", "a\nb.pt"), 2, "file name 'a\\x0ab.pt'", _PYDANTIC),
    Attempt("file name with a backslash", _odd("", "a\\b.pt"), 2, "file name 'a\\x5cb.pt'", _PYDANTIC),
    Attempt("file name with a surrogate", _odd("", "a\udc80.pt"), 2, "file name 'a\\udc80.pt'", _PYDANTIC),
    Attempt("name with a newline", _odd("name x\ny", "x.safetensors"), 0),
    Attempt("name with a backslash", _odd("name x\\y", "x.pt"), 0),
    Attempt("name with a surrogate", _odd("name x\udc80", "x.pt"), 2, "'x\\udc80' of the state dict"),
    Attempt(
        "the same to safetensors", _odd("name x\udc80", "x.safetensors"), 2, "not Unicode", before="UnicodeEncodeError"
    ),
    Attempt("name of metadata", _odd("name __metadata__", "x.safetensors"), 2, "metadata of safetensors"),
    Attempt("meta", _odd("meta", "x.safetensors"), 2, "'other.weight' of the state dict is a meta", "NotImplemented"),
    Attempt("meta to .pt", _odd("meta", "x.pt"), 2, "is a meta tensor"),
    Attempt("lazy", _odd("lazy", "x.safetensors"), 2, "is not initialised", before="ValueError"),
    Attempt("extra state", _odd("extra state", "x.pt"), 2, "is a dict, expected a tensor", before="AttributeError"),
    Attempt("nested", _odd("nested", "x.safetensors"), 2, "nested tensor", before="RuntimeError"),
    Attempt("sparse", _odd("sparse", "x.safetensors"), 2, "sparse_coo", before="RuntimeError"),
    Attempt("compressed", _odd("compressed", "x.safetensors"), 2, "sparse_csr", before="RuntimeError"),
    Attempt("quantized", _odd("quantized", "x.safetensors"), 2, "qint8", before="KeyError"),
    Attempt("half complex", _odd("half complex", "x.safetensors"), 2, "complex32", before="KeyError"),
    Attempt("zero size", _odd("zero", "x.safetensors"), 0),
    Attempt("local subclass", _odd("subclass", "x.pt"), 2, "torch.save cannot write", before="AttributeError"),
]


@pytest.mark.parametrize("attempt", ODD, ids=str)
def test_model_that_cannot_be_saved_is_refused_in_one_sentence(
    attempt: Attempt, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    home = saved("callable").parent
    (home / "promised_oddities.py").write_text(_ODD, encoding="utf-8")
    if attempt.exit == 0:
        assert attempt.make(tmp_path) is not None
        return
    with pytest.raises(ManifestError) as raised:
        attempt.make(tmp_path)
    assert raised.value.exit_code == attempt.exit
    assert str(attempt.says) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())
