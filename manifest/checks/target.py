"""A checkpoint with its manifest, while it is checked, and the climb of the ladder with it.

Each rung that needs no torch has a module of its own in this package; the others are in `rebuild`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from manifest.checkpoint import Checkpoint, open_checkpoint
from manifest.checks.ladder import CheckResult, run_ladder
from manifest.errors import CheckpointError, InputError
from manifest.escaping import printable, printable_list
from manifest.schema.document import Manifest, Model, parse
from manifest.schema.report import ComponentVerdict, Kind, Report
from manifest.storage.sidecars import Sidecars, bring_sidecars, described_checkpoint, select_recorded
from manifest.storage.transaction import SidecarContents, read_sidecars


class VerificationTarget:
    """One checkpoint while it is verified; what several rungs need is read once."""

    def __init__(
        self, checkpoint: Path, contents: SidecarContents, manifest: Manifest, stored: Checkpoint | None = None
    ) -> None:
        self.path = checkpoint
        self.contents = contents
        self.manifest = manifest
        self.first = True  # whether these are the weights that the manifest describes first
        self.signed = False  # whether somebody who is trusted signed the manifest
        self.intact = False
        self.is_remote = stored is not None and stored.mirror is not None
        self.components: list[ComponentVerdict] = []
        if stored is not None:
            self.stored = self._as_recorded(stored)

    @cached_property
    def stored(self) -> Checkpoint | CheckpointError:
        """The open checkpoint, or why it cannot be read."""
        try:
            return self._as_recorded(open_checkpoint(self.path))
        except CheckpointError as error:
            return error

    def _as_recorded(self, stored: Checkpoint) -> Checkpoint:
        """With the weights chosen that the manifest describes, where they are still there."""
        if any(candidate.path == tuple(self.manifest.checkpoint.state.path) for candidate in stored.candidates):
            return select_recorded(stored, self.manifest)
        return stored

    def others(self) -> Iterator[VerificationTarget]:
        """The same open checkpoint for each of the other models in it."""
        for model in self.manifest.others:
            other = self._with(model)
            other.signed, other.intact = self.signed, self.intact
            yield other

    def meaning(self, state: str) -> VerificationTarget:
        """The checkpoint with another of its models as the one that is meant.

        Raises:
            InputError: None is described under these keys.
        """
        described = {".".join(self.manifest.checkpoint.state.path): self}
        described |= {".".join(model.state.path): self._with(model) for model in self.manifest.others}
        if state not in described:
            known = printable_list(described)
            raise InputError(f"The manifest of {self.path.name} describes no '{printable(state)}', only {known}.")
        return described[state]

    def _with(self, model: Model) -> VerificationTarget:
        stored = self.stored if isinstance(self.stored, Checkpoint) else None
        other = VerificationTarget(self.path, self.contents, self.manifest.meaning(model), stored)
        other.first = False
        return other

    def close(self) -> None:
        if isinstance(self.stored, Checkpoint):
            self.stored.close()


Check = Callable[[VerificationTarget], CheckResult]


def open_target(path: str | os.PathLike[str] | Checkpoint) -> VerificationTarget:
    """A checkpoint, by its path or open already, with its sidecars read."""
    stored = path if isinstance(path, Checkpoint) else None
    checkpoint = path.path if isinstance(path, Checkpoint) else described_checkpoint(path)
    if stored is not None:
        bring_sidecars(stored)
    contents = read_sidecars(checkpoint)
    return VerificationTarget(
        checkpoint, contents, parse(contents.manifest, source=Sidecars(checkpoint).manifest.name), stored
    )


def run_checks(subject: VerificationTarget, rungs: Sequence[tuple[str, Check]], kind: Kind = Kind.VERIFY) -> Report:
    """Climb some rungs with a checkpoint, timing each."""
    report = run_ladder(kind, subject.path.name, ((name, functools.partial(check, subject)) for name, check in rungs))
    stored = subject.stored
    place = str(subject.path)
    if isinstance(stored, Checkpoint) and stored.mirror is not None:
        stored.mirror.require_unchanged()
        place = stored.mirror.address.public
    facts = {
        "path": place,
        "container": stored.container if isinstance(stored, Checkpoint) else None,
        "components": subject.components,
    }
    return report.model_copy(update=facts)
