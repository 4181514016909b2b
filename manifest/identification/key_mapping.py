"""What weights may be called in a file, and what architectures call them: wrappers' prefixes, other projects' names.

Every renaming is a guess, told in words, to be held against the architectures that are known. There are few for any
file, and each looks at every name once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from manifest.identification.third_party_keys import by_open_clip
from manifest.schema.name_ranges import without_numbers
from manifest.weights.shape_diff import Shape, is_optional

_DEEPEST = 8
"""Prefixes within one another."""
_MOST_GROUPS = 4
_LARGEST_SHARE, _SMALLEST_SHARE = 0.999, 0.1
_PARTS = ("visual.", "visual.trunk.", "text.")
"""Where open_clip keeps what is sometimes saved by itself."""
_MERGED, _BRANCHES = ".reparam_conv.weight", (".conv_kxk.0.conv.weight", ".conv_kxk.conv.weight")
"""What timm calls a convolution that several branches were merged into, and the largest of these."""
_PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original([01])$")
_INNER = re.compile(r"(?:(?<=\.)|^)(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
"""What FSDP, activation checkpointing and torch.compile put into names where they wrap a part of a model."""


@dataclass(frozen=True)
class KeyMapping:
    """Weights by the names that an architecture may have for them.

    Attributes:
        shapes: Shape by such a name.
        stored: Name in the file by such a name.
        words: What was done, one clause each.
        part: Whether a model would be taken apart by that: what it fits is a part of another.
        put_back: What was taken for a wrapper's prefix, and is a part of these names.
    """

    shapes: Mapping[str, Shape]
    stored: Mapping[str, str]
    words: tuple[str, ...] = ()
    part: bool = False
    put_back: str = ""

    @cached_property
    def optional(self) -> frozenset[str]:
        """Names of those without which weights are whole."""
        return frozenset(filter(is_optional, self.shapes))

    @cached_property
    def alike(self) -> Mapping[str, Sequence[str]]:
        """The names by their pattern, which has stars for numbers."""
        alike: dict[str, list[str]] = {}
        for name in self.shapes:
            alike.setdefault(without_numbers(name), []).append(name)
        return alike


def renamings(shapes: Mapping[str, Shape], prefix_removed: str = "") -> Iterator[KeyMapping]:
    """Weights under other names, the least changed first.

    Args:
        shapes: Shape by name.
        prefix_removed: What every name began with in the file, as wrappers' prefixes do and some models' own names.
    """
    if prefix_removed:
        last = f"{prefix_removed.rstrip('.').rpartition('.')[2]}."
        own = {f"{last}{name}": name for name in shapes}
        yield KeyMapping({name: shapes[stored] for name, stored in own.items()}, own, put_back=last)
    names: dict[str, str] = {name: name for name in shapes}
    words: tuple[str, ...] = ()
    yield _renamed(shapes, names, words)
    prefix, inside = "", False
    for _ in range(_DEEPEST):
        first = _common(names) or ""
        shorter = {name.removeprefix(first): stored for name, stored in names.items()}
        if not first or len(shorter) < len(names):
            break  # there is none, or two names would become one
        prefix, names = prefix + first, shorter
        inside = inside or first in _PARTS
        yield _renamed(shapes, names, (*words, f'prefix "{prefix}" removed'), part=inside)
    if any(_INNER.search(name) for name in names):
        inner = {_INNER.sub("", name): stored for name, stored in names.items()}
        if len(inner) == len(names):
            above = (f'prefix "{prefix}" removed',) if prefix else ()
            yield _renamed(shapes, inner, (*words, *above, "wrappers within removed"))
    if (released := by_open_clip(shapes)) is not None:
        yield KeyMapping(*released)
    yield from _groups(shapes, names, prefix, words)
    yield from _with_branches(shapes, names, words)
    if prefix:
        words = (*words, f'prefix "{prefix}" removed')
    for part in _PARTS:
        if not any(name.startswith(part) for name in names):
            added = {f"{part}{name}": stored for name, stored in names.items()}
            yield _renamed(shapes, added, (*words, f'taken for the part "{part}" of a model'))


def names_of_architecture(
    shapes: Mapping[str, Shape], expected: Mapping[str, Shape], prefix_removed: str
) -> dict[str, str]:
    """Stored names by which weights become exactly those of an architecture: without wrappers, and by newer names.

    Other projects' names are none of these: there, values may lie otherwise under the same shape. Tables that older
    versions stored do not count.

    Args:
        shapes: Shape by stored name.
        expected: Shape by the architecture's name.
        prefix_removed: What every name began with in the file; the end of it may be a part of the architecture's names.

    Returns:
        Stored name → the architecture's name, of those that differ; empty where nothing of this explains the names.
    """
    older = {_of_older_weight_norm(name): name for name in expected}
    for newer in ({name: name for name in expected}, older):
        wanted = {name: expected[now] for name, now in newer.items()}
        weights = {name: shape for name, shape in shapes.items() if name in wanted or not is_optional(name)}
        named = {name: name for name in wanted} if weights == wanted else _without_prefixes(shapes, wanted)
        named = named or _with_prefix(weights, wanted, prefix_removed)
        if named:
            return {stored: newer[name] for stored, name in named.items() if stored != newer[name]}
    return {}


def _of_older_weight_norm(name: str) -> str:
    """What `torch.nn.utils.weight_norm` called a tensor before it was a parametrization; torch loads either."""
    return _PARAMETRIZED.sub(lambda found: f"{found[1]}_{'gv'[int(found[2])]}", name)


def _without_prefixes(shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> dict[str, str]:
    """Stored name → the architecture's name, of all, once wrappers and prefixes are left out."""
    for renamed in renamings(shapes):
        weights = {name: shape for name, shape in renamed.shapes.items() if name in expected or not is_optional(name)}
        if weights == expected and all(
            stored.endswith(name) or _INNER.sub("", stored).endswith(name) for name, stored in renamed.stored.items()
        ):
            return {stored: name for name, stored in renamed.stored.items() if name in expected}
    return {}


