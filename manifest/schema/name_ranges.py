"""Many names of tensors or modules in few words: runs of numbers as ranges, as `blocks.{0..11}.mlp.fc1.weight`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"(?<![^.])(?:0|[1-9][0-9]{0,8})(?![^.])")
"""A part of a name that is a number as Python writes it: `007` is a name, and so is what no layer is numbered by."""
_MOST_NUMBERS = 16
_RANGE = re.compile(r"\{(\d{1,6})\.\.(\d{1,6})\}")


def without_numbers(name: str) -> str:
    """A name with a star for each number in it, by which like ones are told."""
    return _NUMBER.sub("*", name)


def unfold_name(name: str, most: int) -> list[str] | None:
    """The names that one with ranges stands for; None when they are more than `most`."""
    ranges = [range(int(first), int(last) + 1) for first, last in _RANGE.findall(name)]
    if math.prod(map(len, ranges)) > most:
        return None
    between = _RANGE.sub("\0", name).split("\0")
    return [_interleaved(between, map(str, numbers)) for numbers in itertools.product(*ranges)]


def shortened(names: Sequence[str], limit: int = 3) -> str:
    """Some names and how many more there are, with the verb: `a.{0..3}.b, c and 7 more are`."""
    return listed(names, limit) + (" are" if len(names) > 1 else " is")


def listed(names: Sequence[str], limit: int = 3) -> str:
    """Some names and how many more there are: `a.{0..3}.b, c and 7 more`."""
    folded = fold(names)
    rest = sum(len(unfold_name(name, most=len(names)) or ()) for name in folded[limit:])
    more = f" and {rest} more" if rest else ""
    return ", ".join(folded[:limit]) + more


def fold(names: Sequence[str]) -> list[str]:
    """Names with runs of numbers in them written as ranges: `blocks.0.mlp`, `blocks.1.mlp` → `blocks.{0..1}.mlp`."""
    alike: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for name in names:
        between, numbers = _NUMBER.split(name), _NUMBER.findall(name)
        if len(numbers) > _MOST_NUMBERS:
            between, numbers = [name], []
        alike.setdefault(tuple(between), []).append(tuple(map(int, numbers)))
    return [_interleaved(between, numbers) for between, found in alike.items() for numbers in _runs(sorted(found))]


def _interleaved(between: Sequence[str], numbers: Iterable[str]) -> str:
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(between, numbers, fillvalue="")))


def _runs(numbers: Sequence[tuple[int, ...]]) -> list[tuple[str, ...]]:
    """Tuples of numbers as tuples of ranges that cover them and nothing else."""
    if not numbers or not numbers[0]:
        return [()]
    tails: dict[int, list[tuple[int, ...]]] = {}
    for first, *rest in numbers:
        tails.setdefault(first, []).append(tuple(rest))
    runs: list[tuple[int, int]] = []
    for first, tail in tails.items():
        if runs and runs[-1][1] == first - 1 and tails[first - 1] == tail:
            runs[-1] = (runs[-1][0], first)
        else:
            runs.append((first, first))
    return [
        (str(first) if first == last else f"{{{first}..{last}}}", *others)
        for first, last in runs
        for others in _runs(tails[first])
    ]
