"""The callback for `transformers.Trainer`: each `checkpoint-N` is followed by the manifest of the model in it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

from manifest.capture.options import Key, RecordKeywords
from manifest.families.wrappers import unwrap
from manifest.training.recorder import CheckpointRecorder
from manifest.training.recording import new_recorder
from manifest.training.settings import When

_LIBRARY: Any = import_module("transformers")
_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"


class ManifestCallback(_LIBRARY.TrainerCallback):  # type: ignore[misc]
    """Describes what `Trainer.train` saves; in the process that saves, the first."""

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
        self._new_recorder = functools.partial(new_recorder, key, golden, strict=strict, **record)
        self._training = ExitStack()
        self._recorder: CheckpointRecorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        self._training.close()  # one that raised did not come to its end
        if state.is_world_process_zero:
            self._recorder = self._new_recorder()
            self._training.callback(self._recorder.warn_of_none)
            self._training.enter_context(self._recorder)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        del control, kwargs
        if self._recorder is None:
            return
        folder = Path(args.output_dir).absolute() / f"checkpoint-{state.global_step}"
        place = next((folder / name for name in (_WEIGHTS, _INDEX) if (folder / name).is_file()), None)
        if place is None:
            self._recorder.leave_alone(folder, f"it holds neither {_WEIGHTS} nor {_INDEX}")
            return
        with _quiet():
            self._recorder.describe(place if place.name == _WEIGHTS else folder, unwrap(model))
            self._recorder.wait()  # the next save may remove it, and nothing must be written into it meanwhile

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, state, control, kwargs
        with _quiet():
            self._training.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers does not log the config of every model that is rebuilt; `Trainer` has it log much."""
    logging = _LIBRARY.logging
    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(before)
