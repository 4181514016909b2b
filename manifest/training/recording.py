"""Recording a training: every checkpoint that it saves gets its manifest, without a change to the script."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Unpack

from manifest.capture.options import Key, RecordKeywords, record_options, signing_by_default
from manifest.training.constructor_tracking import models_that_are_made, remember_makers
from manifest.training.interception import Savers
from manifest.training.patches import Patches
from manifest.training.recorder import CheckpointRecorder
from manifest.training.settings import When, as_when


def new_recorder(key: Key, golden: When | str, *, strict: bool, **record: Unpack[RecordKeywords]) -> CheckpointRecorder:
    """What describes checkpoints, by the arguments of `recording`.

    Raises:
        InputError: One of them is none of those there are.
        KeyFileError: The key cannot be used.
    """
    return CheckpointRecorder(record_options(key, **record), as_when(golden), strict=strict)


class Recording:
    """Inside, models' makings are remembered, and every save of theirs is followed by its manifest.

    `torch.save`, `safetensors.torch.save_file` and `save_model`, and the savers of libraries that call these, are
    replaced wherever they are known by name, and put back at the end, whatever happens. Renaming, copying and removing
    a checkpoint takes its manifest along. At the end, manifests that are still being written are waited for. Processes
    that are forked inside record what they save, too.

    `recording.start(…)` begins the same for the rest of the process, and `recording.stop()` ends it before.

    Args:
        key: Private key to sign with: a file, `file:…` or `env:VARIABLE`.
        golden: Which saves get golden outputs: `every`, the `last`, or `none`.
        strict: Raise what fails, into the training too. Otherwise it is a warning and a `.manifest.error` file beside
            the checkpoint.
        **record: `passphrase`, `floor`, `probes`, `example_inputs`, `precisions`, `partial` and `dataset`, as of
            `manifest.save`.

    Yields:
        What has been described, left alone and failed so far.

    Example:
        >>> import torch
        >>> model = manifest.load("ckpt.pt")
        >>> with manifest.recording(key="release.key", golden="none") as recorder:
        ...     torch.save(model.state_dict(), "next.pt")
        >>> [path.name for path in recorder.described]
        ['next.pt']
        >>> manifest.verify("next.pt", key="release.pub", fast=True).passed
        True
    """

    def __init__(self) -> None:
        self._started = contextlib.ExitStack()
        self._ends_with_process = False

    @contextlib.contextmanager
    def __call__(
        self,
        *,
        key: Key = None,
        golden: When | str = When.EVERY,
        strict: bool = False,
        **record: Unpack[RecordKeywords],
    ) -> Iterator[CheckpointRecorder]:
        """Record until the end of the block."""
        recorder = new_recorder(key, golden, strict=strict, **record)
        with (
            recorder,
            signing_by_default(recorder.signer),
            models_that_are_made(recorder.account.note_made),
            Patches() as patches,
            Savers(recorder) as savers,
        ):
            savers.install(patches)
            remember_makers(patches)
            yield recorder
            savers.end()

    def start(
        self,
        *,
        key: Key = None,
        golden: When | str = When.EVERY,
        strict: bool = False,
        **record: Unpack[RecordKeywords],
    ) -> CheckpointRecorder:
        """Record from here to the end of the process, or until `stop`; the arguments are those of `recording`.

        Raises:
            InputError: An argument cannot be used.
            KeyFileError: The key cannot be used.
        """
        self.stop()
        recorder = self._started.enter_context(self(key=key, golden=golden, strict=strict, **record))
        recorder.begin(threading.main_thread().ident or 0)
        if not self._ends_with_process:
            # Before Python forbids new threads, which is earlier than what `atexit` calls.
            threading._register_atexit(self.stop)  # type: ignore[attr-defined]
            self._ends_with_process = True
        return recorder

    def stop(self) -> None:
        """End what `start` began, once all manifests are written; nothing where nothing was."""
        self._started.close()


recording = Recording()
