"""Signing as an identity, and trusting one, by Sigstore's client against a small instance of Sigstore."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import manifest
from manifest.errors import InputError, KeyFileError, SignatureError
from manifest.schema.report import Severity
from manifest.signing import Identity, load_public_key, read_bundle, verify_bundle
from manifest.signing.keyless import TOKEN_VARIABLE
from manifest.storage.sidecars import Sidecars
from tests.signing.sigstore_instance import IDENTITY, ISSUER, URI, WORKFLOW, Instance, served, token

Run = Callable[..., Any]


@pytest.fixture
def instance(folder: Path) -> Iterator[Instance]:
    """An instance of Sigstore that is there while the test runs; `acme.json` describes it."""
    with served(Instance()) as instance:
        instance.write(folder / "acme.json")
        yield instance


@pytest.fixture
def signed(checkpoint: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that nobody but the identity has signed."""
    monkeypatch.setenv(TOKEN_VARIABLE, token())
    Sidecars(checkpoint).signature.unlink()
    manifest.sign(checkpoint, "sigstore:?instance=acme.json")
    assert len(instance.leaves) == 4  # with those that were logged before
    return checkpoint


@pytest.mark.usefixtures("instance")
def test_identity_signs_beside_a_key_and_is_trusted_by_its_uri(checkpoint: Path, run_process: Run) -> None:
    signed = run_process("sign", checkpoint, "--key", "sigstore:?instance=acme.json", **{TOKEN_VARIABLE: token()})
    verified = run_process("verify", "--fast", checkpoint, "--key", URI)

    assert (signed.code, verified.code) == (0, 0), signed.err + verified.out
    assert signed.out.endswith("ckpt.safetensors.manifest.2.sig\n")
    assert f"signed by the trusted {IDENTITY} of {ISSUER}" in verified.out
    assert token().encode() not in b"".join(each.read_bytes() for each in Path().glob("*.sig"))


def test_checkpoint_that_an_identity_signed_first_names_it(signed: Path) -> None:
    record = json.loads(Sidecars(signed).manifest.read_bytes())
    statement = read_bundle(Sidecars(signed).signature.read_bytes())

    assert record["signer"] == statement.hint == Identity(IDENTITY, ISSUER).hint
    assert statement.identity == Identity(IDENTITY, ISSUER)
    assert manifest.verify(signed, key=URI, fast=True).passed


def test_signature_of_the_same_identity_is_replaced(signed: Path) -> None:
    before = Sidecars(signed).signature.read_bytes()

    assert manifest.sign(signed, "sigstore:?instance=acme.json") == Sidecars(signed).signature
    assert Sidecars(signed).signature.read_bytes() != before
    assert not Sidecars(signed).cosignature(2).exists()


def test_checking_asks_nobody(signed: Path, instance: Instance) -> None:
    configuration = json.loads(Path("acme.json").read_text())
    Path("acme.json").write_text(json.dumps(configuration).replace(instance.address, "https://gone.example"))

    assert manifest.verify(signed, key=URI, fast=True).passed


def test_trust_root_alone_is_enough_to_check_and_not_to_sign(signed: Path) -> None:
    root = json.loads(Path("acme.json").read_text())["trustedRoot"]
    Path("acme.json").write_text(json.dumps(root))

    assert manifest.verify(signed, key=URI, fast=True).passed
    with pytest.raises(
        InputError, match="has the keys of an instance of Sigstore and not the addresses of its services"
    ):
        manifest.sign(signed, "sigstore:?instance=acme.json")


def test_no_key_says_which_identity_is_named(signed: Path, run_process: Run) -> None:
    shown = run_process("verify", "--fast", signed)

    assert shown.code == 0
    assert f"The signature names {IDENTITY} of {ISSUER}, and no key was given" in " ".join(shown.out.split())


