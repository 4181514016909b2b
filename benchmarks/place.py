"""The files to measure on, each made when it is first asked for."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from measuring import MANIFEST, run

_MAKING = [sys.executable, Path(__file__).with_name("making.py")]


@dataclass(frozen=True)
class Sizes:
    """What is large here.

    Attributes:
        large: The model that stands for a large file.
        large_precision: Its precision.
        saved: The open_clip model that is saved.
        common: Models that people load, as library and name.
        reckoned: The one of them whose cost fleets are estimated by.
        hollow: Bytes of the file that only claims to hold values.
        many: How many checkpoints are verified at once.
        indexed: Of how many there are sketches in an index.
    """

    large: str
    large_precision: str
    saved: str
    common: tuple[tuple[str, str], ...]
    reckoned: tuple[str, str]
    hollow: int
    many: int
    indexed: int


FULL = Sizes(  # 2.07 GB, and 0.6, 1.71, 1.41, 0.35, 1.21 and 0.79 GB
    "ViT-H-14",
    "fp16",
    "ViT-L-14",
    (
        *(("open_clip", name) for name in ("ViT-B-32", "ViT-L-14", "convnext_large_d")),
        *(("timm", name) for name in ("vit_base_patch32_clip_224", "vit_large_patch14_clip_224", "convnext_large")),
    ),
    ("open_clip", "ViT-L-14"),
    10 * 10**9,
    200,
    20_000,
)
QUICK = Sizes(
    "ViT-B-32",
    "fp32",
    "ViT-B-32",
    (("open_clip", "ViT-B-32"), ("timm", "vit_base_patch32_clip_224")),
    ("open_clip", "ViT-B-32"),
    2 * 10**9,
    20,
    2_000,
)


class Place:
    """A directory with the files to measure on."""

    def __init__(self, directory: Path, sizes: Sizes) -> None:
        self.directory = directory
        self.sizes = sizes

    @cached_property
    def keys(self) -> tuple[Path, Path]:
        """A private key and its public one."""
        run([*MANIFEST, "keygen", self.directory / "release"])
        return self.directory / "release.key", self.directory / "release.pub"

    @cached_property
    def signed(self) -> Path:
        """The large file, alone with its signed manifest in a directory."""
        path = self.directory / "signed" / "large.safetensors"
        path.parent.mkdir()
        return _made(path, "model", self.sizes.large, self.sizes.large_precision, path, self.keys[0])

    def common(self, library: str, name: str) -> dict[str, Path]:
        """A model that people load, with golden outputs in its manifest, by suffix."""
        paths = {suffix: self.directory / f"common{suffix}" for suffix in (".pt", ".safetensors")}
        for path in paths.values():
            path.unlink(missing_ok=True)  # one model at a time: a disk has its bounds
        return {suffix: _made(path, "common", library, name, path) for suffix, path in paths.items()}

    @cached_property
    def experts(self) -> dict[str, Path]:
        """8,000 small tensors, by the form of `torch.save`."""
        paths = {form: self.directory / f"experts.{form}.pt" for form in ("zip", "legacy")}
        return {form: _made(path, "experts", path, form) for form, path in paths.items()}

    def bare(self, name: str, precision: str) -> Path:
        """The weights of the model that is saved, without a manifest."""
        path = self.directory / name
        return path if path.exists() else _made(path, "bare", self.sizes.saved, precision, path)

    def index(self, checkpoint: Path) -> Path:
        """An index of a checkpoint and of many others like it."""
        return _made(
            self.directory / "kin.index", "index", checkpoint, str(self.sizes.indexed), self.directory / "kin.index"
        )

    @cached_property
    def many(self) -> list[Path]:
        """Checkpoints of some 20 MB with signed manifests, all of the same weights under other names."""
        folder = self.directory / "many"
        folder.mkdir()
        first = _made(folder / "000.pt", "small", folder / "000.pt", self.keys[0])
        for number in range(1, self.sizes.many):
            for suffix in ("", ".manifest.json", ".manifest.sig"):  # a signature covers bytes, whatever their names
                shutil.copy(f"{first}{suffix}", folder / f"{number:03}.pt{suffix}")
        return sorted(folder.glob("*.pt"))

    @cached_property
    def hollow(self) -> Path:
        """A safetensors file of ten tensors whose values are one hole, which takes no room on the disk."""
        each, columns = self.sizes.hollow // 10, 1000
        entries = {
            f"layers.{index}.weight": {
                "dtype": "F16",
                "shape": [each // columns // 2, columns],
                "data_offsets": [index * each, (index + 1) * each],
            }
            for index in range(10)
        }
        header = json.dumps(entries).encode()
        path = self.directory / "hollow.safetensors"
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(file.tell() + self.sizes.hollow)
        return path

    @cached_property
    def saves(self) -> Path:
        """An empty directory to save into."""
        path = self.directory / "saves"
        path.mkdir()
        return path


def gigabytes(path: Path) -> str:
    """The size of a file, in words."""
    return f"{path.stat().st_size / 1e9:.2f} GB"


def _made(path: Path, *arguments: str | Path) -> Path:
    run([*_MAKING, *arguments])
    path.read_bytes()  # into the page cache: what is measured is this program, not the disk
    return path
