"""Prompts tokenized otherwise than recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from manifest.families.protocol import Variant
from manifest.probes.inputs import Inputs
from manifest.schema.document import Architecture, Tokenizer

_CONTEXTS = (77, 64, 32, 16, 8)


def tokens(architecture: Architecture, record: Tokenizer) -> Iterator[Variant]:
    """Another context length, another cleaning of texts, tokens that are missing."""
    length = record.context_length
    for shorter in _CONTEXTS:
        if shorter < length:
            yield Variant(
                "context length",
                here=str(length),
                there=str(shorter),
                cure=f"tokenizer(texts, context_length={shorter})",
                back=f"tokenizer(texts, context_length={length})",
                prepare=partial(_changed, change=partial(_cut, length=shorter)),
                concerns="tokens",
            )
    if record.class_name == "SimpleTokenizer":
        now = record.arguments.get("clean", "lower")
        for clean in ("lower", "canonicalize", "whitespace"):
            if clean != now:
                arguments = {**record.arguments, "clean": clean}
                tokenizer = record.model_copy(update={"arguments": arguments})
                yield Variant(
                    "tokenizer",
                    here=f"clean={now!r}",
                    there=f"clean={clean!r}",
                    cure=f"SimpleTokenizer(clean={clean!r})",
                    back=f"SimpleTokenizer(clean={now!r})",
                    architecture=architecture.model_copy(update={"tokenizer": tokenizer}),
                    concerns="tokens",
                )
    missing: list[tuple[str, str, str, Callable[[torch.Tensor], torch.Tensor]]] = [
        ("a start token first", "no start token", "tokens[:, 1:]", _without_start)
    ]
    if record.class_name == "SimpleTokenizer":  # its end token is the greatest id, by which features are pooled
        missing += [
            ("an end token", "no end token", "tokens without the end token", _without_end),
            ("start and end tokens", "neither start nor end token", "tokenizer.encode(text)", _without_either),
            ("every word", "the last word cut off", "tokens cut one too short", _one_short),
        ]
    for here, there, cure, change in missing:
        yield Variant(
            "tokenizer",
            here,
            there,
            cure,
            back="open_clip.get_tokenizer(name)",
            prepare=partial(_changed, change=change),
            concerns="tokens",
        )


def _changed(inputs: Inputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    tokens = inputs.tensors["tokens"]
    texts = change(tokens.flatten(0, -2))  # of several templates, each text by itself
    return Inputs(inputs.probe, {**inputs.tensors, "tokens": texts.reshape(*tokens.shape[:-1], -1)}, inputs.names)


def _cut(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """As open_clip's tokenizers cut: the last token stays the one that ends a text, and zeros follow."""
    cut = torch.zeros_like(tokens)
    cut[:, :length] = tokens[:, :length]
    longer = (tokens != 0).sum(dim=1) > length
    cut[longer, length - 1] = tokens[longer].max(dim=1).values
    return cut


def _without_start(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1)


def _without_end(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.scatter(1, tokens.argmax(dim=1, keepdim=True), 0)


def _without_either(tokens: torch.Tensor) -> torch.Tensor:
    return _without_start(_without_end(tokens))


def _one_short(tokens: torch.Tensor) -> torch.Tensor:
    """The end token one place earlier, over the last word."""
    ends = tokens.argmax(dim=1, keepdim=True)
    moved = tokens.scatter(1, (ends - 1).clamp(min=0), tokens.gather(1, ends))
    return moved.scatter(1, ends, 0)
