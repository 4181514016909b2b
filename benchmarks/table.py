"""Lines of the table: what was measured, and whether it keeps its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from measuring import Pair, Ran

_MB = 1e6


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What is measured, and against what.
        ours: Its measure, as text.
        theirs: The other side's.
        found: What the contract is about: a ratio, or the measure itself.
        contract: What was promised; empty where nothing was.
        kept: Whether the promise is kept; None where nothing was promised or nothing could be measured.
    """

    what: str
    ours: str
    theirs: str
    found: str
    contract: str = ""
    kept: bool | None = None

    @property
    def verdict(self) -> str:
        """In a word; empty where nothing was promised."""
        return {True: "kept", False: "MISSED", None: ""}[self.kept]


def faster(what: str, pair: Pair, times: float | None = None) -> Row:
    """So many times faster than the other, and at least `times` where that was promised."""
    found = 1 / pair.ratio
    promise = (f"≥ {times:g}× faster", found >= times) if times is not None else ()
    return Row(what, *_seconds(pair), f"{found:.1f}× faster", *promise)


def within(what: str, pair: Pair, times: float | None = None) -> Row:
    """So many times the other's time, and at most `times` where that was promised."""
    promise = (f"≤ {times:g}×", pair.ratio <= times) if times is not None else ()
    return Row(what, *_seconds(pair), f"{pair.ratio:.2f}×", *promise)


def quick(what: str, measure: Callable[[], float], runs: int, limit: float) -> Row:
    """So many seconds at most: the median, after one run to warm up."""
    measure()
    pair = Pair.of(taken := [measure() for _ in range(runs)], taken)
    return Row(what, _seconds(pair)[0], "", f"{pair.ours:.2f} s", f"≤ {limit:g} s", pair.ours <= limit)


def spends(what: str, measure: Callable[[], float], runs: int, limit: float) -> Row:
    """So many seconds of processors at most: the median, after one run to warm up."""
    measure()
    pair = Pair.of(taken := [measure() for _ in range(runs)], taken)
    spent = pair.processors[0] or 0.0
    return Row(what, _seconds(pair)[0], "", f"{spent:.2f} CPU-s", f"≤ {limit:g} CPU-s", spent <= limit)


def spends_within(what: str, pair: Pair) -> Row:
    """So many times the other's seconds of processors."""
    ours, theirs = (spent or 0.0 for spent in pair.processors)
    return Row(what, *_seconds(pair), f"{ours / theirs:.2f}×")


def spent(what: str, measure: Callable[[], float], runs: int, files: int) -> Row:
    """So many seconds of processors for each of some files: the median, after one run to warm up."""
    measure()
    pair = Pair.of(taken := [measure() for _ in range(runs)], taken)
    return Row(what, _seconds(pair)[0], "", f"{(pair.processors[0] or 0.0) / files:.4f} CPU-s a file")


def in_memory(what: str, seen: Ran, limit: float | None = None) -> Row:
    """Anonymous memory of a process, under a limit in bytes where one was promised."""
    found = _megabytes(seen.anonymous)
    whole = f"{_megabytes(seen.peak)} with the file"
    promise = (f"< {_megabytes(limit)}", seen.anonymous < limit) if limit is not None else ()
    return Row(what, found, whole, found, *promise)


def in_less_memory(what: str, ours: Ran, theirs: Ran, times: float | None = None) -> Row:
    """Anonymous memory of two processes, and at most `times` the other's where that was promised."""
    ratio = ours.anonymous / theirs.anonymous
    promise = (f"≤ {times:.2f}×", ratio <= times) if times is not None else ()
    return Row(what, _megabytes(ours.anonymous), _megabytes(theirs.anonymous), f"{ratio:.2f}×", *promise)


def not_measured(what: str, reason: str) -> Row:
    """What could not be measured here, such as beside a peer that cannot be installed."""
    return Row(what, "", "", f"not measured: {reason}")


def _megabytes(count: float) -> str:
    return f"{count / _MB:,.0f} MB"


def _seconds(pair: Pair) -> tuple[str, str]:
    ours, theirs = pair.processors
    return _spent(pair.ours, ours), _spent(pair.theirs, theirs)


def _spent(seconds: float, processor: float | None) -> str:
    return f"{seconds:.2f} s" + ("" if processor is None else f" ({processor:.2f} CPU-s)")
