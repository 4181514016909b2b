"""How a remedy is followed: by its own words, which are cut out of the finding and run, not typed again in a test.

A cure is a generator. It makes a real case and yields the report that has the finding; it is sent the advice, does what
that says, and yields a report each time it was followed in one of its ways. An error is heeded alike: what is yielded
are calls, of which the first must be refused, and the others must not be.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import manifest
from manifest.errors import ManifestError
from manifest.schema.report import Report
from manifest.signing import generate_keys

State = dict[str, Tensor]

TEST_VIT = {"LIBRARY": "timm", "NAME": "test_vit"}
"""What to put into `manifest create CKPT --family LIBRARY --model NAME` for the checkpoint that cases begin with."""

_PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")


@dataclass
class Bench:
    """Where a case is made.

    Attributes:
        folder: An empty directory, in which commands run.
        run: `manifest ARGUMENTS` in it.
        digits: `fixtures/digits_clip/evaluate.py`, with its model registered.
        source: A directory with `ckpt.pt`, a trained `test_vit` of timm, as it was saved and signed, and keys.
    """

    folder: Path
    run: Callable[..., Any]
    digits: ModuleType
    source: Path

    def signed(self) -> Path:
        """The signed checkpoint, with `release.key`, `release.pub` and another pair of keys beside it."""
        self.again(*(file.name for file in self.source.iterdir() if file.is_file()))
        return self.folder / "ckpt.pt"

    def unsigned(self) -> Path:
        """The same weights with a manifest that nobody signed."""
        path = self.folder / "ckpt.pt"
        model = timm.create_model("test_vit")
        model.load_state_dict(torch.load(self.source / "ckpt.pt"))
        manifest.save(model.eval(), path)
        return path

    def again(self, *names: str) -> None:
        """Get files again from their source."""
        for name in names:
            shutil.copy(self.source / name, self.folder / name)

    def state(self) -> State:
        """The weights of a trained `test_vit`."""
        return dict(torch.load(self.source / "ckpt.pt"))

    def clip(self) -> State:
        """The weights of the trained digits CLIP."""
        return dict(load_file(self.digits.WEIGHTS))

    def clip_on_record(self) -> Path:
        """The digits CLIP with its manifest and golden outputs, which are made once."""
        place = self.source / "clip"
        if not place.exists():
            place.mkdir()
            manifest.save(manifest.load(self.digits.WEIGHTS, verify="none"), place / "clip.pt")
        shutil.copytree(place, self.folder, dirs_exist_ok=True)
        return self.folder / "clip.pt"

    def write(self, state: State, name: str = "weights.safetensors") -> Path:
        """Weights as a file without a manifest, by the ending of its name."""
        path = self.folder / name
        if name.endswith(".safetensors"):
            save_file({key: value.contiguous() for key, value in state.items()}, path)
        else:
            torch.save(state, path)
        return path

    def must(self, *arguments: object) -> None:
        """Run a command, which must succeed."""
        answer = self.run(*arguments)
        assert answer.code == 0, answer

    def report(self, *arguments: object) -> Report:
        """The report that a command prints."""
        answer = self.run(*arguments, "--format", "json")
        assert answer.out, answer.err
        return Report.model_validate_json(answer.out)


@dataclass
class Advice:
    """What a finding, or an error, says to do.

    Attributes:
        text: The remedy of a finding, or the sentence of an error.
        bench: Where its case was made.
        above: The message of a finding.
        followed: The words of it that were followed.
    """

    text: str
    bench: Bench
    above: str = ""
    followed: list[str] = field(default_factory=list)

    def says(self, words: str) -> None:
        """Hold that the remedy tells a person to do this, which the case does next."""
        assert words in self.text, self.text
        self.followed.append(words)

    def found(self, pattern: str, *, above: bool = False) -> re.Match[str]:
        """Words of the remedy, or of the message above it where that is what it refers to."""
        match = re.search(pattern, self.above if above else self.text)
        assert match, self.text
        self.followed.append(match[0])
        return match

    def command(self, name: str, put_in: Mapping[str, object]) -> list[str]:
        """The arguments of a `manifest` command in it, with real names put in for those in capitals."""
        words = shlex.split(self.found(rf"`manifest ({name}[^`]*)`")[1])
        return [_filled(word, put_in) for word in words]

    def options(self, name: str, put_in: Mapping[str, object] | None = None, *, above: bool = False) -> list[str]:
        """An option that it names in backquotes, with its value."""
        words = self.found(rf"`({name}[^`]*)`", above=above)[1]
        return [_filled(word, put_in or {}) for word in shlex.split(words)]

    def runs(self, name: str, put_in: Mapping[str, object]) -> None:
        """Run a command of it, which must succeed."""
        self.bench.must(*self.command(name, put_in))

    def looks(self, name: str, put_in: Mapping[str, object]) -> Report:
        """Run a command of it that looks at a checkpoint, and give its report."""
        return self.bench.report(*self.command(name, put_in))

    def argument(self, name: str) -> dict[str, Any]:
        """An argument that it names with its value, as in `precision='fp16'`."""
        match = self.found(rf"\b{name}=('[^']*'|\[[^]]*\]|[\w.]+)")
        return {name: ast.literal_eval(match[1])}

    def evaluated(self, pattern: str, **names: Any) -> Any:
        """What the Python in it gives, where a pattern finds it and names stand for what the reader has."""
        match = self.found(pattern)
        return eval(match[match.lastindex or 0], {"manifest": manifest, "torch": torch, **names})


Case = Generator[Report, Advice, None]
Cure = Callable[[Bench], Case]

Attempt = Callable[[], object]
Attempts = Generator[Attempt, Advice, None]
Heeding = Callable[[Bench], Attempts]


def _filled(word: str, put_in: Mapping[str, object]) -> str:
    for placeholder, value in put_in.items():
        if placeholder in word:
            return word.replace(placeholder, str(value))
    assert not _PLACEHOLDER.search(word), f"nothing is known to put in for {word}"
    return word


def follow(cure: Cure, code: str, bench: Bench) -> None:
    """Raise a finding, follow its remedy, and hold that it is gone each time."""
    case = cure(bench)
    found = next((each for each in next(case).findings() if each.rule == code), None)
    assert found is not None, f"the case does not raise {code}"
    advice = Advice(found.remedy or "", bench, above=found.message)
    ways = 0
    report: Report | None = case.send(advice)
    while report is not None:
        assert report.error is None, report
        assert code not in {each.rule for each in report.findings()}, (advice.followed, report)
        ways += 1
        report = next(case, None)
    assert len(advice.followed) >= ways > 0


def heed(heeding: Heeding, bench: Bench) -> None:
    """Try what must be refused, do what the error says, and hold that what is tried then is not refused."""
    trying = heeding(bench)
    refused = next(trying)
    with pytest.raises(ManifestError) as caught:
        refused()
    advice = Advice(str(caught.value), bench)
    attempt: Attempt | None = trying.send(advice)
    while attempt is not None:
        attempt()
        attempt = next(trying, None)
    assert advice.followed


def trained_state(model: Any, deviation: float = 0.02) -> State:
    """The state dict of a model, moved so far from its initialisation that it looks trained."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * deviation)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def make_source(place: Path) -> Path:
    """Save and sign the checkpoint that cases begin with."""
    for name in ("release", "other"):
        generate_keys(place / name)
    torch.manual_seed(0)
    model = timm.create_model("test_vit").eval()
    trained_state(model)
    manifest.save(model, place / "ckpt.pt", key=place / "release.key")
    return place
