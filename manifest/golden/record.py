"""Recording golden outputs: what a model says to its family's probe, and how far arithmetic alone moves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from manifest import progress
from manifest.golden.floor import Built, Elsewhere, layer_floors, measure
from manifest.golden.layers import sketched
from manifest.golden.reach import unreached
from manifest.golden.run import ProbeOutputs, relative_distance
from manifest.golden.thoroughness import Thoroughness
from manifest.probes.inputs import Inputs, inputs_digest
from manifest.schema.document import Golden, Layer


def record(
    built: Built,
    answers: ProbeOutputs,
    rebuilt: ProbeOutputs,
    variants: Mapping[str, Callable[[], Built]],
    *,
    precision: str = "fp32",
    thoroughness: Thoroughness = Thoroughness.QUICK,
    elsewhere: Elsewhere | None = None,
    reach: bool = False,
) -> Golden:
    """Golden outputs with their layers, numerics floor and contrast.

    Args:
        built: The rebuilt module on the CPU.
        answers: What the model in memory said, which goes on record.
        rebuilt: What the rebuilt module said, from which the floor is measured.
        variants: Models of other architectures over the same weights, by what is wrong with them.
        precision: The precision that they compute in.
        thoroughness: How much time the floor may take.
        elsewhere: Asks the model in fresh processes, for a thorough floor.
        reach: Whether to find out which parameters no output depends on.
    """
    inputs = answers.inputs
    progress.begin("golden outputs: layers")
    first = built.ask(inputs.first(), layers=True)
    brief = {name: output for name, output in first.record().items() if name in built.family.rows}
    return Golden(
        probe=inputs.probe,
        batch=len(next(iter(inputs.tensors.values()))),
        device="cpu",
        precision=precision,
        threads=answers.threads,
        inputs=inputs_digest(inputs),
        outputs=answers.record(),
        brief=brief,
        floor=measure(built, rebuilt, first, thoroughness, elsewhere),
        contrast={name: contrasted(first, wrong()) for name, wrong in variants.items()},
        prepared=prepared(inputs),
        layers=layer_floors(built, first),
        reading=answers.readings,
        unreached=unreached(built, inputs) if reach else None,
    )


def prepared(inputs: Inputs) -> list[Layer]:
    """What preprocessing made of images and other numbers; token ids go by the digest of the inputs alone."""
    return [sketched(kind, tensor) for kind, tensor in inputs.tensors.items() if tensor.is_floating_point()]


def contrasted(first: ProbeOutputs, wrong: Built) -> float:
    """How far a wrong model is from the right one, for the first samples."""
    progress.begin("golden outputs: wrong architectures")
    outputs = wrong.ask(first.inputs).outputs
    found = max((relative_distance(tensor, outputs[name]) for name, tensor in first.outputs.items()), default=0.0)
    return float(f"{found:.3g}")
