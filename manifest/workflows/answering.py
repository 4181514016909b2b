"""Asking a live model, exactly as it is, the probe of its checkpoint; answers that were written to a file."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from manifest.checks.target import open_target
from manifest.errors import ArchitectureError, InputError
from manifest.families import family
from manifest.families.wrappers import unwrap
from manifest.golden.layers import watched_for_nan
from manifest.golden.record import prepared
from manifest.golden.run import ProbeOutputs, finite, run_probe
from manifest.neutral_process import neutral_process
from manifest.probes.inputs import Preprocessing, Probe, inputs_digest, shipped
from manifest.schema.document import LARGEST, Golden, Manifest, parse_answers
from manifest.storage.bounded_read import read_small

_DRAWS = 4
FOR_EVALUATION = "Pass the preprocessing for evaluation, as `manifest.load_transforms(CKPT)` gives it."
PRECISIONS = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class NotFiniteError(ArchitectureError):
    """A model answers with NaN or infinity."""


class RandomInputsError(InputError):
    """A preprocessing gives one photograph two tensors."""


def answer(
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    *,
    preprocess: Any = None,
    tokenizer: Any = None,
) -> Golden:
    """What a model says, exactly as it is, to the probe that its checkpoint was saved with.

    It is asked in its own mode, element type, device and autocast; its buffers, modes and generators are as before
    afterwards. `answers.model_dump_json()` is what travels.

    Args:
        model: The model, however it was made.
        checkpoint: The checkpoint whose manifest names the probe.
        preprocess: PIL image → float32 of shape (3, height, width), as the model is really given its images. When
            None, what the model itself carries (`model.visual.preprocess_cfg` of open_clip), else the recorded one.
        tokenizer: List of prompts → token ids, int64 of shape (prompts, context length), likewise.

    Returns:
        Each output by name, as its shape, norm, digest and sketch. Of a CLIP they have the shapes (images, width),
        (prompts, width) and, for `logits`, (images, prompts). Its `reading` gives probabilities between 0 and 1.

    Raises:
        ArchitectureError: The model fails on the probe, or the manifest has none.

    Example:
        >>> answers = manifest.answer(manifest.load("ckpt.pt"), "ckpt.pt")
        >>> {name: output.shape for name, output in answers.outputs.items()}
        {'image_features': [4, 64], 'text_features': [9, 64], 'logits': [4, 9]}
    """
    subject = open_target(checkpoint)
    try:
        return answer_of(model, subject.manifest, Probe(preprocess=preprocess, tokenizer=tokenizer))
    finally:
        subject.close()


def golden_of(manifest: Manifest, precision: str | None = None) -> Golden:
    """The record to compare with: that of a precision where there is one, else the first."""
    if not manifest.golden:
        raise ArchitectureError("The manifest records no golden outputs; write it anew with `golden=True`.")
    same = [golden for golden in manifest.golden if golden.precision == precision]
    return (same or manifest.golden)[0]


def answer_of(model: nn.Module, manifest: Manifest, material: Probe) -> Golden:
    adapter, architecture, record = family(manifest.architecture.family), manifest.architecture, golden_of(manifest)
    module = unwrap(model)
    if (carried := adapter.carried_preprocess(module)) is not None:
        architecture = architecture.model_copy(update={"preprocess": carried})
    material = replace(shipped(), preprocess=material.preprocess, tokenizer=material.tokenizer)
    if material.preprocess is not None:
        _require_the_same_twice(material.preprocess, next(iter(material.images.values())))
    # A preprocessing that was given is the caller's, defaults and all.
    with neutral_process() if material.preprocess is None else contextlib.nullcontext():
        inputs = adapter.inputs(architecture, record.probe, material)
    if inputs is None or inputs.probe != record.probe:
        raise ArchitectureError(f"The probe {record.probe} cannot be made here; pass the tokenizer, or fetch it once.")
    answers = run_probe(adapter, architecture, module, inputs, native_mode=True)
    if not finite(answers.outputs):
        with watched_for_nan(module) as is_finite:
            run_probe(adapter, architecture, module, inputs, native_mode=True)
        broken = next((path for path, sound in is_finite.items() if not sound), None)
        place = f", which begins in {broken}" if broken else ""
        raise NotFiniteError(f"The model answers its probe with NaN or infinity{place}; look for what diverged in it.")
    first = run_probe(adapter, architecture, module, inputs.first(), native_mode=True, layers=True)
    return _described(answers, first, module)


def read_answers(path: Path) -> Golden:
    """Answers out of a file.

    Raises:
        InputError: There is no such file.
        DocumentError: It holds no answers.
    """
    return parse_answers(read_small(path, "file of answers", most=LARGEST), source=path.name)


def _require_the_same_twice(preprocess: Preprocessing, image: Image.Image) -> None:
    """Refuse a preprocessing that gives one photograph two tensors, as one that augments for training does."""
    with neutral_process():
        first, *others = (preprocess(image) for _ in range(_DRAWS))
    if all(torch.equal(first, other) for other in others):
        return
    steps = [type(step).__name__ for step in getattr(preprocess, "transforms", ())]
    random_ones = ", ".join(step for step in steps if step.startswith("Random") or "Jitter" in step)
    raise RandomInputsError(
        f"The preprocessing draws at random{f' ({random_ones})' if random_ones else ''}, as one for training does, so "
        f"that no two answers are the same. {FOR_EVALUATION}"
    )


def _described(answers: ProbeOutputs, first: ProbeOutputs, module: nn.Module) -> Golden:
    inputs = answers.inputs
    own = next((tensor for tensor in module.parameters() if tensor.is_floating_point()), torch.empty(0))
    precision = PRECISIONS.get(own.dtype, str(own.dtype))
    device = own.device.type
    if torch.is_autocast_enabled(device):
        precision = f"amp_{PRECISIONS[torch.get_autocast_dtype(device)]}"
    return Golden(
        probe=inputs.probe,
        batch=len(next(iter(inputs.tensors.values()))),
        device=device,
        precision=precision,
        threads=answers.threads,
        inputs=inputs_digest(inputs),
        outputs=answers.record(),
        brief=first.record(),
        prepared=prepared(inputs),
        floor={},
        layers=[layer for layer in first.layers.values() if math.isfinite(layer.norm)],
        reading=answers.readings,
    )
