"""Low-rank adapters (LoRA) in or instead of a model's weights, under the names that PEFT gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifest.errors import InputError
from manifest.escaping import printable, printable_list
from manifest.schema.report import Finding
from manifest.schema.rules import finding
from manifest.storage.bounded_read import read_small
from manifest.weights.shape_diff import Shape

CONFIG = "adapter_config.json"
_ADAPTER = re.compile(r"(.*)\.(?:lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(?:\..*)?")
_BASE = ".base_layer."
_SHOWN = 6


@dataclass(frozen=True)
class Adapters:
    """Adapters among some tensors.

    Attributes:
        names: Of the tensors that are theirs.
        layers: Of the model's layers that have one.
        ranks: Of the products that they add.
        alone: Whether the weights that they adapt are not there.
    """

    names: frozenset[str]
    layers: tuple[str, ...]
    ranks: tuple[int, ...]
    alone: bool

    def words(self) -> str:
        """Rank and layers, in a clause."""
        kinds = list(dict.fromkeys(layer.rpartition(".")[2] for layer in self.layers))
        ranks = " and ".join(map(str, self.ranks)) or "unknown"
        shown = ", ".join(map(printable, kinds[:_SHOWN])) + (", …" if len(kinds) > _SHOWN else "")
        return f"LoRA adapters of rank {ranks} on {len(self.layers)} layers ({shown})"


def adapters_in(shapes: Mapping[str, Shape]) -> Adapters | None:
    """The adapters among some tensors; None where there are none.

    Args:
        shapes: Shape by name in the file.
    """
    found = {name: match[1] for name in shapes if (match := _ADAPTER.fullmatch(name))}
    if not found:
        return None
    ranks = {shapes[name][0] for name in found if ".lora_A" in name and len(shapes[name]) > 1}
    layers = tuple(dict.fromkeys(found.values()))
    return Adapters(frozenset(found), layers, tuple(sorted(ranks)), alone=len(found) == len(shapes))


def has_adapters(names: Iterable[str]) -> bool:
    """Whether a model with tensors of these names has adapters, or layers wrapped for them."""
    return any(_BASE in name or _ADAPTER.fullmatch(name) for name in names)


def without_adapters(shapes: Mapping[str, Shape], adapters: Adapters) -> dict[str, str]:
    """The names of the model itself, as it is called without adapters: name → name in the file."""
    return {name.replace(_BASE, "."): name for name in shapes if name not in adapters.names}


def adapter_config(checkpoint: Path) -> str:
    """What `adapter_config.json` beside a checkpoint says of its base, in a clause; empty where there is none."""
    path = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / CONFIG
    if not path.is_file():
        return ""
    try:
        content: Any = json.loads(read_small(path, "config"))
    except (InputError, ValueError, RecursionError):
        return ""
    if not isinstance(content, Mapping):
        return ""
    base = content.get("base_model_name_or_path")
    targets = content.get("target_modules")
    said = [f"base {printable(str(base), 100)}" if base else "no base"]
    said += [f"{name} {printable(str(content[key]), 20)}" for name, key in _SETTINGS if content.get(key) is not None]
    if isinstance(targets, list):
        said.append(f"targets {printable_list(map(str, targets[:_SHOWN]))}")
    return f"{CONFIG} names {', '.join(said)}"


_SETTINGS = (("rank", "r"), ("alpha", "lora_alpha"))


def adapter_finding(adapters: Adapters, path: Path) -> Finding:
    """What to make of a file with adapters in it, or of nothing else.

    Args:
        adapters: Those that are in it.
        path: The file, beside which their config may lie.
    """
    said = adapter_config(path)
    more = f"; {said}" if said else ""
    if not adapters.alone:
        message = f"Beside the weights are {adapters.words()}, which are not merged into them{more}."
        return finding("A014", message, where="identity")
    message = f"These are {adapters.words()} alone, and the model that they adapt is not in the file{more}."
    remedy = (
        "Load the model that they adapt, then `peft.PeftModel.from_pretrained(model, DIRECTORY)`; "
        "audit the file of that model by itself."
    )
    return finding("A014", message, where="identity", remedy=remedy)
