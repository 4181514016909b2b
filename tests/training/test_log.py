"""`manifest log`: which checkpoint started from which, as their manifests say, hostile ones among them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manifest
from manifest.schema.document import Manifest, Parent, Provenance, serialize
from manifest.schema.lineage import Generation, trace_descent
from manifest.signing import generate_keys
from manifest.storage.sidecars import Sidecars
from manifest.storage.transaction import read_manifest
from manifest.workflows.lineage import lineage
from tests.conftest import Answer

Run = Callable[..., Answer]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """Four generations: `base.pt`, two that were trained from it, and one from one of them; and keys."""
    import torch

    place = tmp_path_factory.mktemp("trained")
    generate_keys(place / "release")
    (place / "runs").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "--data", "/data/digits.npz"])
        patch.setattr(sys.modules["__main__"], "__spec__", None)

        def step(start: Path, end: Path, epoch: int) -> None:
            patch.setenv("SOURCE_DATE_EPOCH", str(1_700_000_000 + 60 * epoch))
            model: Any = manifest.load(start, verify="none")
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1e-3 * epoch)
            key = place / "release.key" if epoch == 3 else None
            manifest.save(model, end, extras={"epoch": epoch}, dataset="UCI digits", golden=False, key=key)

        step(digits.WEIGHTS, place / "base.pt", 1)
        step(place / "base.pt", place / "runs" / "one.pt", 2)
        step(place / "base.pt", place / "runs" / "other.pt", 3)
        step(place / "runs" / "one.pt", place / "runs" / "last.pt", 4)
    return place


def described(path: Path, **facts: Any) -> Manifest:
    """The manifest of a checkpoint with other facts about where it comes from."""
    found = read_manifest(path)
    created = facts.pop("created", found.created)
    return found.model_copy(update={"created": created, "provenance": found.provenance.model_copy(update=facts)})


def place(made_up: Manifest, path: Path, contents: bytes = b"weights") -> Path:
    """A manifest, whatever it says, beside a file."""
    path.write_bytes(contents)
    Sidecars(path).manifest.write_bytes(serialize(made_up))
    return path


def test_chain_is_told_newest_first_with_what_each_began_with(trained: Path, run: Run) -> None:
    answer = run("log", trained)
    assert answer.code == 0
    short = {path.name: read_manifest(path).weights.digest[7:19] for path in trained.rglob("*.pt")}
    entries = answer.out.split("\n\n")
    names = [entry.split()[0].rpartition("/")[2] for entry in entries]
    assert names == ["last.pt", "other.pt", "one.pt", "base.pt"]
    last = [line.split() for line in entries[0].splitlines()]
    assert last[0][1:] == [short["last.pt"], "2023-11-14T22:17:20Z"]
    assert last[1:4] == [
        ["model", "open_clip", "digits-clip"],
        ["progress", "epoch", "4"],
        ["dataset", "UCI", "digits"],
    ]
    assert last[-3:-1] == [["command", "train.py", "--data", "digits.npz"], ["signature", "not", "signed"]]
    assert last[-1] == ["from", str(trained / "runs" / "one.pt"), short["one.pt"]]
    assert entries[3].splitlines()[-1].endswith("not here")


def test_signer_is_told_when_a_key_is_given(trained: Path, run: Run) -> None:
    other = trained / "runs" / "other.pt"
    assert "signer unknown: no key was given" in run("log", other).out
    assert "signed by the trusted key" in run("log", other, "--key", trained / "release.pub").out
    unsigned = run("log", trained / "base.pt", "--key", trained / "release.pub", "--format", "json").out
    found = json.loads(unsigned)["checkpoints"][0]
    assert (found["signature"], found["trusted"]) == ("no signature", False)


def test_changed_manifest_is_not_signed_any_more(trained: Path, tmp_path: Path, run: Run) -> None:
    other = trained / "runs" / "other.pt"
    path = place(described(other, epoch=99), tmp_path / "other.pt")
    Sidecars(path).signature.write_bytes(Sidecars(other).signature.read_bytes())
    assert "the signature is of something else" in run("log", path, "--key", trained / "release.pub").out


def test_show_tells_of_the_training_too(trained: Path, run: Run) -> None:
    lines = [line.split() for line in run("show", trained / "base.pt").out.splitlines()]
    for line in (
        ["progress", "epoch", "1"],
        ["dataset", "UCI", "digits"],
        ["command", "train.py", "--data", "digits.npz"],
    ):
        assert line in lines


def test_json_says_the_same(trained: Path, run: Run) -> None:
    found = json.loads(run("log", trained, "--format", "json").out)
    assert [Path(each["path"]).name for each in found["checkpoints"]] == ["last.pt", "other.pt", "one.pt", "base.pt"]
    last = found["checkpoints"][0]
    assert (last["epoch"], last["step"], last["dataset"], last["trusted"]) == (4, None, "UCI digits", None)
    assert last["command"] == ["train.py", "--data", "digits.npz"]
    assert last["parents"] == [
        {
            "name": "one.pt",
            "weights": read_manifest(trained / "runs" / "one.pt").weights.digest,
            "path": str(trained / "runs" / "one.pt"),
        }
    ]
    assert (found["unread"], found["unrecorded"]) == ([], [])


def test_broken_manifest_is_one_line_and_stops_nothing(trained: Path, tmp_path: Path, run: Run) -> None:
    place(described(trained / "base.pt"), tmp_path / "good.pt")
    for name, text in (("bad.pt", "{"), ("worse.pt", "[]"), ("newer.pt", '{"schema": "manifest/v7"}')):
        (tmp_path / name).write_bytes(b"weights")
        (tmp_path / f"{name}.manifest.json").write_text(text)
    (tmp_path / "bare.pt").write_bytes(b"weights")
    answer = run("log", tmp_path)
    assert answer.code == 2
    assert [line.split()[1].rpartition("/")[2] for line in answer.out.splitlines() if line.startswith("✘")] == [
        "bad.pt", "newer.pt", "worse.pt",
    ]  # fmt: skip
    assert "good.pt  " in answer.out
    assert answer.out.endswith("1 more without a manifest\n")


def test_checkpoint_that_is_named_and_has_no_manifest_is_said_by_name(trained: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "bare.pt").write_bytes(b"weights")
    answer = run("log", trained / "base.pt", tmp_path / "bare.pt", tmp_path / "gone.pt")
    assert answer.code == 2
    assert "There is no manifest beside bare.pt" in answer.out
    assert "There is no file" in answer.out


def test_place_without_any_manifest_is_a_complaint(tmp_path: Path, run: Run) -> None:
    (tmp_path / "bare.pt").write_bytes(b"weights")
    assert run("log", tmp_path).complaint.endswith(
        "has a manifest beside it; save with `manifest.save`, or write one with `manifest create`."
    )


def test_directory_that_has_the_manifest_is_the_checkpoint(trained: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "manifest.json").write_bytes(serialize(described(trained / "base.pt")))
    for named in (tmp_path, folder, folder / "model.safetensors"):
        found = json.loads(run("log", named, "--format", "json").out)["checkpoints"]
        assert [each["path"] for each in found] == [str(folder)]


ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\u202egnp.exe\x00\x9b31m"


def test_hostile_words_never_reach_a_terminal(trained: Path, tmp_path: Path, run: Run) -> None:
    base = trained / "base.pt"
    hostile = described(
        base,
        created=ESCAPES,
        dataset=ESCAPES,
        command=[ESCAPES, "x" * 100_000],
        git_commit=ESCAPES,
        pretrained=ESCAPES,
        parents=[Parent(name=ESCAPES), Parent(name="a\nb" * 10_000, weights="blake3:" + "0" * 64)],
    )
    architecture = hostile.architecture.model_copy(update={"name": ESCAPES, "family": ESCAPES})
    place(hostile.model_copy(update={"architecture": architecture}), tmp_path / "x.pt")
    (tmp_path / f"{ESCAPES.replace(chr(0), '')}.pt".replace("/", "")).write_bytes(b"")
    (tmp_path / "bad.pt").write_bytes(b"")
    (tmp_path / "bad.pt.manifest.json").write_text(json.dumps({"schema": "manifest/v1", ESCAPES: {}, "tool": ESCAPES}))
    for answer in (run("log", tmp_path), run("log", tmp_path, "--format", "json")):
        assert answer.code == 2
        assert all(character.isprintable() for character in answer.out.replace("\n", ""))
        assert len(answer.out) < 200_000 if "[" in answer.out[:2] else True


def test_many_parents_are_counted_and_huge_manifests_refused(trained: Path, tmp_path: Path, run: Run) -> None:
    parents = [Parent(name=f"{index}.pt", weights=f"blake3:{index:064x}") for index in range(5_000)]
    place(described(trained / "base.pt", parents=parents), tmp_path / "many.pt")
    (tmp_path / "huge.pt").write_bytes(b"")
    with (tmp_path / "huge.pt.manifest.json").open("wb") as file:
        file.truncate(65 << 20)
    answer = run("log", tmp_path)
    assert "and 4,980 more" in answer.out
    assert "expected at most 67,108,864" in answer.out
    assert len(answer.out.splitlines()) < 40


def test_ring_of_ancestors_is_told_once_each(trained: Path, tmp_path: Path, run: Run) -> None:
    names = ["base.pt", "runs/one.pt", "runs/last.pt"]
    digests = [read_manifest(trained / name).weights.digest for name in names]
    for index, name in enumerate(names):
        parents = [Parent(name=Path(names[index - 1]).name, weights=digests[index - 1])]
        place(described(trained / name, parents=parents), tmp_path / Path(name).name)
    found = json.loads(run("log", tmp_path, "--format", "json").out)["checkpoints"]
    assert [Path(each["path"]).name for each in found] == ["last.pt", "one.pt", "base.pt"]
    assert all(each["parents"][0]["path"] is not None for each in found)


def test_checkpoint_that_calls_itself_its_parent_is_told_so(trained: Path, tmp_path: Path, run: Run) -> None:
    own = read_manifest(trained / "base.pt").weights.digest
    place(described(trained / "base.pt", parents=[Parent(name="x.pt", weights=own)]), tmp_path / "x.pt")
    assert run("log", tmp_path).out.splitlines()[-1].endswith("the same weights")


def test_parent_of_another_name_is_found_by_its_weights(trained: Path, tmp_path: Path) -> None:
    for name in ("runs/one.pt", "runs/last.pt"):
        place(described(trained / name), tmp_path / f"renamed-{Path(name).name}")
    last, one = lineage([tmp_path]).descents
    assert [each.path for each in last.ancestors] == [one.generation.path]


COMMAND = """
import sys

