"""What names and shapes do not tell, in sentences: twins, published tags, parts, what was changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from manifest.escaping import printable
from manifest.identification import index
from manifest.identification.candidates import ArchitectureCandidate, Identification
from manifest.identification.customisation import customisation
from manifest.identification.pretrained import quick_gelu_tags
from manifest.schema.report import Finding
from manifest.schema.rules import finding
from manifest.schema.vocabulary import role_words
from manifest.weights.shape_diff import ShapeDiff

_HEADS = frozenset({"head", "vision_projection"})
_OF_HUGGING_FACE = re.compile(r"text\.transformer\.(?:embeddings|encoder|layers|shared|block)\.")


_AS_IT_IS = "Nothing to do if that is meant: build the model so, and load the weights into it."


def untold_findings(found: Identification, *, told: bool, tagged: bool) -> list[Finding]:
    """What names and shapes do not tell, without what somebody has told.

    Args:
        found: What the tensors are those of.
        told: Whether it is said which of several architectures is meant.
        tagged: Whether it is said which published weights these are.
    """
    which = [*(() if told else found.untold), *(() if tagged else found.settings)]
    notes = [*which, *found.notes]
    if not notes:
        return []
    message, remedy = printable(" ".join(notes), 2000), None if which else _AS_IT_IS
    return [finding("A011", message, where="identity", remedy=remedy, notes=notes)]


def twins_untold(twins: list[ArchitectureCandidate]) -> Iterator[str]:
    """What would tell architectures apart that have the same names and shapes."""
    for library in dict.fromkeys(each.library for each in twins):
        named = [each for each in twins if each.library == library]
        if len(named) == 1:
            continue
        differing = [
            f"{words} ({', '.join(f'{each.name}: {_value(each.settings.get(key))}' for each in named)})"
            for key, words in (("quick_gelu", "the activation"), ("image_size", "the image size"))
            if len({_value(each.settings.get(key)) for each in named}) > 1
        ]
        names = _listed([each.name for each in named])
        if differing:
            yield f"The weights are the same for {names}, which differ in {' and '.join(differing)}; declare it."
        else:
            yield f"The weights are the same for {names}; which it is, names and shapes do not tell."
    libraries = list(dict.fromkeys(each.library for each in twins))
    if len(libraries) > 1:
        yield f"The names are the same in {_listed(libraries)}."


def tags_untold(twins: list[ArchitectureCandidate], *, of_openai: bool) -> Iterator[str]:
    """Which published weights of colliding names need QuickGELU."""
    if of_openai:
        yield "OpenAI trained its models with QuickGELU."
    flags = {bool(each.settings.get("quick_gelu")) for each in twins if each.library == "open_clip"}
    if len(flags) < 2:
        return
    for each in twins:
        if each.library == "open_clip" and not each.settings.get("quick_gelu"):
            tags = quick_gelu_tags(each.name)
            quick = [tag for tag, needed in tags if needed]
            if quick:
                rest = "" if len(quick) == len(tags) else ", and the others do not"
                yield f"Of the published weights of {each.name}, {_listed(quick)} need QuickGELU{rest}."


def settings_untold(best: ArchitectureCandidate) -> Iterator[str]:
    """Which settings a library has for weights of its own alone."""
    for setting, value in best.settings.get("with_weights", {}).items():
        yield (
            f"torchvision builds {best.name} with {setting}={value} for its own weights and with {setting}={not value} "
            "without `weights=`; which of the two these want, names and shapes do not tell."
        )


def parts(best: ArchitectureCandidate) -> Iterator[str]:
    """Of what the weights are only a part, and what was changed to fit another purpose."""
    if best.settings.get("image_tower"):
        yield f"{best.name} is the vision tower alone of a CLIP, or was made of one: timm has no text towers."
        twin = _switched(best.name)
        if index.named("timm", twin) is not None:
            yield f"{twin} has the same trunk with another activation, whatever its head; declare which it is."
    if best.absent_roles:
        there = [role for role in dict.fromkeys(best.roles.values()) if role not in best.absent_roles]
        lacking = _listed(map(role_words, best.absent_roles), "or")
        yield f"Of {best.name} there is only the {_listed(map(role_words, there))}: no {lacking}."
    for name, (here, expected) in best.fit.reshaped.items():
        if best.roles.get(name) in _HEADS and here[1:] == expected[1:] and name.endswith("weight"):
            head = name.removesuffix(".weight")
            yield f"The head {head} has {here[0]:,} outputs where {best.name} has {expected[0]:,}."
        elif "pos" in name.rpartition(".")[2] and here[-1:] == expected[-1:]:
            other = customisation(
                best.library, ShapeDiff((), (), {name: (here, expected)}), best.shapes, {}, best.roles
            )
            size = other.words() or "another image size or text length"
            yield f"{name} is {list(here)} where {best.name} has {list(expected)}: {size}."


def _switched(name: str) -> str:
    """timm's name of a CLIP's tower with the other activation."""
    quick = "_clip_quickgelu_"
    return name.replace(quick, "_clip_") if quick in name else name.replace("_clip_", quick)


def alternatives(found: list[ArchitectureCandidate]) -> Iterator[str]:
    """What a part of a model is a part of as well."""
    best = found[0]
    if best.fit.reshaped or best.fit.unexpected:
        return  # it fits none of them
    equal = [each.name for each in found if each.shapes != best.shapes and each.likeness == best.likeness]
    if equal:
        yield f"What is there fits {_listed(equal)} as well, and may fit others."


def left_out(best: ArchitectureCandidate) -> Iterator[str]:
    """Why a text tower is unexpected that some models of open_clip have."""
    if any(_OF_HUGGING_FACE.match(name) for name in best.fit.unexpected):
        names = _listed(index.left_out()["open_clip"], limit=20)
        yield f"The text tower is one of Hugging Face's; open_clip has them in {names}, whose sizes are not known here."


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "QuickGELU" if value else "not QuickGELU"
    return "not known" if value is None else str(value)


def _listed(names: Iterable[str], last: str = "and", limit: int = 8) -> str:
    names = list(names)
    if len(names) > limit:
        return f"{', '.join(names[:limit])} {last} {len(names) - limit} more"
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
