"""The functions that stand in for those that write, rename, copy and remove files, while a training is recorded."""

from __future__ import annotations

import functools
import io
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeGuard
from weakref import ReferenceType, ref

import torch
from torch import nn

from manifest.capture.provenance import parent_of
from manifest.families.wrappers import unwrap
from manifest.storage.places import is_special, place_to_save, warn_of_special
from manifest.storage.suppress_recording import recording_suppressed, suppress_recording
from manifest.training.files import SIDECARS
from manifest.training.in_memory import MemorySaves
from manifest.training.patches import Function, Patches, Wrapping
from manifest.training.recorder import CheckpointRecorder

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")

_OF_TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")
"""What its files of weights are called."""


class Savers:
    """The functions that stand in for those that write, rename, copy and remove files.

    A context manager, inside which those of recordings around it do nothing.
    """

    _all: ClassVar[list[Savers]] = []

    def __init__(self, recorder: CheckpointRecorder) -> None:
        self._recorder = recorder
        self._open: list[tuple[ReferenceType[Any], Path]] = []
        self._memory = MemorySaves()
        self._watches_open = False

    def __enter__(self) -> Savers:
        self._all.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._all.remove(self)

    @classmethod
    def begin_in_child(cls) -> None:
        """Record anew in a process that was just forked; the one before goes on with what it has."""
        for savers in cls._all:
            savers._open.clear()
            savers._memory = MemorySaves()
            savers._recorder.begin(threading.get_ident())

    def install(self, patches: Patches) -> None:
        self._patches = patches
        patches.wrap("torch.serialization", {"save": self._torch_save, "load": self._load})
        safetensors = {"save_file": self._save_file, "save": self._save_into_bytes, "load_file": self._load}
        patches.wrap("safetensors.torch", safetensors)
        patches.wrap_method(nn.Module, "load_state_dict", self._load_state_dict)
        patches.wrap("torch.distributed.checkpoint.state_dict_saver", {"save": self._distributed_save})
        moving = {"replace": self._rename, "rename": self._rename}
        patches.wrap("os", {**moving, "remove": self._remove, "unlink": self._remove, "link": self._copy})
        patches.wrap("os", dict.fromkeys(("_exit", "execv", "execve"), self._end_process))
        patches.wrap("shutil", {"copyfile": self._copy, "rmtree": self._remove})
        for module, owner, name, wrapping in (
            ("transformers.modeling_utils", "PreTrainedModel", "save_pretrained", self._save_pretrained),
            ("transformers.modeling_utils", "PreTrainedModel", "from_pretrained", self._from_pretrained),
            ("accelerate.accelerator", "Accelerator", "save_model", self._save_model),
            ("lightning.fabric.plugins.io.torch_io", "TorchCheckpointIO", "save_checkpoint", self._save_checkpoint),
            ("lightning_fabric.plugins.io.torch_io", "TorchCheckpointIO", "save_checkpoint", self._save_checkpoint),
            ("lightning.pytorch.trainer.trainer", "Trainer", "save_checkpoint", self._save_in_parts),
            ("pytorch_lightning.trainer.trainer", "Trainer", "save_checkpoint", self._save_in_parts),
        ):
            patches.when_imported(module, functools.partial(_wrap_method, patches, owner, name, wrapping))

    def look_at_open_files(self) -> None:
        """Describe what the script itself has written: into files that it has closed since, or from memory."""
        for kept, path in list(self._open):
            file = kept()
            if file is None or file.closed:
                self._open.remove((kept, path))
                with suppress_recording():
                    self._recorder.describe(path, None)
        if self._memory.waiting:
            with suppress_recording():
                for path in self._memory.written():
                    self._recorder.describe(path, None)

    def end(self) -> None:
        """Describe what is left, and say how much was saved into memory and is in no file that was seen."""
        self.look_at_open_files()
        self._recorder.account.lose(self._memory.waiting)

    def _torch_save(self, original: Function) -> Function:
        def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._is_on():
                return original(obj, f, *args, **kwargs)
            self.look_at_open_files()
            if (place := _place(f)) is None:
                self._note_open_file(f)
                begin = f.tell() if isinstance(f, io.BytesIO) else 0
                result = original(obj, f, *args, **kwargs)
                if isinstance(f, io.BytesIO) and isinstance(obj, Mapping | nn.Module):
                    self._saved_into_memory(f.getvalue()[begin : f.tell()])
                self._note_special(f)
                return result
            with suppress_recording():
                return self._recorder.save(
                    place, obj, lambda target: original(obj, target, *args, **kwargs), to_file=True
                )

        return save

    def _save_file(self, original: Function) -> Function:
        def save_file(tensors: Mapping[str, torch.Tensor], filename: Any, *args: Any, **kwargs: Any) -> Any:
            place = _place(filename) if self._is_on() else None
            if place is None or _SHARD.search(place.name):
                result = original(tensors, filename, *args, **kwargs)
                self._note_special(filename)
                return result
            with suppress_recording():
                return self._recorder.save(
                    place, tensors, lambda target: original(tensors, target, *args, **kwargs), to_file=False
                )

        return save_file

    def _save_into_bytes(self, original: Function) -> Function:
        def save(tensors: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            content = original(tensors, *args, **kwargs)
            if self._is_on():
                self._saved_into_memory(content)
            return content

        return save

    def _saved_into_memory(self, content: bytes) -> None:
        """Look for the content in what is opened for writing from now on; nobody's `open` is replaced before."""
        self._memory.saved(content)
        if not self._watches_open:
            self._watches_open = True
            self._patches.wrap("builtins", {"open": lambda original: _Open(original, self._opened)})

    def _opened(self, file: Any, mode: str) -> None:
        if self._memory.waiting and _is_name(file) and not mode.startswith("r") and self._is_on():
            self._memory.opened(_absolute(file))

    def _distributed_save(self, original: Function) -> Function:
        def save(state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            place = kwargs.get("checkpoint_id")
            if not self._is_on() or not _is_name(place) or kwargs.get("no_dist") or kwargs.get("process_group"):
                return original(state_dict, *args, **kwargs)
            with suppress_recording():
                return self._recorder.save_together(
                    _absolute(place), state_dict, lambda: original(state_dict, *args, **kwargs)
                )

        return save

    def _save_pretrained(self, original: Function) -> Function:
        """A model in several files is described when its index is there, and one whose tensors were renamed."""

        def save_pretrained(model: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(model, save_directory, *args, **kwargs)
            self._look_at_index(save_directory, model)
            alone = _absolute(save_directory) / "model.safetensors"
            if self._is_on() and self._recorder.was_left_alone(alone):
                with suppress_recording():
                    self._recorder.describe(alone, model)
            return result

        return save_pretrained

    def _load(self, original: Function) -> Function:
        def load(f: Any, *args: Any, **kwargs: Any) -> Any:
            content = original(f, *args, **kwargs)
            name = f if _is_name(f) else getattr(f, "name", None)
            if self._is_on() and _is_name(name) and Path(name).is_file():
                with suppress_recording():
                    self._recorder.origins.loaded(_absolute(name), content)
            return content

        return load

    def _load_state_dict(self, original: Function) -> Function:
        def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(module, state_dict, *args, **kwargs)
            path = self._recorder.origins.taken(module, state_dict) if isinstance(state_dict, Mapping) else None
            if path is not None and self._is_on():
                with suppress_recording():
                    self._recorder.hold_load(module, path)
            return result

        return load_state_dict

    def _from_pretrained(self, original: Function) -> Function:
        """Of transformers, which gives weights to modules by itself; a directory, or the file of weights in it."""

        def from_pretrained(kind: type, name: Any, *args: Any, **kwargs: Any) -> Any:
            model = original(kind, name, *args, **kwargs)
            if self._is_on() and _is_name(name) and isinstance(model, nn.Module) and Path(name).is_dir():
                with suppress_recording():
                    place = _absolute(name)
                    for path in (place, *(place / each for each in _OF_TRANSFORMERS)):
                        if path.exists() and parent_of(path) is not None:
                            self._recorder.hold_load(model, path)
                            break
            return model

        return from_pretrained

    def _save_model(self, original: Function) -> Function:
        """Of accelerate, which writes one file or several as transformers does."""

        def save_model(accelerator: Any, model: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(accelerator, model, save_directory, *args, **kwargs)
            self._look_at_index(save_directory, unwrap(model))
            return result

        return save_model

    def _look_at_index(self, save_directory: Any, model: Any) -> None:
        directory = _absolute(save_directory)
        if self._is_on() and any(directory.glob("*.index.json")):
            with suppress_recording():
                self._recorder.describe(directory, model)

    def _save_checkpoint(self, original: Function) -> Function:
        """Of Lightning, which serialises into memory, and then writes and renames a file."""

        def save_checkpoint(plugin: Any, checkpoint: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
            with self._memory.ignored():
                result = original(plugin, checkpoint, path, *args, **kwargs)
            place = _absolute(path)
            if self._is_on() and place.is_file():
                with suppress_recording():
                    self._recorder.describe(place, checkpoint)
            return result

        return save_checkpoint

    def _save_in_parts(self, original: Function) -> Function:
        """Of Lightning's trainer, some of whose strategies write a directory."""

        def save_checkpoint(trainer: Any, filepath: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(trainer, filepath, *args, **kwargs)
            place = _absolute(filepath)
            if self._is_on() and place.is_dir() and place not in self._recorder.described:
                strategy = type(trainer.strategy).__name__
                self._recorder.leave_alone(
                    place, f"{strategy} saves what each process has, and no process has all of it"
                )
            return result

        return save_checkpoint

    def _rename(self, original: Function) -> Function:
        def rename(src: Any, dst: Any, **kwargs: Any) -> Any:
            if not self._is_on() or kwargs or not (_is_name(src) and _is_name(dst)):
                return original(src, dst, **kwargs)
            with suppress_recording():
                result = self._recorder.renamed(_absolute(src), _absolute(dst), lambda: original(src, dst))
            self._memory.renamed(_absolute(src), _absolute(dst))
            return result

        return rename

    def _copy(self, original: Function) -> Function:
        def copy(src: Any, dst: Any, **kwargs: Any) -> Any:
            if not self._is_on() or not (_is_name(src) and _is_name(dst)):
                return original(src, dst, **kwargs)
            with suppress_recording():
                return self._recorder.copied(_absolute(src), _absolute(dst), lambda: original(src, dst, **kwargs))

        return copy

    def _remove(self, original: Function) -> Function:
        def remove(path: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._is_on() or kwargs.get("dir_fd") is not None or not _is_name(path):
                return original(path, *args, **kwargs)
            if os.fsdecode(path).endswith(SIDECARS) and not os.path.lexists(path):
                return None  # it went with its checkpoint, and the script that lists a folder first cannot know
            with suppress_recording():
                return self._recorder.removed(_absolute(path), lambda: original(path, *args, **kwargs))

        return remove

    def _end_process(self, original: Function) -> Function:
        """Of what ends this program at once, and would leave manifests half done."""

        def end(*args: Any) -> Any:
            try:
                if self._is_on():
                    self.end()
                    self._recorder.finish()
            finally:
                original(*args)

        return end

    def _is_on(self) -> bool:
        """Whether a call is the script's own, and for this recording to look at."""
        return not recording_suppressed() and self._all[-1:] == [self]

    def _note_special(self, target: Any) -> None:
        """Say that what was written into a pipe or a device has no manifest."""
        if self._is_on() and _is_name(target) and is_special(path := _absolute(target)):
            self._recorder.leave_alone(path, "it is no regular file")
            warn_of_special(path)

    def _note_open_file(self, file: Any) -> None:
        name = getattr(file, "name", None)
        if isinstance(name, str) and hasattr(file, "closed") and Path(name).is_file():
            # Not the file itself, which may be closed by nobody's holding it any more.
            self._open.append((ref(file), _absolute(name)))


class _Open:
    """`open`, which tells what it opens; no function of Python's, which a class that has it would take for a method."""

    def __init__(self, original: Function, tell: Callable[[Any, str], None]) -> None:
        self._original = original
        self._tell = tell

    def __call__(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        self._tell(file, mode)
        return self._original(file, mode, *args, **kwargs)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Savers.begin_in_child)


def _wrap_method(patches: Patches, owner: str, name: str, wrapping: Wrapping, module: ModuleType) -> None:
    patches.wrap_method(getattr(module, owner), name, wrapping)


def _is_name(path: Any) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(path, str | os.PathLike)


def _absolute(path: Any) -> Path:
    return Path(os.path.normpath(Path(os.fsdecode(path)).absolute()))


def _place(target: Any) -> Path | None:
    """Where a save goes that may be written to another name first; None for open files, pipes, devices and the like."""
    return place_to_save(_absolute(target)) if _is_name(target) else None