for name in ("torch", "safetensors", "open_clip", "timm", "torchvision", "numpy"):
    sys.modules[name] = None

sys.argv[0] = "manifest"
from manifest.cli import main

main()
"""


def test_log_needs_no_torch(trained: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "log", str(trained), "--key", str(trained / "release.pub")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


digests = st.integers(0, 6).map(lambda number: f"blake3:{number:064x}")


@st.composite
def generations(draw: st.DrawFn) -> list[Generation]:
    """Checkpoints that call each other parents in every way."""
    return [
        Generation(
            path=f"{index}.pt",
            name=draw(st.sampled_from(["a.pt", "b.pt"])),
            weights=tuple(draw(st.lists(digests, min_size=1, max_size=2))),
            created=draw(st.sampled_from(["1", "2", "3"])),
            model="",
            provenance=Provenance(
                parents=draw(
                    st.lists(st.builds(Parent, name=st.sampled_from(["a.pt", "b.pt"]), weights=st.none() | digests))
                )
            ),
            signature="",
            trusted=None,
        )
        for index in range(draw(st.integers(0, 8)))
    ]


@settings(max_examples=300)
@given(generations())
def test_whoever_calls_whom_a_parent_each_is_told_once_and_children_first(found: list[Generation]) -> None:
    traced = trace_descent(found)
    assert sorted(each.generation.path for each in traced) == sorted(each.path for each in found)
    weights = {each.path: each.weights for each in found}
    for each in traced:
        for ancestor in each.ancestors:
            assert ancestor.path != each.generation.path
            assert ancestor.path is None or ancestor.parent.weights in weights[ancestor.path]
    order = [each.generation.path for each in traced]
    edges = {(each.generation.path, parent.path) for each in traced for parent in each.ancestors if parent.path}
    if not _in_a_ring(order, edges):
        assert all(order.index(child) < order.index(parent) for child, parent in edges)


def _in_a_ring(nodes: Iterable[str], edges: set[tuple[str, str]]) -> bool:
    left = set(nodes)
    while left:
        ends = {node for node in left if not any(child == node and parent in left for child, parent in edges)}
        if not ends:
            return True
        left -= ends
    return False
