"""Signing: vouching for a checkpoint that already has a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from manifest.digests import file_digests
from manifest.errors import InputError, SignatureError, StorageError
from manifest.schema.document import Manifest, parse, serialize
from manifest.signing import PrivateSigner, PublicKey, PublicSigner, load_public_key, private_key, sign_resources
from manifest.signing.trusted import Signers
from manifest.storage.cosigning import add_signature, is_signed
from manifest.storage.sidecars import Sidecars, described_checkpoint, recorded_files
from manifest.storage.transaction import publish, publish_directory, read_sidecars, sidecars_only
from manifest.storage.trust_files import (
    PLACE,
    VARIABLE,
    Trust,
    find_trust_file,
    read_trust,
    trusted_signers,
    users_trust_file,
    write_trust,
)
from manifest.validation import quoted, unknown


def sign(
    path: str | os.PathLike[str],
    key: str | os.PathLike[str] | PrivateSigner,
    *,
    passphrase: bytes | None = None,
    trust: Trust = None,
) -> Path:
    """Sign a checkpoint together with its manifest.

    The manifest of one that nobody has signed names the key from then on. Where others have signed it, the manifest
    stays as it is, and the signature is put beside theirs; that of the same key is replaced.

    Args:
        path: The checkpoint.
        key: Private key: a file, `file:…`, `env:VARIABLE` or at another URI; or `sigstore:`, an identity.
        passphrase: Of an encrypted key.
        trust: A trust file, by which the signature must count; without it, one that is found, as `manifest.verify`
            finds it.

    Returns:
        Path of the signature.

    Raises:
        StorageError: The checkpoint is not what the manifest describes, so there is nothing to vouch for.
        SignatureError: The signature would not count by the trust file.

    Example:
        >>> manifest.sign("ckpt.pt", "release.key").name
        'ckpt.pt.manifest.sig'
        >>> manifest.verify("ckpt.pt", key="release.pub", fast=True).passed
        True
    """
    checkpoint = described_checkpoint(path)
    signer = private_key(key, passphrase)
    _require_counting(checkpoint, signer, trusted_signers(None, trust))
    sidecars = Sidecars(checkpoint)
    contents = read_sidecars(checkpoint)
    manifest = parse(contents.manifest, source=sidecars.manifest.name)
    files = recorded_files(checkpoint, manifest)
    if any(not path.is_file() or file_digests(path) != (file.blake3, file.sha256) for file, path in files):
        raise StorageError(
            f"{checkpoint.name} is not the checkpoint that {sidecars.manifest.name} describes, so it was not signed; "
            f"find out which of them is right with `manifest verify {checkpoint.name}`."
        )
    with sidecars_only(checkpoint):
        if contents.pending is None and is_signed(contents):
            resources = _resources(manifest, contents.manifest, sidecars.manifest.name)
            return add_signature(checkpoint, sign_resources(checkpoint.name, resources, signer), contents)
        publish_signed(None, checkpoint, manifest.model_copy(update={"signer": signer.public.hint}), signer)
    return sidecars.signature


def trust_signer(
    path: Path | None,
    name: str,
    key: str,
    *,
    valid_from: date | None = None,
    valid_until: date | None = None,
    checkpoints: Sequence[str] = (),
    threshold: int | None = None,
) -> Path:
    """Add a signer to a trust file.

    Args:
        path: The trust file; without it, the one that is found, or a new one of the project.
        name: What reports call the signer.
        key: Public key: a file, `file:…`, `env:VARIABLE` or at another URI; or an identity,
            `sigstore:IDENTITY?issuer=URL`.
        valid_from: The first day on which its signatures count.
        valid_until: The last day.
        checkpoints: Patterns of the checkpoints that it may sign; none for all.
        threshold: How many signers must have signed from now on; None to leave that as it is.

    Returns:
        The trust file.

    Raises:
        KeyFileError: The key cannot be used.
        InputError: The file is none, or has the signer already.
    """
    place = path or find_trust_file() or PLACE
    signer = {
        "name": name,
        **_who(load_public_key(key), place),
        "valid_from": valid_from,
        "valid_until": valid_until,
        "checkpoints": tuple(checkpoints),
    }
    content: dict[str, Any] = {"schema": "trust/v1", "signers": ()}
    if place.exists():
        content = read_trust(place).model_dump(by_alias=True)
    content["signers"] = (*content["signers"], signer)
    if threshold is not None:
        content["threshold"] = threshold
    write_trust(place, content)
    return place


def _who(public: PublicSigner, place: Path) -> dict[str, str]:
    """The fields of a trust file, at some place, that say whose signatures are meant."""
    if isinstance(public, PublicKey):
        return {"key": public.pem.decode()}
    fields = {"identity": public.name, "issuer": public.issuer}
    if public.instance is not None:
        fields["instance"] = os.path.relpath(public.instance, place.parent)
    return fields


def remove_signer(path: Path | None, name: str) -> Path:
    """Mark a signer of a trust file as removed today: none of its signatures counts any more.

    Returns:
        The trust file.

    Raises:
        InputError: There is no such file, or no such signer in it.
    """
    place = _existing(path)
    content = read_trust(place).model_dump(by_alias=True)
    signer = next((each for each in content["signers"] if each["name"] == name), None)
    if signer is None:
        what = unknown(f"names no signer {quoted(name)}", name, [each["name"] for each in content["signers"]])
        raise InputError(f"The trust file {place} {what}.")
    signer["removed"] = signer["removed"] or datetime.now(UTC).date()
    write_trust(place, content)
    return place


def trusted_now(path: Path | None) -> Signers:
    """The signers of a trust file, or of the one that is found.

    Raises:
        InputError: There is no such file.
    """
    place = _existing(path)
    return read_trust(place).signers_from(place)


def _existing(path: Path | None) -> Path:
    place = path or find_trust_file()
    if place is None:
        raise InputError(
            f"There is no trust file: ${VARIABLE} names none, and there is neither {PLACE} here nor "
            f"{users_trust_file()}; make one by `manifest trust add NAME KEY`."
        )
    return place


def _require_counting(checkpoint: Path, signer: PrivateSigner, trusted: Signers | None) -> None:
    """Refuse to make a signature that would count for nothing.

    Raises:
        SignatureError: By the rule that it would break.
    """
    if trusted is None:
        return
    hint = signer.public.hint
    known = next((each for each in trusted.each if each.public.hint == hint), None)
    if known is None:
        raise SignatureError(
            f"The trust file {trusted.source} does not name the key {hint[:16]}, so {checkpoint.name} was not signed; "
            "add the public key by `manifest trust add NAME KEY`, or sign with another.",
            rule="T003",
        )
    objection = known.objection(checkpoint, datetime.now(UTC).date())
    if objection is not None:
        rule, clause = objection
        raise SignatureError(
            f"By the trust file {trusted.source}, the signer {known.title} {clause}, so {checkpoint.name} was not "
            "signed; sign with another key, or change the trust file.",
            rule=rule,
        )


def publish_signed(
    staged: Path | None,
    checkpoint: Path,
    manifest: Manifest,
    key: PrivateSigner | None,
    still: Callable[[], bool] = lambda: True,
) -> bool:
    """Sign a manifest together with the files that it describes, where there is a key, and put everything in place.

    Returns:
        Whether it was still to be done when no other process was at it.
    """
    data = serialize(manifest)
    signature = _signature(checkpoint.name, manifest, data, Sidecars(checkpoint).manifest.name, key)
    return publish(staged, checkpoint, data, signature, still)


def publish_signed_directory(staged: Path, directory: Path, manifest: Manifest, key: PrivateSigner | None) -> None:
    """The same of a distributed checkpoint whose files are in a directory of their own."""
    data = serialize(manifest)
    signature = _signature(directory.name, manifest, data, Sidecars(staged).manifest.name, key)
    publish_directory(staged, directory, data, signature)


def _signature(name: str, manifest: Manifest, data: bytes, file_name: str, key: PrivateSigner | None) -> bytes | None:
    """The signature of a checkpoint of some name, whose manifest is written into a file of another."""
    if key is None:
        return None
    return sign_resources(name, _resources(manifest, data, file_name), key)


def _resources(manifest: Manifest, data: bytes, file_name: str) -> dict[str, str]:
    """What a signature covers: the files that a manifest describes, and the manifest, whose bytes are in a file."""
    return {file.path: file.sha256 for file in manifest.checkpoint.files} | {file_name: sha256(data).hexdigest()}
