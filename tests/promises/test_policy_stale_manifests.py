"""Manifests that spoke for bytes that are not theirs, and "trained" where nothing was known.

A row's `make` takes a directory of copies and gives the exit status and what was said.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import manifest
from manifest.storage.transaction import read_manifest
from manifest.training.recording import recording
from manifest.workflows.auditing import audit
from tests.promises.attempts import Attempt
from tests.promises.policy_files import (
    FACTORY,
    NAME,
    Place,
    command,
    file,
    half_a_file,
    said,
    trained,
    without_components,
)


def verified(name: str, **arguments: Any) -> Callable[[Place], tuple[int, str]]:
    return lambda place: said(lambda: manifest.verify(place.file(name), fast=True, **arguments))


def shown(name: str) -> Callable[[Place], tuple[int, str]]:
    return lambda place: command("show", place.file(name))


def noise_described(place: Place) -> tuple[int, str]:
    return command("create", place.file("noise.pt"), "--family", "callable", "--model", FACTORY, "--no-golden")


WORDS = [
    Attempt("noise of which nothing tells", verified("noise.pt"), 0, "1 unknown (backbone)", "complete and trained"),
    Attempt(
        "a head of which nothing tells",
        verified("unknown.safetensors"),
        0,
        "1 trained, 1 unknown (head)",
        "and trained",
    ),
    Attempt("a fresh model", verified("fresh.safetensors"), 0, "initialised (backbone", "none of them trained"),
    Attempt("a trained model", verified("good.safetensors"), 0, "2 of 2 components complete; 2 trained"),
    Attempt(
        "no components",
        lambda place: said(lambda: manifest.verify(without_components(place), fast=True)),
        1,
        "the manifest names no components",
        "0 of 0 components complete and trained",
    ),
    Attempt("noise, shown", shown("noise.pt"), 0, "1 unknown (backbone)"),
    Attempt("a head of which nothing tells, shown", shown("unknown.safetensors"), 0, "1 trained, 1 unknown (head)"),
    Attempt("noise, described anew", noise_described, 0, "1 unknown (backbone)"),
    Attempt(
        "a head of which nothing tells, audited",
        lambda place: said(lambda: audit(place.file("unknown.safetensors"))),
        0,
        "1 trained, 1 unknown",
    ),
]


@pytest.mark.parametrize("attempt", WORDS, ids=str)
def test_what_is_not_known_to_be_trained_is_counted_and_not_called_so(attempt: Attempt, place: Place) -> None:
    code, words = attempt.make(place)
    assert code == attempt.exit
    assert str(attempt.says) in words
    assert "and trained" not in words


def differing(one: Callable[[Place], Path], other: Callable[[Place], Path]) -> Callable[[Place], tuple[int, str]]:
    return lambda place: command("diff", one(place), other(place))


def without_digests(place: Place) -> Path:
    """Another model whose manifest has right sums of the file, and the tensors and components of the first one."""
    good = json.loads(place.file("good.safetensors.manifest.json").read_text())

    def edit(text: str) -> str:
        return json.dumps(json.loads(text) | {"weights": good["weights"], "components": []})

    return place.edited("another.safetensors", edit)


def logged(damage: Callable[[Place], Path], *words: str, key: bool = True) -> Callable[[Place], tuple[int, str]]:
    return lambda place: command("log", damage(place), *(("--key", place.key) if key else ()), *words)


def longer(place: Place) -> Path:
    path = place.file("good.safetensors")
    path.write_bytes(path.read_bytes() + b" ")
    return path


def renamed(place: Place) -> Path:
    for suffix in ("", ".manifest.json", ".manifest.sig"):
        place.file(f"good.safetensors{suffix}").rename(place.file(f"best.safetensors{suffix}"))
    return place.file("best.safetensors")


def flipped(place: Place) -> Path:
    return place.flipped("good.safetensors")


def stale(place: Place) -> Path:
    return place.beside("another.safetensors", "good.safetensors")


def compared(place: Place) -> tuple[int, str]:
    answers = manifest.answer(trained(), place.file("good.safetensors"))
    return said(lambda: manifest.compare(answers, flipped(place)))


def converted(place: Place) -> tuple[int, str]:
    return command("convert", flipped(place), place.file("out.safetensors"))


STALE = [
    Attempt(
        "diff with a file that changed",
        differing(file("unsigned.safetensors"), flipped),
        1,
        "of 80 tensors differ",
        "the same weights",
    ),
    Attempt(
        "diff with another file under its manifest",
        differing(file("good.safetensors"), stale),
        1,
        "describes other weights than it holds",
        "the same weights",
    ),
    Attempt(
        "diff with a manifest whose digests are another's",
        differing(file("good.safetensors"), without_digests),
        1,
        "describes other weights than it holds",
        "the same weights",
    ),
    Attempt(
        "diff of a file with itself, under another's manifest",
        differing(stale, stale),
        1,
        "describes other weights than it holds",
        "the same weights",
    ),
    Attempt("diff of the same weights", differing(file("good.safetensors"), file("good.pt")), 0, "the same weights"),
    Attempt("diff with a file that cannot be read", differing(file("good.pt"), half_a_file), 2, "good.safetensors"),
    Attempt(
        "log of a file that changed, with the key",
        logged(flipped),
        0,
        "of the manifest alone",
        "signed by the trusted key",
    ),
    Attempt(
        "log of a longer file, with the key", logged(longer), 0, "of the manifest alone", "signed by the trusted key"
    ),
    Attempt("log of a longer file", logged(longer, key=False), 0, "are described", "nothing"),
    Attempt("log of a file that changed", logged(flipped, key=False), 0, "bytes      not read", "nothing"),
    Attempt("log of a file that changed, as JSON", logged(flipped, "--format", "json"), 0, '"trusted": false', "true"),
    Attempt("log of a signed file, with the key", logged(file("good.safetensors")), 0, "signed by the trusted key"),
    Attempt(
        "show of a file of another name",
        lambda place: command("show", renamed(place)),
        0,
        "best.safetensors (saved as good.safetensors)",
        "good.safetensors",
    ),
    Attempt("show of a file that changed", lambda place: command("show", flipped(place)), 0, "not read", "nothing"),
    Attempt("show of a longer file", lambda place: command("show", longer(place)), 0, "are described", "nothing"),
    Attempt("show of who signed", shown("good.safetensors"), 0, "as the manifest says; not checked", "signed by"),
    Attempt("compare with a file that changed", compared, 1, "I002", "says the same"),
    Attempt("convert a file that changed", converted, 2, "does not hold the weights that its manifest describes"),
]


@pytest.mark.parametrize("attempt", STALE, ids=str)
def test_manifest_speaks_for_no_bytes_that_are_not_its_own(attempt: Attempt, place: Place) -> None:
    code, words = attempt.make(place)
    assert (code, str(attempt.says) in words) == (attempt.exit, True), words


def test_sign_refuses_a_file_that_changed(place: Place) -> None:
    code, words = command("sign", flipped(place), "--key", place.file("release.key"))
    assert (code, "so it was not signed" in words) == (2, True)


def test_file_of_another_size_is_no_parent_with_a_digest(place: Place) -> None:
    model = manifest.load(place.beside("good.pt", "good.safetensors"), verify="none")
    manifest.save(model, place.file("child.safetensors"), golden=False)
    (parent,) = read_manifest(place.file("child.safetensors")).provenance.parents
    assert (parent.name, parent.weights) == ("good.pt", None)


def test_create_model_does_not_go_by_the_manifest_of_other_weights(digits: Any, tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    for suffix in ("", ".manifest.json"):
        shutil.copy(f"{digits.WEIGHTS}{suffix}", f"{path}{suffix}")
    wrong: dict[str, Any] = {"pretrained": str(path), "force_quick_gelu": False}
    with pytest.raises(manifest.errors.CreationMismatchError):
        manifest.create_model(digits.MODEL, **wrong, quick_gelu=False)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="is not what its manifest describes .* other bytes"):
        model: Any = manifest.create_model(digits.MODEL, **wrong, quick_gelu=False, on_mismatch="follow")
    assert type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "GELU"


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of a trained model and another that was never trained, which is not the same in both."""
    folder = tmp_path_factory.mktemp("several")
    with recording(golden="none"):
        model: Any = timm.create_model(NAME)
        average: Any = timm.create_model(NAME)
        model.load_state_dict(trained().state_dict())
        torch.save({"state_dict": model.state_dict(), "state_dict_ema": average.state_dict()}, folder / "one.pt")
        other: Any = timm.create_model(NAME)
        torch.save({"state_dict": model.state_dict(), "state_dict_ema": other.state_dict()}, folder / "other.pt")
    return folder


def test_demands_on_a_model_are_on_each_of_several_in_a_file(several: Path, tmp_path: Path) -> None:
    policy = Place(tmp_path).policy("components: {trained: true}")
    report = manifest.verify(several / "one.pt", fast=True, policy=policy)
    assert [item.where for item in report.rungs[-1].findings] == ["state_dict_ema: backbone", "state_dict_ema: head"]
    assert report.exit_code == 1


def test_diff_compares_each_of_several_models(several: Path) -> None:
    code, words = command("diff", several / "one.pt", several / "other.pt")
    assert (code, "state_dict_ema: backbone" in words) == (1, True)
    assert command("diff", several / "one.pt", several / "one.pt")[0] == 0


def test_manifest_of_what_was_converted_is_of_that_alone(several: Path, tmp_path: Path) -> None:
    assert command("convert", several / "one.pt", tmp_path / "one.safetensors")[0] == 0
    assert manifest.verify(tmp_path / "one.safetensors", fast=True).exit_code == 0
