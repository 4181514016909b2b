"""Making, reading and refusing keys, down to the sentence that a user gets for each mistake."""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from manifest.errors import KeyFileError
from manifest.signing import generate_keys, load_private_key, load_public_key

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl program is not installed")


def _write_pair(directory: Path, key: PrivateKeyTypes) -> tuple[Path, Path]:
    """A key pair of any kind, as other tools would write it."""
    private, public = directory / "other.key", directory / "other.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_generated_keys_when_loaded_then_sign_and_verify(tmp_path: Path, curve: str) -> None:
    private, public = generate_keys(tmp_path / "release", curve=curve)

    signature = load_private_key(private).sign(b"weights")

    assert load_public_key(public).verify(signature, b"weights")
    assert not load_public_key(public).verify(signature, b"other weights")
    assert load_private_key(private).public.hint == load_public_key(public).hint


def test_generated_files_when_written_then_have_names_modes_and_pem_forms(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "release.v1")

    assert (private, public) == (tmp_path / "release.v1.key", tmp_path / "release.v1.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----\n")


def test_hint_when_computed_then_is_sha256_of_the_public_file(tmp_path: Path) -> None:
    _, public = generate_keys(tmp_path / "release")

    assert load_public_key(public).hint == hashlib.sha256(public.read_bytes()).hexdigest()


def test_signature_when_not_der_then_does_not_verify(tmp_path: Path) -> None:
    _, public = generate_keys(tmp_path / "release")

    assert not load_public_key(public).verify(b"", b"weights")
    assert not load_public_key(public).verify(b"no signature", b"weights")


@pytest.mark.parametrize("taken", ["release.key", "release.pub"])
def test_generation_when_a_file_is_there_then_refuses_and_changes_nothing(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")

    with pytest.raises(KeyFileError, match="exists already and a key is never written over; move it away"):
        generate_keys(tmp_path / "release")

    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "precious"


def test_generation_when_name_is_a_dangling_link_then_does_not_write_through_it(tmp_path: Path) -> None:
    (tmp_path / "release.key").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(KeyFileError, match="exists already"):
        generate_keys(tmp_path / "release")

    assert not (tmp_path / "elsewhere").exists()


def test_generation_when_directory_is_missing_then_says_where_to_write(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"release\.key cannot be written .*name a place in an existing directory"):
        generate_keys(tmp_path / "nowhere" / "release")


def test_generation_when_curve_is_unknown_then_lists_the_curves(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="The curve 'p224' is none of p256, p384, p521; choose one of these"):
        generate_keys(tmp_path / "release", curve="p224")


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_generation_when_passphrase_is_unusable_then_writes_nothing(tmp_path: Path, passphrase: bytes) -> None:
    with pytest.raises(KeyFileError, match=f"has {len(passphrase)} bytes where 1 to 1023 are expected"):
        generate_keys(tmp_path / "release", passphrase=passphrase)

    assert not list(tmp_path.iterdir())


def test_encrypted_key_when_passphrase_is_right_then_signs(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "release", passphrase=b"x" * 1023)

    assert private.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    signature = load_private_key(private, b"x" * 1023).sign(b"weights")
    assert load_public_key(public).verify(signature, b"weights")


def test_encrypted_key_when_passphrase_is_wrong_then_says_so(tmp_path: Path) -> None:
    private, _ = generate_keys(tmp_path / "release", passphrase=b"right")

    with pytest.raises(KeyFileError, match="encrypted private key that the passphrase does not open; check"):
        load_private_key(private, b"wrong")


@pytest.mark.parametrize("passphrase", [None, b""])
def test_encrypted_key_when_no_passphrase_is_given_then_asks_for_it(tmp_path: Path, passphrase: bytes | None) -> None:
    private, _ = generate_keys(tmp_path / "release", passphrase=b"right")

    with pytest.raises(KeyFileError, match="encrypted private key and no passphrase was given; pass its passphrase"):
        load_private_key(private, passphrase)


def test_plain_key_when_a_passphrase_is_given_then_is_read_all_the_same(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "release")

    assert load_private_key(private, b"needless").public.hint == load_public_key(public).hint


@pytest.mark.parametrize("form", ["{}", "file:{}"])
def test_uri_when_it_names_a_file_then_the_file_is_read(tmp_path: Path, form: str) -> None:
    private, public = generate_keys(tmp_path / "release")

    assert load_private_key(form.format(private)).public.hint == load_public_key(form.format(public)).hint


def test_uri_when_it_names_a_variable_then_its_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = generate_keys(tmp_path / "release")
    monkeypatch.setenv("RELEASE_KEY", private.read_text())
    monkeypatch.setenv("RELEASE_PUB", public.read_text())

    assert load_private_key("env:RELEASE_KEY").public.hint == load_public_key("env:RELEASE_PUB").hint


def test_variable_when_unset_then_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELEASE_KEY", raising=False)

    with pytest.raises(KeyFileError, match=r"'RELEASE_KEY' is not set .*; set it to the contents of the key file"):
        load_private_key("env:RELEASE_KEY")


def test_variable_when_it_holds_no_key_then_its_text_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEASE_KEY", "hunter2")

    with pytest.raises(KeyFileError, match="env:RELEASE_KEY holds no PEM key") as raised:
        load_private_key("env:RELEASE_KEY")

    assert "hunter2" not in str(raised.value)


def test_uri_when_scheme_is_unknown_then_lists_the_schemes() -> None:
    with pytest.raises(
        KeyFileError, match="of the scheme `https:` where a path, `file:`, `env:`, `hsm:`, `sigstore:` or a key"
    ):
        load_private_key("https://host/release.key")


def test_key_when_repr_is_taken_then_shows_no_secret(tmp_path: Path) -> None:
    private, _ = generate_keys(tmp_path / "release")

    assert repr(load_private_key(private)) == "PrivateKey()"


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
def test_file_when_missing_then_says_how_to_make_one(tmp_path: Path, load) -> None:
    with pytest.raises(KeyFileError, match=r"There is no key file .*gone\.key; check the path, or make one by"):
        load(tmp_path / "gone.key")


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
def test_file_when_it_is_a_directory_then_says_it_cannot_be_read(tmp_path: Path, load) -> None:
    with pytest.raises(KeyFileError, match=r"cannot be read .*check that it is a file"):
        load(tmp_path)


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02\xff" * 100_000, b"-----BEGIN PRIVATE KEY-----\n"])
def test_file_when_not_pem_then_says_what_a_key_begins_with(tmp_path: Path, load, content: bytes) -> None:
    path = tmp_path / "not.key"
    path.write_bytes(content)

    with pytest.raises(KeyFileError, match=r"holds no PEM key; expected an elliptic-curve key .*-----BEGIN"):
        load(path)


def test_block_when_its_contents_are_damaged_then_says_which_block(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "release")
    for path in (private, public):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], lines[1][::-1], *lines[2:]]) + "\n")

    with pytest.raises(KeyFileError, match="a block marked PRIVATE KEY that cannot be read as one"):
        load_private_key(private)
    with pytest.raises(KeyFileError, match="a block marked PUBLIC KEY that cannot be read as one"):
        load_public_key(public)


