"""The weights of a model in memory, held against the digests on record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from manifest.checkpoint import Checkpoint
from manifest.families.wrappers import unwrap
from manifest.neutral_process import neutral_process
from manifest.schema.document import Manifest
from manifest.schema.report import Finding
from manifest.schema.rules import finding
from manifest.schema.vocabulary import component_tensors, role_words
from manifest.weights.assign import live_digest, mapped_tensor

_SHOWN = 3
_FEWEST_ROUNDED = 2
"""One weight that is a rounded one may be so by chance."""
_NUMBERS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class LiveWeights:
    """How the weights of a live model stand to those on record.

    Attributes:
        compared: Names of those that have the recorded element type, so that their digests can be compared.
        changed: Names among them whose values are others.
        reshaped: Names of those whose shapes are others.
        missing: Recorded names that the model has not.
        cast: Names of those that are in another element type.
    """

    compared: tuple[str, ...]
    changed: tuple[str, ...]
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    cast: tuple[str, ...]

    @property
    def all_same(self) -> bool:
        """Whether all of the recorded weights were compared, and none is another."""
        return not (self.changed or self.missing or self.cast)

    @property
    def differ(self) -> bool:
        """Whether some are known to be others."""
        return bool(self.changed or self.missing)

    def reason(self) -> str:
        """All of it in a clause."""
        if self.all_same:
            return f"all {len(self.compared)} weights of the model are the recorded ones"
        total = len(self.compared) + len(self.missing) + len(self.cast)
        parts = (
            [f"{len(self.changed)} of {total} weights of the model are not the recorded ones"] if self.changed else []
        )
        parts += [f"{len(self.missing)} are not there"] if self.missing else []
        parts += [f"{len(self.cast)} are in another element type and were not compared"] if self.cast else []
        return ", ".join(parts)


@neutral_process()
def live_weights(model: nn.Module, manifest: Manifest) -> LiveWeights:
    """Compare a live model's weights, wherever they are, with the tensor digests of a manifest.

    Tensors without values of their own in this process, such as shards, count as cast: nothing is said of them.
    """
    state = unwrap(model).state_dict()
    compared, changed, reshaped, missing, cast = [], [], [], [], []
    for record in manifest.weights.tensors:
        live = state.get(record.name)
        if live is None:
            missing.append(record.name)
            continue
        if list(live.shape) != record.shape:
            reshaped.append(record.name)
        if not _is_plain(live) or str(live.dtype).removeprefix("torch.") != record.dtype:
            cast.append(record.name)
        else:
            compared.append(record.name)
            if list(live.shape) != record.shape or live_digest(live) != record.digest:
                changed.append(record.name)
    return LiveWeights(tuple(compared), tuple(changed), tuple(reshaped), tuple(missing), tuple(cast))


def live_findings(found: LiveWeights, model: nn.Module, manifest: Manifest, stored: Checkpoint | None) -> list[Finding]:
    """What differs, by component, with old and new values where a weight is one number.

    Args:
        found: As of `live_weights`.
        model: The model.
        manifest: The record.
        stored: The checkpoint, for the recorded values; None where it cannot be read.
    """
    state = unwrap(model).state_dict()
    if stored is not None and (short := _rounded_to(found, state, stored)) is not None:
        message = f"All {len(found.changed)} weights that differ are the recorded ones rounded to {short}."
        remedy = "Load them anew, and cast a copy: what went through a shorter type does not come back."
        return [finding("G009", message, where="weights", remedy=remedy, tensors=list(found.changed[:50]))]
    findings = []
    for part in manifest.components:
        names = component_tensors(part.prefixes, (*found.changed, *found.missing))
        if names:
            words = [_change(name, state, stored) for name in names[:_SHOWN]]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            verb = "is" if len(names) == 1 else "are"
            message = (
                f"In the {role_words(part.role)}, {len(names)} of {part.present} weights of the model {verb} not the "
                f"recorded: {', '.join(words)}{more}."
            )
            findings.append(finding("G009", message, where=part.role, tensors=names[:50]))
    return findings


def _rounded_to(found: LiveWeights, state: Mapping[str, torch.Tensor], stored: Checkpoint) -> str | None:
    """The element type that all weights which differ were cast to and back; None where that is not what happened."""
    if len(found.changed) < _FEWEST_ROUNDED or found.missing or found.reshaped:
        return None
    for short in (torch.bfloat16, torch.float16):
        if all(_is_rounded(state[name], stored, name, short) for name in found.changed):
            return str(short).removeprefix("torch.")
    return None


def _is_rounded(live: torch.Tensor, stored: Checkpoint, name: str, short: torch.dtype) -> bool:
    record = stored.tensors.get(name)
    if record is None or record.dtype not in ("float32", "float64"):
        return False
    then = mapped_tensor(stored, record)
    return torch.equal(then.to(short).to(then.dtype), live.detach().cpu())


def _change(name: str, state: Mapping[str, torch.Tensor], stored: Checkpoint | None) -> str:
    """A weight that differs: its name, and its two values, or how far apart these are where they are not one number."""
    if name not in state:
        return f"{name} (not there)"
    live = state[name].detach().cpu()
    record = None if stored is None else stored.tensors.get(name)
    if stored is None or record is None or record.dtype not in _NUMBERS or record.shape != tuple(live.shape):
        return name
    then, now = mapped_tensor(stored, record).double(), live.double()
    if then.numel() == 1:
        return f"{name} ({then.item():.6g} → {now.item():.6g})"
    if not torch.isfinite(now).all():
        return f"{name} (NaN or infinity in it)"
    size = float(torch.linalg.vector_norm(then))
    return f"{name} (moved by {float(torch.linalg.vector_norm(now - then)) / size:.1e})" if size else name


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether all of its values are in this process, as numbers in rows."""
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_quantized)
    )
