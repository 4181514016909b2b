"""Misses and false alarms are counted as they are, fleets reckoned as is said; pages are those of the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
_FOLDERS = (ROOT / "benchmarks", ROOT / "fixtures" / "hostile")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module of the benchmarks, or of the hostile files, by name."""
    for folder in _FOLDERS:
        monkeypatch.syspath_prepend(str(folder))
    for path in (ROOT / "benchmarks").glob("*.py"):  # of no other name that a test may have imported
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return import_module


@pytest.fixture
def hostile(module: Callable[[str], Any], tmp_path: Path) -> Callable[[str], Path]:
    """A hostile file, by the name of its row among pickles, in a folder of its own."""

    def written(name: str) -> Path:
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        path: Path = module("hostile_tables").ROWS["pickles"][name].build(module("hostile_building").Forge(folder))
        return path

    return written


@pytest.fixture
def harmless(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(4, 4).state_dict(), path)
    return path


def test_page_of_misses_is_that_of_the_results(module: Callable[[str], Any]) -> None:
    page = module("judged_page")
    assert page.PAGE.read_text(encoding="utf-8") == page.page(json.loads(page.RESULTS.read_text(encoding="utf-8")))


def test_page_of_fleets_is_that_of_the_results(module: Callable[[str], Any]) -> None:
    estimate = module("estimate")
    known = json.loads(estimate.RESULTS.read_text(encoding="utf-8"))
    assert estimate.PAGE.read_text(encoding="utf-8") == estimate.page(known)


def test_results_have_every_tool_on_every_file_that_it_claims_to_judge(module: Callable[[str], Any]) -> None:
    page = module("judged_page")
    found = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    tools = {page.OURS, *(tool for file in found["files"] for tool in file["outcomes"])}
    assert len(tools) == 1 + len(found["versions"]) + ("fickling" in found["versions"])  # which has two lists
    for file in found["files"]:
        assert set(file["outcomes"]) == ({page.OURS} if file["kind"] in page.OTHERS else tools)
        assert file["kind"] in (*page.CODE, *page.OTHERS, *page.HARMLESS)
        assert set(file["outcomes"].values()) <= {page.ALARM, page.CLEAN, page.REFUSED, page.CRASHED}


def test_miss_and_false_alarm_when_counted_then_are_those_of_the_files(module: Callable[[str], Any]) -> None:
    page = module("judged_page")
    runs, harmless = page.CODE[0], page.HARMLESS[0]
    found = {
        "files": [
            {"name": "a", "kind": runs, "outcomes": {"one": page.ALARM, "other": page.CLEAN}},
            {"name": "b", "kind": runs, "outcomes": {"one": page.REFUSED, "other": page.CLEAN}},
            {"name": "c", "kind": harmless, "outcomes": {"one": page.ALARM, "other": page.CRASHED}},
        ]
    }
    assert page.counted(found, [runs]) == {"one": {page.ALARM: 1, page.REFUSED: 1}, "other": {page.CLEAN: 2}}
    assert page.counted(found, [harmless]) == {"one": {page.ALARM: 1}, "other": {page.CRASHED: 1}}


@pytest.mark.parametrize(
    ("reader", "code", "output", "outcome"),
    [
        ("of_manifest", 1, '{"safety": "unsafe"}', "alarm"),
        ("of_manifest", 0, '{"safety": "safe"}', "clean"),
        ("of_manifest", 1, '{"safety": "safe"}', "clean"),  # untrained, which is no matter of harm
        ("of_manifest", 1, '{"safety": "unreadable"}', "refused"),
        ("of_manifest", 1, '[{"safety": "safe"}, {"safety": "unsafe"}]', "alarm"),
        ("of_manifest", 1, '[{"safety": "safe"}, {"safety": "unreadable"}]', "refused"),
        ("of_manifest", 2, "manifest: a.pt: Not a regular file.", "refused"),
        ("of_picklescan", 1, "Scanned files: 1\nInfected files: 1", "alarm"),
        ("of_picklescan", 2, "Scanned files: 1\nInfected files: 1", "alarm"),
        ("of_picklescan", 0, "Scanned files: 1\nInfected files: 0", "clean"),
        ("of_picklescan", 0, "Scanned files: 0\nInfected files: 0", "refused"),
        ("of_picklescan", 2, "Unhandled exception", "refused"),
        ("of_modelscan", 1, "Total Issues: 1", "alarm"),
        ("of_modelscan", 2, "Total Issues: 1", "alarm"),
        ("of_modelscan", 2, "Error 1:", "refused"),
        ("of_modelscan", 3, "No issues found!", "refused"),
        ("of_modelscan", 0, "No issues found!", "clean"),
        ("of_fickling", 0, "a warning\nalarm", "alarm"),
        ("of_fickling", 0, "clean", "clean"),
        ("of_fickling", 1, "alarm", "refused"),
    ],
)
def test_what_a_tool_says_is_read(
    module: Callable[[str], Any], reader: str, code: int, output: str, outcome: str
) -> None:
    judging = module("judging")
    assert getattr(judging, reader)(judging.Said(code, output)) == outcome


