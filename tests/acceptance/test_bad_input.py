"""Bad input gets one sentence and exit code 2, and leaves everything as it was."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

import manifest
from tests.warm import warm_run

Run = Callable[..., Any]


def one_sentence(answer: Any, *words: str) -> None:
    lines = answer.err.strip().splitlines()
    assert answer.code == 2
    assert len(lines) == 1
    assert lines[0].startswith("manifest: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("command", [("verify",), ("show",), ("create", "--model", "RN50"), ("sign", "--key", "k.key")])
def test_no_such_file_is_named(command: tuple[str, ...], run: Run) -> None:
    one_sentence(run(command[0], "absent.pt", *command[1:]), "There is no file absent.pt")


@pytest.mark.parametrize("command", [("verify",), ("show",), ("create", "--model", "RN50")])
def test_directory_is_told_from_a_file(command: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    one_sentence(run(command[0], "folder", *command[1:]), "is a directory")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(64), b"hello\n" * 9],
    ids=["empty", "html", "png", "text"],
)
def test_file_that_is_no_checkpoint_is_refused(content: bytes, run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    one_sentence(run("create", "x.pt", "--model", "RN50"), "x.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_checkpoint_without_manifest_says_how_to_write_one(run: Run, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "x.pt")
    one_sentence(run("verify", "x.pt"), "no manifest beside x.pt", "manifest create")


def test_manifest_of_a_newer_format_says_to_upgrade(signed: Path, run: Run) -> None:
    sidecar = signed.with_name("ckpt.pt.manifest.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_bytes()) | {"schema": "manifest/v2"}))
    one_sentence(run("verify", signed.name), "manifest/v2", "install a later version")


def test_manifest_with_a_wrong_field_names_it(signed: Path, run: Run) -> None:
    sidecar = signed.with_name("ckpt.pt.manifest.json")
    content = json.loads(sidecar.read_bytes())
    content["weights"]["parameters"] = -1
    sidecar.write_text(json.dumps(content))
    one_sentence(run("show", signed.name), "weights.parameters")


def test_unknown_model_name_gets_the_nearest_ones(signed: Path, run: Run) -> None:
    one_sentence(run("create", signed.name, "--model", "ViT-B-23"), "no model 'ViT-B-23'", "ViT-B-32")


def test_architecture_that_does_not_fit_the_weights_is_refused(signed: Path, run: Run) -> None:
    before = signed.with_name("ckpt.pt.manifest.json").read_bytes()
    one_sentence(run("create", signed.name, "--model", "RN50"), "not those of a RN50", "unexpected")
    assert signed.with_name("ckpt.pt.manifest.json").read_bytes() == before


def test_unknown_family_lists_those_there_are(signed: Path, run: Run) -> None:
    one_sentence(run("create", signed.name, "--model", "x", "--family", "keras"), "'keras'", "open_clip")


def private_pem(key: Any) -> bytes:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return bytes(key.private_bytes(*form))


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()], ids=["rsa", "ed25519"]
)
def test_key_of_another_kind_is_refused(key: Any, signed: Path, run: Run) -> None:
    signed.with_name("odd.key").write_bytes(private_pem(key))
    one_sentence(run("sign", signed.name, "--key", "odd.key"), "odd.key", "P-256")


def test_public_key_given_to_sign_by_is_refused(signed: Path, run: Run) -> None:
    one_sentence(run("sign", signed.name, "--key", "release.pub"), "release.pub")


def test_wrong_passphrase_is_refused_and_the_right_one_signs(signed: Path, run: Run) -> None:
    assert run("keygen", "locked", "--encrypt", MANIFEST_PASSPHRASE="right").code == 0
    one_sentence(run("sign", signed.name, "--key", "locked.key", MANIFEST_PASSPHRASE="wrong"), "passphrase")
    one_sentence(run("sign", signed.name, "--key", "locked.key"), "passphrase")
    assert run("sign", signed.name, "--key", "locked.key", MANIFEST_PASSPHRASE="right").code == 0
    assert run("verify", signed.name, "--fast", "--key", "locked.pub").code == 0


def test_keygen_never_writes_over_a_file(signed: Path, run: Run) -> None:
    before = signed.with_name("release.key").read_bytes()
    one_sentence(run("keygen", "release"), "release.key")
    assert signed.with_name("release.key").read_bytes() == before


def test_keygen_writes_a_private_key_that_only_its_owner_reads(run: Run, tmp_path: Path) -> None:
    assert run("keygen", "mine").code == 0
    assert (tmp_path / "mine.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_save_into_a_place_that_is_no_directory_says_so(suffix: str, digits_model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(manifest.errors.StorageError, match="is not a directory"):
        manifest.save(digits_model, tmp_path / "file" / f"x.{suffix}", golden=False)
    with pytest.raises(manifest.errors.StorageError, match="no directory"):
        manifest.save(digits_model, tmp_path / "absent" / f"x.{suffix}", golden=False)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_save_beyond_what_a_file_may_hold_leaves_the_old_checkpoint_whole(
    suffix: str, digits: Any, digits_model: Any, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for a full disk: both end a write in its middle."""
    path = tmp_path / f"x.{suffix}"
    manifest.save(digits_model, path, golden=False)
    before = sorted(tmp_path.iterdir())
    program = f"""
        import resource, sys
        import open_clip
        import manifest
        open_clip.add_model_config({str(digits.HERE / "digits-clip.json")!r})
        model = manifest.load({str(digits.WEIGHTS)!r}, verify="none")
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
        try:
            manifest.save(model, {str(path)!r}, golden=False)
        except manifest.errors.StorageError as error:
            sys.exit(str(error))
    """
    done = warm_run(["-c", textwrap.dedent(program)], tmp_path)
    assert "larger than a file may be" in done.stderr.splitlines()[-1]
    assert "nothing was changed" in done.stderr
    assert sorted(tmp_path.iterdir()) == before
    assert manifest.verify(path, fast=True).exit_code == 0


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_save_on_a_full_disk_leaves_the_old_checkpoint_whole(suffix: str, digits_model: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        path = disk / f"x.{suffix}"
        manifest.save(digits_model, path, golden=False)
        before = sorted(disk.iterdir())
        with pytest.raises(manifest.errors.StorageError, match=r"disk of .* is full"):
            manifest.save(digits_model, path, golden=False)
        assert sorted(disk.iterdir()) == before
        assert manifest.verify(path, fast=True).exit_code == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_wrong_usage_ends_in_two(run: Run) -> None:
    assert run("verify").code == 2
    assert run("verify", "--nonsense", "x.pt").code == 2
    assert run("create", "x.pt").code == 2


def test_names_out_of_files_never_reach_the_terminal_raw(run: Run, signed: Path) -> None:
    evil = "\x1b[2J\x9b31m\u202egpj.exe\r\n"
    sidecar = signed.with_name("ckpt.pt.manifest.json")
    content = json.loads(sidecar.read_bytes())
    content["architecture"]["name"] = evil
    content["components"][0]["role"] = evil
    content["environment"]["libraries"]["torch"] = evil
    content["golden"][0]["reading"][0]["image"] = evil
    sidecar.write_text(json.dumps(content))
    for arguments in (("show",), ("verify",), ("show", "--format", "json"), ("verify", "--fast", "--format", "json")):
        answer = run(arguments[0], signed.name, *arguments[1:])
        printed = answer.out + answer.err
        assert not set("\x1b\x9b\u202e\r") & set(printed)
        assert answer.out


def test_report_as_json_is_of_the_published_schema(signed: Path, run: Run) -> None:
    import jsonschema

    schema = json.loads(run("schema", "report").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(run("verify", signed.name, "--fast", "--format", "json").out), schema)


def test_output_goes_to_a_file_when_asked(signed: Path, run: Run, tmp_path: Path) -> None:
    assert run("verify", signed.name, "--fast", "--output", "report.txt").out == ""
    assert "ckpt.pt passes" in (tmp_path / "report.txt").read_text()
    one_sentence(run("show", signed.name, "--output", "absent/report.txt"), "create it first")


def test_output_file_when_writing_fails_then_is_what_it_was(
    signed: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.txt").write_text("the report of yesterday")

    def full(path: Path, target: Path) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    one_sentence(run("show", signed.name, "--output", "report.txt"), "is full; free some space")
    assert (tmp_path / "report.txt").read_text() == "the report of yesterday"
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_output_file_when_replaced_then_keeps_its_link_and_mode(signed: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("")
    (tmp_path / "kept.txt").chmod(0o640)
    (tmp_path / "report.txt").symlink_to("kept.txt")
    assert run("show", signed.name, "--output", "report.txt").code == 0
    assert (tmp_path / "report.txt").is_symlink()
    assert "digest" in (tmp_path / "kept.txt").read_text()
    assert stat.S_IMODE((tmp_path / "kept.txt").stat().st_mode) == 0o640


def test_output_when_it_is_the_pipe_of_stdout_then_is_written_there(signed: Path) -> None:
    command = [sys.executable, "-m", "manifest", "show", str(signed), "--output", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("checkpoint")


def test_quiet_prints_nothing_unless_something_is_wrong(signed: Path, run: Run) -> None:
    assert run("verify", signed.name, "--fast", "--quiet").out == ""
    signed.write_bytes(signed.read_bytes()[:-1])
    assert "I003" in run("verify", signed.name, "--fast", "--quiet").out


def test_rule_explains_every_code_of_the_catalogue(run: Run) -> None:
    answer = run("rule", "c003")
    assert answer.code == 0
    assert "component-initialised" in answer.out
    one_sentence(run("rule", "X999"), "no rule 'X999'")
