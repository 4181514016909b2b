"""What lies on the disk: reads that change nothing, pending sidecars, devices, keys, signatures, leftovers, swaps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import manifest
from manifest.checkpoint.discovering import discover
from manifest.cli import application
from manifest.errors import ManifestError, NoManifestWarning, SignatureError
from manifest.schema.document import parse, serialize
from manifest.signing import generate_keys, load_public_key, verify_bundle
from manifest.storage.sidecars import Sidecars
from manifest.temporaries import remove_leftovers, temporary_directory
from manifest.training.recording import recording
from tests.promises.attempts import Attempt

NAME = "ckpt.pt"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """A signed checkpoint, other weights that were signed by the same key, and two pairs of keys."""
    place = tmp_path_factory.mktemp("made")
    for name in ("release", "other"):
        generate_keys(place / name)
    model: Any = manifest.load(digits.WEIGHTS, verify="none")
    manifest.save(model, place / NAME, key=place / "release.key", golden=False)
    with torch.no_grad():
        model.logit_scale.add_(0.25)
    manifest.save(model, place / "second.pt", key=place / "release.key", golden=False)
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it to attack."""
    for file in made.iterdir():
        shutil.copy(file, tmp_path / file.name)
    return tmp_path


def command(*arguments: object) -> tuple[int, str]:
    """The exit status of a command, and all that it said."""
    answer = CliRunner().invoke(application(), [str(each) for each in arguments])
    if isinstance(answer.exception, ManifestError):
        return answer.exception.exit_code, str(answer.exception)
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.exit_code, " ".join(answer.output.split())


def check(attempt: Attempt, code: int, said: str) -> None:
    assert code == attempt.exit, said
    assert attempt.says is None or attempt.says in said, said