@pytest.mark.parametrize(
    ("code", "output"), [(-9, ""), (1, "Traceback (most recent call last):\n"), (1, "MemoryError")]
)
def test_tool_that_ends_as_nobody_meant_has_crashed(module: Callable[[str], Any], code: int, output: str) -> None:
    assert module("judging").Said(code, output).crashed


def test_own_audit_when_judged_then_by_what_its_process_says(
    module: Callable[[str], Any], hostile: Callable[[str], Path], harmless: Path
) -> None:
    ours = module("judging").ours()
    assert ours.judge(hostile("os.system by GLOBAL")) == "alarm"
    assert ours.judge(hostile("code behind the end")) == "refused"
    assert ours.judge(harmless) == "clean"


def test_picklescan_when_judged_then_by_what_its_process_says(
    module: Callable[[str], Any], hostile: Callable[[str], Path], harmless: Path
) -> None:
    if not module("installing").is_installed("picklescan"):
        pytest.skip("picklescan has its own environment, which `python benchmarks/judging.py` makes")
    tool = module("judging").picklescan()
    assert tool.judge(hostile("os.system by GLOBAL")) == "alarm"
    assert tool.judge(harmless) == "clean"


def test_peer_that_cannot_be_installed_is_said_to_be_so(
    module: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installing = module("installing")
    pins = tmp_path / "peers"
    pins.mkdir()
    (pins / "nothing.txt").write_text("./nothing-is-here\n", encoding="utf-8")
    for name, value in (("_ROOT", tmp_path), ("_PINS", pins), ("_ENVIRONMENTS", tmp_path / "environments")):
        monkeypatch.setattr(installing, name, value)
    with pytest.raises(installing.PeerError) as caught:
        installing.environment("nothing")
    sentence = (
        "nothing cannot be installed here with the versions of peers/nothing.txt; environments/nothing.log says why."
    )
    assert str(caught.value) == sentence
    assert "nothing-is-here" in (tmp_path / "environments" / "nothing.log").read_text(encoding="utf-8")
    assert not installing.is_installed("nothing")


def test_kind_of_a_hostile_file_is_what_loading_it_does(
    module: Callable[[str], Any], hostile: Callable[[str], Path]
) -> None:
    writing = module("writing")
    rows = module("hostile_tables").ROWS["pickles"]
    paths = {name: hostile(name) for name in ("os.system by GLOBAL", "code behind the end", "a laughing key")}
    # One that never ends is not loaded: only those that carry the canary are.
    carrying = [path for path in paths.values() if b"canary" in path.read_bytes()]
    ran = dict(zip(carrying, writing.left_canaries([(path, path.parent) for path in carrying]), strict=True))
    kinds = [writing.kind_of(rows[name], ran.get(path, False), writing.bytes_of(path)) for name, path in paths.items()]
    assert kinds == [writing.RUNS, writing.NAMES, writing.EXHAUSTS]
    assert not any((path.parent / "canary").exists() for path in paths.values())


@pytest.mark.parametrize(
    ("job", "workers", "bottleneck"),
    [
        ({"work": {"hashing": 2.0, "headers": 0.1}}, 10, "hashing"),
        ({"work": {"hashing": 0.001}}, 1_000, "start-up"),
        ({"work": {"hashing": 0.1}, "local": 1e9}, 10, "disk"),
        ({"work": {"hashing": 0.1}, "stored": 2e9}, 10, "network of a worker"),
        ({"work": {"hashing": 0.1}, "stored": 2e9}, 1_000, "bandwidth of the store"),
        ({"work": {"headers": 0.1}, "requests": 10, "rounds": 10}, 10, "round trips"),
        ({"work": {"headers": 0.1}, "requests": 10, "rounds": 1}, 1_000, "requests that the store answers"),
    ],
)
def test_bottleneck_is_what_takes_longest(
    module: Callable[[str], Any], job: dict[str, Any], workers: int, bottleneck: str
) -> None:
    estimate = module("estimate")
    found = estimate.cost(estimate.Job("a job", **job, started=0.5), workers, disk=0.5e9)
    assert found.bottleneck == bottleneck
    assert found.seconds >= found.parts[bottleneck]


def test_time_of_a_fleet_is_the_start_and_the_slowest_of_what_goes_on_at_once(module: Callable[[str], Any]) -> None:
    estimate = module("estimate")
    assumed = replace(estimate.ASSUMED, processors=2, start=30)
    job = estimate.Job("a job", {"hashing": 0.5, "headers": 0.1}, started=1, local=0.5e9)
    found = estimate.cost(job, 10, disk=1e9, assumed=assumed)
    # 100,000 files by 20 processes at 0.6 s, while 10 disks take 0.5 s a file.
    assert found.seconds == pytest.approx(31 + max(100_000 * 0.6 / 20, 100_000 * 0.5 / 10))
    assert found.bottleneck == "disk"
