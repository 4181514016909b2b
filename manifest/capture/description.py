"""From a checkpoint file and an architecture to its manifest.

The manifest describes the file, not the memory it was written from: names, digests and the verdict on each component
are read back from the bytes, and golden outputs must come out of those bytes too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

import manifest.initialisation.verdict  # noqa: F401 - a thread that is still importing it when a script forks leaves half
from manifest import progress
from manifest.capture.golden_outputs import golden_outputs
from manifest.capture.options import GoldenOptions, RecordOptions
from manifest.capture.stored_weights import files, require_listed, weights_record
from manifest.checkpoint import Checkpoint
from manifest.checks.components import assess, component_findings
from manifest.checks.origin import inner_contradictions, origin_findings
from manifest.errors import ArchitectureError, IncompleteModelError, InputError
from manifest.escaping import printable, writable
from manifest.families import family as family_named
from manifest.families.protocol import Captured, Family
from manifest.fingerprints import environment
from manifest.fingerprints.structure import ties
from manifest.golden.precision import build
from manifest.identification.adapters import adapters_in
from manifest.identification.customisation import customisation, foreign
from manifest.identification.key_mapping import names_of_architecture
from manifest.neutral_process import neutral_process
from manifest.schema.document import (
    FILE_NAME,
    Architecture,
    CheckpointRecord,
    Component,
    Environment,
    Golden,
    Manifest,
    Model,
    Provenance,
    State,
    Tool,
    now,
)
from manifest.schema.report import Severity
from manifest.version import __version__
from manifest.warning import warn
from manifest.weights.assign import assign, misfits, shapes_of, twin
from manifest.weights.shape_diff import is_optional, shape_diff


class Description:
    """One set of weights of an open checkpoint on its way to a manifest; each part is found out when it is asked for.

    What takes torch (`capture_outputs`) can so be found out at once, while the model is as it was saved, and what takes
    the bytes alone later, on another thread.

    Args:
        stored: The file, which may still have a temporary name, with the weights chosen that are meant.
        family: Of the model in it.
        captured: What it is the weights of; its module stays without weights.
        live: The model in memory that was saved, when there is one: its word is what goes on record.
        options: What is recorded of it.

    Raises:
        ArchitectureError: A tensor among the weights has no values.
    """

    def __init__(
        self,
        stored: Checkpoint,
        family: Family,
        captured: Captured,
        *,
        live: nn.Module | None = None,
        options: RecordOptions,
    ) -> None:
        require_listed(stored)
        self.stored = stored
        self.family = family
        self.captured = captured
        self.live = live
        self.options = options
        self._later: Callable[[], list[Golden]] | None = None

    def capture_outputs(self, later: Callable[[], list[Golden]] | None = None) -> None:
        """Find out all that takes the live model, and let go of it.

        Args:
            later: Gives the golden outputs when they are needed, so that they are not found out now.

        Raises:
            ArchitectureError: The weights do not fit, or the rebuilt model does not say what the live one says.
        """
        self._roles  # noqa: B018
        self._later = later
        if later is None:
            self.golden  # noqa: B018
        self.live = None

    def record(self, file_name: str) -> Model:
        """All of it as it is written down.

        Raises:
            IncompleteModelError: A component is missing or was never trained, and `partial` does not declare it.
            ArchitectureError: As in `capture_outputs`.
        """
        progress.begin("digests of tensors")
        weights = weights_record(self.checkpoint, kinship=self.options.kinship)
        digests = {each.name: each.digest for each in weights.tensors}
        progress.begin("components")
        components = assess(self._roles, self.checkpoint, digests, self.options.partial)
        _require_whole(components, file_name)
        return Model(
            state=State(path=list(self.checkpoint.state_path), prefix=self.checkpoint.prefix),
            weights=weights,
            architecture=self.captured.architecture,
            components=components,
            golden=self.golden,
        )

    @cached_property
    def golden(self) -> list[Golden]:
        """What the model says, none where that is not asked."""
        if self.options.golden is None:
            return []
        return self._outputs(self.options.golden) if self._later is None else self._later()

    @neutral_process()
    def _outputs(self, options: GoldenOptions) -> list[Golden]:
        declared = frozenset(name for name, role in self._roles.items() if role in self.options.partial)
        module = twin(self.captured.module)
        assign(module, self.checkpoint, absent=declared)
        return golden_outputs(self.checkpoint, self.family, self.captured.architecture, module, self.live, options)

    @cached_property
    @neutral_process()
    def checkpoint(self) -> Checkpoint:
        """The weights by the names that the model has for them, tied ones by each of theirs."""
        there, expected = self.stored.shapes, shapes_of(self.captured.module)
        names = self.family.stored_names(self.captured.module if self.live is None else self.live)
        others = {stored: name for stored, name in names.items() if stored in there and name not in there}
        if not others and self.live is None:
            others = names_of_architecture(there, expected, self.stored.prefix)
        named = self.stored.select(replace(self.stored.view, names=others)) if others else self.stored
        idle = [name for name in named.tensors if name not in expected and is_optional(name)]
        if idle:  # tables that an older version of the library stored, and that are no weights
            named = replace(named, tensors={name: each for name, each in named.tensors.items() if name not in idle})
        return named.with_aliases(ties(self.captured.module))

    @cached_property
    @neutral_process()
    def _roles(self) -> dict[str, str]:
        """The role of each tensor of the architecture, which those of the checkpoint fit."""
        architecture, module = self.captured.architecture, self.captured.module
        roles = self.family.roles(architecture, module.state_dict())
        _require_known(self.options.partial, roles)
        _require_fitting(module, self.checkpoint, architecture, roles)
        return roles


def description_of_file(stored: Checkpoint, architecture: Architecture, options: RecordOptions) -> Description:
    """The description of weights whose architecture is known, and whose model is not in memory.

    Args:
        stored: The file, with the weights chosen that are meant.
        architecture: What they are the weights of.
        options: What is recorded of it.

    Raises:
        ArchitectureError: The architecture cannot be built here.
    """
    adapter = family_named(architecture.family)
    return Description(stored, adapter, Captured(architecture, build(adapter, architecture)), options=options)


def manifest_of(
    descriptions: Sequence[Description],
    *,
    file_name: str,
    digests: Future[list[tuple[str, str]]],
    provenance: Provenance,
    signer: str | None = None,
) -> Manifest:
    """The manifest of a checkpoint out of the descriptions of the models in it, the one that is meant first.

    Args:
        descriptions: One or more, each of its own opening of the checkpoint.
        file_name: The name that the checkpoint will have.
        digests: BLAKE3 and SHA-256 of each file, on their way while everything else is found out.
        provenance: Where the weights come from.
        signer: Hint of the key that will sign.
    """
    require_recordable(file_name)
    checkpoint = descriptions[0].stored
    main, *others = [each.record(file_name) for each in descriptions]
    for doubt in (
        *origin_findings(main.architecture, provenance, checkpoint.extras),
        *inner_contradictions(main, provenance.categories),
    ):
        if doubt.severity is not Severity.NOTE:
            warn(f"{doubt.message} {doubt.remedy}")
    return Manifest.model_validate(
        {
            "created": now(),
            "tool": Tool(version=__version__),
            "signer": signer,
            "checkpoint": CheckpointRecord(
                container=checkpoint.container,
                files=files(checkpoint, file_name, digests),
                state=main.state,
                extras=sorted(checkpoint.extras),
            ),
            "weights": main.weights,
            "architecture": main.architecture,
            "components": main.components,
            "environment": surroundings(),
            "golden": main.golden,
            "others": others,
            "provenance": provenance,
        }
    )


def require_recordable(file_name: str) -> None:
    """Refuse the name of a checkpoint that no manifest can hold.

    Raises:
        InputError: It is such a name.
    """
    if writable(file_name) != file_name or not re.fullmatch(FILE_NAME, file_name):
        raise InputError(
            f"The file name '{printable(file_name)}' has a backslash, a control character or what is not Unicode in "
            "it, and a manifest that travels between systems cannot name it; choose another."
        )


def _require_known(partial: Sequence[str], roles: Mapping[str, str]) -> None:
    known = dict.fromkeys(roles.values())
    if unknown := [role for role in partial if role not in known]:
        raise InputError(
            f"There is no component {unknown[0]!r} to declare partial, expected among {', '.join(known)}; correct it."
        )


def surroundings() -> Environment:
    """The environment of this process."""
    return Environment(
        python=environment.python_version(),
        platform=environment.platform_name(),
        libraries=environment.library_versions(),
        hardware=environment.hardware(torch),
        flags=environment.flags(torch),
    )


def _require_fitting(
    module: nn.Module, checkpoint: Checkpoint, architecture: Architecture, roles: Mapping[str, str]
) -> None:
    """Whatever a checkpoint holds must be of the architecture; what it lacks is a matter of completeness."""
    if problems := misfits(module, checkpoint, roles=roles, absent=frozenset(module.state_dict())):
        expected, found = shapes_of(module), checkpoint.shapes
        other = customisation(architecture.family, shape_diff(expected, found), expected, found, roles)
        remedy = foreign(set(found) - set(expected)) or "name the architecture that they were trained in"
        if other.whole:
            remedy = other.remedy()
        elif adapters_in(found) is not None:
            remedy = "it has adapters that are not merged: describe what `model.merge_and_unload()` gives"
        raise ArchitectureError(
            f"The weights are not those of a {architecture.name or architecture.class_name} ({'; '.join(problems)}); "
            f"{remedy}."
        )


def _require_whole(components: Sequence[Component], file_name: str) -> None:
    found = component_findings(components, file_name)
    for item in found:
        if item.severity is Severity.WARNING:
            warn(f"{item.message} {item.remedy}")
    problems = [item for item in found if item.severity is Severity.ERROR]
    if problems:
        roles = [item.where for item in problems]
        raise IncompleteModelError(
            f"{' '.join(item.message for item in problems)} Nothing was written; if it is meant so, "
            f"declare it with partial={roles!r} (`--partial {','.join(map(str, roles))}`)."
        )
