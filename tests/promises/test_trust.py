"""A manifest that was made up, and answers that arithmetic could explain: neither is believed for being well-formed.

`--whole` changes every field of six manifests in twelve ways; without it, a seeded sample of them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import open_clip.transformer
import pytest
import torch
from rich.console import Console
from torch import nn

import manifest
from manifest.errors import ManifestError
from manifest.golden.compare import MULTIPLE, WIDEST, Grade, tolerance
from manifest.rendering import text
from manifest.schema.document import Golden
from manifest.schema.report import Report
from manifest.signing import PrivateKey, generate_keys, load_private_key, sign_resources
from manifest.storage.sidecars import Sidecars
from manifest.storage.transaction import read_manifest
from tests.promises.attempts import Attempt
from tests.promises.judging import changes, tally
from tests.promises.mutating import MUTATIONS, places
from tests.promises.six import MODULE, PROBE, SIX
from tests.promises.six import detector as save_detector
from tests.promises.six import open_clip as save_open_clip

SAMPLE = 3
"""Changes of each manifest in an ordinary run."""


def said(report: Report) -> str:
    """The report as a person reads it."""
    console = Console(width=400, no_color=True)
    with console.capture() as capture:
        console.print(text.report(report))
    return capture.get()


@pytest.fixture(scope="module")
def saved(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_open_clip(digits, tmp_path_factory.mktemp("trust"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(None, tmp_path_factory.mktemp("detector"))


@pytest.fixture
def record(saved: Path) -> Iterator[dict[str, Any]]:
    """The manifest as JSON; put back afterwards."""
    before = Sidecars(saved).manifest.read_bytes()
    yield json.loads(before)
    Sidecars(saved).manifest.write_bytes(before)


def _golden(record: dict[str, Any]) -> dict[str, Any]:
    golden: dict[str, Any] = record["golden"][0]
    return golden


def _join_towers(record: dict[str, Any]) -> None:
    """One component of two, with counts that add up and the digest of both."""
    from manifest.digests import weights_digest

    first, second = record["components"][:2]
    first["prefixes"] += second["prefixes"]
    first["expected"] += second["expected"]
    first["present"] += second["present"]
    del record["components"][1]
    exact = {prefix for prefix in first["prefixes"] if not prefix.endswith(".")}
    starts = tuple(prefix for prefix in first["prefixes"] if prefix.endswith("."))
    tensors = [t for t in record["weights"]["tensors"] if t["name"] in exact or t["name"].startswith(starts)]
    first["digest"] = weights_digest((t["name"], t["digest"]) for t in tensors)


def _other_tensor_digest(record: dict[str, Any]) -> None:
    """A tensor's digest, and those over it, so that they agree."""
    from manifest.digests import weights_digest

    tensors = record["weights"]["tensors"]
    name = tensors[0]["name"]
    tensors[0]["digest"] = f"blake3:{'1' * 64}"
    record["weights"]["digest"] = weights_digest((t["name"], t["digest"]) for t in tensors)
    for part in record["components"]:
        exact = {prefix for prefix in part["prefixes"] if not prefix.endswith(".")}
        starts = tuple(prefix for prefix in part["prefixes"] if prefix.endswith("."))
        own = [t for t in tensors if t["name"] in exact or t["name"].startswith(starts)]
        if name in {t["name"] for t in own}:
            part["digest"] = weights_digest((t["name"], t["digest"]) for t in own)


def _lowered(record: dict[str, Any]) -> None:
    record["components"][0].update(expected=1, present=1)


def _absent(record: dict[str, Any]) -> None:
    record["components"][0].update(expected=99, status="partial", by_design=True, missing=["visual.more"])


def _everywhere(record: dict[str, Any], **update: Any) -> None:
    for output in (*_golden(record)["outputs"].values(), *_golden(record)["brief"].values()):
        output.update(update)


ZEROS = f"blake3:{'0' * 64}"
PASSED = "exit 0, with T002 alone"

