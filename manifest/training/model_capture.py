"""What takes the model of a saved checkpoint: whose weights it holds, their architecture, and what they answer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from manifest.capture.description import Description
from manifest.capture.options import RecordOptions
from manifest.capture.provenance import GitFacts, facts_of, git_facts, provenance_of
from manifest.checkpoint import Checkpoint, open_checkpoint
from manifest.errors import ArchitectureError, CheckpointError
from manifest.families import creation_of, family_of, why_not_known
from manifest.families.adapter import frozen, mode_of
from manifest.families.equivalence import first_difference
from manifest.families.opaque.adapter import FAMILY as OPAQUE
from manifest.families.protocol import Captured, Family
from manifest.grants import granted
from manifest.training.files import identity_of
from manifest.training.job import Job
from manifest.training.load_tracking import Origins
from manifest.training.model_lookup import Owner, owners_in


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
        self._architectures: WeakKeyDictionary[nn.Module, tuple[Family, Captured]] = WeakKeyDictionary()

    def look(self, path: Path, saved: Any) -> Job | str:
        """What is to be written down of a checkpoint, or why it is to be left alone.

        Args:
            path: A file, or a directory of shards.
            saved: The object that was written; see `CheckpointRecorder.describe`.
        """
        identity = identity_of(path)
        try:
            stored = open_checkpoint(path)
        except CheckpointError as error:
            return str(error)
        owners = owners_in(stored, saved)
        if not owners:
            count = len(stored.tensors)
            stored.close()
            return f"no model in memory has just the {count} tensors that it holds"
        descriptions = [self._description(stored.select(view), owner) for view, owner in owners]
        module = owners[0][1].module
        self._git = self._git or git_facts()  # once: what runs was read when the training began
        facts = facts_of(saved if isinstance(saved, Mapping) else {}, dataset=self._options.dataset)
        provenance = provenance_of(descriptions[0].family, creation_of(module), facts, self._git)
        parents = [*provenance.parents, *(each for each in self._origins.of(module) if each not in provenance.parents)]
        return Job(path, identity, descriptions, provenance.model_copy(update={"parents": parents}))

    def _description(self, stored: Checkpoint, owner: Owner) -> Description:
        creation = creation_of(owner.module)
        with granted(creation.runs if creation else ()):  # the model is here already, made by that code
            adapter, captured = self._captured(owner.module)
            description = Description(
                stored,
                adapter,
                captured,
                live=owner.module if owner.live else None,
                options=self._options,
            )
            description.capture_outputs()
        return description

    def _captured(self, module: nn.Module) -> tuple[Family, Captured]:
        """The family and the architecture of a module, captured once while it stays what it was."""
        known = self._architectures.get(module)
        if known is not None and first_difference(known[1].module, module) is None:
            now = {"frozen": frozen(module), "mode": mode_of(module)}
            return known[0], Captured(known[1].architecture.model_copy(update=now), known[1].module)
        try:
            adapter = family_of(module)
            captured = adapter.capture(module, creation_of(module))
        except ArchitectureError as error:
            why = why_not_known(module) or str(error)
            adapter, captured = OPAQUE, OPAQUE.capture_as_shown(module, why)
            with contextlib.suppress(UserWarning):  # where warnings are made errors
                warnings.warn(f"{type(module).__name__} is recorded, and not how to rebuild it: {why}", stacklevel=6)
        self._architectures[module] = adapter, captured
        return adapter, captured
