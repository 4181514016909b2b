"""Putting a checkpoint's weights into a module without unpickling and without copying.

A tensor is a view of the checkpoint's private, copy-on-write mapping: what was verified is what is loaded, and training
may write to it without touching the file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from manifest.checkpoint import Checkpoint, StoredTensor
from manifest.digests import tensor_digest
from manifest.errors import ArchitectureError
from manifest.escaping import printable
from manifest.fingerprints.copies import copy_over
from manifest.fingerprints.structure import ties
from manifest.neutral_process import neutral_process
from manifest.weights.shape_diff import Shape, is_optional, shape_diff


def mapped_tensor(checkpoint: Checkpoint, stored: StoredTensor) -> torch.Tensor:
    """A stored tensor, on the CPU, with a storage of its own that lies in the mapping."""
    dtype: torch.dtype = getattr(torch, stored.dtype)
    if stored.numel == 0:
        return torch.empty(stored.shape, dtype=dtype)
    data = checkpoint.values(stored)
    if data.readonly:  # values that had to be gathered
        data = memoryview(bytearray(data))
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).view(stored.shape)


def live_digest(tensor: torch.Tensor) -> str:
    """The tensor digest of a tensor in memory, wherever it is: that of the same values in a file."""
    values = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    octets = values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else b""
    return tensor_digest(str(values.dtype).removeprefix("torch."), tuple(values.shape), octets)


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    """The shape of each tensor of a module's state dict, by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def twin(module: nn.Module) -> nn.Module:
    """Another module over the same values: its modules and parameters can be replaced without touching the first."""
    return copy_over(module, torch.Tensor.detach)


def misfits(
    module: nn.Module,
    checkpoint: Checkpoint,
    *,
    roles: Mapping[str, str] | None = None,
    absent: frozenset[str] = frozenset(),
) -> list[str]:
    """Clauses on names and shapes in which a checkpoint is not what a module expects, none when it fits.

    Names in `absent` may be missing; tables that this version computes and an older one stored do not count.
    """
    expected = shapes_of(module)
    found = {name: shape for name, shape in checkpoint.shapes.items() if name in expected or not is_optional(name)}
    return shape_diff(expected, found, absent).sentences(roles)


@neutral_process()
def assign(module: nn.Module, checkpoint: Checkpoint, *, absent: frozenset[str] = frozenset()) -> None:
    """Give a module built without weights those of a checkpoint, in the types that the module has.

    Args:
        module: Parameters on the meta device, as `Family.build` makes it.
        checkpoint: The weights; other element types than the module's are converted, as the libraries do.
        absent: Names that are missing by design; they become zeros, which is at least the same every time.

    Raises:
        ArchitectureError: A name is missing or unexpected, a shape differs, or the module has not taken the tensors.
    """
    tied = ties(module)
    checkpoint = checkpoint.with_aliases(tied)
    if problems := misfits(module, checkpoint, absent=absent):
        raise ArchitectureError(
            f"The weights of {checkpoint.path.name} do not fit the architecture ({'; '.join(problems)}); "
            "name the architecture that they were trained in."
        )
    values = {}
    for name, slot in module.state_dict().items():
        if name in checkpoint.tensors:
            values[name] = mapped_tensor(checkpoint, checkpoint.tensors[name]).to(slot.dtype)
        else:
            values[name] = torch.zeros(slot.shape, dtype=slot.dtype)
    _give(module, values)
    for name, first in tied.items():
        path, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(path), attribute, module.get_parameter(first))
    _require_taken(module, values, tied)


def _give(module: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """What `load_state_dict(values, assign=True)` does, in time that is linear in the number of tensors.

    torch looks through all names once for each module. Here each module is given its own alone; where some name is of
    no module, or hooks look at all of them, torch does it.
    """
    modules = dict(module.named_modules(remove_duplicate=False))
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in values.items():
        parts.setdefault(name.rpartition(".")[0], {})[name] = value
    if not parts.keys() <= modules.keys() or any(
        child._load_state_dict_post_hooks or child._load_state_dict_pre_hooks for child in modules.values()
    ):
        module.load_state_dict(values, strict=True, assign=True)
        return
    for path, part in parts.items():
        problems: list[str] = []
        prefix, settings = f"{path}." if path else "", {"assign_to_params_buffers": True}
        modules[path]._load_from_state_dict(part, prefix, settings, False, [], [], problems)
        if problems:
            raise ArchitectureError(
                f"The module {printable(path)} does not take its weights ({printable(problems[0])})."
            )


def _require_taken(module: nn.Module, values: Mapping[str, torch.Tensor], tied: Mapping[str, str]) -> None:
    """Every tensor of a module must be the one that was given to it: a module may have ways of its own to load."""
    for name, held in module.state_dict().items():
        given = values[tied.get(name, name)]
        if held.dtype != given.dtype or held.data_ptr() != given.data_ptr():
            raise ArchitectureError(
                f"The {type(module).__name__} has other values for {printable(name)} ({held.dtype}) than it was given "
                f"({given.dtype}), so what is loaded would not be what was verified; leave out what changes tensors "
                "while they are loaded."
            )