MADE_UP = [
    Attempt("floor of 1e300", lambda r: _golden(r)["floor"].update(batch=1e300), 1, "G008", PASSED),
    Attempt("floor at the contrast", lambda r: _golden(r)["floor"].update(batch=0.0056), 1, "G008", PASSED),
    Attempt("floor far above what shows here", lambda r: _golden(r)["floor"].update(batch=3e-3), 1, "G008", PASSED),
    Attempt("floor below zero", lambda r: _golden(r)["floor"].update(batch=-1.0), 1, "G008", PASSED),
    Attempt("floor without its causes", lambda r: _golden(r).update(floor={"other": 1e-7}), 1, "G008", PASSED),
    Attempt("contrast of 1e3", lambda r: _golden(r).update(contrast={"activation GELU": 1e3}), 1, "G008", PASSED),
    Attempt("no contrast", lambda r: _golden(r).update(contrast={}), 1, "G008", PASSED),
    Attempt("contrast of something else", lambda r: _golden(r).update(contrast={"a": 0.05}), 1, "G008", PASSED),
    Attempt("norms of 1e30", lambda r: _everywhere(r, norm=1e30), 1, "G008", PASSED),
    Attempt("norms of 1e300", lambda r: _everywhere(r, norm=1e300), 1, "G008", PASSED),
    Attempt("norms three times as great", lambda r: _everywhere(r, norm=60.0), 1, "G008", PASSED),
    Attempt("empty sketches", lambda r: _everywhere(r, sketch=[]), 1, "G008", PASSED),
    Attempt("empty sketches and other digests",
             lambda r: _everywhere(r, sketch=[], digest=ZEROS), 1, "G008", "ValueError"),
    Attempt("sketches of 1e300", lambda r: _everywhere(r, sketch=[1e300] * 64, digest=ZEROS), 1, "G008", None),
    Attempt("inputs of another digest", lambda r: _golden(r).update(inputs=ZEROS), 1, "G002", PASSED),
    Attempt("layers of nothing", lambda r: _golden(r)["layers"][0].update(sketch=[]), 1, "G008", PASSED),
    Attempt("layers of another model", lambda r: _golden(r)["layers"].reverse(), 1, "G008", PASSED),
    Attempt("another probability",
             lambda r: _golden(r)["reading"][0]["prompts"].update({"a diagram": 0.9}), 1, "G008", PASSED),
    Attempt("another device", lambda r: _golden(r).update(device="cuda"), 1, "G008", PASSED),
    Attempt("another precision", lambda r: _golden(r).update(precision="fp8"), 1, "G008", "InputError"),
    Attempt("two records of the same", lambda r: r["golden"].append(r["golden"][0]), 1, "F006", PASSED),
    Attempt("fewer tensors expected", _lowered, 1, "F006", None),
    Attempt("more tensors expected, and partial by design", _absent, 1, "F006", PASSED),
    Attempt("component left out", lambda r: r["components"].pop(), 1, "F006", PASSED),
    Attempt("no components", lambda r: r["components"].clear(), 1, "F006", PASSED),
    Attempt("two components as one", _join_towers, 1, "A007", PASSED),
    Attempt("component of another role", lambda r: r["components"][0].update(role="backbone"), 1, "A007", PASSED),
    Attempt("component trained otherwise",
             lambda r: r["components"][0].update(training="initialised"), 1, "A007", PASSED),
    Attempt("tokenizer of another class",
             lambda r: r["architecture"]["tokenizer"].update({"class": "Tok"}), 1, "A007", PASSED),
    Attempt("model of another class", lambda r: r["architecture"].update({"class": "CoCa"}), 1, "", None),
    Attempt("operators counted otherwise",
             lambda r: r["architecture"]["operators"]["counts"].update(x=1), 1, "A007", PASSED),
    Attempt("other modules listed", lambda r: r["architecture"]["modules"].pop(), 1, "A007", PASSED),
    Attempt("other frozen parameters", lambda r: r["architecture"].update(frozen=["none."]), 1, "A007", PASSED),
    Attempt("no such precision", lambda r: r["architecture"].update(precision="fp9"), 1, "A005", PASSED),
    Attempt("more parameters", lambda r: r["weights"].update(parameters=1), 1, "F006", PASSED),
    Attempt("other element types", lambda r: r["weights"].update(dtypes={"float16": 3}), 1, "F006", PASSED),
    Attempt("weights tied that are not",
             lambda r: r["weights"]["tensors"][1].update(alias=r["weights"]["tensors"][0]["name"]), 1, "F006", PASSED),
    Attempt("another digest of a tensor, throughout", _other_tensor_digest, 1, "F006", PASSED),
    Attempt("another SHA-256", lambda r: r["checkpoint"]["files"][0].update(sha256="0" * 64), 1, "F006", PASSED),
    Attempt("other extras", lambda r: r["checkpoint"].update(extras=["optimizer"]), 1, "F006", PASSED),
    Attempt("weights under other keys", lambda r: r["checkpoint"]["state"].update(path=["a"]), 1, "F006", PASSED),
    Attempt("another prefix", lambda r: r["checkpoint"]["state"].update(prefix="module."), 1, "F006", PASSED),
    Attempt("file of a name of 200,000 letters",
             lambda r: r["checkpoint"]["files"][0].update(path="x" * 200_000), 2,
            "checkpoint.files.0.path", "OSError, in a directory"),
    Attempt("no mean of pixels", lambda r: r["architecture"]["preprocess"].update(mean=[]), 1, "F006", PASSED),
    Attempt("no torch", lambda r: r["environment"].update(libraries={}), 1, "F006", PASSED),
    Attempt("half a character",
             lambda r: r["components"][0].update(role="\ud800"),
             2, "which is not Unicode", "PydanticSerializationError"),
    Attempt("nothing made up",
             lambda _: None, 0, "is consistent, by a manifest that nobody signed", "passes, with warnings: trust"),
]  # fmt: skip


