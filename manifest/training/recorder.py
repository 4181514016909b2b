"""Writing manifests for checkpoints while a training goes on: at once what takes the model, later what takes the bytes.

A save is written to a temporary name and renamed into place before the script goes on. Then, in the thread that saves,
the architecture is captured and the golden outputs are asked; digests, the verdict on each component and the signature
follow in a thread of their own, while the bytes are still in memory. Until then the checkpoint has no manifest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Unpack
from weakref import WeakKeyDictionary

import torch
from torch import nn

from manifest.capture.description import Description, manifest_of
from manifest.capture.live_model import live_model
from manifest.capture.options import Key, RecordKeywords, RecordOptions, record_options
from manifest.capture.provenance import GitFacts, facts_of, git_facts, provenance_of
from manifest.checkpoint import Checkpoint, CompositeTensor, View, open_checkpoint
from manifest.checkpoint.opening import renamed
from manifest.checks.target import select_recorded
from manifest.digests import bytes_digests, files_digests
from manifest.distributed.process_group import ProcessGroup
from manifest.errors import CheckpointError, InputError, ManifestError, NoManifestWarning, one_line
from manifest.families import creation_of, family, family_of
from manifest.families.adapter import frozen, mode_of
from manifest.families.equivalence import first_difference
from manifest.families.protocol import Captured, Family
from manifest.grants import granted
from manifest.schema.document import Manifest, Provenance
from manifest.storage.files import synchronise
from manifest.storage.sidecars import has_manifest
from manifest.storage.suppress_recording import suppress_recording
from manifest.storage.transaction import clear_sidecars, replace_file, staging
from manifest.training.load_tracking import Origins
from manifest.training.model_lookup import Owner, find_by_names, model_in, owner_of, stored_names, tensors_in
from manifest.weights.assign import mapped_tensor
from manifest.workflows.saving_distributed import describe_together
from manifest.workflows.signing import publish_signed

_log = logging.getLogger(__name__)

_WAITING = 4
"""Checkpoints that may wait for their manifests; the next save waits for the first of them."""
_REMEMBERED = 200
"""Checkpoints that are followed when the script renames, copies or removes them."""

_ERROR = ".manifest.error"
SIDECARS = (".manifest.json", ".manifest.sig", _ERROR)
"""How the names of files end that come and go with a checkpoint."""

Write = Callable[[Any], object]
"""Writes a checkpoint to a path or an open file."""


class When(StrEnum):
    """Which saves get golden outputs."""

    EVERY = "every"
    LAST = "last"
    NONE = "none"


@dataclass
class _Job:
    """A checkpoint that gets its manifest.

    Attributes:
        place: Where it lies now.
        identity: Of the file, by which it is known again.
        descriptions: Of the models in it; empty once they are written down.
        provenance: Where the weights come from.
        copies: Where the script has copied it to.
        manifest: What was published.
    """

    place: Path
    identity: tuple[int, ...]
    descriptions: list[Description]
    provenance: Provenance
    copies: list[Path] = field(default_factory=list)
    manifest: Manifest | None = None


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
    """

    def __init__(self, options: RecordOptions, golden: When = When.EVERY, *, strict: bool = False) -> None:
        self.described: list[Path] = []
        self.left_alone: list[tuple[Path, str]] = []
        self.failed: list[tuple[Path, str]] = []
        self.origins = Origins()
        self._options = options if golden is When.EVERY else replace(options, golden=None)
        self._at_the_end = options if golden is When.LAST else None
        self._git: GitFacts | None = None
        self._strict = strict
        self._lock = threading.RLock()
        self._queue: queue.Queue[_Job | None] = queue.Queue(_WAITING)
        self._worker = threading.Thread(target=self._work, name="manifest-recorder", daemon=True)
        self._jobs: dict[Path, _Job] = {}
        self._architectures: WeakKeyDictionary[nn.Module, Captured] = WeakKeyDictionary()
        self._thread = threading.get_ident()
        self._from_other_threads: list[Path] = []
        self._first_error: Exception | None = None

    def __enter__(self) -> CheckpointRecorder:
        self._worker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.catch_up()
        self._queue.put(None)
        self._worker.join()
        if self._at_the_end is not None:
            self._ask_last(self._at_the_end)
        if self._strict and self._first_error is not None and kind is None:
            raise self._first_error

    def save(self, path: Path, saved: Any, write: Write, *, to_file: bool) -> None:
        """Write a checkpoint in place of an older one, all or nothing, and describe it.

        Args:
            path: Where it goes.
            saved: The object that is written.
            write: The script's own way to write it. What it raises, this raises.
            to_file: Whether it writes to an open file too.
        """
        _write_and_replace(path, write, to_file)
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
        if _rank():
            self.leave_alone(path, f"process {_rank()} saved it, and process 0 writes the manifests")
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
            job = self._look(path, saved)
            if job is not None:
                with self._lock:
                    self._remember(job)
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
            state, module = together.everywhere(lambda: _namesake(saved))
            if not together.agree(module is not None) or module is None:
                self.leave_alone(directory, "no model in memory has just the tensors that it holds")
                return result
            plain = partial(live_model, module, self._options, saved, model_name=None, family=None, arguments=None)
            describe_together(together, directory, module, plain, state)
            self.described.append(directory)
        return result

    def wait(self) -> None:
        """Wait until all that was described has its manifest."""
        self._queue.join()

    def warn_of_none(self) -> None:
        """Warn where something was saved, and nothing has a manifest although nothing failed."""
        if self.left_alone and not self.described and not self.failed:
            path, why = self.left_alone[-1]
            warnings.warn(f"No checkpoint got a manifest; of {path.name}: {why}", NoManifestWarning, stacklevel=2)

    def leave_alone(self, path: Path, why: str) -> None:
        """Note that a file gets no manifest, since it holds no model."""
        self.left_alone.append((path, why))
        _log.debug("left %s alone: %s", path, why)

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
                _error_file(path).unlink(missing_ok=True)
            return result

    def _look(self, path: Path, saved: Any) -> _Job | None:
        identity = _identity(path)
        try:
            stored = open_checkpoint(path)
        except CheckpointError as error:
            self.leave_alone(path, str(error))
            return None
        owners = _owners(stored, saved)
        if not owners:
            count = len(stored.tensors)
            stored.close()
            self.leave_alone(path, f"no model in memory has just the {count} tensors that it holds")
            return None
        descriptions = [self._description(stored.select(view), owner) for view, owner in owners]
        module = owners[0][1].module
        self._git = self._git or git_facts()  # once: what runs was read when the training began
        facts = facts_of(saved if isinstance(saved, Mapping) else {}, dataset=self._options.dataset)
        provenance = provenance_of(descriptions[0].family, creation_of(module), facts, self._git)
        parents = [*provenance.parents, *(each for each in self.origins.of(module) if each not in provenance.parents)]
        return _Job(path, identity, descriptions, provenance.model_copy(update={"parents": parents}))

    def _description(self, stored: Checkpoint, owner: Owner) -> Description:
        creation = creation_of(owner.module)
        adapter = family_of(owner.module)
        with granted(creation.runs if creation else ()):  # the model is here already, made by that code
            description = Description(
                stored,
                adapter,
                self._captured(owner.module, adapter),
                live=owner.module if owner.live else None,
                options=self._options,
            )
            description.capture_outputs()
        return description

    def _captured(self, module: nn.Module, adapter: Family) -> Captured:
        """The architecture of a module, captured once while it stays what it was."""
        known = self._architectures.get(module)
        if known is not None and first_difference(known.module, module) is None:
            now = {"frozen": frozen(module), "mode": mode_of(module)}
            return Captured(known.architecture.model_copy(update=now), known.module)
        self._architectures[module] = captured = adapter.capture(module, creation_of(module))
        return captured

    def _work(self) -> None:
        with suppress_recording():
            while (job := self._queue.get()) is not None:
                with _kept_age(job.place), self._failing(job):
                    self._write_down(job)
                self._queue.task_done()

    def _write_down(self, job: _Job) -> None:
        stored = job.descriptions[0].stored
        files = stored.files
        digests: Future[list[tuple[str, str]]] = Future()
        # Of the mapping: the script may have renamed the file. What was written just now is still in memory.
        digests.set_result([bytes_digests(file.mapping) for file in files])
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

    def _publish(self, job: _Job, place: Path) -> None:
        """Put a manifest beside a checkpoint, unless the script has put something else there meanwhile."""
        assert job.manifest is not None
        files = job.manifest.checkpoint.files
        if not place.is_dir():
            if place != job.place and _digests(place) != [(files[0].blake3, files[0].sha256)]:
                return
            files = [files[0].model_copy(update={"path": place.name}), *files[1:]]
        record = job.manifest.checkpoint.model_copy(update={"files": files})
        identity = job.identity if place == job.place else _identity(place)
        manifest = job.manifest.model_copy(update={"checkpoint": record})
        if publish_signed(
            None, place, manifest, self._options.signer, lambda: _identity(place, missing=True) == identity
        ):
            _log.debug("wrote the manifest of %s", place)
            _error_file(place).unlink(missing_ok=True)
            if place not in self.described:
                self.described.append(place)

    def _ask_last(self, options: RecordOptions) -> None:
        """Ask the model of the last checkpoint, rebuilt from its file."""
        job = next((job for job in reversed(self._jobs.values()) if job.manifest is not None), None)
        if job is None or job.manifest is None:
            return
        with self._failing(job.place), open_checkpoint(job.place) as stored:
            manifest = job.manifest
            adapter = family(manifest.architecture.family)
            runs = [str(manifest.architecture.name).partition(":")[0]] if adapter.name == "callable" else []
            with granted(runs):
                recorded = select_recorded(stored, manifest)
                captured = Captured(manifest.architecture, adapter.build(manifest.architecture))
                description = Description(recorded, adapter, captured, options=options)
                job.manifest = manifest.model_copy(update={"golden": description.golden})
            self._publish(job, job.place)

    def _remember(self, job: _Job) -> None:
        self.left_alone = [(place, why) for place, why in self.left_alone if place != job.place]
        self._jobs.pop(job.place, None)  # to the end
        self._jobs[job.place] = job
        while len(self._jobs) > _REMEMBERED:
            del self._jobs[next(iter(self._jobs))]

    @contextlib.contextmanager
    def _failing(self, what: Path | _Job) -> Iterator[None]:
        """What fails inside is noted, beside the checkpoint too; nothing reaches the training unless it must."""
        try:
            yield
        except Exception as error:  # a model's own code may raise anything, and a training must go on
            path = what.place if isinstance(what, _Job) else what
            why = str(error) if isinstance(error, ManifestError) else f"{type(error).__name__}: {one_line(error)}"
            self.failed.append((path, why))
            self._first_error = self._first_error or error
            with contextlib.suppress(OSError):  # where nothing can be written, the warning below says it
                if path.exists():
                    _error_file(path).write_text(f"{path.name} got no manifest: {why}\n", encoding="utf-8")
            if not self._strict:
                with contextlib.suppress(NoManifestWarning):  # where warnings are made errors
                    warnings.warn(f"{path.name} was saved and got no manifest: {why}", NoManifestWarning, stacklevel=4)
            elif threading.current_thread() is not self._worker:
                raise