def on_disk(place: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every regular file in a folder."""
    files = (path for path in place.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def unsigned(data: bytes) -> bytes:
    """A manifest as somebody without the key would write it."""
    return serialize(parse(data).model_copy(update={"signer": None, "golden": []}))


def pending_over(place: Path, data: bytes | None = None, signature: bytes | None = None, name: str = NAME) -> Path:
    """Drop pending sidecars beside a checkpoint: by default an unsigned manifest of the very bytes."""
    sidecars = Sidecars(place / name)
    sidecars.pending_manifest.write_bytes(data or unsigned(sidecars.manifest.read_bytes()))
    if signature is not None:
        sidecars.pending_signature.write_bytes(signature)
    return place / name


def other_weights(place: Path, *, signed: bool) -> Path:
    """A save of other weights that was killed after the checkpoint was renamed."""
    shutil.copy(place / "second.pt", place / NAME)
    sidecars = Sidecars(place / "second.pt")
    data = sidecars.manifest.read_bytes()
    return pending_over(place, data if signed else unsigned(data), sidecars.signature.read_bytes() if signed else None)


def without_signature(place: Path) -> Path:
    """An unsigned checkpoint with a pending manifest that nobody signed."""
    path = pending_over(place)
    sidecars = Sidecars(path)
    sidecars.manifest.write_bytes(unsigned(sidecars.manifest.read_bytes()))
    sidecars.signature.unlink()
    return path


def damaged_signature(place: Path) -> Path:
    path = pending_over(place)
    signature = Sidecars(path).signature
    signature.write_bytes(signature.read_bytes()[:-1])
    return path


def between_renames(place: Path) -> Path:
    """A signing anew that was killed when the signature was renamed and the manifest was not."""
    sidecars = Sidecars(place / NAME)
    before = sidecars.manifest.read_bytes()
    assert command("sign", place / NAME, "--key", place / "other.key")[0] == 0
    sidecars.manifest.rename(sidecars.pending_manifest)
    sidecars.manifest.write_bytes(before)
    return place / NAME


RENAMED = "renamed over the signed manifest, whose signature was deleted"
READS = [
    Attempt(
        "verify-unsigned-pending", lambda p: ["verify", pending_over(p), "--key", p / "release.pub"], 0, "T009", RENAMED
    ),
    Attempt(
        "verify-unsigned-pending-no-key", lambda p: ["verify", pending_over(p)], 0, "was signed, and counts", RENAMED
    ),
    Attempt("show-unsigned-pending", lambda p: ["show", pending_over(p)], 0, "was signed, and counts", RENAMED),
    Attempt(
        "log-unsigned-pending",
        lambda p: ["log", pending_over(p), "--key", p / "release.pub"],
        0,
        "signed by the trusted",
        RENAMED,
    ),
    Attempt("audit-unsigned-pending", lambda p: ["audit", pending_over(p)], 0, None),
    Attempt("diff-unsigned-pending", lambda p: ["diff", pending_over(p), p / "second.pt"], 1, None, RENAMED),
    Attempt(
        "pending-beside-damaged-signature",
        lambda p: ["verify", damaged_signature(p), "--key", p / "release.pub"],
        1,
        "T005",
        "T004, the damaged signature was deleted",
    ),
    Attempt(
        "pending-of-other-weights",
        lambda p: [
            "verify",
            pending_over(p, Sidecars(p / "second.pt").manifest.read_bytes()),
            "--key",
            p / "release.pub",
        ],
        0,
        "signed by the trusted",
    ),
    Attempt(
        "killed-unsigned-save-over-signed",
        lambda p: ["verify", other_weights(p, signed=False)],
        0,
        "describes other bytes",
        "T002, and the signed manifest was replaced",
    ),
    Attempt(
        "killed-unsigned-save-with-key",
        lambda p: ["verify", other_weights(p, signed=False), "--key", p / "release.pub"],
        1,
        "T004",
        "T004, and the signed manifest was replaced",
    ),
    Attempt(
        "killed-signed-save",
        lambda p: ["verify", other_weights(p, signed=True), "--key", p / "release.pub"],
        0,
        "T009",
        "no word of it, and files were renamed",
    ),
    Attempt(
        "killed-signing-anew",
        lambda p: ["verify", between_renames(p), "--key", p / "other.pub"],
        0,
        "T009",
        "no word of it, and files were renamed",
    ),
    Attempt("pending-over-unsigned", lambda p: ["verify", without_signature(p)], 0, "T009", "renamed without a word"),
    Attempt(
        "pending-that-is-no-json",
        lambda p: ["verify", pending_over(p, b"{"), "--key", p / "release.pub"],
        0,
        "signed by the trusted",
    ),
]


@pytest.mark.parametrize("attempt", READS, ids=str)
def test_a_read_changes_nothing_and_says_what_is_pending(attempt: Attempt, place: Path) -> None:
    arguments = attempt.make(place)
    if arguments[0] == "verify":
        arguments += ["--fast", "--format", "json"]
    before = on_disk(place)
    code, said = command(*arguments)
    assert on_disk(place) == before
    check(attempt, code, said)


def test_loading_uses_the_signed_manifest_and_changes_nothing(place: Path) -> None:
    pending_over(place)
    before = on_disk(place)
    manifest.load(place / NAME, key=place / "release.pub", verify="fast")
    assert on_disk(place) == before


REPAIRS = [
    Attempt("unsigned-over-signed", lambda p: [pending_over(p)], 2, "sign that one by `--key`"),
    Attempt("unsigned-over-signed-with-key", lambda p: [pending_over(p), "--key", p / "release.key"], 0, "signed anew"),
    Attempt("killed-unsigned-save", lambda p: [other_weights(p, signed=False)], 2, "sign that one by `--key`"),
    Attempt(
        "killed-unsigned-save-with-key",
        lambda p: [other_weights(p, signed=False), "--key", p / "release.key"],
        0,
        "signed anew",
    ),
    Attempt("killed-signed-save", lambda p: [other_weights(p, signed=True)], 0, "is finished"),
    Attempt("killed-signing-anew", lambda p: [between_renames(p)], 0, "is finished"),
    Attempt("over-unsigned", lambda p: [without_signature(p)], 0, "is finished"),
    Attempt(
        "of-a-save-that-never-happened",
        lambda p: [pending_over(p, Sidecars(p / "second.pt").manifest.read_bytes())],
        0,
        "never happened",
    ),
    Attempt("by-folder", lambda p: [other_weights(p, signed=True).parent], 0, "is finished"),
    Attempt("nothing", lambda p: [p / NAME], 0, "Nothing to repair"),
    Attempt("no-such-file", lambda p: [p / "gone.pt"], 2, "There is no file"),
    Attempt("a-device", lambda p: ["/dev/null"], 2, "is a device"),  # noqa: ARG005
]


@pytest.mark.parametrize("attempt", REPAIRS, ids=str)
def test_repair_finishes_what_counts_and_asks_for_the_key(attempt: Attempt, place: Path) -> None:
    arguments = attempt.make(place)
    before = on_disk(place)
    check(attempt, *command("repair", *arguments))
    if attempt.exit:
        assert on_disk(place) == before
    else:
        assert not list(place.glob("*.pending"))
        assert command("verify", place / NAME, "--fast")[0] == 0


def test_the_next_save_finishes_the_one_before_so_that_its_own_kill_leaves_one(place: Path, digits_model: Any) -> None:
    manifest.save(digits_model, other_weights(place, signed=True), key=place / "release.key", golden=False)
    assert not list(place.glob("*.pending"))
    assert command("verify", place / NAME, "--fast", "--key", place / "release.pub")[0] == 0


def pem(place: Path, *names: str) -> str:
    return "".join((place / name).read_text() for name in names)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
FIRST = "the first was used in silence"
TRUSTED = [
    Attempt("two-keys-signer-first", lambda p: pem(p, "release.pub", "other.pub"), 0, "one of 2 trusted keys", FIRST),
    Attempt("two-keys-signer-last", lambda p: pem(p, "other.pub", "release.pub"), 0, "one of 2 trusted keys", "T003"),
    Attempt("the-same-key-twice", lambda p: pem(p, "release.pub", "release.pub"), 0, "signed by the trusted key", None),
    Attempt(
        "comments", lambda p: "# of the team\n\n" + pem(p, "release.pub") + "# end\n", 0, "signed by the trusted", None
    ),
    Attempt("two-foreign-keys", lambda p: pem(p, "other.pub", "other.pub"), 1, "T003", None),
    Attempt("private-and-public", lambda p: pem(p, "release.key", "release.pub"), 2, "holds a private key", "passed"),
    Attempt("public-and-private", lambda p: pem(p, "release.pub", "other.key"), 2, "holds a private key", "passed"),
    Attempt("with-a-certificate", lambda p: pem(p, "release.pub") + CERTIFICATE, 2, "holds a certificate", FIRST),
    Attempt("second-key-cut-off", lambda p: pem(p, "release.pub", "other.pub")[:-30], 2, "damaged block", FIRST),
    Attempt(
        "second-key-misspelled", lambda p: pem(p, "release.pub") + pem(p, "other.pub")[1:], 2, "damaged block", FIRST
    ),
    Attempt(
        "first-key-without-end", lambda p: pem(p, "other.pub")[:-26] + pem(p, "release.pub"), 2, "damaged block", None
    ),
    Attempt(
        "second-key-damaged",
        lambda p: pem(p, "release.pub") + pem(p, "other.pub").replace("M", "!", 1),
        2,
        "cannot be read",
        FIRST,
    ),
    Attempt("junk-behind", lambda p: pem(p, "release.pub") + "x\0y\n", 2, "other lines", FIRST),
    Attempt("junk-before", lambda p: "hello\n" + pem(p, "release.pub"), 2, "other lines", FIRST),
]


@pytest.mark.parametrize("attempt", TRUSTED, ids=str)
def test_a_file_of_trusted_keys_means_all_of_them_or_is_refused(attempt: Attempt, place: Path) -> None:
    keys = write(place / "keys.pem", attempt.make(place))
    check(attempt, *command("verify", place / NAME, "--fast", "--key", keys, "--format", "json"))


SIGNERS = [
    Attempt("two-private-keys", lambda p: pem(p, "release.key", "other.key"), 2, "holds 2 private keys", FIRST),
    Attempt("private-and-public", lambda p: pem(p, "release.key", "other.pub"), 2, "holds a public key", FIRST),
    Attempt("private-and-certificate", lambda p: pem(p, "release.key") + CERTIFICATE, 2, "holds a certificate", FIRST),
    Attempt("second-cut-off", lambda p: pem(p, "release.key", "other.key")[:-20], 2, "damaged block", FIRST),
    Attempt("one", lambda p: pem(p, "other.key"), 0, "Signed", None),
]


@pytest.mark.parametrize("attempt", SIGNERS, ids=str)
def test_a_key_file_to_sign_with_holds_one_key(attempt: Attempt, place: Path) -> None:
    keys = write(place / "keys.pem", attempt.make(place))
    keys.chmod(0o600)
    check(attempt, *command("sign", place / NAME, "--key", keys))


def test_every_byte_of_a_real_signature_counts(place: Path) -> None:
    data, keys = Sidecars(place / NAME).signature.read_bytes(), [load_public_key(place / "release.pub")]
    assert verify_bundle(data, keys)
    passed = []
    for position in range(len(data)):
        for flip in (1, 2, 32, 128, 255):
            damaged = bytearray(data)
            damaged[position] ^= flip
            try:
                verify_bundle(bytes(damaged), keys)
            except SignatureError:
                continue
            passed.append((position, flip))
    assert not passed  # 45 places of 700 before, all of what is not signed


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def make(data: bytes) -> bytes:
        bundle = json.loads(data)
        change(bundle)
        return json.dumps(bundle, separators=(",", ":")).encode()

    return make


BUNDLES = [
    Attempt("as-written", changed(lambda b: None), 0, "signed by the trusted"),  # noqa: ARG005
    Attempt("spaces", lambda d: json.dumps(json.loads(d)).encode(), 1, "T005", "passed"),
    Attempt("newline-at-the-end", lambda d: d + b"\n", 1, "T005", "passed"),
    Attempt("escaped-letter", lambda d: d.replace(b"keyid", b"\\u006beyid"), 1, "T005", "passed"),
    Attempt("unknown-field", changed(lambda b: b["dsseEnvelope"].update(more=1)), 1, "T005", "passed"),
    Attempt("field-twice", lambda d: d.replace(b'"keyid":""', b'"keyid":"","keyid":""'), 1, "T005"),
    Attempt("log-entries", changed(lambda b: b["verificationMaterial"].update(tlogEntries=[1.0])), 1, "T005", "passed"),
    Attempt("key-id", changed(lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="x")), 1, "T005", "passed"),
    Attempt("no-hint", changed(lambda b: b["verificationMaterial"].pop("publicKey")), 1, "T005", "passed"),
    Attempt(
        "hint-in-capitals",
        changed(
            lambda b: b["verificationMaterial"]["publicKey"].update(
                hint=b["verificationMaterial"]["publicKey"]["hint"].upper()
            )
        ),
        1,
        "T005",
        "passed",
    ),
    Attempt(
        "hint-of-another",
        changed(lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64)),
        1,
        "T005",
        "passed",
    ),
    Attempt("fields-in-another-order", changed(lambda b: b.update(mediaType=b.pop("mediaType"))), 1, "T005", "passed"),
    Attempt("url-safe-base64", lambda d: d.replace(b'"payload":"ey', b'"payload":"e_'), 1, "T005"),
]


@pytest.mark.parametrize("attempt", BUNDLES, ids=str)
def test_what_is_not_signed_in_a_signature_has_one_form(attempt: Attempt, place: Path) -> None:
    signature = Sidecars(place / NAME).signature
    signature.write_bytes(attempt.make(signature.read_bytes()))
    check(attempt, *command("verify", place / NAME, "--fast", "--key", place / "release.pub", "--format", "json"))


@pytest.fixture
def device(place: Path) -> Path:
    """A device like /dev/null that may be lost."""
    path = place / "null"
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
    except OSError:
        pytest.skip("this user may not make devices")
    (place / "link").symlink_to(path)
    return path


SAVES = [
    Attempt(
        "save",
        lambda m, f: manifest.save(m, f, golden=False),
        0,
        "written without a manifest",
        "the device was replaced",
    ),
    Attempt(
        "torch-save",
        lambda m, f: manifest.torch_save(m.state_dict(), f, golden=False),
        0,
        "written without a manifest",
        "the device was replaced",
    ),
    Attempt("recorded", lambda m, f: recorded(m, f), 0, "written without a manifest", "no word"),
]


def recorded(model: Any, target: Path) -> None:
    with recording(golden="none"):
        torch.save(model.state_dict(), target)


@pytest.mark.parametrize("name", ["null", "link"])
@pytest.mark.parametrize("attempt", SAVES, ids=str)
def test_a_device_is_written_to_and_never_replaced(
    attempt: Attempt, name: str, device: Path, digits_model: Any
) -> None:
    before = set(device.parent.iterdir())
    with pytest.warns(NoManifestWarning, match=attempt.says) as warned:
        attempt.make(digits_model, device.with_name(name))
    assert len([each for each in warned if issubclass(each.category, NoManifestWarning)]) == 1
    assert device.is_char_device()
    assert set(device.parent.iterdir()) == before


@pytest.mark.parametrize("attempt", SAVES, ids=str)
def test_a_pipe_gets_the_bytes_of_a_checkpoint(attempt: Attempt, place: Path, digits_model: Any) -> None:
    pipe, read = place / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with pytest.warns(NoManifestWarning, match=attempt.says):
        attempt.make(digits_model, pipe)
    reader.join()
    (place / "read.pt").write_bytes(read[0])
    assert torch.load(place / "read.pt").keys() == digits_model.state_dict().keys()
    assert pipe.is_fifo()


def test_a_link_is_followed_and_stays(place: Path, digits_model: Any) -> None:
    (place / "latest.pt").symlink_to(NAME)
    (place / "new.pt").symlink_to("fresh.pt")
    for name in ("latest.pt", "new.pt"):
        manifest.save(digits_model, place / name, golden=False)
        recorded(digits_model, place / name)
        assert (place / name).is_symlink()
        assert command("verify", place / name, "--fast")[0] == 0


def fifo(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


SPECIAL = [
    Attempt("verify-pipe", lambda p: ["verify", fifo(p / "x.pt")], 2, "is a pipe, expected a file", "There is no file"),
    Attempt("verify-device", lambda p: ["verify", "/dev/null"], 2, "is a device", "There is no file"),  # noqa: ARG005
    Attempt("audit-pipe", lambda p: ["audit", fifo(p / "x.pt")], 2, "Not a regular file"),
    Attempt("show-pipe", lambda p: ["show", fifo(p / "x.pt")], 2, "is a pipe", "There is no file"),
    Attempt(
        "manifest-is-a-pipe",
        lambda p: ["verify", fifo(p / f"{NAME}.manifest.json").parent / NAME],
        2,
        "is a pipe",
        "hung",
    ),
    Attempt(
        "signature-is-a-pipe",
        lambda p: ["verify", fifo(p / f"{NAME}.manifest.sig").parent / NAME],
        2,
        "is a pipe",
        "hung",
    ),
    Attempt(
        "pending-is-a-pipe",
        lambda p: ["verify", fifo(p / f"{NAME}.manifest.json.pending").parent / NAME],
        2,
        "is a pipe",
        "hung",
    ),
    Attempt(
        "convert-to-device",
        lambda p: ["convert", p / NAME, "/dev/null", "--force"],
        2,
        "is a device",
        "the device was replaced",
    ),
    Attempt(
        "convert-to-pipe",
        lambda p: ["convert", p / NAME, fifo(p / "out.safetensors"), "--force"],
        2,
        "is a pipe",
        "the pipe was replaced",
    ),
    Attempt("convert-to-folder", lambda p: ["convert", p / NAME, p, "--force"], 2, "is a directory"),
    Attempt("output-to-device", lambda p: ["verify", p / NAME, "--fast", "--output", "/dev/null"], 0, None),
    Attempt(
        "sign-over-a-pipe",
        lambda p: ["sign", fifo(p / f"{NAME}.manifest.sig").parent / NAME, "--key", p / "release.key"],
        2,
        "is a pipe",
        "hung",
    ),
]


@pytest.mark.parametrize("attempt", SPECIAL, ids=str)
def test_what_is_no_regular_file_is_one_sentence(attempt: Attempt, place: Path) -> None:
    arguments = attempt.make(place)
    kinds = {path.name: path.lstat().st_mode for path in place.iterdir()}
    check(attempt, *command(*arguments))
    assert {path.name: path.lstat().st_mode for path in place.iterdir()} == kinds
    assert Path("/dev/null").is_char_device()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from manifest.temporaries import temporary_directory

    with temporary_directory(Path(sys.argv[1])) as hidden:
        (hidden / ".staged").write_bytes(bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(target: Path) -> Path:
    """What a process leaves that is killed while it writes."""
    before = set(target.parent.iterdir())
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), target], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = set(target.parent.iterdir()) - before
    return left


CLEANERS = [
    Attempt("save", lambda p, m: manifest.save(m, p / NAME, golden=False), 0, None, "stayed for ever"),
    Attempt("torch-save", lambda p, m: manifest.torch_save(m.state_dict(), p / NAME, golden=False), 0, None, "stayed"),
    Attempt("recorded", lambda p, m: recorded(m, p / NAME), 0, None, "stayed for ever"),
    Attempt("convert", lambda p, m: command("convert", p / "second.pt", p / NAME, "--force"), 0, None, "stayed"),  # noqa: ARG005
    Attempt("repair", lambda p, m: command("repair", p / NAME), 0, None),  # noqa: ARG005
    Attempt("repair-folder", lambda p, m: command("repair", p), 0, None),  # noqa: ARG005
]


@pytest.mark.parametrize("attempt", CLEANERS, ids=str)
def test_what_a_killed_save_left_is_removed_and_nothing_that_lives(
    attempt: Attempt, place: Path, digits_model: Any
) -> None:
    dead = killed_while_writing(place / NAME)
    foreign = killed_while_writing(place / NAME)
    elsewhere = foreign.with_name(foreign.name[:-20] + "0" * 16 + ".tmp")  # of another boot, or another machine
    foreign.rename(elsewhere)
    # One whose number is a living process's: the lock tells that its writer is gone.
    reused = killed_while_writing(place / NAME)
    again = reused.rename(reused.with_name(f".{NAME}.{os.getpid()}-{reused.name.rpartition('-')[2]}"))
    with temporary_directory(place / NAME) as alive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attempt.make(place, digits_model)
        assert alive.is_dir()
    assert not dead.exists()
    assert not again.exists()
    assert elsewhere.exists()
    for path in (elsewhere, *elsewhere.iterdir()):
        os.utime(path, (0, 0))
    attempt.make(place, digits_model)
    assert not elsewhere.exists()


def test_a_directory_that_a_process_left_between_making_it_and_locking_it_is_removed(tmp_path: Path) -> None:
    left = killed_while_writing(tmp_path / NAME)
    (left / ".staged").unlink()
    (left / ".lock").unlink()
    assert remove_leftovers(tmp_path).removed == (left,)
    assert not list(tmp_path.iterdir())


def test_a_lock_stays_as_long_as_anything_beside_it(tmp_path: Path) -> None:
    left = killed_while_writing(tmp_path / NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", _refuse)
        assert remove_leftovers(tmp_path).kept == (left,)
    assert sorted(path.name for path in left.iterdir()) == [".lock", ".staged"]
    assert remove_leftovers(tmp_path).removed == (left,)


def _refuse(path: object, **_: object) -> None:
    raise PermissionError(path)


def test_a_distributed_save_removes_what_a_killed_one_left_beside_it_and_inside(
    tmp_path: Path, digits_model: Any
) -> None:
    target = tmp_path / "step"
    beside = killed_while_writing(target)
    manifest.save_distributed(digits_model, target, golden=False)
    assert not beside.exists()
    inside = killed_while_writing(target).rename(target / beside.name)
    (inside / ".metadata").write_bytes(b"")
    assert discover([tmp_path]) == [target]
    manifest.save_distributed(digits_model, target, golden=False)
    assert not inside.exists()
    assert not [path for path in (*tmp_path.iterdir(), *target.iterdir()) if path.name.endswith(".tmp")]
    assert command("verify", target, "--fast")[0] == 0


def swapped(place: Path, *ends: str) -> Path:
    for end in ends:
        first, second = place / f"{NAME}{end}", place / f"second.pt{end}"
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)
    return place / NAME


SWAPS = [
    Attempt("signatures", lambda p: swapped(p, ".manifest.sig"), 1, "T006"),
    Attempt("manifests", lambda p: swapped(p, ".manifest.json"), 1, "T006"),
    Attempt("manifests-and-signatures", lambda p: swapped(p, ".manifest.json", ".manifest.sig"), 1, "I002"),
    Attempt("checkpoints", lambda p: swapped(p, ""), 1, "I002"),
    Attempt(
        "all-three-is-a-replay", lambda p: swapped(p, "", ".manifest.json", ".manifest.sig"), 0, "signed by the trusted"
    ),
    Attempt("moved-without-sidecars", lambda p: (p / NAME).rename(p / "moved.pt"), 2, "There is no manifest beside"),
    Attempt("deleted", lambda p: ((p / NAME).unlink(), p / NAME)[1], 2, "There is no file"),
]


@pytest.mark.parametrize("attempt", SWAPS, ids=str)
def test_sidecars_of_another_checkpoint(attempt: Attempt, place: Path) -> None:
    path = attempt.make(place)
    check(attempt, *command("verify", path, "--fast", "--key", place / "release.pub", "--format", "json"))


def test_recorded_save_when_moved_or_deleted_then_keeps_its_manifest_or_leaves_none(
    tmp_path: Path, digits_model: Any
) -> None:
    with recording(golden="none"):
        torch.save(digits_model.state_dict(), tmp_path / "a.pt")
        os.replace(tmp_path / "a.pt", tmp_path / "b.pt")  # noqa: PTH105
        torch.save(digits_model.state_dict(), tmp_path / "c.pt")
        os.remove(tmp_path / "c.pt")  # noqa: PTH107
    assert command("verify", tmp_path / "b.pt", "--fast")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.pt", "b.pt.manifest.json"]
