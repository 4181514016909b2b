"""Libraries, hardware and numerics flags: what surrounds a model when it is saved, and how two surroundings differ.

Versions come from package metadata, so that nothing is imported. Flags live inside torch and are read only where torch
is loaded already. No user, host or path is recorded.
"""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

LIBRARIES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "safetensors",
    "numpy",
    "pillow",
    "transformers",
    "ftfy",
)

_VERSION = re.compile(r"^Version: *(\S+)$", re.MULTILINE)


def library_versions() -> dict[str, str]:
    """Installed version of each library that can change what a model is or says; absent ones are left out."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = _version(name)
        except PackageNotFoundError:
            continue
    return versions


def _version(name: str) -> str:
    """Out of the first lines of its metadata; to parse all of it, with its description, takes ten times as long.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    found = distribution(name)
    line = _VERSION.search(found.read_text("METADATA") or "")
    return line[1] if line else found.version


def python_version() -> str:
    return platform.python_version()


def platform_name() -> str:
    """Operating system and processor type, for example `Linux x86_64`."""
    return f"{platform.system()} {platform.machine()}"


def hardware(torch: Any) -> dict[str, Any]:
    """Cores, the CPU's instruction set as torch uses it, and the names of GPUs.

    Args:
        torch: The imported torch module, handed in so that this module never imports it.
    """
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cores": os.cpu_count(), "cpu_capability": torch.backends.cpu.get_cpu_capability(), "gpus": gpus}


def flags(torch: Any) -> dict[str, Any]:
    """The switches that move results.

    Args:
        torch: The imported torch module, handed in so that this module never imports it.
    """
    return {
        "cudnn.enabled": torch.backends.cudnn.enabled,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "mkldnn.enabled": torch.backends.mkldnn.enabled,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "fill_uninitialized_memory": torch.utils.deterministic.fill_uninitialized_memory,
        **precisions(torch),
        "seed": seed(),
        "num_threads": torch.get_num_threads(),
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED"),
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def precision_owners(torch: Any) -> dict[str, Any]:
    """What has a precision of float32 products of its own, by name.

    `allow_tf32` and `get_float32_matmul_precision` raise where somebody has set these by their newer names.
    """
    backends = torch.backends
    return {
        "cuda.matmul": backends.cuda.matmul,
        **{f"cudnn.{name}": getattr(backends.cudnn, name) for name in ("conv", "rnn")},
        **{f"mkldnn.{name}": getattr(backends.mkldnn, name) for name in ("matmul", "conv", "rnn")},
    }


def precisions(torch: Any) -> dict[str, str]:
    """The precision that float32 products have: `ieee`, `tf32` or `bf16`; who has none takes the general one."""
    found = {}
    for name, owner in precision_owners(torch).items():
        general = getattr(torch.backends, name.partition(".")[0])
        chain = [owner, *([general] if hasattr(general, "fp32_precision") else []), torch.backends]
        set_ones = [each.fp32_precision for each in chain if each.fp32_precision != "none"]
        found[f"{name}.fp32_precision"] = set_ones[0] if set_ones else "ieee"
    return found


_seed: int | None = None


def seed() -> int | None:
    """The seed of the `deterministic` that is in force, if one is."""
    return _seed


def note_seed(value: int | None) -> None:
    """Remember which seed is in force."""
    global _seed
    _seed = value


def library_differences(recorded: dict[str, str]) -> dict[str, tuple[str, str | None]]:
    """Libraries whose version here is not the recorded one: name → (recorded, here or None)."""
    here = library_versions()
    return {name: (then, here.get(name)) for name, then in recorded.items() if here.get(name) != then}
