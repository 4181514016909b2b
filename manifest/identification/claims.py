"""What is said about a checkpoint: by files beside it, by what else is in it, by its hash, by whoever audits it.

A claim is one source's word for a library, a model's name, a pretrained tag or an activation; none of it is believed
before it is held against the tensors and the other claims. Sources: the config files that `huggingface_hub`, timm,
transformers, diffusers and open_clip write, timm's and Lightning's training checkpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifest.checkpoint import Checkpoint
from manifest.errors import InputError
from manifest.escaping import printable
from manifest.identification.candidates import LIBRARIES, ArchitectureCandidate, Identification
from manifest.identification.index import named
from manifest.identification.pretrained import known_file, pretrained, quick_gelu_tags, split_timm_name, timm_activation
from manifest.schema.report import Finding
from manifest.schema.rules import finding
from manifest.storage.bounded_read import LARGEST, read_small

_OF_LOADER = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Files that transformers looks for beside a config."""
_QUICK = "-quickgelu"
_LONGEST = 200  # characters of a name
_NAMES_OF_MODELS = ("arch", "architecture", "model_name", "model", "backbone", "encoder_name")


BY_HASH = "its SHA-256"
BY_DIGITS = "its name"
"""Where the digits in a name are those of a published file, and the file is another."""
_HASHED = re.compile(r"-([0-9a-f]{8,64})(?=\.[A-Za-z]+$)")
"""The convention of torch.hub: a file's name ends in the first digits of its SHA-256."""


@dataclass(frozen=True)
class Claim:
    """One source's word for what a checkpoint is; None where it says nothing.

    Attributes:
        source: Where it is said, for a person.
        library: `open_clip`, `timm`, `torchvision` or `transformers`.
        name: Of the model, in that library.
        tag: Of the pretrained weights.
        quick_gelu: Whether the activation is QuickGELU.
        image_size: Pixels a side.
        tied: Whether embeddings are tied to the head.
    """

    source: str
    library: str | None = None
    name: str | None = None
    tag: str | None = None
    quick_gelu: bool | None = None
    image_size: int | None = None
    tied: bool | None = None


def parse_claim(text: str) -> Claim:
    """What whoever audits a file says that it is.

    Args:
        text: `open_clip:ViT-B-16`, with a tag `open_clip:ViT-B-16/laion400m_e32`, or without a library; timm's tags
            also as timm writes them, `timm:vit_base_patch32_clip_224.openai`.

    Raises:
        InputError: There is no such library, or no name.
    """
    library, colon, rest = text.rpartition(":")
    name, _, tag = rest.partition("/")
    if library == "timm" and not tag:
        name, tag = split_timm_name(name)
    if not name or (colon and library not in LIBRARIES):
        raise InputError(
            f"--as is {text!r:.100}, expected LIBRARY:NAME or LIBRARY:NAME/TAG with one of "
            f"{', '.join(sorted(LIBRARIES))}, as in open_clip:ViT-B-16/openai."
        )
    return Claim("the command line", library or None, name, tag or None)


def claims(checkpoint: Checkpoint) -> list[Claim]:
    """All that is said in and beside a checkpoint."""
    if checkpoint.mirror is not None:
        with suppress(InputError):  # a config that cannot be had says nothing
            checkpoint.mirror.bring(_CONFIGS, LARGEST)
    found = [*_beside(checkpoint.path), *_inside(checkpoint)]
    return [claim for claim in found if (claim.name, claim.quick_gelu, claim.image_size) != (None, None, None)]


def _beside(path: Path) -> Iterator[Claim]:
    folder = path if path.is_dir() else path.parent
    for name, reader in _CONFIGS.items():
        content = _json(folder / name)
        if content is not None:
            yield from reader(content, f"{name} beside it")


def _json(path: Path) -> Mapping[str, Any] | None:
    """A small JSON object; what is none says nothing."""
    if not path.is_file():
        return None
    try:
        content = json.loads(read_small(path, "config"))
    except (InputError, ValueError, RecursionError):
        return None
    return content if isinstance(content, Mapping) else None


def _of_open_clip(content: Mapping[str, Any], source: str) -> Iterator[Claim]:
    config = content.get("model_cfg")
    if isinstance(config, Mapping):
        size = _part(config, "vision_cfg").get("image_size")
        yield Claim(
            source, "open_clip", quick_gelu=bool(config.get("quick_gelu", False)), image_size=_whole_number(size)
        )


