"""Which architectures some weights could be of, told by names and shapes alone.

What has the same names and shapes cannot be told apart here: all of it is named, with what would tell. Where nothing
fits exactly, the nearest are named with what does not fit. Names and shapes may come from anyone: nothing is evaluated,
and the work is bounded by their number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from manifest.checkpoint.names import OF_OPENAI
from manifest.identification import index
from manifest.identification.adapters import adapters_in, without_adapters
from manifest.identification.candidates import LIBRARIES, ArchitectureCandidate, Identification
from manifest.identification.customisation import customisation
from manifest.identification.index.templates import Filled, covered, filled
from manifest.identification.key_mapping import KeyMapping, renamings
from manifest.identification.untold import alternatives, left_out, parts, settings_untold, tags_untold, twins_untold
from manifest.weights.shape_diff import Shape, ShapeDiff, shape_diff

_MOST_READ = 6
_MOST_TRIED = 3
_MOST_NAMED = 6
_MOST_TIMES_LARGEST = 4
_NEAR_BY_SHAPE, _NEAR_BY_NAME = 0.3, 0.7
_FEWEST_IN_COMMON = 5
_WORTH_TRYING, _ENOUGH = 0.8, 0.95
"""Of the weights, what a way to name them is to cover, beside the best way; and by which no other is tried."""
_WORTH_NAMING = 0.9
"""Of the likeness of the nearest candidate."""
_WRITTEN_BY = {
    "pytorch-lightning_version": "Lightning",
    "state_dict_ema": "timm's training script",
}


def identify(
    shapes: Mapping[str, Shape], metadata_keys: Collection[str] = (), prefix_removed: str = ""
) -> Identification:
    """Which architectures weights could be of.

    Args:
        shapes: Shape of every tensor by its name in the file.
        metadata_keys: What else the file holds, by which training scripts are told.
        prefix_removed: What every name began with in the file.
    """
    if (adapters := adapters_in(shapes)) is not None:
        names = without_adapters(shapes, adapters)
        inner = identify({name: shapes[stored] for name, stored in names.items()}, metadata_keys, prefix_removed)
        told = tuple(_stored_as(each, names) for each in inner.candidates)
        return replace(inner, candidates=told, adapters=adapters)
    found = _identified(shapes, prefix_removed, of_openai=set(metadata_keys) >= OF_OPENAI)
    return replace(found, written_by=next((who for key, who in _WRITTEN_BY.items() if key in metadata_keys), None))


def _identified(shapes: Mapping[str, Shape], prefix_removed: str, *, of_openai: bool) -> Identification:
    most = _MOST_TIMES_LARGEST * index.most_tensors()
    if len(shapes) > most:
        said = f"There are {len(shapes):,} tensors, and no model that is known has a quarter as many."
        return Identification((), notes=(said,))
    tried: list[KeyMapping] = []
    for renamed in renamings(shapes, prefix_removed):
        tried.append(renamed)
        if not renamed.part and (found := _exact(renamed)):
            return _told(found, renamed, of_openai=of_openai)
    found, renamed = _nearest(tried)
    found = sorted((_customised(each, renamed) for each in found), key=lambda each: (not each.exact, each.customised))
    if found and found[0].exact:
        found = [each for each in found if each.exact and each.customised == found[0].customised]
    if found and not found[0].exact and (known := index.named(found[0].library, found[0].name)) is not None:
        # The way to name weights that is nearest need not be the one by which a few arguments explain the rest.
        for other in (each for each in tried if not each.part):
            whole = _customised(_candidate(known, other), other)
            if whole.exact:
                return _told(_twins(whole), other, of_openai=of_openai)
    return _told(found, renamed, of_openai=of_openai) if found else Identification(())


def match_named(
    library: str | None, name: str, shapes: Mapping[str, Shape], prefix_removed: str = ""
) -> ArchitectureCandidate | None:
    """One architecture, by its name, held against weights under whichever of their names fit it best.

    Args:
        library: Where it is; the first that has it when None.
        name: In the library's registry; of transformers, the class.
        shapes: Shape of every tensor by its name in the file.
        prefix_removed: What every name began with in the file.

    Returns:
        None where no architecture has that name.
    """
    if (adapters := adapters_in(shapes)) is not None:
        names = without_adapters(shapes, adapters)
        inner = match_named(library, name, {each: shapes[stored] for each, stored in names.items()}, prefix_removed)
        return None if inner is None else _stored_as(inner, names)
    known = [each for where in LIBRARIES if library in (None, where) and (each := index.named(where, name))]
    ways = renamings(shapes, prefix_removed)
    if known:
        found = [_customised(_candidate(known[0], renamed), renamed) for renamed in ways]
    else:
        found = [each for renamed in ways for each in _templates(renamed) if each.name == name]
    return max(found, key=_rank, default=None)


def _stored_as(candidate: ArchitectureCandidate, names: Mapping[str, str]) -> ArchitectureCandidate:
    """A candidate for weights that have other names in the file."""
    return replace(candidate, stored={name: names[stored] for name, stored in candidate.stored.items()})


def _exact(renamed: KeyMapping) -> list[ArchitectureCandidate]:
    known = [_candidate(each, renamed) for each in index.exact(renamed.shapes)]
    return sorted((each for each in known or _templates(renamed) if each.exact), key=_order)


def _nearest(tried: list[KeyMapping]) -> tuple[list[ArchitectureCandidate], KeyMapping]:
    """What is nearest by the best way to name the weights, and that way."""
    same = index.shaped(tried[0].shapes.values())  # names change, and hardly any shapes
    ways = []
    for renamed in filter(lambda renamed: renamed.shapes, tried):
        near = index.nearest({pattern: len(names) for pattern, names in renamed.alike.items()}, same, _MOST_READ)
        share = max((each.covered for each in near), default=0.0)
        share = max(share, covered(renamed.alike) / len(renamed.shapes))
        if share >= _ENOUGH and (found := _read(renamed, near)) and found[0].likeness[0] >= _ENOUGH:
            return found, renamed
        ways.append((share, renamed, near))
    ways.sort(key=lambda way: -way[0])
    worth = [way for way in ways[:_MOST_TRIED] if way[0] >= _WORTH_TRYING * ways[0][0]]
    read = [(found, renamed) for _, renamed, near in worth if (found := _read(renamed, near))]
    return max(read, key=lambda pair: (*pair[0][0].likeness, not pair[1].part), default=([], tried[0]))


def _read(renamed: KeyMapping, near: list[index.Near]) -> list[ArchitectureCandidate]:
    """Candidates among some entries and the templates, the best first, as far as they are worth naming."""
    # Architectures of one entry fit alike, so one of them stands for all until they are named.
    firsts = [_candidate(index.of_entry(each.entry)[0], renamed) for each in near]
    found = [each for each in (*firsts, *_templates(renamed)) if _is_near(each, renamed)]
    found.sort(key=lambda each: (*(-value for value in _rank(each)), *_order(each)))
    named: list[ArchitectureCandidate] = []
    for each in found:
        if len(named) < _MOST_NAMED and each.likeness[0] >= _WORTH_NAMING * found[0].likeness[0]:
            named += _twins(each)
    return named


def _customised(candidate: ArchitectureCandidate, renamed: KeyMapping) -> ArchitectureCandidate:
    """An architecture as other arguments build it, where that explains every tensor; else as it is."""
    if candidate.exact:
        return candidate
    other = customisation(candidate.library, candidate.fit, candidate.shapes, renamed.shapes, candidate.roles)
    if not other.whole:
        return candidate
    backbone = next(iter(candidate.roles.values()))
    roles = {other.renamed.get(name, name): role for name, role in candidate.roles.items() if name not in other.dropped}
    roles |= {name: _role_of_new(name, backbone) for name in sorted(other.renamed.values()) if name not in roles}
    stored = {name: renamed.stored[name] for name in roles if name in renamed.stored}
    shapes = {name: renamed.shapes.get(name, candidate.shapes.get(name, ())) for name in roles}
    fits = ShapeDiff((), (), {})
    return replace(candidate, fit=fits, roles=roles, shapes=shapes, stored=stored, otherwise=other.words())


def _role_of_new(name: str, backbone: str) -> str:
    return "head" if name.startswith(("head.", "fc.", "classifier.")) else backbone


def _rank(candidate: ArchitectureCandidate) -> tuple[float, ...]:
    return *candidate.likeness, -len(candidate.fit.missing)


def _twins(candidate: ArchitectureCandidate) -> list[ArchitectureCandidate]:
    """A candidate, and the architectures that share its entry."""
    known = index.named(candidate.library, candidate.name)
    if known is None:
        return [candidate]
    same = index.of_entry(known.entry)
    return sorted((replace(candidate, library=e.library, name=e.name, settings=e.settings) for e in same), key=_order)


def _is_near(candidate: ArchitectureCandidate, renamed: KeyMapping) -> bool:
    named = len(candidate.stored)
    fewer = min(len(candidate.roles), len(renamed.shapes))
    if named < min(_FEWEST_IN_COMMON, len(candidate.roles)):
        return False
    same = named - len(candidate.fit.reshaped)
    return same >= _NEAR_BY_SHAPE * fewer or named >= _NEAR_BY_NAME * fewer


def _templates(renamed: KeyMapping) -> list[ArchitectureCandidate]:
    return [_of_template(each, renamed) for each in filled(renamed.alike, renamed.shapes)]


def _candidate(known: index.Known, renamed: KeyMapping) -> ArchitectureCandidate:
    entry = index.entry(known.entry)
    return _held(known.library, known.name, known.settings, entry.shapes, entry.roles, entry.optional, renamed)


def _of_template(each: Filled, renamed: KeyMapping) -> ArchitectureCandidate:
    settings = {**each.settings, "names": "of the module in memory"} if each.template.in_memory else each.settings
    there = {
        first: name
        for name, first in each.tied.items()
        if name in renamed.shapes and first not in renamed.shapes and renamed.shapes[name] == each.shapes.get(first)
    }
    lacking = {
        name: first for name, first in each.tied.items() if name not in renamed.shapes and first in renamed.shapes
    }
    optional = frozenset((*each.tied, *there))
    held = _held("transformers", each.template.name, settings, each.shapes, each.roles, optional, renamed)
    by_default = each.template.by_default
    return replace(held, under_other_name=there, once_more=lacking, tied_by_default=by_default)


def _held(
    library: str,
    name: str,
    settings: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    roles: Mapping[str, str],
    optional: frozenset[str],
    renamed: KeyMapping,
) -> ArchitectureCandidate:
    """An architecture held against weights; tensors that do not matter count neither way."""
    idle = {each for each in renamed.optional if shapes.get(each) != renamed.shapes[each]}
    found = {each: shape for each, shape in renamed.shapes.items() if each not in idle}
    held = shape_diff(shapes, found, optional)
    # What depends on a size that no tensor shows is expected under its name, with no shape.
    unsized = [each for each in roles if each not in shapes]
    held = ShapeDiff(
        missing=(*held.missing, *(each for each in unsized if each not in found and each not in optional)),
        unexpected=tuple(each for each in held.unexpected if each not in roles),
        reshaped=held.reshaped,
    )
    stored = {each: renamed.stored[each] for each in roles if each in found and each in renamed.stored}
    return ArchitectureCandidate(library, name, settings, held, roles, shapes, stored)


def _order(candidate: ArchitectureCandidate) -> tuple[int, int, str]:
    return LIBRARIES.index(candidate.library), len(candidate.name), candidate.name


def _told(found: list[ArchitectureCandidate], renamed: KeyMapping, *, of_openai: bool) -> Identification:
    if of_openai:
        found.sort(key=lambda each: not each.settings.get("quick_gelu"))
    twins = [each for each in found if each.shapes == found[0].shapes]
    untold = (*twins_untold(twins), *tags_untold(twins, of_openai=of_openai))
    told = (*parts(found[0]), *alternatives(found), *left_out(found[0]))
    settings = tuple(settings_untold(found[0]))
    return Identification(tuple(found), renamed.words, untold, settings, told, put_back=renamed.put_back)