def _with_prefix(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], prefix: str) -> dict[str, str]:
    """Names with a prefix that is the model's own, and was taken for a wrapper's: a tied head is not in the file."""
    parts = prefix.split(".")
    for index in range(len(parts) - 1):
        own = ".".join(parts[index:])
        if shapes and all(expected.get(f"{own}{name}") == shape for name, shape in shapes.items()):
            return {name: f"{own}{name}" for name in shapes}
    return {}


def _with_branches(
    shapes: Mapping[str, Shape], names: Mapping[str, str], words: tuple[str, ...]
) -> Iterator[KeyMapping]:
    """Convolutions that branches were merged into, by the name of the branch of the same size before that."""
    for branch in _BRANCHES:
        before = {name.replace(_MERGED, branch): stored for name, stored in names.items()}
        if before.keys() != names.keys() and len(before) == len(names):
            yield _renamed(shapes, before, (*words, "branches of convolutions merged"))


def _groups(
    shapes: Mapping[str, Shape], names: Mapping[str, str], above: str, words: tuple[str, ...]
) -> Iterator[KeyMapping]:
    """One of several models in a file, the others under the names that they have."""
    heads = Counter(name[: name.index(".") + 1] for name in names if "." in name)
    for head, count in heads.most_common(_MOST_GROUPS):
        if not _SMALLEST_SHARE <= count / len(names) <= _LARGEST_SHARE:
            continue
        shorter = {name.removeprefix(head): stored for name, stored in names.items()}
        if len(shorter) == len(names):
            yield _renamed(shapes, shorter, (*words, f'prefix "{above}{head}" removed where it is'))


def _common(names: Mapping[str, str]) -> str | None:
    """The first part that every name has; counters of averages and the like need not have it."""
    found: str | None = None
    for name in names:
        first, dot, rest = name.partition(".")
        if not dot or not rest:
            if is_optional(name):
                continue
            return None
        if found is not None and first + dot != found:
            return None
        found = first + dot
    return found


def _renamed(
    shapes: Mapping[str, Shape], names: Mapping[str, str], words: tuple[str, ...], *, part: bool = False
) -> KeyMapping:
    return KeyMapping({name: shapes[stored] for name, stored in names.items()}, names, words, part)
