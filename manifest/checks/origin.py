"""A record held against itself, and against the published weights that the model started from.

Activation and preprocessing of a tag, element types of weights and precision, image size of a config and of its images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from manifest.checkpoint.state_dicts import OF_OPENAI
from manifest.escaping import printable
from manifest.identification.pretrained import Pretrained, pretrained, split_timm_name, timm_activation
from manifest.schema.document import Architecture, Provenance
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import activation_words

_PREPARED = ("mean", "std", "interpolation", "resize_mode")
_SAME = 1e-3
"""How far apart two means or deviations may be that a person wrote with other digits."""


def origin_findings(architecture: Architecture, provenance: Provenance, extras: Collection[str] = ()) -> list[Finding]:
    """Where a model is not as the published weights that it started from were trained.

    Args:
        architecture: As recorded.
        provenance: With the tag of the weights, where it is known.
        extras: What else the file holds, by which OpenAI's archives are told.
    """
    if set(extras) >= OF_OPENAI and not _is_quick(architecture):
        message = (
            "The file has the settings that OpenAI's archives have, whose models were trained with QuickGELU, and the "
            f"record has {printable(activation_words(architecture.activations))}."
        )
        remedy = "Describe it with force_quick_gelu=True (`--force-quick-gelu`)."
        return [finding("A012", message, where="checkpoint.extras", severity=Severity.WARNING, remedy=remedy)]
    tag, name = provenance.pretrained, architecture.name
    if name and architecture.family == "timm":
        name, own = split_timm_name(name)
        tag = tag or own
    published = pretrained(name, tag, architecture.family) if name and tag else None
    if published is None:
        return []
    return [*_of_activation(architecture, published), *_of_preprocess(architecture, published)]


def _of_activation(architecture: Architecture, published: Pretrained) -> Iterator[Finding]:
    quick = _is_quick(architecture)
    if published.quick_gelu is None or quick == published.quick_gelu:
        return
    if quick and not architecture.arguments.get("force_quick_gelu"):
        return  # the authors' own config has it, and their tag does not say so
    trained = "QuickGELU" if published.quick_gelu else "GELU"
    message = (
        f"The weights {printable(published.tag)} of {printable(published.name)} were trained with {trained}, "
        f"and the model that started from them has {printable(activation_words(architecture.activations))}."
    )
    if architecture.family == "open_clip":
        argument = "force_quick_gelu=True" if published.quick_gelu else "force_quick_gelu=False"
    else:
        argument = timm_activation(quick_gelu=published.quick_gelu)
    remedy = f"Make the model with {argument}, unless it was trained long enough with the other activation."
    yield finding("A012", message, where="provenance.pretrained", severity=Severity.WARNING, remedy=remedy)


def inner_contradictions(architecture: Architecture, dtypes: Collection[str]) -> Iterator[Finding]:
    """Where parts of a record do not go together, though each by itself can be.

    Args:
        architecture: As recorded.
        dtypes: Element types of the weights.
    """
    halves = sorted(set(dtypes) & {"float16", "bfloat16"})
    if architecture.precision == "fp32" and halves:
        message = (
            f"The weights are in {' and '.join(halves)}, and the model is recorded in fp32, in which it is rebuilt."
        )
        name = {"float16": "fp16", "bfloat16": "bf16"}[halves[0]]
        remedy = f"Describe it with precision={name!r} (`--precision {name}`) if it was trained or runs in that."
        yield finding("A012", message, where="architecture.precision", severity=Severity.WARNING, remedy=remedy)
    vision = architecture.config.get("vision_cfg")
    side = vision.get("image_size") if isinstance(vision, Mapping) else None
    if architecture.preprocess is not None and side is not None:
        config = [side, side] if isinstance(side, int) else list(side) if isinstance(side, list) else None
        prepared = architecture.preprocess.size
        if config is not None and config != prepared:
            message = f"Images are prepared to {_sides(prepared)} pixels, and the model is built for {_sides(config)}."
            remedy = "Save it with the preprocessing of its own size: `open_clip.model.set_model_preprocess_cfg`."
            yield finding("A012", message, where="architecture.preprocess", severity=Severity.WARNING, remedy=remedy)


def _sides(size: Sequence[int]) -> str:
    return " × ".join(str(side) for side in size[:2])


def _is_quick(architecture: Architecture) -> bool:
    return any("QuickGELU" in kinds for kinds in architecture.activations.values())


def _of_preprocess(architecture: Architecture, published: Pretrained) -> Iterator[Finding]:
    record = architecture.preprocess
    if record is None:
        return
    mine = record.model_dump()
    differs = [
        f"{name} {published.preprocess[name]} and not {mine[name]}"
        for name in _PREPARED
        if name in published.preprocess and not _alike(published.preprocess[name], mine[name])
    ]
    if differs:
        message = (
            f"The weights {printable(published.tag)} of {printable(published.name)} were trained on images of "
            f"{printable('; '.join(differs), 400)}."
        )
        remedy = "Nothing to do if the model was trained on images of the other kind since; otherwise correct it."
        yield finding("A012", message, where="architecture.preprocess", severity=Severity.NOTE, remedy=remedy)


def _alike(one: object, other: object) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(abs(a - b) <= _SAME for a, b in zip(one, other, strict=True))
    return one == other
