"""Attacks on a signed checkpoint, one a row: what is done to the files, and the finding that it must end in.

The attacker may write every file beside the checkpoint. Rows with `as_alice` are of a signer whose tool is faulty or
hostile: the signature is genuine, and what it says must be refused all the same.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from manifest.storage.sidecars import Sidecars
from tests.signing.scene import (
    ORDER_OF_P256,
    TYPE,
    YESTERDAY,
    Scene,
    another_digest,
    as_alice,
    beside,
    by_another_curve,
    by_eve,
    covering,
    edit,
    flip,
    identity_file,
    keyless,
    linked,
    logged_entry,
    other_form,
    padded,
    pae,
    payload_in_lines,
    payload_only,
    raw,
    respell,
    serialization,
    signed_as,
    spelled_by_alice,
    taken_from,
    trust_file,
    trusting,
    with_files,
    with_readme,
    without_signer,
)
from tests.signing.sigstore_instance import IDENTITY, ISSUER, URI, Instance


@dataclass(frozen=True)
class Attack:
    """One row.

    Attributes:
        name: What is done, in a few words; it is the test's id.
        do: Does it.
        finding: The rule that must be found.
        options: What `manifest.verify` is called with besides `fast`.
        passes: Whether the report passes all the same, with the finding as a warning or a note.
        target: The attribute of the scene that is verified.
    """

    name: str
    do: Callable[[Scene], object]
    finding: str
    options: dict[str, Any] = field(default_factory=lambda: {"key": "alice.pub"})
    passes: bool = False
    target: str = "checkpoint"

    def __str__(self) -> str:
        return self.name


_DISTRIBUTED = {"target": "distributed"}
_TRUST = {"trust": "trust.yaml"}
_KEYLESS = {"key": URI}

ATTACKS = [
    # What the signature says.
    Attack("payload: another digest", payload_only(another_digest), "T003"),
    Attack("payload: another model name", payload_only(lambda p: p["subject"][0].update(name="x")), "T003"),
    Attack("payload: spelled with lines that end in CRLF", payload_in_lines, "T003"),
    Attack("payload type: plain text", edit(lambda b: b["dsseEnvelope"].update(payloadType="text/plain")), "T005"),
    Attack("media type: bundle v0.2",
           edit(lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2")), "T005"),
    Attack("bundle: certificate instead of a key",
           edit(lambda b: b.update(verificationMaterial={"certificate": {"rawBytes": "AA=="}})), "T005"),
    Attack("bundle: entry of a log that nobody asked",
           edit(lambda b: b["verificationMaterial"].update(tlogEntries=[{}])), "T005"),
    Attack("bundle: two signatures",
           edit(lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0])), "T005"),
    Attack("bundle: no signature", edit(lambda b: b["dsseEnvelope"].update(signatures=[])), "T005"),
    Attack("bundle: key id that is not signed",
           edit(lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="alice")), "T005"),
    # What was signed: the encoding of DSSE, and nothing like it.
    Attack("PAE: the payload by itself", signed_as(lambda p: p), "T003"),
    Attack("PAE: of another type", signed_as(lambda p: pae(p, b"text/plain")), "T003"),
    Attack("PAE: version 2", signed_as(lambda p: pae(p).replace(b"DSSEv1", b"DSSEv2", 1)), "T003"),
    Attack("PAE: without lengths", signed_as(lambda p: b"DSSEv1 %b %b" % (TYPE, p)), "T003"),
    Attack("PAE: of the payload in base64", signed_as(lambda p: pae(base64.b64encode(p))), "T003"),
    Attack("PAE: a space more", signed_as(lambda p: pae(p) + b" "), "T003"),
    # Malleability.
    Attack("signature: a byte behind the DER", raw(lambda sig: sig + b"\x00"), "T003"),
    Attack("signature: number with a needless zero", raw(padded), "T003"),
    Attack("signature: length in the long form", raw(lambda sig: b"\x30\x81" + sig[1:]), "T003"),
    Attack("signature: indefinite length", raw(lambda sig: b"\x30\x80" + sig[2:] + b"\x00\x00"), "T003"),
    Attack("signature: zeros", raw(lambda _: encode_dss_signature(0, 0)), "T003"),
    Attack("signature: s and the order",
           raw(lambda sig: encode_dss_signature(decode_dss_signature(sig)[0],
                                                decode_dss_signature(sig)[1] + ORDER_OF_P256)), "T003"),
    Attack("signature: r and s side by side",
           raw(lambda sig: b"".join(each.to_bytes(32) for each in decode_dss_signature(sig))), "T003"),
    Attack("signature: empty", raw(lambda _: b""), "T003"),
    Attack("signature: base64 with a line break",
           edit(lambda b: b["dsseEnvelope"]["signatures"][0].update(
               sig=b["dsseEnvelope"]["signatures"][0]["sig"] + "\n")), "T005"),
    Attack("signature: base64 for URLs",
           edit(lambda b: b["dsseEnvelope"].update(payload="-_" + b["dsseEnvelope"]["payload"][2:])), "T005"),
    Attack("signature: its other form as a second one",
           trusting("alice", "bob", threshold=2, then=beside(other_form)), "T015", _TRUST),
    Attack("signature: copied as a second one",
           trusting("alice", "bob", threshold=2, then=beside(lambda sig: sig)), "T015", _TRUST),
    # Who signed.
    Attack("key: another curve", by_another_curve, "T003"),
    Attack("key: somebody else's", by_eve, "T003"),
    Attack("key: somebody else's, named alice's", lambda s: by_eve(s, hint="alice"), "T003"),
    Attack("key: alice's, named somebody else's",
           edit(lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64)), "T005"),
    # Who signed, by a certificate.
    Attack("keyless: another identity", keyless(by="eve@acme.example"), "T003", _KEYLESS),
    Attack("keyless: the identity, of another issuer", keyless(issuer="https://eve.example"), "T003", _KEYLESS),
    Attack("keyless: a key's signature where an identity is trusted",
           lambda s: Instance().write(s.folder / "acme.json"), "T003", _KEYLESS),
    Attack("keyless: where a key is trusted", keyless(), "T003"),
    Attack("keyless: another payload", lambda s: (keyless()(s), payload_only(another_digest)(s)), "T003", _KEYLESS),
    Attack("keyless: an instance of the attacker's own", keyless(of=lambda _: Instance()), "T019", _KEYLESS),
    Attack("keyless: of an instance that is not the public one", keyless(), "T019",
           {"key": f"sigstore:{IDENTITY}?issuer={ISSUER}"}),
    Attack("keyless: a certificate that had expired",
           keyless(of=lambda genuine: replace(genuine, late=timedelta(hours=1))), "T019", _KEYLESS),
    Attack("keyless: a certificate that was not logged",
           keyless(of=lambda genuine: Instance(ca_key=genuine.ca_key, log_key=genuine.log_key)), "T019", _KEYLESS),
    Attack("keyless: a signature in another log",
           keyless(of=lambda genuine: Instance(ca_key=genuine.ca_key, ct_key=genuine.ct_key)), "T019", _KEYLESS),
    Attack("keyless: a signature that was not logged",
           keyless(change=lambda b: b["verificationMaterial"].update(tlogEntries=[])), "T019", _KEYLESS),
    Attack("keyless: without the log's promise", keyless(change=logged_entry(inclusionPromise=None)), "T019", _KEYLESS),
    Attack("keyless: logged at another time", keyless(change=logged_entry(
        integratedTime=lambda time: str(int(time) - 60))), "T019", _KEYLESS),
    Attack("keyless: a log of another size", keyless(change=logged_entry(
        inclusionProof=lambda proof: {**proof, "treeSize": "5"})), "T019", _KEYLESS),
    Attack("keyless: a line below what the log signed", keyless(change=logged_entry(
        inclusionProof=lambda proof: {**proof, "checkpoint": {"envelope": proof["checkpoint"]["envelope"] + "x\n"}})),
        "T019", _KEYLESS),
    Attack("keyless: key id that is not signed",
           keyless(change=lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="release")), "T005", _KEYLESS),
    Attack("keyless: another spelling", keyless(spelled=lambda d: d.replace(b":{", b": {")), "T019", _KEYLESS),
    Attack("trust: an identity that expired", lambda s: (keyless()(s), identity_file(s, valid_until=YESTERDAY)),
           "T012", _TRUST),
    Attack("trust: an identity that was removed", lambda s: (keyless()(s), identity_file(s, removed=YESTERDAY)),
           "T013", _TRUST),
    # Which files.
    Attack("weights: a byte changed", lambda s: flip(s.checkpoint), "I002"),
    Attack("weights: cut", lambda s: s.checkpoint.write_bytes(s.checkpoint.read_bytes()[:-1]), "I003"),
    Attack("weights: of another checkpoint", lambda s: taken_from(s, s.other, "weights"), "I004"),
    Attack("weights: a link to those of another",
           lambda s: (s.checkpoint.unlink(), s.checkpoint.symlink_to(s.other)), "I004"),
    Attack("manifest: a byte changed", lambda s: flip(s.manifest, s.manifest.read_bytes().index(b"opaque")), "T006"),
    Attack("manifest: lines end in CRLF",
           lambda s: s.manifest.write_bytes(s.manifest.read_bytes().replace(b"\n", b"\r\n") + b"\r\n"), "T006"),
    Attack("manifest: of another checkpoint", lambda s: taken_from(s, s.other, "manifest"), "T006"),
    Attack("manifest: a link to that of another",
           lambda s: (s.manifest.unlink(), s.manifest.symlink_to(Sidecars(s.other).manifest)), "T006"),
    Attack("signature: of another checkpoint", lambda s: taken_from(s, s.other, "signature"), "T006"),
    Attack("manifest and signature: of another checkpoint",
           lambda s: taken_from(s, s.other, "manifest", "signature"), "I004"),
    Attack("replay: an older checkpoint, by its day",
           lambda s: taken_from(s, s.older, "weights", "manifest", "signature"), "T017",
           {"key": "alice.pub", "not_before": "2026-01-01"}),
    Attack("replay: another checkpoint, by its weights",
           lambda s: taken_from(s, s.other, "weights", "manifest", "signature"), "T018",
           {"key": "alice.pub", "expect_weights": "blake3:" + "0" * 64}),
    Attack("signature: removed", lambda s: s.signature.unlink(), "T004"),
    Attack("signature: removed, and the manifest says nothing of it", without_signer, "T004"),
    Attack("signature: removed, and only a policy demands one",
           lambda s: (without_signer(s), (s.folder / "policy.yaml").write_text(
               "schema: policy/v1\nsignature: {required: true}\n")), "P012", {"policy": "policy.yaml"}),
    Attack("coverage: the manifest alone", covering("ckpt.safetensors.manifest.json"), "T006"),
    Attack("coverage: the weights alone", covering("ckpt.safetensors"), "T010"),
    Attack("coverage: a signed file changed", with_readme(flip), "T006"),
    Attack("coverage: a signed file gone", with_readme(Path.unlink), "T006"),
    Attack("coverage: a signed file is a link out", with_readme(linked), "T006"),
    Attack("shards: one more", lambda s: shutil.copy(s.checkpoint, s.distributed / "__9_0.distcp"), "T011",
           passes=True, **_DISTRIBUTED),
    Attack("shards: one changed", lambda s: flip(next(s.distributed.glob("__*"))), "I001", **_DISTRIBUTED),
    Attack("shards: one gone", lambda s: next(s.distributed.glob("__*")).unlink(), "F008", **_DISTRIBUTED),
    # Names, genuinely signed.
    Attack("names: above the folder", with_files("../alice.key"), "T005"),
    Attack("names: above the folder from below", with_files("a/../../alice.key"), "T005"),
    Attack("names: absolute", with_files("/etc/passwd"), "T005"),
    Attack("names: of a drive", with_files("C:/alice.key"), "T005"),
    Attack("names: backslashes", with_files("..\\alice.key"), "T005"),
    Attack("names: twice", with_files("ckpt.safetensors"), "T005"),
    Attack("names: differ by capitals", with_files("CKPT.safetensors"), "T005"),
    Attack("names: a Cyrillic letter", with_files("\u0441kpt.safetensors"), "T005"),
    Attack("names: composed and not", with_files("caf\u00e9", "cafe\u0301"), "T005"),
    Attack("names: a space of no width", with_files("ckpt\u200b.safetensors"), "T005"),
    Attack("names: written from right to left", with_files("ckpt.\u202esrosnet"), "T005"),
    Attack("names: an escape of a terminal", with_files("a\x1b[2J"), "T005"),
    Attack("names: half a character", with_files("a\ud800"), "T005"),
    # Rules of the format, genuinely signed.
    Attack("resources: none", as_alice(lambda p: p["predicate"].update(resources=[])), "T005"),
    Attack("resources: everything is ignored", serialization(ignore_paths=["."]), "T005"),
    Attack("resources: in another order", as_alice(lambda p: p["predicate"]["resources"].reverse()), "T005"),
    Attack("resources: SHA-1", as_alice(lambda p: p["predicate"]["resources"][0].update(algorithm="sha1")), "T005"),
    Attack("resources: digests of shards", serialization(method="shards"), "T005"),
    Attack("resources: another hash for all", serialization(hash_type="blake3"), "T005"),
    Attack("statement: another type", as_alice(lambda p: p.update(_type="https://in-toto.io/Statement/v0.1")), "T005"),
    Attack("statement: another predicate",
           as_alice(lambda p: p.update(predicateType="https://slsa.dev/provenance/v1")), "T005"),
    Attack("statement: two subjects", as_alice(lambda p: p.update(subject=p["subject"] * 2)), "T005"),
    Attack("statement: another digest of the whole",
           as_alice(lambda p: p["subject"][0]["digest"].update(sha256="0" * 64)), "T005"),
    # JSON that is read in two ways, or without end.
    Attack("JSON: a key twice in the bundle", respell(lambda d: b'{"mediaType":"x",' + d[1:]), "T005"),
    Attack("JSON: a key twice in the payload", spelled_by_alice(lambda d: b'{"_type":"x",' + d[1:]), "T005"),
    Attack("JSON: NaN", spelled_by_alice(lambda d: b'{"a":NaN,' + d[1:]), "T005"),
    Attack("JSON: data behind the payload", spelled_by_alice(lambda d: d + b"{}"), "T005"),
    Attack("JSON: data behind the bundle", respell(lambda d: d + b"{}"), "T005"),
    Attack("JSON: a byte-order mark before the bundle", respell(lambda d: b"\xef\xbb\xbf" + d), "T005"),
    Attack("JSON: a byte-order mark before the payload", spelled_by_alice(lambda d: b"\xef\xbb\xbf" + d), "T005"),
    Attack("JSON: the bundle ends in CRLF", respell(lambda d: d + b"\r\n"), "T005"),
    Attack("JSON: the bundle in UTF-16", respell(lambda d: d.decode().encode("utf-16")), "T005"),
    Attack("JSON: another spelling of the bundle", respell(lambda d: d.replace(b":", b": ")), "T005"),
    Attack("JSON: a bundle of two megabytes", respell(lambda d: d[:-1] + b" " * (2 << 20) + b"}"), "T005"),
    Attack("JSON: 100,000 lists in each other in the bundle", respell(lambda _: b"[" * 100_000), "T005"),
    Attack("JSON: 100,000 lists in each other in the payload",
           spelled_by_alice(lambda d: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"," + d[1:]), "T005"),
    Attack("JSON: a number of 5,000 digits", spelled_by_alice(lambda d: b'{"a":' + b"9" * 5000 + b"," + d[1:]), "T005"),
    Attack("JSON: an empty file", respell(lambda _: b""), "T005"),
    # What a trust file says.
    Attack("trust: an expired key", trusting("alice", "bob", valid_until=YESTERDAY), "T012", _TRUST),
    Attack("trust: a key that is not valid yet",
           trusting("alice", "bob", valid_from=YESTERDAY + timedelta(days=9)), "T012", _TRUST),
    Attack("trust: a removed key", trusting("alice", "bob", removed=YESTERDAY), "T013", _TRUST),
    Attack("trust: a key for other checkpoints", trusting("alice", checkpoints=["heads/*"]), "T014", _TRUST),
    Attack("trust: one signature of two", trusting("alice", "bob", threshold=2), "T015", _TRUST),
    Attack("trust: the second signature by a stranger",
           trusting("alice", "bob", threshold=2, then=lambda s: (
               shutil.copy(s.signature, s.folder / "first"), by_eve(s),
               s.signature.rename(Sidecars(s.checkpoint).cosignature(2)),
               shutil.copy(s.folder / "first", s.signature))), "T015", _TRUST),
    Attack("trust: no signature at all", trusting("alice", then=lambda s: s.signature.unlink()), "T004", _TRUST),
    Attack("trust: the project of the attacker names eve",
           lambda s: (trust_file(s, "alice"), by_eve(s), (s.folder / ".manifest").mkdir(),
                      (s.folder / ".manifest" / "trust.yaml").write_text(
                          (s.folder / "trust.yaml").read_text().replace("alice", "eve"))), "T003", _TRUST),
    Attack("pending: an unsigned manifest that describes the checkpoint",
           lambda s: Sidecars(s.checkpoint).pending_manifest.write_bytes(s.manifest.read_bytes()), "T009", passes=True),
]  # fmt: skip
