"""An index of sketches: what is found in it, what is in it once, and files that are none."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import manifest
from manifest.kinship.index import add, opened_index
from manifest.kinship.subjects import Subject, recorded
from manifest.storage.sidecars import Sidecars


@pytest.fixture(scope="module")
def family(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base.pt`, `child.pt` that was loaded from it and moved, `sibling.pt` too, in a folder of their own each."""
    place = tmp_path_factory.mktemp("family")
    model: nn.Module = manifest.load(digits.WEIGHTS)
    (place / "base").mkdir()
    manifest.save(model, place / "base" / "base.pt", golden=False)
    for seed, name in enumerate(("child", "sibling")):
        model = manifest.load(place / "base" / "base.pt")
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.visual.parameters():  # type: ignore[union-attr]
                weight += 0.01 * torch.randn_like(weight)
        (place / name).mkdir()
        manifest.save(model, place / name / f"{name}.pt", golden=False)
    return place


@pytest.fixture
def index(family: Path, tmp_path: Path) -> Path:
    manifest.add_to_index(tmp_path / "kin.index", [family])
    return tmp_path / "kin.index"


def names(index: Path) -> list[str]:
    with opened_index(index) as found:
        return sorted(Path(entry.name).name for entry in found.entries)


def test_index_tells_what_the_folder_tells(family: Path, index: Path) -> None:
    asked = family / "child" / "child.pt"
    of_folder, of_index = manifest.relatives(asked, family), manifest.relatives(asked, index)
    assert len(of_folder.found) == of_index.searched == 3
    for one, other in zip(of_folder.found, of_index.found, strict=True):
        assert other.other.endswith(one.other)
        assert (one.relation, one.distance, one.error, one.likeness) == (
            other.relation,
            other.distance,
            other.error,
            other.likeness,
        )
        assert one.parts == other.parts


def test_weights_of_an_index_are_those_of_the_manifest(family: Path, index: Path) -> None:
    expected = {each.weights: each for each in map(recorded, family.rglob("*.manifest.json"))}
    with opened_index(index) as found:
        for batch in found.batches():
            for number, entry in enumerate(batch.entries):
                own, other = batch.subject(number), expected[entry.weights]
                assert (own.roles, own.parents) == (other.roles, other.parents)
                assert own.tensors.keys() == other.tensors.keys()
                for name, tensor in own.tensors.items():
                    sketch, same = tensor.sketch, other.tensors[name].sketch
                    assert (tensor.digest, tensor.shape) == (other.tensors[name].digest, other.tensors[name].shape)
                    assert sketch is not None
                    assert same is not None
                    assert (sketch.norm, sketch.zeros) == (same.norm, same.zeros)
                    assert sketch.numbers.tolist() == same.numbers.tolist()


def test_tree_has_parents_that_are_on_record_before_what_is_near(family: Path, index: Path) -> None:
    found = manifest.relatives(family / "child" / "child.pt.manifest.json", index)
    tree = {Path(each.name).name.split(" ")[0]: each for each in found.tree}
    assert tree["base.pt"].of == "child.pt.manifest.json"
    assert tree["base.pt"].parent == tree["base.pt"].name
    assert tree["sibling.pt"].of == tree["base.pt"].name
    assert tree["sibling.pt"].parent == tree["base.pt"].name


