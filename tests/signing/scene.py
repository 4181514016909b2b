"""The folder that is attacked, and what an attacker does there: the words of the table in `attacks`."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from manifest.signing import PrivateKey, load_private_key, sign_resources
from manifest.storage.sidecars import Sidecars
from tests.signing.sigstore_instance import IDENTITY, ISSUER, Instance, served, signed_by, token

TYPE = b"application/vnd.in-toto+json"
ORDER_OF_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)


@dataclass(frozen=True)
class Scene:
    """A folder with checkpoints that alice signed, and the keys.

    Attributes:
        folder: The current directory of the test.
        checkpoint: The one that is attacked.
        other: Another one, as genuine.
        older: An older one, as genuine.
        distributed: A folder of shards.
    """

    folder: Path
    checkpoint: Path
    other: Path
    older: Path
    distributed: Path

    @property
    def manifest(self) -> Path:
        return Sidecars(self.checkpoint).manifest

    @property
    def signature(self) -> Path:
        return Sidecars(self.checkpoint).signature

    def key(self, name: str) -> PrivateKey:
        return load_private_key(self.folder / f"{name}.key")

    def bundle(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.signature.read_bytes())
        return found

    def payload(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(base64.b64decode(self.bundle()["dsseEnvelope"]["payload"]))
        return found

    def write(self, bundle: dict[str, Any]) -> None:
        self.signature.write_bytes(json.dumps(bundle, separators=(",", ":")).encode())

    def sign(self, payload: bytes, key: PrivateKey | None = None, **changes: Any) -> None:
        """A bundle of some payload with a genuine signature."""
        signer = key or self.key("alice")
        bundle = self.bundle()
        bundle["verificationMaterial"]["publicKey"]["hint"] = signer.public.hint
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        signature = signer.sign(changes.get("signed", pae(payload)))
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        self.write(bundle)

    def raw_signature(self) -> bytes:
        return base64.b64decode(self.bundle()["dsseEnvelope"]["signatures"][0]["sig"])

    def write_signature(self, raw: bytes) -> None:
        bundle = self.bundle()
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(raw).decode()
        self.write(bundle)


def pae(payload: bytes, kind: bytes = TYPE) -> bytes:
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def root_of(resources: list[dict[str, str]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Scene], None]:
    """The bundle is changed around what is signed."""

    def do(scene: Scene) -> None:
        bundle = scene.bundle()
        change(bundle)
        scene.write(bundle)

    return do


def respell(change: Callable[[bytes], bytes]) -> Callable[[Scene], object]:
    """The bytes of the signature file are changed."""
    return lambda scene: scene.signature.write_bytes(change(scene.signature.read_bytes()))


def raw(change: Callable[[bytes], bytes]) -> Callable[[Scene], None]:
    """The ECDSA signature is changed."""
    return lambda scene: scene.write_signature(change(scene.raw_signature()))


def signed_as(signed: Callable[[bytes], bytes]) -> Callable[[Scene], None]:
    """Alice has signed other bytes than DSSE says."""

    def do(scene: Scene) -> None:
        payload = json.dumps(scene.payload()).encode()
        scene.sign(payload, signed=signed(payload))

    return do


def as_alice(change: Callable[[dict[str, Any]], object]) -> Callable[[Scene], None]:
    """Alice has signed a payload that was changed."""

    def do(scene: Scene) -> None:
        payload = scene.payload()
        change(payload)
        scene.sign(json.dumps(payload).encode())

    return do


def spelled_by_alice(change: Callable[[bytes], bytes]) -> Callable[[Scene], None]:
    """Alice has signed a payload that is spelled otherwise."""
    return lambda scene: scene.sign(change(json.dumps(scene.payload()).encode()))


def with_files(*names: str) -> Callable[[Scene], None]:
    """Alice has signed further names, with the digest of the checkpoint."""

    def change(payload: dict[str, Any]) -> None:
        resources = payload["predicate"]["resources"]
        resources += [{"algorithm": "sha256", "name": name, "digest": resources[0]["digest"]} for name in names]
        payload["subject"][0]["digest"]["sha256"] = root_of(resources)

    return as_alice(change)


def covering(*names: str) -> Callable[[Scene], object]:
    """Alice has signed some of the files only."""
    return lambda scene: scene.signature.write_bytes(
        sign_resources("model", {name: digest_of(scene.folder / name) for name in names}, scene.key("alice"))
    )


def with_readme(then: Callable[[Path], object]) -> Callable[[Scene], None]:
    """Alice has signed a README too, to which something is done then."""

    def do(scene: Scene) -> None:
        readme = scene.folder / "README.md"
        readme.write_text("Trained on digits.\n")
        covering("README.md", scene.checkpoint.name, scene.manifest.name)(scene)
        then(readme)

    return do


def linked(path: Path) -> None:
    outside = path.parent.parent / f"outside-{path.parent.name}"
    path.rename(outside)
    path.symlink_to(outside)


def taken_from(scene: Scene, source: Path, *parts: str) -> None:
    """Files of another checkpoint put in the place of those of the one that is attacked."""
    for part in parts:
        old, new = (
            checkpoint if part == "weights" else getattr(Sidecars(checkpoint), part)
            for checkpoint in (source, scene.checkpoint)
        )
        shutil.copy(old, new)


def trust_file(scene: Scene, *names: str, threshold: int = 1, **fields: Any) -> None:
    """`trust.yaml` with some people; the further fields are of the first."""
    people: list[dict[str, Any]] = [{"name": name, "key": (scene.folder / f"{name}.pub").read_text()} for name in names]
    people[0].update(fields)
    content = {"schema": "trust/v1", "threshold": threshold, "signers": people}
    (scene.folder / "trust.yaml").write_text(yaml.safe_dump(content))


def identity_file(scene: Scene, **fields: Any) -> None:
    """`trust.yaml` with bob and the identity that signs, to whom the fields belong."""
    trust_file(scene, "bob")
    content = yaml.safe_load((scene.folder / "trust.yaml").read_text())
    identity = {"name": "release", "identity": IDENTITY, "issuer": ISSUER, "instance": "acme.json", **fields}
    content["signers"].append(identity)
    (scene.folder / "trust.yaml").write_text(yaml.safe_dump(content))


def trusting(
    *names: str, then: Callable[[Scene], object] = lambda _: None, threshold: int = 1, **fields: Any
) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        trust_file(scene, *names, threshold=threshold, **fields)
        then(scene)

    return do


def beside(change: Callable[[bytes], bytes]) -> Callable[[Scene], None]:
    """A second signature made out of the first."""

    def do(scene: Scene) -> None:
        first = scene.signature.read_bytes()
        scene.write_signature(change(scene.raw_signature()))
        scene.signature.rename(Sidecars(scene.checkpoint).cosignature(2))
        scene.signature.write_bytes(first)

    return do


def other_form(signature: bytes) -> bytes:
    """The second of the two signatures that ECDSA has for one: s and the order less s."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, ORDER_OF_P256 - s)


