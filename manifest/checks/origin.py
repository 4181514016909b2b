"""A record held against itself, and against the published weights that the model started from.

Activation and preprocessing of a tag; element types of weights and precision, image size of a config and of its images,
vocabulary and length of prompts and the rows for them, numbers of classes and the rows of a head.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from manifest.checkpoint.names import OF_OPENAI
from manifest.escaping import printable
from manifest.identification.pretrained import Pretrained, pretrained, split_timm_name, timm_activation
from manifest.schema.document import Architecture, Manifest, Model, Provenance
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import activation_words, component_tensors

Shapes = Mapping[str, Sequence[int]]

_PREPARED = ("mean", "std", "interpolation", "resize_mode")
_TOKENS = (
    "token_embedding.weight",
    "transformer.embeddings.word_embeddings.weight",
    "transformer.embed_tokens.weight",
)
_POSITIONS = ("positional_embedding", "transformer.embeddings.position_embeddings.weight")
_MASKS = ("attn_mask",)
_ANCHORED = re.compile(r"classification_head\.(cls_logits|module_list\.\d+(\.1)?)\.bias$")
"""The tensors of torchvision's detectors that give every class for every anchor."""
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


def inner_contradictions(model: Model | Manifest, categories: Sequence[str] = ()) -> Iterator[Finding]:
    """Where parts of a record do not go together, though each by itself can be.

    Args:
        model: As recorded.
        categories: Names of classes on record.
    """
    shapes = {tensor.name: tensor.shape for tensor in model.weights.tensors}
    yield from _of_precision(model.architecture, model.weights.dtypes)
    yield from _of_image_size(model.architecture)
    yield from _of_texts(model.architecture, shapes)
    yield from _of_classes(model, shapes, categories)


def _doubt(message: str, where: str, remedy: str, severity: Severity = Severity.WARNING) -> Finding:
    return finding("A012", message, where=where, severity=severity, remedy=remedy)


def _of_precision(architecture: Architecture, dtypes: Collection[str]) -> Iterator[Finding]:
    halves = sorted(set(dtypes) & {"float16", "bfloat16"})
    if architecture.precision == "fp32" and halves:
        message = (
            f"The weights are in {' and '.join(halves)}, and the model is recorded in fp32, in which it is rebuilt."
        )
        name = {"float16": "fp16", "bfloat16": "bf16"}[halves[0]]
        remedy = f"Describe it with precision={name!r} (`--precision {name}`) if it was trained or runs in that."
        yield _doubt(message, "architecture.precision", remedy)


def _of_image_size(architecture: Architecture) -> Iterator[Finding]:
    vision = architecture.config.get("vision_cfg")
    side = vision.get("image_size") if isinstance(vision, Mapping) else None
    if architecture.preprocess is not None and side is not None:
        config = [side, side] if isinstance(side, int) else list(side) if isinstance(side, list) else None
        prepared = architecture.preprocess.size
        if config is not None and config != prepared:
            message = f"Images are prepared to {_sides(prepared)} pixels, and the model is built for {_sides(config)}."
            remedy = "Save it with the preprocessing of its own size: `open_clip.model.set_model_preprocess_cfg`."
            yield _doubt(message, "architecture.preprocess", remedy)


def _of_texts(architecture: Architecture, shapes: Shapes) -> Iterator[Finding]:
    """Token ids and lengths of prompts against the rows that the text tower has for them."""
    tokenizer, text = architecture.tokenizer, architecture.config.get("text_cfg")
    if tokenizer is None:
        return
    embedding, positions, mask = (_rows(shapes, names) for names in (_TOKENS, _POSITIONS, _MASKS))
    if tokenizer.vocabulary is not None and embedding is not None and tokenizer.vocabulary > embedding:
        message = (
            f"The tokenizer makes ids up to {tokenizer.vocabulary - 1}, and the token embedding has {embedding} rows, "
            f"for ids up to {embedding - 1}."
        )
        remedy = "Describe it with the tokenizer that it was trained with (`text_cfg` of its config), or add the rows."
        yield _doubt(message, "architecture.tokenizer", remedy)
    if positions is None:
        return
    if tokenizer.context_length > positions:
        message = (
            f"Prompts are made {tokenizer.context_length} tokens long, and the positional embedding has {positions} "
            "rows."
        )
        remedy = f"Describe it with the length that it was trained with (`force_context_length={positions}`)."
        yield _doubt(message, "architecture.tokenizer", remedy)
    length = text.get("context_length") if isinstance(text, Mapping) and not text.get("hf_model_name") else None
    # A token that stands for the whole text may have a row of its own.
    if isinstance(length, int) and positions not in (length, length + 1):
        message = f"The config has a context_length of {length}, and the positional embedding has {positions} rows."
        remedy = f"Describe it with the length that it was trained with (`force_context_length={positions}`)."
        yield _doubt(message, "architecture.config", remedy)
    if mask is not None and mask != positions:
        message = f"The attention mask is for {mask} tokens, and the positional embedding has {positions} rows."
        remedy = "Take both from one model: `model.attn_mask = model.build_causal_mask()`."
        yield _doubt(message, "weights", remedy)


def _of_classes(model: Model | Manifest, shapes: Shapes, categories: Sequence[str]) -> Iterator[Finding]:
    """How many classes the config and the names on record have, against the rows of the head."""
    prefixes = [prefix for part in model.components if part.role == "head" for prefix in part.prefixes]
    head = {name: shapes[name] for name in component_tensors(prefixes, shapes)}
    if not any(head.values()):
        return
    for where, count, words in _class_counts(model.architecture):
        if count > 0 and not _tells_apart(head, count):
            message = f"The config has {words}, and no tensor of the head has {count} rows: {_of_last(head)}."
            remedy = "Describe it as it was made: with as many classes as the head has rows."
            yield _doubt(message, where, remedy)
    if categories and not _tells_apart(head, len(categories)):
        message = (
            f"The record names {len(categories)} classes, those of the weights that it started from, and no tensor of "
            f"the head has as many rows: {_of_last(head)}."
        )
        remedy = "Read its answers by the names of your own classes, in the order in which it was trained."
        yield _doubt(message, "provenance.categories", remedy, Severity.NOTE)


def _class_counts(architecture: Architecture) -> Iterator[tuple[str, int, str]]:
    """Where a config says how many classes there are: the place, the number, in words."""
    config = architecture.config
    for place, part in (("architecture.config", config), ("architecture.config.arguments", config.get("arguments"))):
        count = part.get("num_classes") if isinstance(part, Mapping) else None
        if isinstance(count, int):
            yield place, count, f"num_classes={count}"
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and architecture.class_name.endswith("Classification"):
        yield "architecture.config", len(labels), f"{len(labels)} labels in id2label"


def _tells_apart(head: Shapes, count: int) -> bool:
    """Whether a head gives so many numbers, or a detector's so many for each anchor."""
    rows = ((name, shape[0]) for name, shape in head.items() if shape)
    return any(found == count or (_ANCHORED.search(name) and found % count == 0) for name, found in rows)


def _of_last(head: Shapes) -> str:
    name, shape = [(name, shape) for name, shape in head.items() if shape][-1]
    return f"{printable(name)} has {shape[0]}"


def _rows(shapes: Shapes, names: Sequence[str]) -> int | None:
    """Rows of the first tensor of a text tower that is on record under one of these names."""
    found = (shapes[name] for prefix in ("", "text.") for each in names if (name := prefix + each) in shapes)
    return next((shape[0] for shape in found if shape), None)


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
