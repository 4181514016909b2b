"""Lightning's callback: each checkpoint of a fit is followed by its manifest.

A LightningModule holds the model under a name of its own (`self.model`), and so do its checkpoints; what is described
is the model. The saves are seen by `recording`, which begins with the fit and ends when the strategy has been torn
down: that is after the last save, also where the fit raises.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from importlib import import_module
from typing import Any, Unpack

from manifest.capture.options import Key, RecordKeywords
from manifest.training.recorder import CheckpointRecorder
from manifest.training.recording import recording
from manifest.training.settings import When

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_class() -> Any:
    """Lightning's `Callback`, of that of its two packages that is in use, or else installed.

    Raises:
        ModuleNotFoundError: Neither is.
    """
    for name in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        with contextlib.suppress(ModuleNotFoundError):
            return import_module(name).Callback
    raise ModuleNotFoundError("Neither lightning nor pytorch_lightning is installed.", name="lightning")


class ManifestCallback(_callback_class()):  # type: ignore[misc]
    """Describes what `Trainer.fit` saves; in the process that saves, the first."""

    def __init__(
        self,
        key: Key = None,
        *,
        golden: When | str = When.EVERY,
        strict: bool = False,
        **record: Unpack[RecordKeywords],
    ) -> None:
        """
        Args:
            key: Private key to sign with: a file, `file:…` or `env:VARIABLE`.
            golden: Which saves get golden outputs: `every`, the `last`, or `none`.
            strict: Raise what fails into the training. Otherwise it is a warning and a `.manifest.error` file beside
                the checkpoint.
            **record: `passphrase`, `floor`, `probes`, `example_inputs`, `precisions`, `partial` and `dataset`, as of
                `manifest.save`.
        """
        super().__init__()
        self._recording = functools.partial(
            recording,
            key=key,
            golden=golden,
            strict=strict,
            **record,
        )
        self._recorder: CheckpointRecorder | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        del pl_module
        if stage == "fit" and trainer.is_global_zero:
            fit = contextlib.ExitStack()
            fit.callback(self._let_go)
            self._recorder = fit.enter_context(self._recording())
            _end_with(trainer.strategy, fit)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        if self._recorder is not None:
            self._recorder.catch_up()  # with what another thread saved, as `AsyncCheckpointIO` has one do

    def _let_go(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.warn_of_none()


def _end_with(strategy: Any, fit: contextlib.ExitStack) -> None:
    """Leave a context after a strategy's teardown, in which asynchronous saves are waited for."""
    teardown = strategy.teardown

    def teardown_and_leave() -> None:
        del strategy.teardown
        try:
            teardown()
        finally:
            fit.__exit__(*sys.exc_info())

    strategy.teardown = teardown_and_leave
