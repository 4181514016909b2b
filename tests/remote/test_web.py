"""Checkpoints on a web server: what is read of them, what is said of them, and what happens when the server fails."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import load_file, save_file

import manifest
from manifest.errors import InputError
from manifest.remote import reading
from manifest.schema.report import Report
from tests.conftest import Answer
from tests.large import sparse_file
from tests.remote.servers import (
    Fault,
    Server,
    changing_after,
    cutting_once,
    endless,
    failing_at_first,
    serving,
    shifted,
    slow,
    without_ranges,
)

FILES = ("digits.safetensors", "digits.pt", "digits-legacy.pt")
LITTLE = 2_000_000
"""Bytes that the names and shapes of a file of any size may take."""


def verdicts(report: Report) -> tuple[object, ...]:
    """What an audit found, without what differs between a file here and one elsewhere."""
    return (
        report.safety,
        report.container,
        [(part.role, part.status, part.training) for part in report.components],
        [(finding.rule, finding.where) for finding in report.findings()],
    )


@pytest.mark.parametrize("name", FILES)
def test_audit_of_an_address_says_what_an_audit_of_the_file_says(name: str, server: Server, published: Path) -> None:
    here = manifest.audit(published / name, fast=True)
    there = manifest.audit(f"{server.address}/{name}")
    assert verdicts(there) == verdicts(here)
    assert there.path == f"{server.address}/{name}"
    assert server.sent(name) < LITTLE


def test_audit_of_shards_follows_the_index_to_each_of_them(published: Path, tmp_path: Path) -> None:
    state = load_file(published / "digits.safetensors")
    names = sorted(state)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for part, members in parts.items():
        save_file({name: state[name] for name in members}, tmp_path / part)
    index = {"weight_map": {name: part for part, members in parts.items() for name in members}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with serving(tmp_path) as server:
        address = f"{server.address}/model.safetensors.index.json"
        there = manifest.audit(address)
        assert verdicts(there) == verdicts(manifest.audit(tmp_path / "model.safetensors.index.json", fast=True))
        (tmp_path / "two.safetensors").unlink()
        assert [finding.rule for finding in manifest.audit(address).findings()] == ["F008"]


def test_audit_of_100_gb_reads_two_megabytes_of_it(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "large.safetensors", 100 << 30)
    with serving(tmp_path) as server:
        report = manifest.audit(f"{server.address}/{path.name}")
        assert server.sent(path.name) < 4 * LITTLE
    assert {finding.rule for finding in report.findings()} >= {"C007"}


def test_audit_reads_the_config_beside_an_address(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with serving(tmp_path) as server:
        there = manifest.audit(f"{server.address}/model.safetensors")
    assert verdicts(there) == verdicts(manifest.audit(tmp_path / "model.safetensors", fast=True))
    assert "A012" in {finding.rule for finding in there.findings()}


def test_verify_of_an_address_reads_every_byte_and_the_signature(
    server: Server, published: Path, folders: Path
) -> None:
    report = manifest.verify(f"{server.address}/digits.safetensors", key=published / "release.pub", fast=True)
    assert report.passed
    assert report.path == f"{server.address}/digits.safetensors"
    assert server.sent("digits.safetensors") >= (published / "digits.safetensors").stat().st_size
    assert list(folders.iterdir()) == []


def test_verify_of_an_address_whose_bytes_changed_names_the_part(published: Path, tmp_path: Path) -> None:
    for path in published.glob("digits.safetensors*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "digits.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "digits.safetensors").write_bytes(content)
    with serving(tmp_path) as server:
        report = manifest.verify(f"{server.address}/digits.safetensors", key=published / "release.pub", fast=True)
    assert "I002" in {finding.rule for finding in report.findings()}


def test_whole_verify_of_an_address_fetches_each_byte_once_and_keeps_none(
    server: Server, published: Path, folders: Path
) -> None:
    name, key = "digits.safetensors", published / "release.pub"
    there, here = manifest.verify(f"{server.address}/{name}", key=key), manifest.verify(published / name, key=key)
    assert [(rung.name, rung.outcome, rung.reason) for rung in there.rungs] == [
        (rung.name, rung.outcome, rung.reason) for rung in here.rungs
    ]
    assert there.passed
    assert {rung.name: rung.outcome for rung in there.rungs}["golden"] == "pass"
    assert server.sent(name) == (published / name).stat().st_size
    gc.collect()
    assert not list(folders.iterdir())


def test_relation_of_an_address_is_that_of_the_file(published: Path, digits: Any, tmp_path: Path) -> None:
    for name in ("digits.safetensors", "digits.pt"):
        shutil.copy(published / name, tmp_path)
    manifest.create(tmp_path / "digits.pt", digits.MODEL, family="open_clip", golden=False)
    with serving(tmp_path) as server:
        for name in ("digits.safetensors", "digits.pt", "digits.pt.manifest.json"):
            (pair,) = manifest.relate(f"{server.address}/{name}", published / "digits.safetensors").pairs
            assert str(pair.relation) == "identical"
        assert server.sent("digits.pt") < 1.1 * (tmp_path / "digits.pt").stat().st_size
        with pytest.raises(InputError, match=r"There is no file .*none\.manifest\.json; check the address"):
            manifest.relate(f"{server.address}/none.manifest.json", tmp_path / "digits.pt")


@pytest.mark.parametrize(
    "fault", [failing_at_first(2, 500), failing_at_first(1, 503), failing_at_first(2, 429), cutting_once(2), slow(0.05)]
)
def test_server_that_fails_for_a_moment_is_asked_again(fault: Fault, server: Server, published: Path) -> None:
    server.fault = fault
    report = manifest.verify(f"{server.address}/digits.safetensors", key=published / "release.pub", fast=True)
    assert report.passed


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (failing_at_first(1000, 500), r"cannot be read \(500 .*\); check the address and the network"),
        (failing_at_first(1000, 403), r"cannot be read \(403 .*\); log in"),
        (without_ranges, "on a server that gives no parts of a file; download it"),
        (changing_after(3), "was changed while it was read"),
        (shifted, "bytes .* came where .* were asked for"),
    ],
)
def test_server_that_goes_on_failing_ends_in_a_sentence(
    fault: Fault, sentence: str, server: Server, folders: Path
) -> None:
    server.fault = fault
    with pytest.raises(InputError, match=sentence):
        manifest.audit(f"{server.address}/digits.safetensors")
    assert list(folders.iterdir()) == []


def test_server_that_sends_without_end_is_read_no_further_than_asked(server: Server) -> None:
    server.fault = endless
    report = manifest.audit(f"{server.address}/digits.safetensors")
    assert report.container == "safetensors"


def test_server_that_says_nothing_ends_in_a_sentence(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PATIENCE", 0.2)
    monkeypatch.setattr(reading, "_TRIES", 2)
    server.fault = slow(1.0)
    with pytest.raises(InputError, match="cannot be read"):
        manifest.audit(f"{server.address}/digits.safetensors")


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("/none.pt", r"There is no file http://127\.0\.0\.1:\d+/none\.pt; check the address\."),
        ("/", "ends in no name of a file"),
        ("/..%2f..%2fetc", "ends in no name of a file"),
    ],
)
def test_address_of_nothing_ends_in_a_sentence(place: str, sentence: str, server: Server) -> None:
    with pytest.raises(InputError, match=sentence):
        manifest.audit(f"{server.address}{place}")


def test_secrets_of_an_address_are_not_shown(server: Server) -> None:
    host = server.address.removeprefix("http://")
    report = manifest.audit(f"http://me:password@{host}/digits.safetensors?token=secret")
    assert report.path == f"{server.address}/digits.safetensors"
    with pytest.raises(InputError) as caught:
        manifest.audit(f"http://me:password@{host}/none.safetensors?token=secret")
    assert not {"password", "secret"} & set(str(caught.value).replace("/", " ").replace("?", " ").split())


def test_command_takes_addresses_among_files(server: Server, published: Path) -> None:
    places = [f"{server.address}/digits.safetensors", f"{server.address}/none.pt", str(published / "digits.pt")]
    done = subprocess.run(
        [sys.executable, "-m", "manifest", "audit", *places], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "2 of 3 pass" in done.stdout
    assert f"There is no file {server.address}/none.pt" in done.stdout


def test_show_of_an_address_prints_what_is_on_record_or_in_the_file(
    server: Server, published: Path, run: Callable[..., Answer], folders: Path
) -> None:
    address = f"{server.address}/digits.safetensors"
    assert run("show", address).out == run("show", published / "digits.safetensors").out
    assert run("show", address, "--tensors").out == run("show", published / "digits.safetensors", "--tensors").out
    assert run("show", f"{server.address}/digits.pt").out == run("show", published / "digits.pt").out
    assert sum(map(server.sent, FILES)) < LITTLE
    assert list(folders.iterdir()) == []


def test_address_without_the_extra_says_what_to_install(server: Server) -> None:
    program = "import sys; sys.modules['fsspec'] = None\nfrom manifest.cli import main\nmain()"
    command = [sys.executable, "-c", program, "audit", f"{server.address}/digits.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "of the extra remote, which is not installed: `pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1