def _of_hugging_face(content: Mapping[str, Any], source: str) -> Iterator[Claim]:
    """timm's configs name an architecture; those of transformers name classes and an activation."""
    if (name := _text(content.get("architecture"))) is not None:
        settings = _part(content, "pretrained_cfg")
        tag = _text(settings.get("tag"))
        size = settings.get("input_size")
        side = size[-1] if isinstance(size, list) and size else None
        yield Claim(source, "timm", name, tag, image_size=_whole_number(side))
        return
    classes = content.get("architectures")
    named = _text(classes[0]) if isinstance(classes, list) and classes else None
    acts = [_part(content, part).get("hidden_act") for part in ("vision_config", "text_config")]
    act = next((act for act in (content.get("hidden_act"), *acts) if isinstance(act, str)), None)
    if named is not None:
        tied = content.get("tie_word_embeddings")
        tied = tied if isinstance(tied, bool) else None
        yield Claim(source, "transformers", named, quick_gelu=None if act is None else act == "quick_gelu", tied=tied)


def _of_diffusers(content: Mapping[str, Any], source: str) -> Iterator[Claim]:
    yield Claim(source, "diffusers", _text(content.get("_class_name")))


_CONFIGS = {
    "open_clip_config.json": _of_open_clip,
    "config.json": _of_hugging_face,
    "model_index.json": _of_diffusers,
}
"""Files that libraries put beside weights, and who reads them."""


def _inside(checkpoint: Checkpoint) -> Iterator[Claim]:
    for name in _NAMES_OF_MODELS:
        if (said := _text(checkpoint.contents.metadata.get(name))) is not None:
            yield _named(said, f"its safetensors metadata ({name})")
    for key, value in checkpoint.contents.said.items():
        place, _, name = key.rpartition(".")
        if name in _NAMES_OF_MODELS and (said := _text(value)) is not None:
            forced = checkpoint.contents.said.get(f"{place}.force_quick_gelu") is True
            yield _named(said, f"its {key}", quick_gelu=forced or None)


def _named(said: str, source: str, quick_gelu: bool | None = None) -> Claim:
    """A name such as `open_clip:ViT-B-32`, `vit_base_patch16_224.augreg_in21k` or plain."""
    library, _, rest = said.rpartition(":")
    name, _, tag = rest.partition(".")
    return Claim(source, library if library in LIBRARIES else None, name, tag or None, quick_gelu)


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable() else None


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else None


def may_be_published(checkpoint: Checkpoint, identification: Identification) -> bool:
    """Whether the hash of a file can be one of those that are known of published weights."""
    tags = [
        (each.name, tag) for each in identification.candidates if each.exact for tag, _ in quick_gelu_tags(each.name)
    ]
    published = any((weights := pretrained(*each)) is not None and weights.sha256 for each in tags)
    # All that are known without a hash in their names were written by torch.
    possible = published and checkpoint.container != "safetensors"
    return checkpoint.path.is_file() and (possible or _HASHED.search(checkpoint.path.name) is not None)


def of_published_file(path: Path, digest: str) -> Iterator[Claim]:
    """Which published weights a file is by its SHA-256, and by the digits of one in its name."""
    in_its_name = _HASHED.search(path.name)
    if (known := known_file(digest)) is not None:
        yield Claim(BY_HASH, known.library, known.name, known.tag, known.quick_gelu)
    elif in_its_name and (meant := known_file(in_its_name[1])) is not None:
        yield Claim(BY_DIGITS, meant.library, meant.name, meant.tag, meant.quick_gelu)


def contradictions(
    said: Sequence[Claim], found: Identification, meant: ArchitectureCandidate | None, path: Path
) -> Iterator[Finding]:
    """Claims that the tensors, or other claims, do not bear out.

    Args:
        said: All claims.
        found: What the tensors are those of.
        meant: The architecture that the checkpoint is held to.
        path: The checkpoint.
    """
    for claim in said:
        if claim.source == BY_DIGITS:
            what = f"{printable(claim.tag or '')} of {printable(claim.name or '')}"
            message = f"The digits in its name are those of {what}, and its SHA-256 is another."
            remedy = "Get the file again from its source; if it is meant to be another, give it a name without digits."
            yield finding("A012", message, where=claim.source, remedy=remedy)
        yield from _against_tensors(claim, found)
        yield from _against_loader(claim, found, path)
        if (needs := _needs_quick_gelu(claim)) is not None:
            yield from _against_activation(claim, needs, said, meant)