_ROWS = [pytest.param(attempt, False, id=str(attempt)) for attempt in MADE_UP]
_ROWS += [pytest.param(attempt, True, id=f"signed: {attempt}") for attempt in MADE_UP[::4]]


@pytest.mark.parametrize(("attempt", "signed"), _ROWS)
def test_made_up_manifest(
    attempt: Attempt, signed: bool, saved: Path, record: dict[str, Any], key: tuple[PrivateKey, Path]
) -> None:
    """Whoever signed it: values that no save writes are findings."""
    attempt.make(record)
    Sidecars(saved).manifest.write_text(json.dumps(record))
    try:
        if signed:
            sign_as_it_is(saved, record, key[0])
        report = manifest.verify(saved, key=key[1] if signed else None)
    except (ManifestError, UnicodeError) as error:
        assert attempt.exit == 2
        assert str(attempt.says) in str(error) or signed
        return
    finally:
        Sidecars(saved).signature.unlink(missing_ok=True)
    assert report.exit_code == attempt.exit, said(report)
    if attempt.exit == 0 and signed:
        assert "nobody signed" not in said(report)
    else:
        assert str(attempt.says) in said(report)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[PrivateKey, Path]:
    private, public = generate_keys(tmp_path_factory.mktemp("keys") / "release")
    return load_private_key(private), public


def sign_as_it_is(path: Path, content: dict[str, Any], key: PrivateKey) -> None:
    """A genuine signature of whatever the manifest says, as its trusted signer could make it."""
    sidecars = Sidecars(path)
    resources = {file["path"]: file["sha256"] for file in content["checkpoint"]["files"]}
    resources[sidecars.manifest.name] = hashlib.sha256(sidecars.manifest.read_bytes()).hexdigest()
    sidecars.signature.write_bytes(sign_resources(path.name, resources, key))


def _gelu(self: Any, x: torch.Tensor) -> torch.Tensor:
    del self
    return nn.functional.gelu(x)


def _saved_elsewhere(path: Path, *, floor: bool = True) -> None:
    """As if it were saved on a machine that computes otherwise."""
    content = json.loads(Sidecars(path).manifest.read_text())
    content["environment"]["platform"] = "Linux-aarch64"
    content["environment"]["hardware"]["cpu_capability"] = "NEON"
    if not floor:
        content["golden"][0]["floor"] = {}
    Sidecars(path).manifest.write_text(json.dumps(content))


