"""The contracts of speed and memory, measured as ratios on this machine: `python benchmarks/run.py [--quick]`.

Every comparison runs both sides in turn after a warm-up and takes the median of the ratios, pair by pair. A contract
that is missed is printed as missed; nothing here fails a build, since a ratio on a busy machine is no test.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measuring import Pair, in_turn, run, seconds_of, seconds_said_by
from rich.console import Console
from rich.table import Table

MANIFEST = [sys.executable, "-m", "manifest"]
INSIDE = [sys.executable, Path(__file__).with_name("inside.py")]
BLAKE3 = (
    "import sys; from blake3 import blake3; print(blake3(max_threads=blake3.AUTO).update_mmap(sys.argv[1]).hexdigest())"
)
MB = 1e6


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What is measured, and against what.
        ours: Its measure, as text.
        theirs: The other side's.
        found: What the contract is about: a ratio, or the measure itself.
        contract: What was promised; empty where nothing was.
        kept: Whether the promise is kept; None where nothing was promised or nothing could be measured.
    """

    what: str
    ours: str
    theirs: str
    found: str
    contract: str
    kept: bool | None


@dataclass(frozen=True)
class Sizes:
    """Which models stand for a large file and for one that people load."""

    large: str
    large_precision: str
    common: str


FULL = Sizes("ViT-H-14", "fp16", "ViT-L-14")  # 2.07 GB and 1.71 GB
QUICK = Sizes("ViT-B-32", "fp32", "ViT-B-32")  # 0.6 GB


def main() -> None:
    options = argparse.ArgumentParser(description="Measure the contracts of speed and memory.")
    options.add_argument("--quick", action="store_true", help="smaller models: 0.6 GB instead of 2")
    options.add_argument("--runs", type=int, default=5, help="measurements of each side (5)")
    chosen = options.parse_args()
    sizes = QUICK if chosen.quick else FULL
    console = Console(width=max(140, Console().width))
    with tempfile.TemporaryDirectory(prefix="manifest-bench-") as name:
        place = Place(Path(name), sizes)
        console.print(
            f"{os.cpu_count()} cores; {sizes.large} in {sizes.large_precision}, "
            f"{place.signed.stat().st_size / 1e9:.2f} GB, and {sizes.common}; medians of {chosen.runs}"
        )
        table = Table("", "this", "other", "found", "contract", "")
        for row in rows(place, chosen.runs):
            verdict = {True: "kept", False: "MISSED", None: ""}[row.kept]
            table.add_row(row.what, row.ours, row.theirs, row.found, row.contract, verdict)
        console.print(table)