def not_held_to(said: Sequence[Claim], found: Identification, meant: ArchitectureCandidate | None) -> str:
    """The class of transformers that a config names, as a clause, where the weights are held to none or to another.

    Args:
        said: All claims.
        found: What the tensors are those of.
        meant: The architecture that the checkpoint is held to.
    """
    exact = {each.name for each in found.candidates if each.exact}
    if meant is None or meant.library == "transformers":
        for claim in said:
            if claim.library == "transformers" and claim.name is not None and claim.name not in exact:
                return f"; {printable(claim.source)} says {printable(claim.name)}"
    return ""


def _against_tensors(claim: Claim, found: Identification) -> Iterator[Finding]:
    """A name of one architecture, and tensors that are exactly those of another in the same library."""
    libraries = {each.library for each in found.candidates} & ({claim.library} if claim.library else set(LIBRARIES))
    known = {library for library in libraries if claim.name is not None and named(library, claim.name) is not None}
    exact = [each.name for each in found.candidates if each.exact and each.library in known]
    if exact and claim.name not in exact:
        said, are = printable(claim.name or ""), " or ".join(exact[:4])
        message = f"{_capital(claim.source)} says {said}, and the tensors are exactly those of {are}."
        yield finding("A012", message, where=claim.source)


def _against_loader(claim: Claim, found: Identification, path: Path) -> Iterator[Finding]:
    """A config by which transformers loads a file of that name, and names of tensors that are another library's."""
    libraries = {each.library for each in found.candidates if each.exact}
    if claim.library != "transformers" or not libraries or "transformers" in libraries or path.name not in _OF_LOADER:
        return
    are = " or ".join(f"{each.library} {each.name}" for each in found.candidates[:2] if each.exact)
    message = (
        f"{_capital(claim.source)} says transformers {printable(claim.name or '')}, and the tensors have the names of "
        f"{are}: `from_pretrained` would leave nearly all of its weights at random."
    )
    remedy = "Load it by the library whose names it has, with the config of that library beside it."
    yield finding("A012", message, where=claim.source, remedy=remedy)


def _against_activation(
    claim: Claim, needs: bool, said: Sequence[Claim], meant: ArchitectureCandidate | None
) -> Iterator[Finding]:
    """A tag that was trained with one activation, and a config or a name that builds another."""
    trained, built = ("QuickGELU", "GELU") if needs else ("GELU", "QuickGELU")
    cure = _cure(needs, claim)
    what = f"{printable(claim.tag or '')} of {printable(claim.name or '')}"
    for other in said:
        if other.quick_gelu is not None and other.quick_gelu != needs:
            message = f"The weights {what} were trained with {trained}, and {other.source} builds {built}."
            yield finding("A012", message, where=other.source, remedy=cure)
    if meant is not None and meant.name == claim.name and _builds_quick_gelu(meant) != needs:
        message = f"The weights {what} were trained with {trained}, and the name {meant.name} builds {built}."
        yield finding("A012", message, where=claim.source, remedy=cure)


def _builds_quick_gelu(meant: ArchitectureCandidate) -> bool:
    """Whether a library builds an architecture with QuickGELU; timm has names of their own for those."""
    return "quickgelu" in meant.name if meant.library == "timm" else bool(meant.settings.get("quick_gelu"))


def _needs_quick_gelu(claim: Claim) -> bool | None:
    """Whether the tag of a claim was trained with QuickGELU, as far as open_clip's and timm's registries say."""
    if claim.name is None or claim.tag is None:
        return None
    if claim.library == "timm":
        weights = pretrained(claim.name, claim.tag, "timm")
        return None if weights is None else weights.quick_gelu
    if claim.library not in (None, "open_clip"):
        return None
    return dict(quick_gelu_tags(claim.name)).get(claim.tag)


def _cure(needs: bool, claim: Claim) -> str:
    """The argument, and the name that builds it so, under which an audit has nothing to say."""
    if claim.library == "timm":
        return f"Build it with `{timm_activation(quick_gelu=needs)}`."
    argument = f"Build it with `force_quick_gelu={needs}`" if needs else "Build it without `force_quick_gelu`"
    twin = f"{claim.name}{_QUICK}" if needs else str(claim.name).removesuffix(_QUICK)
    if twin == claim.name or named("open_clip", twin) is None:
        return f"{argument}."
    return f"{argument}, which is `--as open_clip:{twin}/{claim.tag}` here."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