def test_public_file_when_a_private_key_is_wanted_then_names_the_other_ending(tmp_path: Path) -> None:
    _, public = generate_keys(tmp_path / "release")

    with pytest.raises(KeyFileError, match=r"holds a public key where a private key is expected; .*`.key`"):
        load_private_key(public)


@pytest.mark.parametrize("passphrase", [None, b"secret"])
def test_private_file_when_a_public_key_is_wanted_then_names_the_other_ending(
    tmp_path: Path, passphrase: bytes | None
) -> None:
    private, _ = generate_keys(tmp_path / "release", passphrase=passphrase)

    with pytest.raises(KeyFileError, match=r"holds a private key where a public key is expected; .*`.pub`"):
        load_public_key(private)


def test_certificate_when_a_key_is_wanted_then_is_refused_by_its_label(tmp_path: Path) -> None:
    path = tmp_path / "release.crt"
    path.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")

    with pytest.raises(KeyFileError, match="holds a certificate where a public key is expected"):
        load_public_key(path)
    with pytest.raises(KeyFileError, match="holds a certificate where a private key is expected"):
        load_private_key(path)


@pytest.mark.parametrize("kind", ["RSA", "Ed25519"])
def test_key_when_of_another_kind_then_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ed25519.Ed25519PrivateKey.generate()
    private, public = _write_pair(tmp_path, key)

    for load, path in ((load_private_key, private), (load_public_key, public)):
        with pytest.raises(KeyFileError, match=f"a key of the kind {kind}; expected an elliptic-curve key on P-256"):
            load(path)


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP224R1(), ec.BrainpoolP256R1()])
def test_key_when_on_another_curve_then_is_refused_by_name(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = _write_pair(tmp_path, ec.generate_private_key(curve))

    for load, path in ((load_private_key, private), (load_public_key, public)):
        with pytest.raises(KeyFileError, match=f"a key on the curve {curve.name}; expected an elliptic-curve key"):
            load(path)


@needs_openssl
@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
@pytest.mark.parametrize("extra", [[], ["-noout"]], ids=["with parameters", "bare"])
def test_openssl_keys_when_loaded_then_sign_and_verify(tmp_path: Path, curve: str, extra: list[str]) -> None:
    private, public = tmp_path / "o.key", tmp_path / "o.pub"
    _openssl("ecparam", "-name", curve, "-genkey", *extra, "-out", private)
    _openssl("ec", "-in", private, "-pubout", "-out", public)

    signature = load_private_key(private).sign(b"weights")

    assert load_public_key(public).verify(signature, b"weights")


@needs_openssl
@pytest.mark.parametrize("form", ["pkcs8", "traditional"])
def test_openssl_encrypted_keys_when_loaded_then_need_their_passphrase(tmp_path: Path, form: str) -> None:
    plain, private = tmp_path / "plain.key", tmp_path / "o.key"
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", plain)
    encrypt = ["pkcs8", "-topk8"] if form == "pkcs8" else ["ec", "-aes256"]
    _openssl(*encrypt, "-in", plain, "-out", private, "-passout", "pass:secret")

    assert load_private_key(private, b"secret").public.hint == load_private_key(plain).public.hint
    with pytest.raises(KeyFileError, match="no passphrase was given"):
        load_private_key(private)
    with pytest.raises(KeyFileError, match="the passphrase does not open"):
        load_private_key(private, b"wrong")


@needs_openssl
def test_signature_when_checked_by_openssl_then_holds(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "release", curve="p384")
    (tmp_path / "data").write_bytes(b"weights")
    (tmp_path / "data.sig").write_bytes(load_private_key(private).sign(b"weights"))

    _openssl("dgst", "-sha384", "-verify", public, "-signature", tmp_path / "data.sig", tmp_path / "data")


def test_signing_room_when_imported_then_torch_is_not() -> None:
    check = "import sys, manifest.signing; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666, 0o620])
def test_private_key_when_others_can_read_it_then_is_refused(tmp_path: Path, mode: int) -> None:
    private, _ = generate_keys(tmp_path / "release")
    private.chmod(mode)

    with pytest.raises(
        KeyFileError, match=rf"has the mode {mode:04o}, so that others can .* expected 0600; run `chmod"
    ):
        load_private_key(private)


def test_private_key_when_it_comes_through_a_pipe_then_is_read(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "release")
    reading, writing = os.pipe()
    os.write(writing, private.read_bytes())
    os.close(writing)

    assert load_private_key(f"/dev/fd/{reading}").public.hint == load_public_key(public).hint


def test_passphrase_when_in_a_file_descriptor_then_opens_the_key(tmp_path: Path, run_process) -> None:
    generate_keys(tmp_path / "release", passphrase=b"open sesame")
    (tmp_path / "secret").write_text("open sesame\n")
    (tmp_path / "none.pt").write_text("no checkpoint")
    program = f'exec {sys.executable} -m manifest sign none.pt --key release.key --passphrase-fd 9 9< "$1"'
    answers = [
        subprocess.run(["sh", "-c", program, "sh", name], cwd=tmp_path, capture_output=True, text=True, check=False)
        for name in ("secret", "release.pub")
    ]
    closed = run_process("sign", "none.pt", "--key", "release.key", "--passphrase-fd", 99)

    assert "There is no manifest beside none.pt" in answers[0].stderr
    assert "the passphrase does not open" in answers[1].stderr
    assert "The file descriptor 99 cannot be read" in closed.complaint


def test_passphrase_when_somebody_sits_at_the_terminal_then_is_asked_for(tmp_path: Path) -> None:
    private, _ = generate_keys(tmp_path / "release", passphrase=b"open sesame")
    (tmp_path / "none.pt").write_text("no checkpoint")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        words = ["sign", "none.pt", "--key", str(private)]
        os.execv(sys.executable, [sys.executable, "-m", "manifest", *words])
    said = b""
    while b"Passphrase of" not in said:
        said += os.read(terminal, 1024)
    os.write(terminal, b"open sesame\n")
    while b"manifest.save" not in said:
        said += os.read(terminal, 1024)
    os.waitpid(pid, 0)

    assert b"open sesame" not in said
    assert b"There is no manifest beside none.pt" in said


@pytest.mark.parametrize("made", ["curve", "passphrase", "mode", "damage"])
def test_private_key_when_it_cannot_be_used_then_none_of_it_is_shown(tmp_path: Path, run_process, made: str) -> None:
    private, _ = generate_keys(tmp_path / "release", passphrase=b"open sesame" if made == "passphrase" else None)
    (tmp_path / "none.pt").write_text("no checkpoint")
    lines = private.read_text().splitlines()
    if made == "damage":
        private.write_text("\n".join([lines[0], lines[1][::-1], *lines[2:]]) + "\n")
    if made == "mode":
        private.chmod(0o644)
    if made == "curve":
        private.unlink()
        _write_pair(tmp_path, ec.generate_private_key(ec.SECP256K1()))[0].rename(private)
        lines = private.read_text().splitlines()

    answer = run_process("--verbose", "sign", "none.pt", "--key", private, MANIFEST_PASSPHRASE="wrong horse")

    assert answer.code == 2
    assert not any(line[:16] in answer.out + answer.err for line in lines[1:-1])
    assert "wrong horse" not in answer.out + answer.err