def new_recorder(key: Key, golden: When | str, *, strict: bool, **record: Unpack[RecordKeywords]) -> CheckpointRecorder:
    """What describes checkpoints, by the arguments of `recording`.

    Raises:
        InputError: One of them is none of those there are.
        KeyFileError: The key cannot be used.
    """
    try:
        when = When(golden)
    except ValueError:
        raise InputError(f"golden is {golden!r}, expected 'every', 'last' or 'none'; choose one.") from None
    return CheckpointRecorder(record_options(key, **record), when, strict=strict)


def _write_and_replace(path: Path, write: Write, to_file: bool) -> None:
    """Write a file and rename it into place; where that cannot be done, as the script would have done it."""
    try:
        with staging(path) as staged:
            if to_file:  # so that the name of the moment is not in it
                with staged.open("xb") as file:
                    write(file)
            else:
                write(str(staged))
            replace_file(staged, path, durably=False)
    except Exception:
        with contextlib.suppress(OSError):
            clear_sidecars(path)
        write(path)  # also for the error that the script knows


def _owners(stored: Checkpoint, saved: Any) -> list[tuple[View, Owner]]:
    """The sets of weights in a file that are a model's, each with the model."""
    names = stored_names(saved)
    found = []
    for each in stored.candidates:
        candidate = replace(each, tensors=renamed(each.tensors, names))
        tensors: Mapping[str, torch.Tensor] = tensors_in(saved, candidate.path, candidate.prefix, candidate.tensors)
        if len(tensors) < len(candidate.tensors):  # saved in a form that only the file tells
            plain = {name: each for name, each in candidate.tensors.items() if not isinstance(each, CompositeTensor)}
            tensors = {name: mapped_tensor(stored, each) for name, each in plain.items()}
        if len(tensors) == len(candidate.tensors) > 0:
            owner = owner_of(tensors, candidate.prefix)
            if owner is not None:
                inner, model = model_in(owner.module)
                within = candidate.prefix + inner if inner else ""
                found.append((View(candidate.path, within), Owner(model, owner.live)))
    return found


