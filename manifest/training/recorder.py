"""Writing manifests for checkpoints while a training goes on: at once what takes the model, later what takes the bytes.

A save is written to a temporary name and renamed into place before the script goes on. Then, in the thread that saves,
the architecture is captured, and a small model is asked its golden outputs. A large one is asked in a process of its
own; digests, the verdict on each component and the signature follow in a thread of their own, while the bytes are still
in memory. Until then the checkpoint has no manifest.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from manifest.capture.description import description_of_file, manifest_of
from manifest.capture.live_model import live_model
from manifest.capture.options import RecordOptions
from manifest.checkpoint import open_checkpoint
from manifest.distributed.process_group import ProcessGroup, rank_here
from manifest.errors import CreationMismatchError, ManifestError, NoManifestWarning, one_line
from manifest.grants import granted
from manifest.schema.document import Manifest
from manifest.signing import PrivateSigner
from manifest.storage.files import synchronise
from manifest.storage.sidecars import has_manifest, select_recorded
from manifest.storage.suppress_recording import suppress_recording
from manifest.storage.transaction import clear_sidecars
from manifest.training.account import Account
from manifest.training.files import Write, digests_of, error_file, identity_of, kept_age, write_and_replace
from manifest.training.job import Job
from manifest.training.load_tracking import Origins
from manifest.training.loads import mismatch
from manifest.training.model_capture import ModelCapture
from manifest.training.model_lookup import named_like
from manifest.training.settings import When
from manifest.warning import warn
from manifest.workflows.saving_distributed import describe_together
from manifest.workflows.signing import publish_signed

_log = logging.getLogger(__name__)

_WAITING = 4
"""Checkpoints that may wait for their manifests; the next save waits for the first of them."""
_REMEMBERED = 200
"""Checkpoints that are followed when the script renames, copies or removes them."""


class CheckpointRecorder:
    """Describes what is saved; a context manager that waits for all manifests at its end.

    Args:
        options: What is recorded of the models.
        golden: Which saves get golden outputs, where these are recorded at all.
        strict: Raise what fails, instead of warning of it.

    Attributes:
        described: Checkpoints that got a manifest, where they lay then.
        left_alone: Files that hold no model that is known, with why not.
        failed: Checkpoints that got no manifest, with why not.
        origins: What weights were loaded from.
        account: Where it is told what became of each save.
    """

    def __init__(self, options: RecordOptions, golden: When = When.EVERY, *, strict: bool = False) -> None:
        self.origins = Origins()
        self._options = options if golden is When.EVERY else replace(options, golden=None)
        self._at_the_end = options if golden is When.LAST else None
        self._models = ModelCapture(self._options, self.origins)
        self._strict = strict
        self.account = Account()
        self.begin(threading.get_ident())

    def begin(self, thread: int) -> None:
        """Have recorded nothing yet: at first, and in a process that was forked, which has none of the other threads.

        Args:
            thread: The one that trains, by its identifier.
        """
        self.described: list[Path] = []
        self.left_alone: list[tuple[Path, str]] = []
        self.failed: list[tuple[Path, str]] = []
        self._thread = thread
        self._lock = threading.RLock()
        self._queue: queue.Queue[Job | None] = queue.Queue(_WAITING)
        self._worker: threading.Thread | None = None
        self._jobs: dict[Path, Job] = {}
        self._from_other_threads: list[Path] = []
        self._first_error: Exception | None = None
        self._said_that_saves_wait = False
        self._models.begin()

    @property
    def signer(self) -> PrivateSigner | None:
        """Who signs what is described; None for nobody."""
        return self._options.signer

    def __enter__(self) -> CheckpointRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish()
        if self._strict and self._first_error is not None and kind is None:
            raise self._first_error

    def finish(self) -> None:
        """Wait for all manifests, and ask the last model where only that is to be asked."""
        self.catch_up()
        if self._worker is not None:
            self._queue.put(None)
            self._worker.join()
            self._worker = None
        self._models.end()
        if self._at_the_end is not None:
            self._ask_last(self._at_the_end)
        self.account.end()

    def save(self, path: Path, saved: Any, write: Write, *, to_file: bool) -> None:
        """Write a checkpoint in place of an older one, all or nothing, and describe it.

        Args:
            path: Where it goes.
            saved: The object that is written.
            write: The script's own way to write it. What it raises, this raises.
            to_file: Whether it writes to an open file too.
        """
        write_and_replace(path, write, to_file)
        self.describe(path, saved)

    def describe(self, path: Path, saved: Any) -> None:
        """Describe a checkpoint that is there: now what takes the model, later the rest.

        To ask a model is to change its mode, and torch's generators, for a moment. So what another thread than the one
        that began has saved waits for the next call of that thread.

        Args:
            path: A file, or a directory of shards.
            saved: The object that was written, whose tensors say which model's they are; a module or a state dict, or
                anything with these in it.
        """
        if rank_here():
            self.leave_alone(path, f"process {rank_here()} saved it, and process 0 writes the manifests")
            return
        if threading.get_ident() != self._thread:
            with self._lock:
                clear_sidecars(path)
                self._from_other_threads.append(path)
            return
        self.catch_up()
        self._describe(path, saved)

    def catch_up(self) -> None:
        """Describe what other threads have saved, as far as it is still there."""
        with self._lock:
            waiting = [path for path in dict.fromkeys(self._from_other_threads) if path.exists()]
            self._from_other_threads.clear()
        for path in waiting:
            with suppress_recording():
                self._describe(path, None)

    def _describe(self, path: Path, saved: Any) -> None:
        with self._failing(path):
            clear_sidecars(path)
            job = self._models.look(path, saved)
            if isinstance(job, str):
                self.leave_alone(path, job)
                return
            with self._lock:
                self._remember(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="manifest-recorder", daemon=True)
                self._worker.start()
            self._put(job)

    def _put(self, job: Job) -> None:
        """Hand a checkpoint to the thread that writes manifests, and say once that a save waits for that."""
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            if not self._said_that_saves_wait:
                self._said_that_saves_wait = True
                with contextlib.suppress(UserWarning):  # where warnings are made errors
                    warn(
                        f"Saves come faster than their manifests: this one waits until fewer than {_WAITING} are to be "
                        "written. With `--golden last` (in Python `golden='last'`) only the last save gets golden "
                        "outputs, with `none` no save."
                    )
            self._queue.put(job)

    def manifest_at(self, path: Path) -> Manifest | None:
        """The manifest of a checkpoint that was described, once all are waited for."""
        job = self._jobs.get(path)
        return None if job is None else job.manifest

    def save_together(self, directory: Path, saved: Mapping[str, Any], save: Callable[[], Any]) -> Any:
        """Do a saving by `torch.distributed.checkpoint`, in which all processes take part, and describe it together."""
        together = ProcessGroup()
        with self._failing(directory):
            together.on_first(lambda: clear_sidecars(directory) if directory.is_dir() else None)
        result = save()
        with self._failing(directory):
            state, module = together.everywhere(lambda: named_like(saved))
            if not together.agree(module is not None) or module is None:
                self.leave_alone(directory, "no model in memory has just the tensors that it holds")
                return result
            plain = partial(live_model, module, self._options, saved, model_name=None, family=None, arguments=None)
            describe_together(together, directory, module, plain, state)
            self._note_described(directory)
        return result

    def wait(self) -> None:
        """Wait until all that was described has its manifest."""
        self._queue.join()

    def warn_of_none(self) -> None:
        """Warn where something was saved, and nothing has a manifest although nothing failed."""
        if self.left_alone and not self.described and not self.failed:
            path, why = self.left_alone[-1]
            warn(f"No checkpoint got a manifest; of {path.name}: {why}", NoManifestWarning)

    def hold_load(self, module: nn.Module, path: Path) -> None:
        """Say where a model took weights from a file whose manifest records another model.

        Raises:
            CreationMismatchError: It did, and what fails is raised here.
        """
        if (said := mismatch(module, path)) is None:
            return
        if self._strict:
            raise CreationMismatchError(said)
        warn(said)

    def leave_alone(self, path: Path, why: str) -> None:
        """Note that a file gets no manifest, since it holds no model."""
        self.left_alone.append((path, why))
        self.account.left_alone(path, why)
        _log.debug("left %s alone: %s", path, why)

    def _note_described(self, path: Path) -> None:
        self.described.append(path)
        self.account.described(path)

    def was_left_alone(self, path: Path) -> bool:
        """Whether a file got no manifest, for want of a model."""
        return any(place == path for place, _ in self.left_alone)

    def renamed(self, old: Path, new: Path, rename: Callable[[], Any]) -> Any:
        """Do a renaming of the script's, so that manifests go with their checkpoints."""
        with self._lock:
            moved = {place: job for place, job in self._jobs.items() if place == old or old in place.parents}
            if new.is_file() and has_manifest(new):
                clear_sidecars(new)  # it is about to describe what is no longer there
            result = rename()
            self._from_other_threads = [new if path == old else path for path in self._from_other_threads]
            for place, job in moved.items():
                del self._jobs[place]
                job.place = new if place == old else new / place.relative_to(old)
                self._jobs[job.place] = job
                if place == old and job.manifest is not None:
                    with self._failing(job.place):
                        self._publish(job, job.place)
                        clear_sidecars(old)
            return result

    def copied(self, old: Path, new: Path, copy: Callable[[], Any]) -> Any:
        """Do a copying of the script's, so that a copied checkpoint has its manifest too."""
        with self._lock:
            if has_manifest(new):
                clear_sidecars(new)
            result = copy()
            job = self._jobs.get(old)
            if job is not None:
                job.copies.append(new)
                if job.manifest is not None:
                    with self._failing(new):
                        self._publish(job, new)
            return result

    def removed(self, path: Path, remove: Callable[[], Any]) -> Any:
        """Do a removing of the script's, of a file or a directory, so that no manifest stays behind or comes later."""
        with self._lock:
            result = remove()
            self._jobs = {place: job for place, job in self._jobs.items() if path not in (place, *place.parents)}
            with contextlib.suppress(OSError):  # where a sidecar's name would be too long, there is none
                if has_manifest(path):
                    clear_sidecars(path)
                error_file(path).unlink(missing_ok=True)
            return result

    def _work(self) -> None:
        with suppress_recording():
            while (job := self._queue.get()) is not None:
                with kept_age(job.place), self._failing(job):
                    self._write_down(job)
                self._queue.task_done()

    def _write_down(self, job: Job) -> None:
        stored = job.descriptions[0].stored
        files = stored.files
        digests: Future[list[tuple[str, str]]] = Future()
        # Of the mapping: the script may have renamed the file. What was written just now is still in memory.
        digests.set_result([file.digests() for file in files])
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                synchronise(file.path)
        job.manifest = manifest_of(
            job.descriptions,
            file_name=job.place.name,
            digests=digests,
            provenance=job.provenance,
            signer=self._options.hint,
        )
        stored.close()
        job.descriptions = []
        with self._lock:
            for place in (job.place, *job.copies):
                self._publish(job, place)

    def _publish(self, job: Job, place: Path) -> None:
        """Put a manifest beside a checkpoint, unless the script has put something else there meanwhile."""
        assert job.manifest is not None
        files = job.manifest.checkpoint.files
        if not place.is_dir():
            if place != job.place and digests_of(place) != [(files[0].blake3, files[0].sha256)]:
                return
            files = [files[0].model_copy(update={"path": place.name}), *files[1:]]
        record = job.manifest.checkpoint.model_copy(update={"files": files})
        identity = job.identity if place == job.place else identity_of(place)
        manifest = job.manifest.model_copy(update={"checkpoint": record})
        if publish_signed(
            None, place, manifest, self._options.signer, lambda: identity_of(place, missing=True) == identity
        ):
            _log.debug("wrote the manifest of %s", place)
            error_file(place).unlink(missing_ok=True)
            if place not in self.described:
                self._note_described(place)

    def _ask_last(self, options: RecordOptions) -> None:
        """Ask the model of the last checkpoint, rebuilt from its file."""
        job = next((job for job in reversed(self._jobs.values()) if job.manifest is not None), None)
        if job is None or job.manifest is None:
            return
        with self._failing(job.place), open_checkpoint(job.place) as stored:
            manifest = job.manifest
            architecture = manifest.architecture
            with granted(job.runs):
                description = description_of_file(select_recorded(stored, manifest), architecture, options)
                job.manifest = manifest.model_copy(update={"golden": description.golden})
            self._publish(job, job.place)

    def _remember(self, job: Job) -> None:
        self.left_alone = [(place, why) for place, why in self.left_alone if place != job.place]
        self._jobs.pop(job.place, None)  # to the end
        self._jobs[job.place] = job
        while len(self._jobs) > _REMEMBERED:
            del self._jobs[next(iter(self._jobs))]

    @contextlib.contextmanager
    def _failing(self, what: Path | Job) -> Iterator[None]:
        """What fails inside is noted, beside the checkpoint too; nothing reaches the training unless it must."""
        try:
            yield
        except Exception as error:  # a model's own code may raise anything, and a training must go on
            path = what.place if isinstance(what, Job) else what
            why = str(error) if isinstance(error, ManifestError) else f"{type(error).__name__}: {one_line(error)}"
            self.failed.append((path, why))
            self.account.failed(path, why)
            self._first_error = self._first_error or error
            with contextlib.suppress(OSError):  # where nothing can be written, the warning below says it
                if path.exists():
                    error_file(path).write_text(f"{path.name} got no manifest: {why}\n", encoding="utf-8")
            if not self._strict:
                with contextlib.suppress(NoManifestWarning):  # where warnings are made errors
                    warn(f"{path.name} was saved and got no manifest: {why}", NoManifestWarning)
            elif threading.current_thread() is not self._worker:
                raise
