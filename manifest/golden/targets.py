"""The answers that a diagnosis explains: outputs on record, or probabilities that somebody read off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from manifest.golden.run import ProbeOutputs, recorded
from manifest.golden.sketch import distance
from manifest.schema.document import Output, Reading


class Target(Protocol):
    """The answers that are to be explained."""

    @property
    def tolerance(self) -> float:
        """The greatest distance that counts as none."""

    @property
    def numbers(self) -> int:
        """How many independent numbers these are."""

    def distances(self, answers: ProbeOutputs) -> dict[str, float]:
        """How far each output is from these, by name."""


@dataclass(frozen=True)
class OutputsTarget:
    """Outputs on record.

    Attributes:
        outputs: By name.
        tolerance: The greatest relative L2 distance that arithmetic explains.
    """

    outputs: Mapping[str, Output]
    tolerance: float

    @property
    def numbers(self) -> int:
        return sum(len(output.sketch) for output in self.outputs.values())

    def distances(self, answers: ProbeOutputs) -> dict[str, float]:
        return {name: _relative(output, answers, name) for name, output in self.outputs.items()}


@dataclass(frozen=True)
class ReadingsTarget:
    """Probabilities that somebody read off, as in a paper or on a model card.

    Attributes:
        readings: By image and prompt.
        tolerance: Half a unit of the last digit that they were written with.
        coarser: By image and prompt, how much more those may be off that were written with fewer digits.
    """

    readings: Sequence[Reading]
    tolerance: float
    coarser: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def numbers(self) -> int:
        # Probabilities of an image add up to one, and those at either end say nothing.
        inside = (sum(self.tolerance < p < 1 - self.tolerance for p in each.prompts.values()) for each in self.readings)
        return sum(max(0, count - 1) for count in inside)

    def distances(self, answers: ProbeOutputs) -> dict[str, float]:
        found = {reading.image: reading.prompts for reading in answers.readings}
        return {
            reading.image: max([0.0, *self._apart(reading, found.get(reading.image, {}))]) for reading in self.readings
        }

    def _apart(self, reading: Reading, found: Mapping[str, float]) -> Iterator[float]:
        for prompt, value in reading.prompts.items():
            yield abs(value - found.get(prompt, math.inf)) - self.coarser.get((reading.image, prompt), 0.0)


def target_of(answers: ProbeOutputs, like: Target) -> Target:
    """What a model said as a target of the same kind and tolerance as another."""
    if isinstance(like, ReadingsTarget):
        return ReadingsTarget(answers.readings, like.tolerance, like.coarser)
    return OutputsTarget(answers.record(), like.tolerance)


def _relative(output: Output, answers: ProbeOutputs, name: str) -> float:
    tensor = answers.outputs.get(name)
    if tensor is None or list(tensor.shape) != output.shape:
        return math.inf
    found = recorded(answers.inputs.probe, name, tensor)
    if found.digest == output.digest:
        return 0.0
    absolute = distance(output.sketch, found.sketch)
    relative = absolute / output.norm if output.norm else absolute
    return relative if math.isfinite(relative) else math.inf
