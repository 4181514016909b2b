"""Probes: the fixed inputs that golden outputs are answers to.

`photos-and-prompts/2` is four photographs that ship with this package and eight prompts, a text that fills the
context, so that every position is asked, and texts of the tokens that were added to a vocabulary. Where a model's
tokenizer lives on a hub and is not at hand, `photos-and-tokens/2` asks with token ids that need no vocabulary.
`photos/1` is the photographs alone. The first versions, which records of earlier releases name, have the eight prompts
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import torch
from blake3 import blake3
from PIL import Image
from torch import nn

from manifest.digests import text_digest
from manifest.weights.assign import live_digest

_WITH_TOKENIZER = "photos-and-prompts"
_WITHOUT_TOKENIZER = "photos-and-tokens"
_TOKENS_ALONE = "tokens"
_FIRST, _NEWEST = "/1", "/2"
PHOTOGRAPHS_ALONE = "photos/1"
TENSORS = "tensors/1"
VARIABLE = "objects."
"""How the names of outputs begin whose lengths depend on values: they are read off and matched, and not recorded."""
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


_FILLED = "<every position>"
_ADDED = "<added tokens>"
_FILLING = "cat"  # one token in every vocabulary that was seen
_SPECIALS = 8  # tokens that a tokenizer puts around a text, at most
_MOST_ROWS = 16  # of added tokens

_OF_USER = "user/"


def is_of_user(probe: str) -> bool:
    """Whether a probe is one of a user's own, which only the user has."""
    return probe.startswith(_OF_USER)


def needs_no_tokenizer(probe: str | None) -> bool:
    """Whether a recorded probe asks with token ids, although the model has a tokenizer."""
    return probe is not None and probe.startswith(f"{_WITHOUT_TOKENIZER}/")


def is_prompt(name: str) -> bool:
    """Whether a row of tokens is one of the prompts, and not a text that only fills the context."""
    return name not in (_FILLED, _ADDED)