@pytest.mark.usefixtures("instance")
def test_trust_file_names_identities_beside_keys_and_counts_both(
    checkpoint: Path, run_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token())
    added = [
        run_process("trust", "add", "alice", "alice.pub"),
        run_process("trust", "add", "release", URI, "--threshold", "2"),
    ]
    before = run_process("verify", "--fast", checkpoint)
    signed = run_process("sign", checkpoint, "--key", URI)
    after = run_process("verify", "--fast", checkpoint)
    listed = run_process("trust", "list")

    assert [each.code for each in (*added, before, signed, after)] == [0, 0, 1, 0, 0], signed.err + after.out
    assert "T015" in before.out
    assert f"release ({IDENTITY} of {ISSUER})" in after.out
    assert f"release  {IDENTITY} of {ISSUER}" in listed.out
    content = yaml.safe_load(Path(".manifest/trust.yaml").read_text())
    assert content["signers"][1] == {
        "name": "release",
        "identity": IDENTITY,
        "issuer": ISSUER,
        "instance": "../acme.json",
    }


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"identity": None}, "has neither a key nor an identity"),
        ({"key": "KEY"}, "has a key and an identity, expected one of them"),
        ({"issuer": None}, "has an identity without an issuer"),
        ({"identity": None, "issuer": None, "key": "KEY"}, "has an instance of Sigstore and no identity"),
        ({"identity": "a\u202eb"}, "printable characters on one line are expected"),
    ],
)
def test_trust_file_in_which_nobody_is_named_clearly_is_refused(
    checkpoint: Path, fields: dict[str, str | None], says: str
) -> None:
    signer = {"name": "release", "identity": IDENTITY, "issuer": ISSUER, "instance": "acme.json", **fields}
    signer = {name: Path("bob.pub").read_text() if value == "KEY" else value for name, value in signer.items() if value}
    Path("trust.yaml").write_text(yaml.safe_dump({"schema": "trust/v1", "signers": [signer]}))

    with pytest.raises(InputError, match=says):
        manifest.verify(checkpoint, trust="trust.yaml", fast=True)


def test_identity_twice_in_a_trust_file_is_refused(checkpoint: Path) -> None:
    """Were it two signers, one person would meet a threshold of two."""
    signers = [
        {"name": name, "identity": IDENTITY, "issuer": ISSUER, "instance": f"{name}.json"} for name in ("one", "two")
    ]
    Path("trust.yaml").write_text(yaml.safe_dump({"schema": "trust/v1", "threshold": 2, "signers": signers}))

    with pytest.raises(InputError, match="the identity of 'one' is there twice, expected once"):
        manifest.verify(checkpoint, trust="trust.yaml", fast=True)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("sigstore:", "does not say who is trusted"),
        (f"sigstore:{IDENTITY}", "does not say who is trusted"),
        (f"sigstore:?issuer={ISSUER}", "does not say who is trusted"),
        (f"sigstore:{IDENTITY}?issuer={ISSUER}&issuer=x", "is not understood"),
        (f"sigstore:{IDENTITY}?issuer=", "is not understood"),
        (f"sigstore:{IDENTITY}?", "is not understood"),
        (f"sigstore:{IDENTITY}?isuer={ISSUER}", "is not understood"),
    ],
)
def test_uri_that_names_nobody_is_refused(uri: str, says: str) -> None:
    with pytest.raises(KeyFileError, match=says):
        load_public_key(uri)


def test_uri_of_a_workflow_is_an_identity() -> None:
    workflow = "https://github.com/acme/digits/.github/workflows/release.yml@refs/heads/main"

    found = load_public_key(f"sigstore:{workflow}?issuer=https://token.actions.githubusercontent.com")

    assert found == Identity(workflow, "https://token.actions.githubusercontent.com")


@pytest.mark.usefixtures("instance")
@pytest.mark.parametrize(
    ("uri", "given", "says"),
    [
        (
            "sigstore:?instance=acme.json",
            str,
            "There is no token of an identity to sign with, expected one in $SIGSTORE",
        ),
        ("sigstore:?instance=acme.json", lambda: "not.a.token", "Identity token is malformed or missing claims"),
        (
            "sigstore:?instance=acme.json",
            partial(token, lasts=timedelta(minutes=-1)),
            "Identity token is malformed or missing",
        ),
        (
            URI,
            partial(token, "eve@acme.example"),
            f"The token is of eve@acme.example of {ISSUER}, and {URI} is expected",
        ),
        (URI, partial(token, issuer="https://eve.example"), f"The token is of {IDENTITY} of https://eve.example, and"),
        (
            "sigstore:?instance=acme.json",
            partial(token, by="a secret that somebody else has made up"),
            "cannot sign (401 Client Error",
        ),
        ("sigstore:?instance=none.json", token, "none.json cannot be read as the description of an instance"),
        ("sigstore:?instance=alice.pub", token, "alice.pub cannot be read as the description of an instance"),
        ("sigstore:?instance=", token, "is not understood, expected sigstore:IDENTITY?issuer=URL"),
    ],
    ids=["none", "garbage", "expired", "another", "another issuer", "forged", "no file", "another file", "empty"],
)
def test_identity_that_cannot_sign_is_refused_in_one_sentence(
    checkpoint: Path, run_process: Run, uri: str, given: Callable[[], str], says: str
) -> None:
    raw = given()  # a token lasts for minutes

    answer = run_process("sign", checkpoint, "--key", uri, **{TOKEN_VARIABLE: raw})

    assert answer.code == 2
    assert says in answer.complaint
    assert not raw or raw not in answer.err
    assert not Sidecars(checkpoint).cosignature(2).exists()


