"""Small real checkpoints to try policies on: trained or not, signed or not, with golden outputs or without."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

import manifest
from manifest.cli import main
from manifest.errors import ManifestError
from manifest.rendering import text
from manifest.schema.document import serialize
from manifest.schema.report import Report
from manifest.signing import generate_keys
from manifest.storage.transaction import read_manifest

NAME = "test_vit"
FACTORY = f"{__name__}:Layers"


class Layers(nn.Module):
    """Matrices without norms, of which nothing tells whether they were trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(torch.relu(self.first(x)))
        return found


def trained(seed: int = 0) -> Any:
    """A small model whose every number has moved as training moves them."""
    torch.manual_seed(seed)
    model: Any = manifest.create_model(NAME, family="timm")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        model.head.weight.copy_(0.02 * torch.empty_like(model.head.weight).exponential_())
    return model.eval()


def half_trained() -> Any:
    """The same with a head as its initialiser makes them, which by itself proves nothing."""
    model = trained()
    with torch.no_grad():
        model.head.weight.normal_(0, 0.02)
        model.head.bias.zero_()
    return model


def made_in(base: Path) -> Path:
    """The directory of everything below another, made once."""
    folder = base / "policies"
    if not folder.exists():
        folder.mkdir()
        make(folder)
    return folder


def make(place: Path) -> None:
    """Everything once: models saved in every way that a policy may ask for."""
    generate_keys(place / "release")
    generate_keys(place / "other")
    key = place / "release.key"
    manifest.save(trained(), place / "good.safetensors", key=key)
    manifest.save(trained(), place / "good.pt", key=key, golden=False)
    shutil.copy(place / "good.safetensors", place / "unsigned.safetensors")
    recorded = read_manifest(place / "good.safetensors")
    unsigned = recorded.model_copy(update={"signer": None})
    (place / "unsigned.safetensors.manifest.json").write_bytes(serialize(unsigned))
    manifest.save(trained(1), place / "another.safetensors", golden=False)
    manifest.save(half_trained(), place / "unknown.safetensors", golden=False)
    torch.manual_seed(2)
    fresh: Any = manifest.create_model(NAME, family="timm")
    manifest.save(fresh, place / "fresh.safetensors", golden=False)
    noise = {name: torch.randn_like(tensor) for name, tensor in Layers().state_dict().items()}
    torch.save(noise, place / "noise.pt")
    (place / "mine").mkdir()
    save_file({"x": torch.randn(4, 64)}, place / "mine" / "tensors.safetensors")
    manifest.create(place / "noise.pt", FACTORY, family="callable", probes=[place / "mine"])


@dataclass(frozen=True)
class Place:
    """A directory of copies to try things on."""

    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / "release.pub"

    def file(self, name: str) -> Path:
        return self.folder / name

    def policy(self, content: str) -> Path:
        path = self.folder / "policy.yaml"
        path.write_text(f"schema: policy/v1\n{content}\n")
        return path

    def flipped(self, name: str, at: int = -5) -> Path:
        """A checkpoint with one byte changed, near the end of its weights unless said otherwise."""
        path = self.folder / name
        data = bytearray(path.read_bytes())
        data[at] ^= 0xFF
        path.write_bytes(data)
        return path

    def edited(self, name: str, edit: Callable[[str], str]) -> Path:
        """A checkpoint whose manifest has other words in it."""
        path = self.folder / f"{name}.manifest.json"
        before = path.read_text()
        after = edit(before)
        assert after != before
        path.write_text(after)
        return self.folder / name

    def beside(self, name: str, other: str) -> Path:
        """A checkpoint beside which the manifest and the signature of another are."""
        for suffix in (".manifest.json", ".manifest.sig"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)
            if (self.folder / f"{other}{suffix}").exists():
                shutil.copy(self.folder / f"{other}{suffix}", self.folder / f"{name}{suffix}")
        return self.folder / name


def said(check: Callable[[], Report]) -> tuple[int, str]:
    """The exit status of a check and what a person reads of it."""
    try:
        report = check()
    except ManifestError as error:
        return error.exit_code, str(error)
    page = io.StringIO()
    Console(file=page, width=1000, no_color=True, highlight=False).print(text.report(report))
    return report.exit_code, page.getvalue()


def command(*words: object) -> tuple[int, str]:
    """The exit status of a command and all that it printed."""
    out, code, before = io.StringIO(), 0, sys.argv
    sys.argv = ["manifest", *map(str, words)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = before
    return code, out.getvalue()


def file(name: str) -> Callable[[Place], Path]:
    return lambda place: place.file(name)


def without_components(place: Place) -> Path:
    return place.edited("good.safetensors", lambda text: json.dumps(json.loads(text) | {"components": []}))


def half_a_file(place: Place) -> Path:
    """A file that no container can be told of."""
    path = place.file("good.safetensors")
    path.write_bytes(path.read_bytes()[3:2000])
    return path