def _rank() -> int:
    """Which process of a group this is; 0 outside of one."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def _namesake(saved: Mapping[str, Any]) -> tuple[str, nn.Module | None]:
    """The module whose names and shapes a state dict has, which is at the top or under a key, and that key."""
    for key, state in {"": saved, **saved}.items():
        if isinstance(state, Mapping) and state and all(isinstance(each, torch.Tensor) for each in state.values()):
            module = find_by_names(state)
            if module is not None:
                return key, module
    return "", None


@contextlib.contextmanager
def _kept_age(place: Path) -> Iterator[None]:
    """Afterwards, a checkpoint's directory is as old as before: trainers remove those that changed longest ago."""
    try:
        descriptor = os.open(place if place.is_dir() else place.parent, os.O_RDONLY)
    except OSError:  # it has been removed, or the system opens no directories
        yield
        return
    try:
        before = os.fstat(descriptor)
        yield
        with contextlib.suppress(OSError):  # another user's directory
            os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(descriptor)


def _error_file(path: Path) -> Path:
    return path.with_name(path.name + _ERROR)


def _digests(path: Path) -> list[tuple[str, str]] | None:
    return files_digests([path]) if path.is_file() else None


def _identity(path: Path, *, missing: bool = False) -> tuple[int, ...]:
    """By what a file is known to be the one that was described, wherever it was renamed to."""
    try:
        status = path.stat()
    except OSError:
        if missing:
            return ()
        raise
    return (status.st_dev, status.st_ino) if path.is_dir() else (status.st_dev, status.st_ino, status.st_size)