def test_services_that_are_not_there_are_told(checkpoint: Path, run_process: Run) -> None:
    with served(Instance()) as instance:
        instance.write(Path("acme.json"))

    answer = run_process("sign", checkpoint, "--key", "sigstore:?instance=acme.json", **{TOKEN_VARIABLE: token()})

    assert answer.complaint.startswith("sigstore:?instance=acme.json cannot sign (")
    assert answer.complaint.endswith("; check the network and that the token is valid.")


def test_signature_that_would_not_hold_is_not_written(
    checkpoint: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token())
    instance.late = timedelta(hours=1)

    with pytest.raises(SignatureError, match="cert is not valid at validation time"):
        manifest.sign(checkpoint, "sigstore:?instance=acme.json")
    assert not Sidecars(checkpoint).cosignature(2).exists()


def test_job_of_a_ci_service_signs_as_its_workflow(checkpoint: Path, instance: Instance, run_process: Run) -> None:
    job = {"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job"}
    job["ACTIONS_ID_TOKEN_REQUEST_URL"] = f"{instance.address}/ambient?version=1"

    signed = run_process("sign", checkpoint, "--key", "sigstore:?instance=acme.json", **job)

    assert signed.code == 0, signed.err
    uri = f"sigstore:{WORKFLOW}?issuer={ISSUER}&instance=acme.json"
    assert manifest.verify(checkpoint, key=uri, fast=True).passed


_BROWSER = """
import sys, urllib.request
print("the browser was shown", urllib.request.urlopen(sys.argv[1]).status)
"""


@pytest.mark.usefixtures("instance")
def test_person_at_a_terminal_signs_in_by_a_browser(checkpoint: Path, folder: Path) -> None:
    """The browser is a program that follows what it is sent to, as one does whose owner agrees at once."""
    (folder / "browser.py").write_text(_BROWSER)
    words = [sys.executable, "-m", "manifest", "sign", str(checkpoint), "--key", "sigstore:?instance=acme.json"]
    environment = {**os.environ, "BROWSER": f"{sys.executable} {folder / 'browser.py'} %s"}
    environment.pop(TOKEN_VARIABLE, None)
    controlling, terminal = pty.openpty()

    done = subprocess.run(words, stdin=terminal, capture_output=True, text=True, env=environment, timeout=60)

    os.close(terminal)
    os.close(controlling)
    assert done.returncode == 0, done.stderr
    assert "Waiting for browser interaction" in done.stderr
    assert manifest.verify(checkpoint, key=URI, fast=True).passed


def test_any_changed_byte_of_a_keyless_signature_fails(signed: Path) -> None:
    path = Sidecars(signed).signature
    whole, key = path.read_bytes(), load_public_key(URI)
    for at in range(0, len(whole), 5):
        changed = whole[:at] + bytes([whole[at] ^ (1 + at % 127)]) + whole[at + 1 :]
        with pytest.raises(SignatureError):
            verify_bundle(changed, [key])
    assert verify_bundle(whole, [key]).identity == Identity(IDENTITY, ISSUER)


@pytest.mark.parametrize("command", ["sign", "verify"])
def test_library_that_is_missing_is_told_with_what_to_install(signed: Path, command: str) -> None:
    program = "import sys; sys.modules['sigstore'] = None; from manifest.cli import main; main()"
    key = URI if command == "verify" else "sigstore:?instance=acme.json"

    words = [sys.executable, "-c", program, command, str(signed), "--key", key]
    done = subprocess.run(words, capture_output=True, text=True)

    assert done.returncode == 2
    assert "A keyless signature needs the library sigstore: `pip install " in " ".join(done.stderr.split())


def test_keyless_signature_needs_no_library_where_only_keys_are_trusted(signed: Path) -> None:
    manifest.sign(signed, "bob.key")
    program = "import sys; sys.modules['sigstore'] = None; from manifest.cli import main; main()"

    words = [sys.executable, "-c", program, "verify", "--fast", str(signed), "--key", "bob.pub"]
    done = subprocess.run(words, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "T016" in done.stdout


def test_loading_takes_an_identity(signed: Path) -> None:
    with pytest.raises(manifest.VerificationError) as refused:
        manifest.load(signed, key=f"sigstore:eve@acme.example?issuer={ISSUER}&instance=acme.json")
    assert "T003" in {item.rule for item in refused.value.report.findings() if item.severity is Severity.ERROR}
