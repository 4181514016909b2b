"""Where weights come from: what they started from, and which run of which code made them, on which data.

Facts of a training are taken from what training scripts keep beside the weights, from the process and from git. What
is published with a checkpoint tells how it was made, and not who made it where: see `manifest.capture.scrubbing`.
"""

from __future__ import annotations

import operator
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifest.capture.scrubbing import own_names, scrubbed_command, scrubbed_text
from manifest.errors import InputError
from manifest.families.protocol import Creation, Family
from manifest.schema.document import Manifest, Parent, Provenance
from manifest.storage.described import own_manifest

EPOCHS = ("epoch", "current_epoch", "last_epoch", "epochs_trained")
STEPS = ("global_step", "step", "iteration", "iter", "it", "global_iteration", "global_iter", "n_iter", "num_updates")
"""Under which names training scripts keep how far they are, the surest first."""

_LARGEST = 1 << 63
_PATIENCE = 5  # seconds, for git
_GIT = (
    "git",
    "--no-optional-locks",  # several processes of one training may ask at once
    "-c",
    "core.fsmonitor=false",  # nor is a program run that a repository names
    "status",
    "--porcelain=v2",
    "--branch",
    "--untracked-files=no",
)


@dataclass(frozen=True)
class TrainingFacts:
    """How far a training was, and what it was.

    Attributes:
        epoch: As the training script counts.
        step: Likewise.
        command: The words of its command line, scrubbed.
        dataset: A note on the data, scrubbed.
    """

    epoch: int | None = None
    step: int | None = None
    command: tuple[str, ...] = ()
    dataset: str | None = None


@dataclass(frozen=True)
class GitFacts:
    """Which code ran.

    Attributes:
        commit: What is checked out; None outside of a repository, and in one without commits.
        dirty: Whether files that git follows differ from it.
    """

    commit: str | None = None
    dirty: bool | None = None


def facts_of(
    extras: Mapping[str, Any], *, dataset: str | None = None, words: Sequence[str] | None = None
) -> TrainingFacts:
    """The facts of the training that this process is, as far as they are known.

    Args:
        extras: What a training script keeps beside the weights, by name; epoch and step are whole numbers in it, or
            tensors that hold one.
        dataset: A note on the data.
        words: The command line; that of this process by default.

    Raises:
        InputError: The note is no text.
    """
    if dataset is not None and not isinstance(dataset, str):
        raise InputError(f"dataset is a {type(dataset).__name__}, expected a note in words; give its name and version.")
    names = own_names()
    return TrainingFacts(
        epoch=_first_number(extras, EPOCHS),
        step=_first_number(extras, STEPS),
        command=tuple(scrubbed_command(command_line() if words is None else words, names)),
        dataset=None if dataset is None else scrubbed_text(dataset, names),
    )


def command_line() -> list[str]:
    """The words that started this process, `python -m module …` or `script.py …`; none when somebody types."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    arguments = sys.argv[1:]
    if spec is not None:
        return ["python", "-m", spec.name.removesuffix(".__main__"), *arguments]
    program = sys.argv[0] if sys.argv else ""
    return [program, *arguments] if program else []


def provenance_of(
    family: Family, creation: Creation | None, facts: TrainingFacts | None = None, git: GitFacts | None = None
) -> Provenance:
    """Where a model's weights come from.

    Args:
        family: Of the model.
        creation: How it was made, if known.
        facts: Of the training that it is saved in; None outside of one.
        git: Which code runs; asked now when None.
    """
    facts = facts or TrainingFacts()
    git = git or git_facts()
    pretrained, categories = (None, []) if creation is None else family.origin(creation)
    return Provenance(
        pretrained=pretrained,
        categories=categories,
        parents=[] if creation is None else [Parent(name=name, weights=digest) for name, digest in creation.parents],
        conversions=[] if creation is None else list(creation.conversions),
        git_commit=git.commit,
        git_dirty=git.dirty,
        epoch=facts.epoch,
        step=facts.step,
        dataset=facts.dataset,
        command=list(facts.command),
    )


def git_facts() -> GitFacts:
    """Which code runs: in the repository of the running script, or else of the working directory."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    # A program that is installed says nothing about whose code it runs.
    if script is not None and not Path(script).resolve().is_relative_to(Path(sys.prefix).resolve()):
        found = _git_facts(Path(script).parent)
        if found.commit is not None:
            return found
    return _git_facts(Path())


def _git_facts(directory: Path) -> GitFacts:
    try:
        answer = subprocess.run(_GIT, cwd=directory, capture_output=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return GitFacts()
    lines = answer.stdout.decode("ascii", "replace").splitlines()
    commit = next((line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")), None)
    if answer.returncode or commit is None or not commit.isalnum():
        return GitFacts()
    return GitFacts(commit, dirty=any(not line.startswith("#") for line in lines))


def _first_number(extras: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    return next((number for key in keys if (number := _whole_number(extras.get(key))) is not None), None)


def _whole_number(value: Any) -> int | None:
    """A whole number, of Python's or numpy's or in a tensor without dimensions; nothing else, and no truth value."""
    if isinstance(value, bool) or getattr(value, "ndim", 0) != 0 or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        number = operator.index(value)
    except (TypeError, RuntimeError):  # a tensor on the meta device has no values
        return None
    return number if abs(number) < _LARGEST else None


def parent_of(path: str | os.PathLike[str]) -> Parent | None:
    """A checkpoint as the parent of what starts from it: its name and its weights digest.

    Returns:
        None when there is no manifest beside it; also, with a warning, when the manifest cannot be read or its bytes
        are not those that it describes, for then nobody knows what its weights are.
    """
    manifest = own_manifest(path, "it goes on record as nobody's parent")
    return None if manifest is None else parent_by(path, manifest)


def parent_by(path: str | os.PathLike[str], manifest: Manifest) -> Parent:
    """A checkpoint as a parent, by a manifest that is known to describe it."""
    return Parent(name=Path(path).resolve().name, weights=manifest.weights.digest)
