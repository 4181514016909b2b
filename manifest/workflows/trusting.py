"""The rung of trust: who signed, is it what lies here, and is it somebody whom the caller trusts?"""

from __future__ import annotations

from manifest.errors import SignatureError
from manifest.findings import finding
from manifest.sidecars import Sidecars
from manifest.signing import PublicKey, Statement, read_bundle, verify_bundle
from manifest.workflows.climbing import Climbed
from manifest.workflows.subject import Subject


def trust(subject: Subject, key: PublicKey | None) -> Climbed:
    """Who signed a checkpoint's manifest, as far as a trusted key tells; its bytes are not read.

    Args:
        subject: The checkpoint.
        key: Public key of the signer that is trusted; None to say what there is.
    """
    signature = subject.contents.signature
    if signature is None:
        if key is not None or subject.manifest.signer is not None:
            why = "a signer is demanded" if key is not None else "the manifest says that it was signed"
            message = f"There is no signature beside {subject.path.name}, and {why}."
            return Climbed("no signature", [finding("T004", message, where=Sidecars(subject.path).signature.name)])
        return Climbed("not signed", [finding("T002", f"{subject.path.name} is not signed.")])
    where = Sidecars(subject.path).signature.name
    try:
        statement = verify_bundle(signature, [key]) if key is not None else read_bundle(signature)
    except SignatureError as error:
        return Climbed("the signature does not hold", [finding(error.rule, str(error), where=where)])
    if uncovered := _uncovered(statement, subject):
        message = f"The signature covers another {uncovered} than the one beside it."
        return Climbed("the signature is of something else", [finding("T006", message, where=where)])
    signer = f"key {(statement.hint or 'without hint')[:16]}"
    if key is None:
        message = f"The signature names {signer}, and no key was given to check it by."
        return Climbed("signer unknown: no key was given", [finding("T001", message, where=where)])
    return Climbed(f"signed by the trusted {signer}")


def _uncovered(statement: Statement, subject: Subject) -> str | None:
    """What the signature does not cover: the manifest's bytes, or the file that the manifest describes."""
    signed = set(statement.resources.values())
    if subject.contents.manifest_sha256 not in signed:
        return "manifest"
    return next((f"file {file.path}" for file in subject.manifest.checkpoint.files if file.sha256 not in signed), None)
