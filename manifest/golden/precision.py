"""The model of a checkpoint in the precision that it is asked in, which is float32 unless another one is on record."""

from __future__ import annotations

from torch import nn

from manifest.checkpoint import Checkpoint
from manifest.errors import ArchitectureError, InputError, one_line
from manifest.families.adapter import PRECISIONS
from manifest.families.protocol import Family
from manifest.golden.floor import Built
from manifest.neutral_process import neutral_process
from manifest.schema.document import Architecture
from manifest.weights.assign import assign, twin


@neutral_process()
def build(adapter: Family, architecture: Architecture) -> nn.Module:
    """The module of an architecture out of a file, which may hold anything.

    Raises:
        ArchitectureError: It cannot be built.
    """
    try:
        return adapter.build(architecture)
    except ArchitectureError:
        raise
    except Exception as error:  # a library may raise anything over a config that someone made up
        raise ArchitectureError(
            f"{architecture.family} cannot build {architecture.name or architecture.class_name} from the manifest "
            f"({type(error).__name__}: {one_line(error)}); install the library versions that it names."
        ) from error


@neutral_process()
def in_float32(family: Family, architecture: Architecture, checkpoint: Checkpoint) -> nn.Module:
    """The model of a checkpoint in float32 on the CPU, as golden outputs are taken from it."""
    module = build(family, architecture.model_copy(update={"precision": "fp32"}))
    missing = frozenset(name for name in module.state_dict() if name not in checkpoint.tensors)
    assign(module, checkpoint, absent=missing)
    return module.eval()


@neutral_process(arithmetic=False)
def in_precision(built: Built, precision: str) -> Built:
    """The same model in another precision.

    Raises:
        InputError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"The precision is {precision!r}, expected among {', '.join(PRECISIONS)}; choose one.")
    return Built(built.family, built.architecture, twin(built.module).to(PRECISIONS[precision]))


def is_of_precision(module: nn.Module, precision: str) -> bool:
    """Whether a model's parameters are of a precision throughout."""
    return all(
        tensor.dtype is PRECISIONS.get(precision) for tensor in module.parameters() if tensor.is_floating_point()
    )