class Place:
    """A directory with the files to measure on: random weights, which weigh as much as trained ones."""

    def __init__(self, directory: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        self.directory = directory
        self.signing = directory / "signed"
        self.signed = self.signing / "large.safetensors"
        self.common = {suffix: directory / f"common{suffix}" for suffix in (".pt", ".safetensors")}
        self.saves = directory / "saves"
        self.signing.mkdir()
        self.saves.mkdir()
        run([*MANIFEST, "keygen", directory / "release"])
        self._save(sizes.large, sizes.large_precision, self.signed, key=directory / "release.key")
        for path in self.common.values():
            self._save(sizes.common, "fp32", path)

    def _save(self, model: str, precision: str, path: Path, key: Path | None = None) -> None:
        program = (
            "import sys, manifest; model, precision, path, key = sys.argv[1:];"
            "manifest.save(manifest.create_model(model, precision=precision), path, key=key or None, golden=False)"
        )
        run([sys.executable, "-c", program, model, precision, path, key or ""])
        path.read_bytes()  # into the page cache: what is measured is this program, not the disk


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Every measurement."""
    yield from _verifying(place, runs)
    yield from _starting(place, runs)
    yield from _loading(place, runs)
    yield from _saving(place, runs)


def _verifying(place: Place, runs: int) -> Iterator[Row]:
    public = place.directory / "release.pub"
    verify = [*MANIFEST, "verify", "--fast", place.signed, "--key", public]
    signature = place.signed.with_name(f"{place.signed.name}.manifest.sig")
    model_signing = [sys.executable, "-m", "model_signing", "verify", "key", place.signing]
    model_signing += ["--signature", signature, "--public_key", public, "--ignore_unsigned_files"]
    title = "verify --fast, whole process"
    try:
        pair = in_turn(seconds_of(verify), seconds_of(model_signing), runs)
        yield _faster(f"{title} / model_signing verify", pair, 5)
    except RuntimeError as error:
        yield _skipped(f"{title} / model_signing verify", str(error).splitlines()[-1])
    if b3sum := shutil.which("b3sum"):
        yield _within(f"{title} / b3sum", in_turn(seconds_of(verify), seconds_of([b3sum, place.signed]), runs), 1.3)
    else:
        yield _skipped(f"{title} / b3sum", "b3sum is not installed")
    hashing = [sys.executable, "-c", BLAKE3, place.signed]
    pair = in_turn(seconds_said_by([*INSIDE, "hash", place.signed]), seconds_of(hashing), runs)
    yield _row("its integrity check by itself / python with blake3 alone", pair, f"{pair.ratio:.2f}×", "", None)
    yield _within(f"{title} / python with blake3 alone", in_turn(seconds_of(verify), seconds_of(hashing), runs), 1.3)
    seen = run(verify, look=True)
    yield Row(
        "verify --fast, peak memory without the mapped file (RssAnon)",
        _megabytes(seen.anonymous),
        f"{_megabytes(seen.peak)} with it",
        _megabytes(seen.anonymous),
        "< 150 MB",
        seen.anonymous < 150 * MB,
    )


def _starting(place: Place, runs: int) -> Iterator[Row]:
    for name, arguments in (("--help", ["--help"]), ("show", ["show", place.signed])):
        command = [*MANIFEST, *arguments]
        seconds = statistics.median(run(command).seconds for _ in range(runs))
        imports = subprocess.run(
            [sys.executable, "-X", "importtime", *map(str, command[1:])], capture_output=True, text=True, check=True
        ).stderr
        torch = any(line.rpartition("|")[2].strip() == "torch" for line in imports.splitlines())
        words = f"{seconds:.2f} s, torch {'imported' if torch else 'not imported'}"
        yield Row(f"manifest {name}, whole process", words, "", words, "< 0.5 s, no torch", seconds < 0.5 and not torch)


def _loading(place: Place, runs: int) -> Iterator[Row]:
    for suffix, path in place.common.items():
        fast = [*INSIDE, "load", path, "fast"]
        theirs = [*INSIDE, "open_clip", place.sizes.common, path]
        what = f"load {place.sizes.common}{suffix}, integrity checked"
        pair = in_turn(seconds_said_by(fast), seconds_said_by(theirs), runs)
        yield _faster(f"{what} / open_clip.create_model, after imports", pair, 5)
        mine, other = run(fast, look=True).anonymous, run(theirs, look=True).anonymous
        yield Row(
            f"{what}, peak memory of the process (RssAnon) / the same",
            _megabytes(mine),
            _megabytes(other),
            f"{mine / other:.2f}×",
            "≤ 0.33×",
            mine <= other / 3,
        )
        full = in_turn(seconds_said_by([*INSIDE, "load", path, "full"]), seconds_said_by(theirs), 1)
        yield _row(f"the same with verify='full', {suffix}", full, f"{1 / full.ratio:.1f}× faster", "", None)


def _saving(place: Place, runs: int) -> Iterator[Row]:
    for suffix in place.common:
        said = run([*INSIDE, "save", place.sizes.common, suffix, str(runs), place.saves]).output
        seconds = json.loads(said.splitlines()[-1])
        ours = seconds["manifest"]
        for other, words in (("torch", "torch.save"), ("durable", "torch.save and fsync")):
            theirs = seconds[other]
            ratio = statistics.median(one / two for one, two in zip(ours, theirs, strict=True))
            pair = Pair(statistics.median(ours), statistics.median(theirs), ratio)
            yield _within(f"save {place.sizes.common}{suffix}, no golden outputs, with fsync / {words}", pair, 1.15)


def _faster(what: str, pair: Pair, times: float) -> Row:
    return _row(what, pair, f"{1 / pair.ratio:.1f}× faster", f"≥ {times:g}× faster", 1 / pair.ratio >= times)


def _within(what: str, pair: Pair, times: float) -> Row:
    return _row(what, pair, f"{pair.ratio:.2f}×", f"≤ {times:g}×", pair.ratio <= times)


def _row(what: str, pair: Pair, found: str, contract: str, kept: bool | None) -> Row:
    return Row(what, f"{pair.ours:.2f} s", f"{pair.theirs:.2f} s", found, contract, kept)


def _skipped(what: str, reason: str) -> Row:
    return Row(what, "", "", f"skipped: {reason}", "", None)


def _megabytes(count: int) -> str:
    return f"{count / MB:,.0f} MB"


if __name__ == "__main__":
    main()
