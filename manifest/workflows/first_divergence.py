"""Where two models depart from one another: both asked the same, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manifest.checks.explanation import greatest_change, recorded_model
from manifest.checks.target import VerificationTarget
from manifest.golden.layers import layer_distance
from manifest.golden.run import ProbeOutputs
from manifest.neutral_process import neutral_process


@dataclass(frozen=True)
class Departure:
    """How two models differ.

    Attributes:
        layers: Relative distance of each layer's output, in the order in which they ran.
        message: From which layer on, and what it comes to; empty where all is the same bit for bit.
    """

    layers: Mapping[str, float]
    message: str

    @property
    def departed(self) -> int:
        """How many layers differ."""
        return sum(distance > 0 for distance in self.layers.values())


@neutral_process()
def departure(first: VerificationTarget, second: VerificationTarget) -> Departure | None:
    """Ask two checkpoints' models the probe of the first; None where its family has none.

    Raises:
        CheckpointError: A file cannot be read.
        ArchitectureError: A model cannot be rebuilt, or fails.
    """
    models = recorded_model(first), recorded_model(second)
    inputs = models[0].family.inputs(models[0].architecture)
    if inputs is None:
        return None
    then, now = (model.built.ask(inputs, layers=True) for model in models)
    layers = {
        name: layer_distance(layer, now.layers[name]) for name, layer in then.layers.items() if name in now.layers
    }
    departed = next((name for name, distance in layers.items() if distance > 0), None)
    if departed is not None:
        words = f"Outputs differ, from {departed} on, by {layers[departed]:.1e} there"
    elif _same(then, now):
        return Departure(layers, "")
    else:
        words = "Outputs differ and no recorded layer does, so what differs comes after them"
    return Departure(layers, f"{words}{greatest_change(then.readings, now.readings)}.")


def _same(then: ProbeOutputs, now: ProbeOutputs) -> bool:
    one, other = then.record(), now.record()
    return one.keys() == other.keys() and all(one[name].digest == other[name].digest for name in one)
