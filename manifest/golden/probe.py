"""Probes: the fixed inputs that golden outputs are answers to.

`photos-and-prompts/1` is four photographs that ship with this package and eight prompts. Where a model's tokenizer
lives on a hub and is not at hand, `photos-and-tokens/1` asks with token ids that need no vocabulary. `photos/1` is the
photographs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from blake3 import blake3
from PIL import Image

from manifest.digests import tensor_digest, text_digest

WITH_TOKENIZER = "photos-and-prompts/1"
WITHOUT_TOKENIZER = "photos-and-tokens/1"
PHOTOGRAPHS_ALONE = "photos/1"
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
PROMPTS = (
    "a photo of an astronaut",
    "a photo of a cat",
    "a cup of coffee on a table",
    "a rocket on its launch pad",
    "a photo of a dog",
    "a diagram",
    "a red car in the rain",
    "two people smiling",
)


@dataclass(frozen=True)
class Inputs:
    """What a probe asks a model.

    Attributes:
        probe: Name of the probe, with its version.
        tensors: By kind: `images`, float32 of shape (images, 3, height, width); `tokens`, int64 of shape (prompts,
            context length).
        names: A name for each row of each kind: of the photograph, the prompt, or the row of tokens where no tokenizer
            is at hand.
    """

    probe: str
    tensors: Mapping[str, torch.Tensor]
    names: Mapping[str, tuple[str, ...]]

    def first(self) -> Inputs:
        """The first sample of each kind, in a batch of its own."""
        return next(self.one_by_one())

    def one_by_one(self) -> Iterator[Inputs]:
        """Every sample in a batch of its own; a kind that has fewer begins again."""
        for index in range(max(map(len, self.tensors.values()))):
            rows = {kind: index % len(tensor) for kind, tensor in self.tensors.items()}
            yield Inputs(
                self.probe,
                {kind: tensor[rows[kind]][None] for kind, tensor in self.tensors.items()},
                {kind: (names[rows[kind]],) for kind, names in self.names.items()},
            )


def photographs() -> dict[str, Image.Image]:
    """The probe's photographs by name, RGB, at most 256 pixels on the long side."""
    folder = resources.files("manifest.golden") / "photos"
    images = {}
    for name in PHOTOGRAPHS:
        with (folder / f"{name}.png").open("rb") as file:
            images[name] = Image.open(file).convert("RGB")
    return images


def photographs_and_prompts(
    preprocess: Callable[[Image.Image], torch.Tensor],
    tokenizer: Any | None,
    context_length: int,
    vocabulary: int,
) -> Inputs:
    """The probe through a model's own preprocessing and tokenizer.

    Args:
        preprocess: A PIL image → float32 tensor of shape (3, height, width).
        tokenizer: Prompts → int64 tensor of shape (prompts, context length), or None when there is none at hand.
        context_length: Token ids per prompt.
        vocabulary: Number of token ids, for the probe that needs no tokenizer.
    """
    images = torch.stack([preprocess(photograph) for photograph in photographs().values()])
    if tokenizer is not None:
        tokens = tokenizer(list(PROMPTS))
        return Inputs(WITH_TOKENIZER, {"images": images, "tokens": tokens}, {"images": PHOTOGRAPHS, "tokens": PROMPTS})
    tokens = torch.stack([_token_ids(prompt, context_length, vocabulary) for prompt in PROMPTS])
    names = tuple(f"tokens {index}" for index in range(len(PROMPTS)))
    return Inputs(WITHOUT_TOKENIZER, {"images": images, "tokens": tokens}, {"images": PHOTOGRAPHS, "tokens": names})


def photographs_alone(preprocess: Callable[[Image.Image], torch.Tensor]) -> Inputs:
    """The photographs through a model's own preprocessing, for models that see and do not read."""
    images = torch.stack([preprocess(photograph) for photograph in photographs().values()])
    return Inputs(PHOTOGRAPHS_ALONE, {"images": images}, {"images": PHOTOGRAPHS})


def inputs_digest(inputs: Inputs) -> str:
    """Digest of what reaches the model, after preprocessing and tokenizing."""
    digests = [
        tensor_digest(str(tensor.dtype).removeprefix("torch."), tensor.shape, tensor.contiguous().view(-1).numpy().data)
        for tensor in inputs.tensors.values()
    ]
    return text_digest([inputs.probe, *digests])


def _token_ids(seed: str, length: int, vocabulary: int) -> torch.Tensor:
    """Token ids drawn from BLAKE3's output stream of a text, ended by the greatest id, as CLIP's prompts are."""
    words = max(1, min(length - 2, 3 + len(seed) % 5))
    stream = blake3(f"manifest/tokens/v1\n{seed}".encode()).digest(length=8 * words)
    drawn = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") % (vocabulary - 1) for i in range(words)]
    ids = torch.zeros(length, dtype=torch.long)
    ids[:words] = torch.tensor(drawn)[:length]
    ids[min(words, length - 1)] = vocabulary - 1
    return ids
