"""Passphrases that a person types at a terminal, by real processes on a terminal of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from manifest.signing import generate_keys, load_private_key
from manifest.storage.sidecars import Sidecars
from tests.signing.terminal import typed


@pytest.mark.parametrize(("answer", "code"), [("open sesame", 0), ("open barley", 2)])
def test_passphrase_of_an_encrypted_key_is_asked_for(checkpoint: Path, answer: str, code: int) -> None:
    generate_keys(Path("locked"), passphrase=b"open sesame")

    ended, shown = typed("sign", checkpoint.name, "--key", "locked.key", answers=(answer,))

    assert ended == code, shown
    assert shown.startswith("Passphrase of locked.key: ")
    assert answer not in shown
    assert Sidecars(checkpoint).cosignature(2).exists() is (code == 0)


def test_passphrase_of_a_new_key_is_typed_twice(folder: Path) -> None:
    ended, shown = typed("keygen", "new", "--encrypt", answers=("open sesame", "open sesame"))

    assert ended == 0, shown
    assert "open sesame" not in shown
    assert load_private_key(folder / "new.key", b"open sesame").sign(b"data")


def test_passphrase_of_a_new_key_that_is_not_the_same_twice_makes_none(folder: Path) -> None:
    ended, shown = typed("keygen", "new", "--encrypt", answers=("open sesame", "open sesame "))

    assert ended == 2
    assert "The two passphrases differ, so no key was made; run the command again." in shown
    assert not (folder / "new.key").exists()


def test_passphrase_of_a_new_key_comes_by_a_file_descriptor(folder: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"open sesame\n")
    os.close(writing)
    os.set_inheritable(reading, True)

    made = os.spawnl(
        os.P_WAIT, sys.executable, sys.executable, "-m", "manifest", "keygen", "new", "--encrypt",
        "--passphrase-fd", str(reading),
    )  # fmt: skip

    assert made == 0
    assert load_private_key(folder / "new.key", b"open sesame").sign(b"data")


@pytest.mark.parametrize(
    "command", [("keygen", "new", "--encrypt"), ("sign", "ckpt.safetensors", "--key", "locked.key")]
)
@pytest.mark.usefixtures("checkpoint")
def test_passphrase_that_nobody_can_be_asked_for_says_how_to_give_it(run_process, command) -> None:
    generate_keys(Path("locked"), passphrase=b"open sesame")

    answer = run_process(*command)

    assert answer.code == 2
    assert answer.complaint.endswith(
        "; set it in the environment variable MANIFEST_PASSPHRASE, or give it by `--passphrase-fd`."
    )
