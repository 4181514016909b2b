"""What takes the model of a saved checkpoint: whose weights it holds, their architecture, and what they answer."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from manifest.capture.description import Description
from manifest.capture.golden_outputs import is_on_cpu, require_same, standard_inputs
from manifest.capture.golden_process import AVAILABLE, GoldenProcess, NoOutputsError, Question, readable_path
from manifest.capture.options import GoldenOptions, RecordOptions
from manifest.capture.provenance import GitFacts, facts_of, git_facts, provenance_of
from manifest.checkpoint import Checkpoint, open_checkpoint
from manifest.distributed.sharding import WHOLE_OF_ZERO, is_partitioned, unsharded
from manifest.errors import ArchitectureError, CheckpointError
from manifest.families import creation_of, family_of, why_not_known
from manifest.families.adapter import frozen, mode_of
from manifest.families.callable.script import find_in_main, is_script, running
from manifest.families.equivalence import first_difference
from manifest.families.opaque.adapter import FAMILY as OPAQUE
from manifest.families.protocol import Captured, Family
from manifest.golden.run import ProbeOutputs, run_probe
from manifest.grants import granted, granted_now
from manifest.neutral_process import neutral_process
from manifest.probes.inputs import Inputs
from manifest.schema.document import Golden
from manifest.training.files import identity_of
from manifest.training.job import Job
from manifest.training.load_tracking import Origins
from manifest.training.model_lookup import Owner, owners_in
from manifest.warning import warn

_LARGE = 64 << 20
"""Bytes of a file from which golden outputs are asked in a process of their own; below, starting it takes longer."""


class ModelCapture:
    """Looks at the models of checkpoints, each of whose architectures it captures once while they stay what they are.

    Args:
        options: What is recorded of the models.
        origins: What weights were loaded from.
    """

    def __init__(self, options: RecordOptions, origins: Origins) -> None:
        self._options = options
        self._origins = origins
        self._git: GitFacts | None = None
        self._known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()
        self._elsewhere = AVAILABLE and options.golden is not None and _can_be_sent(options.golden)
        self.begin()

    def begin(self) -> None:
        """Let go of the other process, which is that of the process that this one was forked off."""
        self._process = GoldenProcess()

    def end(self) -> None:
        """Ask no more golden outputs."""
        self._process.end()

    def look(self, path: Path, saved: Any) -> Job | str:
        """What is to be written down of a checkpoint, or why it is to be left alone.

        Args:
            path: A file, or a directory of shards.
            saved: The object that was written; see `CheckpointRecorder.describe`.

        Raises:
            ArchitectureError: Its model was partitioned, and it holds next to nothing.
        """
        identity = identity_of(path)
        try:
            stored = open_checkpoint(path)
        except CheckpointError as error:
            return str(error)
        owners = owners_in(stored, saved)
        if not owners:
            count, empty = len(stored.tensors), sum(not each.numel for each in stored.tensors.values())
            stored.close()
            if empty > count / 2:
                words = f"{empty} of its {count} tensors are empty, as of a model that is partitioned; {WHOLE_OF_ZERO}"
                if "ds_version" in stored.extras:  # DeepSpeed's own, which has the values in other files
                    return words
                raise ArchitectureError(words)
            return f"no model in memory has just the {count} tensors that it holds"
        descriptions = [self._description(stored.select(view), owner) for view, owner in owners]
        module = owners[0][1].module
        self._git = self._git or git_facts()  # once: what runs was read when the training began
        facts = facts_of(saved if isinstance(saved, Mapping) else {}, dataset=self._options.dataset)
        provenance = provenance_of(descriptions[0].family, creation_of(module), facts, self._git)
        parents = [*provenance.parents, *(each for each in self._origins.of(module) if each not in provenance.parents)]
        runs = [name for _, owner in owners if (creation := creation_of(owner.module)) for name in creation.runs]
        return Job(path, identity, descriptions, provenance.model_copy(update={"parents": parents}), runs)

    def _description(self, stored: Checkpoint, owner: Owner) -> Description:
        module = owner.module
        live = module if owner.live else None
        creation = creation_of(module)
        with granted(creation.runs if creation else ()):  # the model is here already, made by that code
            known = self._look_at(module)
            description = Description(stored, known.family, known.captured, live=live, options=self._options)
            if self._elsewhere and known.can_be_asked_elsewhere and stored.files.size >= _LARGE:
                said = None if known.was_asked else _first_outputs(known, live)
                if said is not None:
                    self._known[module] = replace(known, was_asked=True)
                description.capture_outputs(later=partial(self._ask, self._question(description), said))
            else:
                description.capture_outputs()
        return description

    def _look_at(self, module: nn.Module) -> _Known:
        """What is known of a module, captured once while it stays what it was."""
        shown = unsharded(module) if is_partitioned(module) else module
        known = self._known.get(module)
        if known is not None and first_difference(known.captured.module, shown) is None:
            now = {"frozen": frozen(shown), "mode": mode_of(shown)}
            captured = Captured(known.captured.architecture.model_copy(update=now), known.captured.module)
            return replace(known, captured=captured)
        try:
            adapter = family_of(shown)
            captured = adapter.capture(shown, creation_of(module))
        except ArchitectureError as error:
            why = why_not_known(module) or str(error)
            adapter, captured = OPAQUE, OPAQUE.capture_as_shown(shown, why)
            with contextlib.suppress(UserWarning):  # where warnings are made errors
                warn(f"{type(module).__name__} is recorded, and not how to rebuild it: {why}")
        inputs = None
        if self._elsewhere and self._options.golden is not None and adapter is not OPAQUE:
            with neutral_process():  # in a process that was forked, images are to be prepared on one thread
                inputs = standard_inputs(adapter, captured.architecture, self._options.golden)
        self._known[module] = known = _Known(adapter, captured, inputs)
        return known

    def _question(self, description: Description) -> Question:
        script = running()
        return Question(
            path=readable_path(description.stored),
            view=description.checkpoint.view,
            architecture=description.captured.architecture,
            options=replace(self._options, signer=None),
            runs=[*granted_now(), *([str(script.path.absolute())] if script else [])],
            threads=torch.get_num_threads(),
        )

    def _ask(self, question: Question, said: ProbeOutputs | None) -> list[Golden]:
        """The golden outputs out of the other process, which are what the model in memory said, where it was asked."""
        try:
            golden = self._process.ask(question)
        except NoOutputsError as error:
            with contextlib.suppress(UserWarning):
                warn(f"A checkpoint is recorded without golden outputs: {error}")
            return []
        if said is not None:
            require_same(golden[0], said, brief=bool(golden[0].brief))
        return golden


@dataclass(frozen=True)
class _Known:
    """What is known of a module.

    Attributes:
        family: Its family.
        captured: Its architecture.
        inputs: What another process may ask it; None for nothing.
        was_asked: Whether golden outputs out of that process were held against what it said in memory.
    """

    family: Family
    captured: Captured
    inputs: Inputs | None
    was_asked: bool = False

    @property
    def can_be_asked_elsewhere(self) -> bool:
        """Whether another process can build it, and has something to ask it."""
        if self.inputs is None:
            return False
        if self.family.name != "callable":
            return True
        module, _, attribute = str(self.captured.architecture.name).partition(":")
        if is_script(module):
            script = running()
            return script is not None and script.path.is_file()
        return find_in_main(module, attribute) is None  # to import what runs here would be to train once more


def _first_outputs(known: _Known, live: nn.Module | None) -> ProbeOutputs | None:
    """What a model in memory says, where golden outputs are taken of such a model: to the first samples, if that is
    enough to compare."""
    native_mode = known.captured.architecture.precision in known.family.float32
    if live is None or known.inputs is None or not native_mode or not is_on_cpu(live):
        return None
    ask = partial(run_probe, known.family, known.captured.architecture, live)
    first = ask(known.inputs.first())
    return first if first.outputs.keys() & known.family.rows.keys() else ask(known.inputs)


def _can_be_sent(options: GoldenOptions) -> bool:
    """Whether another process can be told what is asked: a probe may have functions of the user's own."""
    try:
        pickle.dumps(options)
    except Exception:  # whatever an object of the user's own raises
        return False
    return True