def _patched(path: Path, patch: pytest.MonkeyPatch) -> Report:
    patch.setattr(open_clip.transformer.QuickGELU, "forward", _gelu)
    return manifest.verify(path)


def _patched_in_bf16(path: Path, patch: pytest.MonkeyPatch) -> Report:
    patch.setattr(open_clip.transformer.QuickGELU, "forward", _gelu)
    torch.set_default_dtype(torch.bfloat16)
    return manifest.verify(path)


def _patched_elsewhere_in_bf16(path: Path, patch: pytest.MonkeyPatch) -> Report:
    _saved_elsewhere(path)
    return _patched_in_bf16(path, patch)


def _patched_elsewhere(path: Path, patch: pytest.MonkeyPatch) -> Report:
    _saved_elsewhere(path, floor=False)
    return _patched(path, patch)


def _right_elsewhere(path: Path, patch: pytest.MonkeyPatch) -> Report:
    del patch
    _saved_elsewhere(path, floor=False)
    return manifest.verify(path)


def _asked_in(
    dtype: torch.dtype, *, wrong: bool = False, autocast: bool = False
) -> Callable[[Path, pytest.MonkeyPatch], Report]:
    def ask(path: Path, patch: pytest.MonkeyPatch) -> Report:
        model = manifest.load(path)
        if wrong:
            patch.setattr(open_clip.transformer.QuickGELU, "forward", _gelu)
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            answers = manifest.answer(model if autocast else model.to(dtype), path)
        patch.undo()
        return manifest.compare(answers, path, across_precisions=True)

    return ask


def _answers_with(**update: Any) -> Callable[[Path, pytest.MonkeyPatch], Report]:
    """Answers of a wrong model, in which something is made up so that they come near."""

    def ask(path: Path, patch: pytest.MonkeyPatch) -> Report:
        model = manifest.load(path)
        patch.setattr(open_clip.transformer.QuickGELU, "forward", _gelu)
        answers = manifest.answer(model, path)
        patch.undo()
        outputs = {name: output.model_copy(update=update) for name, output in answers.outputs.items()}
        return manifest.compare(answers.model_copy(update={"outputs": outputs}), path)

    return ask


SAME = "exit 0: equivalent, by the floor of this machine"

ANSWERS = [
    Attempt("wrong activation", _patched, 1, "fails: golden"),
    Attempt("wrong activation, bf16 by default", _patched_in_bf16, 1, "golden", SAME),
    Attempt("the same, saved elsewhere", _patched_elsewhere_in_bf16, 1, "golden", SAME),
    Attempt("wrong activation, saved elsewhere without a floor", _patched_elsewhere, 1, "G001"),
    Attempt("right one, saved elsewhere without a floor", _right_elsewhere, 0, "is consistent"),
    Attempt("right one in bf16", _asked_in(torch.bfloat16), 2, "G007", "exit 0: says the same"),
    Attempt("wrong activation in bf16", _asked_in(torch.bfloat16, wrong=True), 2, "G007", "exit 0: says the same"),
    Attempt("wrong activation under autocast",
             _asked_in(torch.bfloat16, wrong=True, autocast=True), 2, "G007", "exit 0"),
    Attempt("right one in fp16", _asked_in(torch.float16), 0, "says the same"),
    Attempt("wrong activation in fp16", _asked_in(torch.float16, wrong=True), 1, "G001"),
    Attempt("answers of a huge norm", _answers_with(norm=1e30), 1, "G001"),
    Attempt("answers without sketches", _answers_with(sketch=[]), 1, "G001"),
    Attempt("answers of sketches of 1e300", _answers_with(sketch=[1e300] * 64), 1, "G001"),
]  # fmt: skip


