"""A model in memory and what is to be recorded of it, found out before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from manifest.capture.description import Description, manifest_of
from manifest.capture.options import RecordOptions
from manifest.capture.provenance import TrainingFacts, facts_of, provenance_of
from manifest.checkpoint import Checkpoint
from manifest.distributed.sharding import is_sharded, unsharded
from manifest.errors import ArchitectureError
from manifest.families import creation_of, family_of
from manifest.families import family as family_named
from manifest.families.callable.script import name_of
from manifest.families.opaque.adapter import FAMILY as OPAQUE
from manifest.families.protocol import Captured, Creation, Family
from manifest.families.wrappers import unwrap
from manifest.grants import granted
from manifest.neutral_process import neutral_process
from manifest.schema.document import Manifest

_AS_SHOWN = "Or record what it shows, and not how to rebuild it: family='opaque'."


@dataclass(frozen=True)
class LiveModel:
    """A model in memory and what is to be recorded of it.

    Attributes:
        module: The model without wrappers; of a sharded one, its twin without values.
        witness: The model that golden outputs are asked of; None where no process has the whole of it.
        family: The library that made it.
        creation: How it was made, if known.
        options: What is recorded of it.
        facts: Of the training that it is saved in.
        guessed: Whether nobody said how it was made, and its class without arguments is taken for that.
    """

    module: nn.Module
    witness: nn.Module | None
    family: Family
    creation: Creation | None
    options: RecordOptions
    facts: TrainingFacts
    guessed: bool = False

    @cached_property
    @neutral_process()
    def captured(self) -> Captured:
        """What it is made of.

        Raises:
            ArchitectureError: It cannot be rebuilt exactly.
        """
        with granted(self._runs):
            try:
                return self.family.capture(self.module, self.creation)
            except ArchitectureError as error:
                if not self.guessed or self.creation is None:
                    raise ArchitectureError(f"{error} {_AS_SHOWN}") from error
                name = self.creation.name
                raise ArchitectureError(
                    f"{name} is a class of your own, and made without arguments it is another model ({error}); name "
                    f"them with model_name={name!r}, family='callable', arguments={{…}}, or save it inside "
                    f"`with manifest.recording():`, which sees how models are made. {_AS_SHOWN}"
                ) from error

    def describe(self, stored: Checkpoint, file_name: str, digests: Future[list[tuple[str, str]]]) -> Manifest:
        """The manifest of a checkpoint that it was written to; see `description.manifest_of`."""
        captured = self.captured
        with granted(self._runs):
            description = Description(
                stored,
                self.family,
                captured,
                live=self.witness,
                options=self.options,
            )
            return manifest_of(
                [description],
                file_name=file_name,
                digests=digests,
                provenance=provenance_of(self.family, self.creation, self.facts),
                signer=self.options.hint,
            )

    @property
    def _runs(self) -> Sequence[str]:
        """The user's own code that rebuilding it runs, which ran here already to make it."""
        return self.creation.runs if self.creation else ()


def live_model(
    model: nn.Module,
    options: RecordOptions,
    extras: Mapping[str, Any] | None,
    *,
    model_name: str | None,
    family: str | None,
    arguments: Mapping[str, Any] | None,
) -> LiveModel:
    """A model as a caller gives it, with the arguments of `manifest.save`."""
    module = unwrap(model)
    sharded = is_sharded(module)
    witness = None if sharded else module
    module = unsharded(module) if sharded else module
    facts = facts_of(extras or {}, dataset=options.dataset)
    if family == OPAQUE.name:
        return LiveModel(module, witness, OPAQUE, None, options, facts)
    creation = creation_of(module)
    if creation is None and model_name is not None:
        creation = Creation(model_name, dict(arguments or {}), family=family)
    guessed = creation is None and (creation := _of_own_class(module)) is not None
    try:
        adapter = family_of(module) if creation is None or creation.family is None else family_named(creation.family)
    except ArchitectureError as error:
        raise ArchitectureError(f"{error} {_AS_SHOWN}") from error
    return LiveModel(module, witness, adapter, creation, options, facts, guessed)


def _of_own_class(module: nn.Module) -> Creation | None:
    """How a model of no library may have been made: its class, called without arguments.

    None for what a library made, for a class that no other process can import, and for layers of torch itself.
    """
    kind = type(module)
    if kind.__module__.startswith("torch.") or (name := name_of(kind)) is None:
        return None
    try:
        family_of(module)
    except ArchitectureError:
        if hasattr(module, "peft_config"):
            return None
        return Creation(name, {}, family="callable")
    return None
