"""Golden outputs of a checkpoint: what the model rebuilt from it says to its probes, which the live one says too."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import nn

from manifest import progress
from manifest.capture.options import GoldenOptions
from manifest.checkpoint import Checkpoint
from manifest.errors import ArchitectureError, InputError
from manifest.families.protocol import Family
from manifest.golden.compare import Grade, compare, worst_of
from manifest.golden.floor import Built, Elsewhere
from manifest.golden.precision import in_float32, in_precision
from manifest.golden.record import record
from manifest.golden.run import Outputs, ProbeOutputs, finite, run_probe
from manifest.golden.subprocess_run import INSTRUCTION_SETS, outputs_of_checkpoint
from manifest.probes.inputs import Inputs
from manifest.probes.shapes import SHAPES
from manifest.schema.document import Architecture, Golden


def golden_outputs(
    checkpoint: Checkpoint,
    family: Family,
    architecture: Architecture,
    module: nn.Module,
    live: nn.Module | None,
    options: GoldenOptions,
) -> list[Golden]:
    """What the model of a checkpoint says to its probes.

    Args:
        checkpoint: The weights.
        family: Of the model.
        architecture: What it was built from.
        module: The model rebuilt, with the weights.
        live: The model in memory that was saved, when there is one: its word is what goes on record.
        options: What it is asked.

    Raises:
        ArchitectureError: It says other than the live one, or nothing that is a number.
        InputError: A probe has nothing that it takes.
    """
    native_mode = architecture.precision in family.float32
    if not native_mode:
        module = in_float32(family, architecture, checkpoint)
    built = Built(family, architecture, module)
    witness = live if live is not None and native_mode and is_on_cpu(live) else None
    found: list[Golden] = []
    for probe in (None, *options.probes):
        if probe is None:
            inputs = standard_inputs(family, architecture, options)
        else:
            inputs = family.inputs(architecture, None, probe)
        if probe is not None and (inputs is None or not probe.tensors.keys() <= inputs.tensors.keys()):
            raise InputError(
                f"The probe {probe.name!r} has nothing that a {architecture.class_name} takes; give it "
                "`tensors={argument: values}`, or leave it out."
            )
        if inputs is None:
            continue
        progress.begin("golden outputs")
        rebuilt = built.ask(inputs)
        answers = rebuilt if witness is None else run_probe(family, architecture, witness, inputs)
        if not finite(answers.outputs):
            raise ArchitectureError(
                "The model answers its probe with NaN or infinity, so it has no golden outputs; "
                "find the diverged weights, or save it with `golden=False`."
            )
        golden = record(
            built,
            answers,
            rebuilt,
            _wrong_ones(family, architecture, checkpoint),
            thoroughness=options.floor,
            elsewhere=_elsewhere(checkpoint, architecture, answers.threads)
            if probe is None and not inputs.probe.startswith(SHAPES)
            else None,
            reach=not found,
        )
        require_same(golden, rebuilt)
        found.append(golden)
        for precision in options.precisions:
            lower = in_precision(built, precision)
            said = lower.ask(inputs)
            found.append(record(lower, said, said, {}, precision=precision, thoroughness=options.floor))
    return found


def standard_inputs(family: Family, architecture: Architecture, options: GoldenOptions) -> Inputs | None:
    """What a model is asked besides the user's own probes: its family's probe, or by shapes where it has none.

    None where neither its family nor the caller says what it takes.
    """
    inputs = family.inputs(architecture)
    if inputs is not None or options.example is None:
        return inputs
    return family.inputs(architecture, options.example)


def _wrong_ones(family: Family, architecture: Architecture, checkpoint: Checkpoint) -> dict[str, Callable[[], Built]]:
    """Models of other architectures over the same weights, by what is wrong with them."""
    return {
        f"{variant.name} {variant.there}": functools.partial(_wrong, family, variant.architecture, checkpoint)
        for variant in family.variants(architecture)
        if variant.architecture is not None
    }


def _elsewhere(checkpoint: Checkpoint, architecture: Architecture, threads: int) -> Elsewhere:
    """The model in fresh processes that compute with other instructions."""

    def ask_elsewhere() -> dict[str, Outputs]:
        return {
            name: outputs_of_checkpoint(checkpoint.path, checkpoint.view, architecture, threads, variables)
            for name, variables in INSTRUCTION_SETS.items()
        }

    return ask_elsewhere


def _wrong(family: Family, architecture: Architecture, checkpoint: Checkpoint) -> Built:
    return Built(family, architecture, in_float32(family, architecture, checkpoint))


def require_same(golden: Golden, said: ProbeOutputs, *, brief: bool = False) -> None:
    """The model rebuilt from file and architecture must say what the live one said, or the manifest would be a lie.

    Args:
        golden: What one of them said.
        said: What the other one said.
        brief: Compare for the first samples alone, which is all that the other one was asked.

    Raises:
        ArchitectureError: It is not the same.
    """
    worst = worst_of(compare(golden, said.record(), said.readings, brief=brief))
    if worst.grade is Grade.DIFFERENT:
        raise ArchitectureError(
            f"The rebuilt model gives other {worst.output} than the model that was saved "
            f"(relative distance {worst.distance:.1e}, arithmetic explains {worst.tolerance:.1e}): "
            "its code was changed in a way that its modules do not show; save it with `golden=False`, "
            "or make it with `manifest.create_model`."
        )


def is_on_cpu(module: nn.Module) -> bool:
    return all(tensor.device.type == "cpu" for tensor in (*module.parameters(), *module.buffers()))
