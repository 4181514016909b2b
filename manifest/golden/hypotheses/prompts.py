"""The texts that stand for labels, written otherwise than given: another template, another ensemble, another average.

The templates are those of open_clip's zero-shot classifiers, and those that pipelines and papers put around a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from manifest.errors import InputError
from manifest.escaping import printable
from manifest.families.protocol import Variant
from manifest.families.readings import averaged, logits_of
from manifest.probes.inputs import Inputs

Tokenizer = Callable[[list[str]], torch.Tensor]
Conclude = Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]]

TEMPLATE_SETS = ("OPENAI_IMAGENET_TEMPLATES", "SIMPLE_IMAGENET_TEMPLATES")
"""Names of the sets of templates that open_clip ships."""
_TEMPLATES = (
    "a photo of a {}.",
    "a photo of a {}",
    "a photo of {}.",
    "a photo of {}",
    "This is a photo of {}.",
    "a picture of a {}.",
    "an image of a {}.",
)
_AROUND_LABELS = ("a photo of an {}", "a photo of the {}", *(each.removesuffix(".") for each in _TEMPLATES))
_MOST_TEXTS = 1024
"""How many texts an ensemble that nobody mentioned may come to: each is encoded, and there are several ensembles."""


def template_set(name: str) -> tuple[str, ...]:
    """One of open_clip's sets of templates, with `{}` where the label goes."""
    from open_clip import zero_shot_metadata

    return tuple(template("{}") for template in getattr(zero_shot_metadata, name))


def templated(tokenizer: Tokenizer, templates: Sequence[str]) -> Tokenizer:
    """A tokenizer of labels: each in every template, as int64 of shape (labels, templates, context length)."""

    def tokenize(labels: list[str]) -> torch.Tensor:
        texts = [template.replace("{}", label) for label in labels for template in templates]
        return tokenizer(texts).reshape(len(labels), len(templates), -1)

    return tokenize


def prompts(tokenizer: Tokenizer, texts: Sequence[str], templates: Sequence[str] = ()) -> Iterator[Variant]:
    """Other ways to make embeddings of the same labels: how templates are averaged, how each text is written.

    Args:
        tokenizer: Texts → int64 of shape (texts, context length).
        texts: As given: whole prompts, or labels where there are templates.
        templates: Those that the labels are put into; none where the texts are whole prompts.
    """
    if len(templates) > 1:
        here = "normalised before they are averaged, and their mean too"
        for there, cure, conclude in _AVERAGES:
            yield _variant(f"embeddings of the templates {there}", here, cure, conclude=conclude)
    here = f"each label in the {len(templates)} templates given" if templates else "each text as it is given"
    asked = templated(tokenizer, templates)(list(texts)) if templates else tokenizer(list(texts))
    seen = [asked.squeeze(1) if len(templates) == 1 else asked]
    labels = list(texts) if templates else [_label(text) for text in texts]
    for there, cure, written in _written(texts, labels):
        tokens = tokenizer(written)
        # To most tokenizers of CLIPs, letters of either case are the same.
        if not any(tokens.shape == other.shape and torch.equal(tokens, other) for other in seen):
            seen.append(tokens)
            yield _variant(there, here, cure, prepare=partial(_asking, make=partial(tokenizer, written)))
    for name in reversed(TEMPLATE_SETS):  # the few before the many
        ensemble = template_set(name)
        if ensemble != tuple(templates):
            yield from _of_ensemble(tokenizer, labels, name, ensemble, here)


def _variant(there: str, here: str, cure: str, **how: Any) -> Variant:
    return Variant("prompts", here, there, cure, back="the texts of the card", concerns="tokens", **how)


def _written(texts: Sequence[str], labels: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Ways to write texts: in words, as code, and the texts."""
    for there, code, write in (
        ("a full stop after each text", "text + '.'", lambda text: text.removesuffix(".") + "."),
        ("no full stop after a text", "text.removesuffix('.')", lambda text: text.removesuffix(".")),
        ("each text in lower case", "text.lower()", str.lower),
        ("each text in upper case", "text.upper()", str.upper),
        ("each text with a capital first", "text.capitalize()", str.capitalize),
    ):
        yield there, f"tokenizer([{code} for text in texts])", [write(text) for text in texts]
    yield "the label alone", f"tokenizer(labels), {_such(labels)}", labels
    for template in _TEMPLATES:
        code = f"tokenizer([{template!r}.format(label) for label in labels]), {_such(labels)}"
        yield f"each label in {template!r}", code, [template.replace("{}", label) for label in labels]


def _such(labels: Sequence[str]) -> str:
    return f"for labels such as {printable(labels[0], 60)!r}"


def _label(text: str) -> str:
    """What a prompt is of, where it is a common template around a label; else the prompt without its full stop."""
    plain = text.removesuffix(".")
    for template in sorted(_AROUND_LABELS, key=len, reverse=True):
        before, after = (part.lower() for part in template.split("{}"))
        inside = plain[len(before) : len(plain) - len(after)]
        if inside.strip() and plain.lower() == f"{before}{inside.lower()}{after}":
            return inside
    return plain


def _of_ensemble(
    tokenizer: Tokenizer, labels: list[str], name: str, templates: tuple[str, ...], here: str
) -> Iterator[Variant]:
    """An ensemble that nobody mentioned, averaged rightly, then as it often is."""

    def tokens() -> torch.Tensor:
        if (count := len(labels) * len(templates)) > _MOST_TEXTS:
            raise InputError(f"{count:,} texts are more than the {_MOST_TEXTS:,} that are tried unasked")
        return templated(tokenizer, templates)(labels)

    prepare = partial(_asking, make=tokens)  # one and the same, so that it is asked once
    ways = f"each label in the {len(templates)} templates of open_clip.{name}"
    code = f"open_clip.build_zero_shot_classifier(model, tokenizer, labels, open_clip.{name}), {_such(labels)}"
    yield _variant(f"{ways}, averaged", here, code, prepare=prepare, alone=True)
    for there, cure, conclude in _AVERAGES:
        words = f"{ways}, their embeddings {there}"
        yield _variant(words, here, f"{cure} (open_clip.{name})", prepare=prepare, conclude=conclude, alone=True)


def _asking(inputs: Inputs, make: Callable[[], torch.Tensor]) -> Inputs:
    return Inputs(inputs.probe, {**inputs.tensors, "tokens": make()}, inputs.names)


def _averaged_first(module: nn.Module, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    images, texts = outputs["image_features"], outputs["text_features"].mean(dim=1)
    logits = logits_of(module, functional.normalize(images, dim=-1), functional.normalize(texts, dim=-1))
    return {**outputs, "logits": logits}


def _mean_as_it_is(module: nn.Module, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    images, texts = outputs["image_features"], averaged(outputs["text_features"])
    return {**outputs, "logits": logits_of(module, functional.normalize(images, dim=-1), texts)}


_USUAL = "open_clip.build_zero_shot_classifier normalises each embedding first, and the mean again"
_AVERAGES: tuple[tuple[str, str, Conclude], ...] = (
    (
        "averaged before they are normalised",
        f"normalize(encode_text(tokens of a label's templates).mean(dim=0), dim=-1); {_USUAL}",
        _averaged_first,
    ),
    (
        "averaged, and the mean not normalised",
        f"encode_text(tokens of a label's templates, normalize=True).mean(dim=0); {_USUAL}",
        _mean_as_it_is,
    ),
)
