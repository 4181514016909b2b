"""The contract on static modules names each module that imports torch by no way, and no other."""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "open_clip", "timm", "torchvision", "safetensors", "transformers")


def test_contract_names_every_module_that_never_imports_torch() -> None:
    graph = grimp.build_graph("manifest", include_external_packages=True, cache_dir=None)
    modules = {name for name in graph.modules if name.partition(".")[0] == "manifest"}
    heavy = {name for name in modules if any(graph.chain_exists(name, library) for library in HEAVY)}
    static = list(_largest("manifest", modules, heavy))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (each for each in settings["contracts"] if each["type"] == "forbidden")
    assert contract["source_modules"] == static


def _largest(top: str, modules: set[str], heavy: set[str]) -> list[str]:
    """The packages that are static as a whole, and the static modules of the others."""
    inside = {name for name in modules if name == top or name.startswith(f"{top}.")}
    if not inside & heavy:
        return [top]
    children = sorted(name for name in inside if name.count(".") == top.count(".") + 1)
    return [found for child in children for found in _largest(child, modules, heavy)]
