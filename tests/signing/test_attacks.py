"""Every attack of the table ends in its finding; no changed byte goes unseen; what was verified is what is loaded."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.errors import ManifestError
from manifest.schema.report import Report, Severity, VerificationError
from manifest.signing import PublicKey, load_private_key, load_public_key, sign_resources
from manifest.storage.sidecars import Sidecars
from tests.signing.attacks import ATTACKS, Attack
from tests.signing.scene import Scene, digest_of, keyless, other_form
from tests.signing.sigstore_instance import IDENTITY, ISSUER, URI

SIGNED = {"key": "alice.key", "golden": False, "family": "opaque"}


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


@pytest.fixture(scope="session")
def scenery(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small signed checkpoint, with another one, an older one and one in shards."""
    place = tmp_path_factory.mktemp("scenery")
    shutil.copytree(template, place, dirs_exist_ok=True)
    options = {**SIGNED, "key": place / "alice.key"}
    manifest.save(linear(1), place / "other.safetensors", **options)
    manifest.save_distributed(linear(2), place / "distributed", **options)
    (place / "older").mkdir()
    older = place / "older" / "ckpt.safetensors"
    manifest.save(linear(3), older, **options)
    record = json.loads(Sidecars(older).manifest.read_bytes())
    record["created"] = "2025-12-31T23:59:59Z"
    Sidecars(older).manifest.write_text(json.dumps(record))
    resources = {path.name: digest_of(path) for path in (older, Sidecars(older).manifest)}
    Sidecars(older).signature.write_bytes(sign_resources("ckpt", resources, load_private_key(place / "alice.key")))
    return place


@pytest.fixture
def scene(scenery: Path, folder: Path) -> Scene:
    shutil.copytree(scenery, folder, dirs_exist_ok=True)
    return Scene(
        folder=folder,
        checkpoint=folder / "ckpt.safetensors",
        other=folder / "other.safetensors",
        older=folder / "older" / "ckpt.safetensors",
        distributed=folder / "distributed",
    )


def found(report: Report) -> dict[str, Severity | None]:
    return {item.rule: item.severity for rung in report.rungs for item in rung.findings}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_attack_ends_in_its_finding(attack: Attack, scene: Scene) -> None:
    target = getattr(scene, attack.target)
    attack.do(scene)

    report = manifest.verify(target, fast=True, **attack.options)

    assert attack.finding in found(report)
    assert report.passed is attack.passes
    assert (found(report)[attack.finding] is Severity.ERROR) is not attack.passes


@pytest.mark.parametrize("target", ["checkpoint", "other", "older", "distributed"])
def test_what_is_attacked_passes_before(target: str, scene: Scene) -> None:
    report = manifest.verify(getattr(scene, target), key="alice.pub", fast=True)

    assert report.passed
    assert found(report) == {}


def test_keyless_signature_that_is_attacked_passes_before(scene: Scene) -> None:
    keyless()(scene)

    report = manifest.verify(scene.checkpoint, key=URI, fast=True)

    assert report.passed
    assert found(report) == {}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("an instance of the attacker's own", "acme.json (failed to build timestamp certificate chain"),
        ("of an instance that is not the public one", "the public instance (failed to build timestamp certificate"),
        ("a certificate that had expired", "validation failed: cert is not valid at validation time"),
        ("a certificate that was not logged", "failed to verify SCT on signing certificate"),
        ("a signature in another log", "invalid log entry: checkpoint: invalid signature: keyring"),
        ("a signature that was not logged", "expected exactly one log entry in bundle"),
        ("without the log's promise", "bundle must contain an inclusion promise or signed timestamp"),
        ("logged at another time", "invalid log entry: SET: invalid inclusion promise"),
        ("a log of another size", "the proof is of a log with 5 entries, and the log signed '4'"),
        ("a line below what the log signed", "there are other lines than signatures below what the log signed"),
        ("another spelling", "the bundle is not spelled as Sigstore's client spells it"),
    ],
)
def test_keyless_signature_that_is_unproven_says_why(scene: Scene, name: str, says: str) -> None:
    attack = next(each for each in ATTACKS if each.name == f"keyless: {name}")
    attack.do(scene)

    (finding,) = manifest.verify(scene.checkpoint, fast=True, **attack.options).rungs[0].findings

    assert finding.rule == "T019"
    assert finding.message.startswith(f"The signature names {IDENTITY} of {ISSUER} and does not hold by the trust root")
    assert says in finding.message


def test_table_is_of_forty_attacks_at_least_and_names_each_once() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names) >= 40


_BY_KEY = [attack for attack in ATTACKS if attack.options == {"key": "alice.pub"} and not attack.passes]


@pytest.mark.parametrize("attack", _BY_KEY[::6], ids=str)
def test_attacked_checkpoint_is_not_loaded(attack: Attack, scene: Scene) -> None:
    attack.do(scene)

    with pytest.raises(VerificationError):
        manifest.load(getattr(scene, attack.target), verify="fast", key="alice.pub")