def test_same_weights_are_in_an_index_once(family: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    shutil.copytree(family, tmp_path / "runs")
    answer = run("index", "add", "kin.index", "runs/base")
    assert answer.out.strip() == "Added 1 to kin.index, and updated 0: it holds 1 sets of weights."
    answer = run("index", "add", "kin.index", "runs/child/child.pt", "runs/base/base.pt")
    assert answer.out.strip() == "Added 1 to kin.index, and updated 1: it holds 2 sets of weights."
    (tmp_path / "runs" / "base").rename(tmp_path / "runs" / "start")
    assert run("index", "add", "kin.index", "runs", "runs/start/base.pt.manifest.json").code == 0
    listed = run("index", "list", "kin.index").out.splitlines()
    assert sorted(line.split("  ")[1] for line in listed) == [
        "runs/child/child.pt",
        "runs/sibling/sibling.pt",
        "runs/start/base.pt",
    ]


def test_relatives_in_an_index_are_a_table_and_a_tree(family: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    shutil.copytree(family, tmp_path / "runs")
    run("index", "add", "kin.index", "runs/base", "runs/sibling")
    answer = run("relate", "runs/child/child.pt", "--against", "kin.index")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["runs/base/base.pt", "runs/sibling/sibling.pt"]
    assert lines[2] == "2 relatives of child.pt among 2 sets of weights"
    assert lines[4] == "child.pt"
    assert lines[5].startswith("└── runs/base/base.pt  ")
    assert lines[5].endswith("its parent, as manifests record")
    assert lines[6].startswith("    └── runs/sibling/sibling.pt  ")
    assert lines[6].endswith("was trained from it, as manifests record")


def test_what_cannot_be_read_is_told_and_the_rest_is_added(
    family: Path, tmp_path: Path, digits: ModuleType, run: Callable[..., Any]
) -> None:
    shutil.copytree(family, tmp_path / "runs")
    (tmp_path / "runs" / "broken.manifest.json").write_text("{")
    shutil.copy(Sidecars(digits.WEIGHTS).manifest, tmp_path / "runs")
    answer = run("index", "add", "kin.index", "runs")
    assert answer.code == 2
    assert "it holds 3 sets of weights. 1 more have no sketches." in answer.out
    assert "runs/broken.manifest.json was not added: broken.manifest.json is not JSON" in answer.err
    assert run("index", "add", "kin.index", "nowhere").complaint.startswith("There is no file nowhere")
    assert len(names(tmp_path / "kin.index")) == 3


def test_checkpoint_of_whole_numbers_alone_has_no_sketches(
    family: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    shutil.copytree(family / "base", tmp_path / "a")
    torch.save({"ids": torch.arange(5)}, tmp_path / "ids.pt")
    answer = run("index", "add", "kin.index", "ids.pt", "a")
    assert answer.out.strip() == (
        "Added 1 to kin.index, and updated 0: it holds 1 sets of weights. 1 more have no sketches."
    )
    assert run("relate", "ids.pt", "--against", "kin.index").code == 1


def test_index_that_another_has_changed_meanwhile_is_not_overwritten(family: Path, index: Path) -> None:
    manifests = sorted(family.rglob("*.manifest.json"))

    def adding() -> Iterator[Subject]:
        other = threading.Thread(target=lambda: add(index, [recorded(manifests[0])]))
        other.start()
        other.join()
        yield recorded(manifests[1])

    with pytest.raises(manifest.StorageError, match=r"Another process has changed kin\.index meanwhile"):
        add(index, adding())
    assert names(index) == ["base.pt.manifest.json", "child.pt", "sibling.pt"]
    assert [path.name for path in index.parent.iterdir()] == [index.name]


def test_failed_addition_leaves_an_index_as_it_was(family: Path, index: Path) -> None:
    before = index.read_bytes()

    def adding() -> Iterator[Subject]:
        yield recorded(next(family.rglob("*.manifest.json")))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(index, adding())
    assert index.read_bytes() == before
    assert [path.name for path in index.parent.iterdir()] == [index.name]


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[16:24], "little")
    return json.loads(data[24 : 24 + length]), data[24 + length :]


def with_header(header: dict[str, Any], rows: bytes) -> bytes:
    text = json.dumps(header).encode()
    return b"kinship-index/v1" + len(text).to_bytes(8, "little") + text + rows


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        header, rows = header_of(data)
        change(header)
        return with_header(header, rows)

    return apply


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "its beginning": lambda data: data[:20],
    "another file": lambda data: b"PK" + data,
    "another version": lambda data: data.replace(b"/v1", b"/v2", 1),
    "a header as long as can be": lambda data: data[:16] + b"\xff" * 8 + data[24:],
    "a row less": lambda data: data[:-100],
    "a byte more": lambda data: data + b"0",
    "a header that is a list": lambda data: with_header([], header_of(data)[1]),  # type: ignore[arg-type]
    "a key twice": lambda data: data.replace(b'"entries"', b'"tensors"', 1),
    "a field more": changed(lambda header: header.update(more=1)),
    "an entry more": changed(lambda header: header["groups"][0]["entries"].append(["a", "blake3:" + "0" * 64, []])),
    "a digest that is none": changed(lambda header: header["groups"][0]["entries"][0].__setitem__(1, "x")),
    "a tensor twice": changed(lambda header: header["groups"][0]["tensors"].append(header["groups"][0]["tensors"][0])),
    "no tensor": changed(
        lambda header: header["groups"].append({"tensors": [], "entries": [["a", "blake3:" + "0" * 64, []]]})
    ),
    "a size below zero": changed(lambda header: header["groups"][0]["tensors"][0].__setitem__(1, [-1])),
    "a size beyond all": changed(lambda header: header["groups"][0]["tensors"][0].__setitem__(1, [1 << 63])),
    "a row beyond all": changed(
        lambda header: header["groups"].append(
            {"tensors": [[f"{n}", [1 << 20], "float32", None, True] for n in range(300_000)], "entries": []}
        )
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_file_that_is_no_index_is_refused(fault: str, family: Path, index: Path) -> None:
    index.write_bytes(FAULTS[fault](index.read_bytes()))
    damaged = index.read_bytes()
    message = r"^kin.index is no index of this version \(.+\); make one with `manifest index add INDEX FOLDER`\.$"
    with pytest.raises(manifest.DocumentError, match=message):
        manifest.relatives(family / "base" / "base.pt.manifest.json", index)
    with pytest.raises(manifest.DocumentError, match=message):
        manifest.add_to_index(index, [family])
    assert index.read_bytes() == damaged


def test_sketches_that_none_can_have_are_refused(family: Path, index: Path) -> None:
    header, rows = header_of(index.read_bytes())
    index.write_bytes(with_header(header, b"\xff" * len(rows)))
    with pytest.raises(manifest.DocumentError, match=r"the sketches of .* are none"):
        manifest.relatives(family / "base" / "base.pt.manifest.json", index)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_an_index_is_refused_or_read(data: st.DataObject, family: Path, index: Path) -> None:
    whole = index.read_bytes()
    changed = np.frombuffer(whole, np.uint8).copy()
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 4_000) | st.integers(0, len(whole) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    other = index.with_name("other.index")
    other.write_bytes(changed.tobytes())
    try:
        found = manifest.relatives(family / "base" / "base.pt.manifest.json", other)
        assert found.searched == 3
    except manifest.DocumentError as error:
        assert str(error).startswith("other.index is no index of this version (")


def test_names_in_an_index_do_not_reach_a_terminal_as_they_are(
    family: Path, index: Path, run: Callable[..., Any]
) -> None:
    header, rows = header_of(index.read_bytes())
    header["groups"][0]["entries"][0][0] = "\x1b[31mred"
    index.write_bytes(with_header(header, rows))
    shutil.copy(family / "base" / "base.pt.manifest.json", index.parent)
    said = run("relate", "base.pt.manifest.json", "--against", "kin.index").out + run("index", "list", "kin.index").out
    assert "\x1b" not in said
    assert said.count("[31mred") >= 2


def test_place_that_is_no_index_is_told(family: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    shutil.copytree(family / "base", tmp_path / "a")
    said = run("relate", "a/base.pt", "--against", "a/base.pt").complaint
    assert said.startswith("base.pt is no index of this version (it does not begin as one does)")
    assert run("index", "list", "nowhere").complaint == (
        "The index nowhere cannot be read (No such file or directory); name its file."
    )
    assert run("index", "list", "a").complaint.startswith("The index a cannot be read")