@pytest.fixture
def defaults() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("attempt", ANSWERS, ids=str)
@pytest.mark.usefixtures("record", "defaults")
def test_answers_that_arithmetic_could_explain(attempt: Attempt, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = attempt.make(saved, monkeypatch)
    assert report.exit_code == attempt.exit, said(report)
    assert str(attempt.says) in said(report)
    if attempt.exit == 2:
        assert "could not be checked to its end: golden" in said(report)


def test_floor_of_objects_that_nothing_shows_is_a_finding(detector: Path) -> None:
    before = Sidecars(detector).manifest.read_text()
    content = json.loads(before)
    content["golden"][0]["floor"]["objects"] = 2.0
    Sidecars(detector).manifest.write_text(json.dumps(content))
    try:
        assert "G008" in {item.rule for item in manifest.verify(detector).findings()}
    finally:
        Sidecars(detector).manifest.write_text(before)


def test_file_of_a_directory_that_the_manifest_does_not_list_is_a_finding(digits: Any, tmp_path: Path) -> None:
    path = SIX["sharded"](digits, tmp_path)
    content = json.loads(Sidecars(path).manifest.read_text())
    del content["checkpoint"]["files"][1]
    Sidecars(path).manifest.write_text(json.dumps(content))
    report = manifest.verify(path, fast=True)  # passed before, and the bytes of that file were compared with nothing
    assert report.exit_code == 1
    assert "consists of other files than the manifest lists" in said(report)


def _record(path: Path, **update: Any) -> Golden:
    return read_manifest(path).golden[0].model_copy(update=update)


def test_floor_measured_here_is_bounded_by_the_one_on_record_and_by_the_contrast(saved: Path) -> None:
    golden = _record(saved, floor={"batch": 1e-6}, contrast={"activation GELU": 1e-2})
    assert tolerance(golden, {"batch": 2e-6}).equivalent == pytest.approx(MULTIPLE * 2e-6)
    assert tolerance(golden, {"batch": 1.0}).equivalent == pytest.approx(WIDEST * MULTIPLE * 1e-6)
    assert tolerance(golden, {"batch": 1.0}).grade(1e-2) is Grade.UNCERTAIN
    assert tolerance(golden, {"batch": 1e-6}).grade(1e-2) is Grade.DIFFERENT
    assert tolerance(golden, {"bf16": 1.0}, across=True).equivalent == pytest.approx(5e-3)
    assert tolerance(golden, {"batch": float("nan")}).grade(1e-2) is Grade.UNCERTAIN
    near = _record(saved, floor={"batch": 1e-2}, contrast={"activation GELU": 1e-2})
    assert tolerance(near).equivalent == pytest.approx(5e-3)
    assert tolerance(near).grade(3e-2) is Grade.UNCERTAIN
    assert tolerance(_record(saved, floor={"cuda, tf32": 1e-2})).equivalent < 1e-6


# A detector takes ten times as long as the others.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.whole) if name == "detection" else name for name in SIX]
)
def test_no_field_of_a_manifest_can_be_changed_unseen(
    name: str,
    digits: Any,
    tmp_path: Path,
    key: tuple[PrivateKey, Path],
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = request.config.getoption("--whole", default=False)
    path = request.getfixturevalue("detector") if name == "detection" else SIX[name](digits, tmp_path)
    content = json.loads(Sidecars(path).manifest.read_text())
    plain = {item.message for item in manifest.verify(path, allow=[MODULE], probes=[PROBE]).findings()}
    every = [(place, mutation) for place in places(content) for mutation in MUTATIONS]
    assert len(every) > 1000
    if not whole:
        random.Random(f"trust {name}").shuffle(every)
    cases = list(islice(changes(content, every), None if whole else SAMPLE))
    unsigned = tally(path, cases, plain)
    again = tally(path, cases, plain, sign=lambda new: sign_as_it_is(path, new, key[0]), key=key[1])
    sign_as_it_is(path, content, key[0])
    after = tally(path, cases, plain, key=key[1])
    with capsys.disabled():
        print(
            f"\n{name}, {len(cases)} changes\n  unsigned: {unsigned}\n  signed again: {again}\n  after signing: {after}"
        )
    assert not unsigned.wrong
    assert not again.wrong
    assert not after.wrong
    assert not after.harmless