def padded(signature: bytes) -> bytes:
    """DER with a zero in front of the first number, which needs none."""
    r, s = decode_dss_signature(signature)
    numbers = [b"\x00" + r.to_bytes(33), s.to_bytes(33)]
    body = b"".join(b"\x02" + bytes([len(number)]) + number for number in numbers)
    return b"\x30" + bytes([len(body)]) + body


def by_another_curve(scene: Scene) -> None:
    """A key on P-384 signs, and the bundle names alice."""
    signer = PrivateKey.of(ec.generate_private_key(ec.SECP384R1()))
    payload = base64.b64decode(scene.bundle()["dsseEnvelope"]["payload"])
    scene.write_signature(signer.sign(pae(payload)))


def keyless(
    *,
    by: str = IDENTITY,
    issuer: str = ISSUER,
    of: Callable[[Instance], Instance] = lambda genuine: genuine,
    change: Callable[[dict[str, Any]], object] = lambda _: None,
    spelled: Callable[[bytes], bytes] = lambda data: data,
) -> Callable[[Scene], None]:
    """An identity signs in alice's place, and `acme.json` describes the instance that is trusted.

    Args:
        by: The identity.
        issuer: Its issuer.
        of: The instance that vouches for it, made of the one that is trusted.
        change: What is done to the bundle.
        spelled: What is done to its bytes.
    """

    def do(scene: Scene) -> None:
        genuine = Instance()
        genuine.write(scene.folder / "acme.json")
        payload = base64.b64decode(scene.bundle()["dsseEnvelope"]["payload"])
        with served(of(genuine)) as instance:
            bundle = json.loads(signed_by(instance, payload, token(by, issuer)))
        change(bundle)
        text = json.dumps(bundle, separators=(",", ":"), ensure_ascii=False)  # as the client of Sigstore spells it
        scene.signature.write_bytes(spelled(text.encode()))

    return do


def logged_entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Fields of the log's entry are others; None removes one."""

    def change(bundle: dict[str, Any]) -> None:
        (entry,) = bundle["verificationMaterial"]["tlogEntries"]
        for name, value in changes.items():
            entry[name] = value(entry[name]) if callable(value) else value
            if value is None:
                del entry[name]

    return change


def by_eve(scene: Scene, *, hint: str | None = None) -> None:
    scene.sign(base64.b64decode(scene.bundle()["dsseEnvelope"]["payload"]), scene.key("eve"))
    if hint is not None:
        edit(lambda bundle: bundle["verificationMaterial"]["publicKey"].update(hint=scene.key(hint).public.hint))(scene)


def without_signer(scene: Scene) -> None:
    scene.signature.unlink()
    record = json.loads(scene.manifest.read_bytes())
    del record["signer"]
    scene.manifest.write_text(json.dumps(record))


def another_digest(payload: dict[str, Any]) -> None:
    resources = payload["predicate"]["resources"]
    resources[0]["digest"] = "0" * 64
    payload["subject"][0]["digest"]["sha256"] = root_of(resources)


def payload_only(change: Callable[[dict[str, Any]], object]) -> Callable[[Scene], None]:
    """The payload is changed and nobody signs it anew."""

    def do(scene: Scene) -> None:
        payload = scene.payload()
        change(payload)
        data = base64.b64encode(json.dumps(payload, separators=(",", ":")).encode()).decode()
        edit(lambda bundle: bundle["dsseEnvelope"].update(payload=data))(scene)

    return do


def payload_in_lines(scene: Scene) -> None:
    data = json.dumps(scene.payload(), indent=1).replace("\n", "\r\n").encode()
    edit(lambda bundle: bundle["dsseEnvelope"].update(payload=base64.b64encode(data).decode()))(scene)


def serialization(**changes: Any) -> Callable[[Scene], None]:
    return as_alice(lambda payload: payload["predicate"]["serialization"].update(changes))