Preprocessing = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True)
class Probe:
    """What a probe is made of, before it is prepared for a model.

    Attributes:
        name: Of the probe, where it is one of the user's own; None for those that ship with this package.
        images: PIL images by name, RGB, of any size.
        prompts: Texts.
        tensors: Inputs that are ready, by the name of the argument they are for; their first dimension is the samples.
        preprocess: PIL image → float32 of shape (3, height, width), where it is not to be the model's own as recorded.
        tokenizer: List of prompts → int64 of shape (prompts, context length), likewise.

    Example:
        >>> from PIL import Image
        >>> street = manifest.Probe("street", {"sky": Image.linear_gradient("L").convert("RGB")}, ("a street", "a sky"))
        >>> written = manifest.save(manifest.load("ckpt.pt"), "next.pt", probes=[street], floor="none")
        >>> [golden.probe for golden in written.golden]
        ['photos-and-prompts/2', 'user/street']
        >>> manifest.verify("next.pt", probes=[street]).passed
        True
    """

    name: str | None = None
    images: Mapping[str, Image.Image] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    preprocess: Preprocessing | None = None
    tokenizer: Any = None

    def called(self, standard: str) -> str:
        """The probe's name, where that of the one that ships would be `standard`."""
        return standard if self.name is None else f"{_OF_USER}{self.name}"


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

    def turned(self) -> Inputs:
        """The same samples, each one place further on, and the last one first."""
        return Inputs(
            self.probe,
            {kind: tensor.roll(1, dims=0) for kind, tensor in self.tensors.items()},
            {kind: (*names[-1:], *names[:-1]) for kind, names in self.names.items()},
        )

    def halves(self) -> list[Inputs]:
        """The samples in two batches."""
        middles = {kind: (len(tensor) + 1) // 2 for kind, tensor in self.tensors.items()}
        return [self._rows({kind: slice(middle) for kind, middle in middles.items()})] + (
            [self._rows({kind: slice(middle, None) for kind, middle in middles.items()})]
            if all(len(tensor) > 1 for tensor in self.tensors.values())
            else []
        )

    def like(self, module: nn.Module) -> Inputs:
        """The same where a module is, and in its element type."""
        own = next((tensor for tensor in module.parameters() if tensor.is_floating_point()), None)
        if own is None:
            return self
        return Inputs(
            self.probe,
            {
                kind: tensor.to(own.device, own.dtype) if tensor.is_floating_point() else tensor.to(own.device)
                for kind, tensor in self.tensors.items()
            },
            self.names,
        )

    def one_by_one(self) -> Iterator[Inputs]:
        """Every sample in a batch of its own; a kind that has fewer begins again."""
        for index in range(max(map(len, self.tensors.values()))):
            rows = {kind: index % len(tensor) for kind, tensor in self.tensors.items()}
            yield self._rows({kind: slice(row, row + 1) for kind, row in rows.items()})

    def _rows(self, rows: Mapping[str, slice]) -> Inputs:
        return Inputs(
            self.probe,
            {kind: tensor[rows[kind]] for kind, tensor in self.tensors.items()},
            {kind: names[rows[kind]] for kind, names in self.names.items()},
        )


@cache
def photographs() -> dict[str, Image.Image]:
    """The probe's photographs by name, RGB, at most 256 pixels on the long side."""
    folder = resources.files("manifest.probes") / "photos"
    images = {}
    for name in PHOTOGRAPHS:
        with (folder / f"{name}.png").open("rb") as file:
            images[name] = Image.open(file).convert("RGB")
    return images


def shipped() -> Probe:
    """The photographs and prompts that ship with this package."""
    return Probe(images=photographs(), prompts=PROMPTS)


def images_and_prompts(
    material: Probe,
    preprocess: Preprocessing,
    tokenizer: Any | None,
    context_length: int,
    vocabulary: int,
    *,
    probe: str | None = None,
    added: Mapping[str, int] | None = None,
) -> Inputs:
    """The probe through a model's own preprocessing and tokenizer, or those of the material.

    Args:
        material: What is asked.
        preprocess: A PIL image → float32 tensor of shape (3, height, width).
        tokenizer: Prompts → int64 tensor of shape (prompts, context length), or None when there is none at hand.
        context_length: Token ids per prompt.
        vocabulary: Number of token ids, for the probe that needs no tokenizer.
        probe: Name of the recorded probe, the newest version when None.
        added: Ids of the tokens that were added to the tokenizer's vocabulary, by the text that stands for them.
    """
    seen = images_alone(material, preprocess)
    version = _version(material, probe)
    asked = material.tokenizer or tokenizer
    if asked is None:
        tokens, names = _drawn_tokens(material, context_length, vocabulary, version)
        kind = _WITHOUT_TOKENIZER
    else:
        kind, tokens, names = _WITH_TOKENIZER, asked(list(material.prompts)), tuple(material.prompts)
        if version == _NEWEST:
            # By the recorded tokenizer, so that one that is compared with it is asked the same texts.
            own = tokenizer or asked
            texts = [(_FILLED, _filling(own, context_length))]
            plain = tokens if own is asked else own(list(material.prompts))
            unasked = _unasked(plain, added or {}, context_length, vocabulary)
            texts += [(_ADDED, text) for text in unasked]
            tokens = torch.cat([tokens, asked([text for _, text in texts])])
            names = (*names, *(name for name, _ in texts))
    return Inputs(material.called(kind + version), {**seen.tensors, "tokens": tokens}, {**seen.names, "tokens": names})


def images_alone(material: Probe, preprocess: Preprocessing) -> Inputs:
    """The images through a model's own preprocessing, for models that see and do not read."""
    images = torch.stack([(material.preprocess or preprocess)(image) for image in material.images.values()])
    return Inputs(material.called(PHOTOGRAPHS_ALONE), {"images": images}, {"images": tuple(material.images)})


def tokens_alone(material: Probe, context_length: int, vocabulary: int, probe: str | None = None) -> Inputs:
    """Token ids that need no tokenizer, for models that read and do not see; arguments as of `images_and_prompts`."""
    version = _version(material, probe)
    tokens, names = _drawn_tokens(material, context_length, vocabulary, version)
    return Inputs(material.called(_TOKENS_ALONE + version), {"tokens": tokens}, {"tokens": names})


def tensors_given(material: Probe) -> Inputs:
    """Inputs that are ready: every argument's first dimension counts samples."""
    names = {kind: tuple(f"sample {index}" for index in range(len(t))) for kind, t in material.tensors.items()}
    return Inputs(material.called(TENSORS), dict(material.tensors), names)


def inputs_digest(inputs: Inputs) -> str:
    """Digest of what reaches the model, after preprocessing and tokenizing."""
    return text_digest([inputs.probe, *map(live_digest, inputs.tensors.values())])


def _version(material: Probe, probe: str | None) -> str:
    """A user asks what they please; what ships is asked as it was when it was recorded."""
    first = material.name is not None or (probe is not None and probe.endswith(_FIRST))
    return _FIRST if first else _NEWEST


def _filling(tokenizer: Any, context_length: int) -> str:
    """The shortest text that fills a context: what is longer has the same tokens."""
    counts = range(max(1, context_length - _SPECIALS), context_length + 1)
    rows = tokenizer([" ".join([_FILLING] * count) for count in counts])
    count = next(count for count, row in zip(counts, rows, strict=True) if torch.equal(row, rows[-1]))
    return " ".join([_FILLING] * count)


def _unasked(tokens: torch.Tensor, added: Mapping[str, int], context_length: int, vocabulary: int) -> list[str]:
    """Texts of the added tokens that the model knows and no prompt has, as many in each as there is room for."""
    asked = set(tokens.flatten().tolist())
    ordered = sorted(added.items(), key=lambda item: item[1])
    texts = [text for text, number in ordered if number < vocabulary and number not in asked]
    room = max(1, context_length - _SPECIALS)
    return [" ".join(texts[at : at + room]) for at in range(0, len(texts), room)][:_MOST_ROWS]


def _drawn_tokens(
    material: Probe, context_length: int, vocabulary: int, version: str
) -> tuple[torch.Tensor, tuple[str, ...]]:
    rows = [_token_ids(prompt, context_length, vocabulary) for prompt in material.prompts]
    names = [f"tokens {index}" for index in range(len(rows))]
    if version == _NEWEST:
        rows.append(_token_ids(_FILLED, context_length, vocabulary, words=context_length - 1))
        names.append(_FILLED)
    return torch.stack(rows), tuple(names)


def _token_ids(seed: str, length: int, vocabulary: int, words: int | None = None) -> torch.Tensor:
    """Token ids drawn from BLAKE3's output stream of a text, ended by the greatest id, as CLIP's prompts are."""
    words = max(1, min(length - 2, 3 + len(seed) % 5)) if words is None else max(1, words)
    stream = blake3(f"manifest/tokens/v1\n{seed}".encode()).digest(length=8 * words)
    drawn = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") % (vocabulary - 1) for i in range(words)]
    ids = torch.zeros(length, dtype=torch.long)
    ids[:words] = torch.tensor(drawn)[:length]
    ids[min(words, length - 1)] = vocabulary - 1
    return ids