def test_other_form_of_a_signature_is_as_good_and_is_the_same_signer(scene: Scene) -> None:
    """ECDSA has two signatures for each; standards allow both, so signatures are counted by their keys."""
    scene.write_signature(other_form(scene.raw_signature()))

    assert manifest.verify(scene.checkpoint, key="alice.pub", fast=True).passed


@pytest.mark.parametrize("curve", ["p224", "k256"])
def test_key_on_a_curve_of_no_standard_is_refused(scene: Scene, curve: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    kinds: dict[str, ec.EllipticCurve] = {"p224": ec.SECP224R1(), "k256": ec.SECP256K1()}
    public = ec.generate_private_key(kinds[curve]).public_key()
    Path("other.pub").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    with pytest.raises(manifest.KeyFileError, match="expected an elliptic-curve key on P-256, P-384 or P-521"):
        manifest.verify(scene.checkpoint, key="other.pub", fast=True)


def test_pipe_in_the_place_of_a_signature_is_refused_at_once(scene: Scene) -> None:
    scene.signature.unlink()
    os.mkfifo(scene.signature)

    with pytest.raises(manifest.InputError, match="is a pipe, expected a file"):
        manifest.verify(scene.checkpoint, key="alice.pub", fast=True)


def test_any_changed_byte_of_a_small_checkpoint_and_its_sidecars_fails(checkpoint: Path) -> None:
    keys = [load_public_key("alice.pub")]
    for path in (checkpoint, Sidecars(checkpoint).manifest, Sidecars(checkpoint).signature):
        whole = path.read_bytes()
        for at in range(len(whole)):
            _assert_seen(checkpoint, keys, path, whole, at, flip=1 + at % 255)
        path.write_bytes(whole)
    assert manifest.verify(checkpoint, key=keys, fast=True).passed


def test_any_changed_byte_of_a_large_checkpoint_fails(folder: Path) -> None:
    torch.manual_seed(0)
    checkpoint = folder / "large.safetensors"
    manifest.save(nn.Linear(1024, 1024), checkpoint, **SIGNED)
    keys = [load_public_key("alice.pub")]
    for path in (checkpoint, Sidecars(checkpoint).manifest, Sidecars(checkpoint).signature):
        whole = path.read_bytes()
        for at in {0, 7, 8, len(whole) - 1, *range(0, len(whole), len(whole) // 20)}:
            _assert_seen(checkpoint, keys, path, whole, at, flip=0x80)
        path.write_bytes(whole)


def _assert_seen(checkpoint: Path, keys: list[PublicKey], path: Path, whole: bytes, at: int, flip: int) -> None:
    path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    try:
        passed = manifest.verify(checkpoint, key=keys, fast=True).passed
    except ManifestError:
        passed = False  # a manifest that cannot be read
    assert not passed, f"byte {at} of {path.name}"


def test_file_that_is_swapped_after_it_was_opened_is_not_what_is_verified(scene: Scene) -> None:
    genuine = open_checkpoint(scene.checkpoint)
    shutil.copy(scene.other, scene.folder / "swapped")
    (scene.folder / "swapped").replace(scene.checkpoint)

    assert manifest.verify(genuine, key="alice.pub", fast=True).passed
    assert not manifest.verify(scene.checkpoint, key="alice.pub", fast=True).passed


_FACTORY = """
from torch import nn

def make():
    return nn.Linear(2, 2)
"""


@pytest.fixture
def swapping(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A link that leads to genuine weights and to others in turn, as fast as it can; the network can be loaded."""
    (folder / "swapped_network.py").write_text(_FACTORY)
    monkeypatch.syspath_prepend(str(folder))
    genuine, others, link = folder / "genuine.pt", folder / "others.pt", folder / "linked.pt"
    for seed, path in enumerate((others, genuine)):
        torch.manual_seed(seed)
        network = manifest.create_model("swapped_network:make", family="callable")
        nn.init.normal_(network.weight)
        manifest.save(network, path, key="alice.key", golden=False)
    link.symlink_to(genuine)
    for kind in ("manifest", "signature"):
        shutil.copy(getattr(Sidecars(genuine), kind), getattr(Sidecars(link), kind))
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in (others, genuine):
                (folder / "next").symlink_to(target)
                (folder / "next").replace(link)

    thread = threading.Thread(target=swap)
    thread.start()
    yield link
    stop.set()
    thread.join()


def test_link_that_is_swapped_while_it_is_loaded_yields_no_other_weights(swapping: Path) -> None:
    genuine = manifest.load("genuine.pt", key="alice.pub", verify="fast", allow=["swapped_network"])
    outcomes = {True: 0, False: 0}
    for _ in range(60):
        try:
            loaded = manifest.load(swapping, key="alice.pub", verify="fast", allow=["swapped_network"])
            assert torch.equal(loaded.weight, genuine.weight)
            outcomes[True] += 1
        except manifest.VerificationError:
            outcomes[False] += 1
    assert all(outcomes.values()), outcomes
