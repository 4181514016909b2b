"""What can go wrong, as one tree of exceptions.

Every message is one sentence: what was found, where, what was expected, what to do. The command line prints it and
ends with the exception's `exit_code`: 2 for "could not check", 1 for "checked, and something is wrong".
"""

from __future__ import annotations

from typing import ClassVar


class ManifestError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 2


def one_line(error: BaseException) -> str:
    """What a library's exception says, in at most 200 characters on one line, to stand inside a sentence."""
    return " ".join(str(error).split())[:200]


class InputError(ManifestError):
    """A path, name or argument that cannot be used as given."""


class CheckpointError(ManifestError):
    """A checkpoint that cannot be read: not one, malformed, truncated, or unsupported.

    Attributes:
        rule: Code of the rule in `manifest.schema.rules` that the file breaks, for example `F002`.
        remedy: What to do, where it is not what helps with most files that break the rule.
    """

    def __init__(self, message: str, *, rule: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.remedy = remedy


class NoWeightsError(CheckpointError):
    """A well-formed file of pickled objects that are no weights, such as the state of an optimizer.

    Attributes:
        globals: `module.name` of every global that the pickle names.
    """

    def __init__(self, message: str, *, rule: str, globals: tuple[str, ...] = ()) -> None:
        super().__init__(message, rule=rule)
        self.globals = globals


class DocumentError(ManifestError):
    """A manifest that is not valid."""


class NoManifestError(DocumentError):
    """A checkpoint without a manifest beside it."""


class NewerSchemaError(DocumentError):
    """A manifest written by a later major version of the format."""


class KeyFileError(ManifestError):
    """A key that cannot be read, written or used."""


class PassphraseMissingError(KeyFileError):
    """A private key that is encrypted, and no passphrase was given."""


class SignatureError(ManifestError):
    """A signature that does not hold.

    Attributes:
        rule: Code of the trust rule it breaks, for example `T003`.
    """

    exit_code = 1

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class ArchitectureError(ManifestError):
    """An architecture that cannot be captured, built, or fitted to the weights."""


class UnknownModelError(ArchitectureError):
    """A model name that no family knows."""


class LibraryMissingError(ArchitectureError):
    """A model of a library, or of a family, that is not installed here."""


class NotGrantedError(ArchitectureError):
    """A model that is made by code which the caller did not allow to be imported."""


class NotRebuildableError(ArchitectureError):
    """A model whose record does not say how to build it."""


class SourceChangedError(ArchitectureError):
    """A model whose script is not what it was when the model was saved.

    Attributes:
        script: Its file name.
        sentence: That, and what to do.
        change: What changed, as a diff.
    """

    exit_code = 1

    def __init__(self, script: str, change: str) -> None:
        self.script, self.change = script, change
        self.sentence = (
            f"What the model needs of {script} has changed since it was saved; get it as it was, or pass "
            f"allow=['changed:PATH/{script}'] (`--allow changed:PATH/{script}`) if that does not matter."
        )
        super().__init__(f"{self.sentence}\n{change}")


class CreationMismatchError(ArchitectureError):
    """A model asked for with an architecture other than its weights were saved with."""

    exit_code = 1


class IncompleteModelError(ManifestError):
    """A model that would be saved as complete although some of it was never trained."""

    exit_code = 1


class StorageError(ManifestError):
    """A place that cannot be written: no permission, no space, not a directory."""


class HubError(ManifestError):
    """A hub that cannot be reached, or does not give or take what it was asked."""


class NoManifestWarning(UserWarning):
    """A checkpoint was saved and got no manifest."""


class GroupError(ManifestError):
    """Processes that save together, of which one failed or is gone; all of them raise it."""
