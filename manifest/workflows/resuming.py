"""Resuming: a checkpoint verified and rebuilt, with all that a training script left beside the weights.

What is read is the mapping that was verified, and not the file again. Nothing is unpickled but by torch's weights-only
unpickler, which imports nothing that a file names.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from manifest.checkpoint import Checkpoint
from manifest.checkpoint.files import OpenFile
from manifest.checkpoint.pickles.effects import Effect
from manifest.checkpoint.pickles.named_globals import judge
from manifest.checkpoint.pickles.numpy_pickles import READERS
from manifest.checks.target import VerificationTarget
from manifest.errors import CheckpointError, InputError, one_line
from manifest.escaping import printable, printable_list
from manifest.neutral_process import neutral_process
from manifest.schema.document import Manifest
from manifest.schema.vocabulary import Mode
from manifest.signing import Trusted
from manifest.storage.trust_files import Trust
from manifest.warning import warn
from manifest.workflows.loading import Verify, rebuilt

_PICKLED = frozenset({"torch-zip", "torch-legacy"})


class Resumed(dict[Any, Any]):
    """What `torch.load` would give, so that scripts read it as they do: `checkpoint["optimizer"]`; and the model.

    Attributes:
        model: Rebuilt exactly, with its weights.
        manifest: What was on record.
    """

    def __init__(self, content: Mapping[Any, Any], model: nn.Module, manifest: Manifest) -> None:
        super().__init__(content)
        self.model = model
        self.manifest = manifest


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    key: Trusted = None,
    trust: Trust = None,
    verify: Verify = "full",
    allow: Sequence[str] = (),
    device: str = "cpu",
) -> Resumed:
    """A checkpoint to go on training from: verified like `manifest.load`, with everything that is beside the weights.

    The model is in the mode in which it was saved, and only it goes to the device. The rest stays on the CPU, where
    generators want their states; optimizers take theirs to their parameters.

    Args:
        path: The checkpoint; its manifest and signature lie beside it.
        key: Public key of the signer that is trusted.
        trust: A trust file, as of `manifest.load`.
        verify: As of `manifest.load`.
        allow: Modules of your own that may be imported to rebuild the model.
        device: Where the model goes.

    Returns:
        A dictionary with attributes `model` and `manifest`. Of a file of `torch.save`, it holds the object that was
        saved: optimizer, scheduler, epoch, the state dict under its key. Of a safetensors file, it holds the texts of
        its metadata; of other containers, nothing.

    Raises:
        VerificationError: The checkpoint does not keep its manifest's promise; the report says how.
        NoManifestError: There is no manifest to go by.
        CheckpointError: What is beside the weights cannot be read without running code.

    Example:
        >>> checkpoint = manifest.load_checkpoint("ckpt.pt", key="release.pub")
        >>> checkpoint["epoch"], checkpoint.manifest.weights.parameters
        (3, 3484545)
        >>> model = checkpoint.model.train()
    """
    subject, model = rebuilt(path, key=key, trust=trust, verify=verify, allow=allow)
    content = _content(_stored(subject))
    with neutral_process():
        return Resumed(content, _in_mode(model, subject).to(device), subject.manifest)


class _Mapped(io.RawIOBase):
    """The mapping of an open checkpoint as a file, without a look-up by name."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._bytes = memoryview(file.mapping)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.require_uncut()
        taken = self._bytes[self._at : self._at + len(buffer)]
        buffer[: len(taken)] = taken
        self._at += len(taken)
        return len(taken)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._bytes)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._bytes.release()
        super().close()


def _stored(subject: VerificationTarget) -> Checkpoint:
    if not isinstance(subject.stored, Checkpoint):
        raise subject.stored
    return subject.stored


@neutral_process()
def _content(stored: Checkpoint) -> Mapping[Any, Any]:
    """Everything in a checkpoint as Python's own objects and tensors, as far as its container holds such."""
    if stored.container not in _PICKLED or len(stored.files) > 1:
        return stored.contents.metadata
    try:
        with io.BufferedReader(_Mapped(stored.files[0])) as file, torch.serialization.safe_globals(_readers()):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except InputError:  # the file was cut
        raise
    except Exception as error:  # constructors raise anything over what a file may say
        raise _refusal(stored, error) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{stored.path.name} holds a {type(content).__name__} and nothing beside it, where a dictionary was "
            "expected; load the model alone with `manifest.load`.",
            rule="F004",
        )
    return content


def _readers() -> list[Any]:
    """How numpy's arrays are read, unless the caller has said so."""
    return [] if any(name.startswith("numpy.") for name in _allowed()) else list(READERS)


def _allowed() -> set[str]:
    """Names of what the caller let torch import."""
    return {
        each[1] if isinstance(each, tuple) else f"{each.__module__}.{each.__qualname__}"
        for each in torch.serialization.get_safe_globals()
    }


def _refusal(stored: Checkpoint, error: Exception) -> CheckpointError:
    """Why the unpickler stopped, by the globals that it stopped at."""
    named = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
    known = _allowed() | {name for _, name in READERS}
    refused = [name for name in stored.globals if name not in known and judge(name).effect is not Effect.TENSORS]
    if named is None or not refused:
        return CheckpointError(
            f"{stored.path.name} cannot be read beyond its weights ({printable(one_line(error), 200)}); load the model "
            "alone with `manifest.load`.",
            rule="F002",
        )
    return CheckpointError(
        f"{stored.path.name} holds objects beside its weights that are made by {printable_list(refused)}, and loading "
        "runs no code that a file names; save their numbers, texts and tensors as `extras` instead, import the class "
        "and call within `torch.serialization.safe_globals([…])` if you trust it, or load the model alone with "
        "`manifest.load`.",
        rule="F010",
    )


def _in_mode(model: nn.Module, subject: VerificationTarget) -> nn.Module:
    """The model in the mode in which it was saved; where that is not known of each module, in train mode."""
    mode = subject.manifest.architecture.mode
    if mode is Mode.MIXED:
        warn(
            f"{subject.path.name} was saved with some modules in train mode and some not, and which is not on record; "
            "all are in train mode now, so put back those that were frozen."
        )
    return model.train(mode is not Mode.EVAL)
