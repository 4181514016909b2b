"""Loading a model with its integrity checked, beside open_clip."""

from __future__ import annotations

from collections.abc import Iterator

from measuring import INSIDE, in_turn, run, seconds_said_by
from place import Place
from table import Row, faster, in_less_memory


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time and memory of `manifest.load`, for each container."""
    for suffix, path in place.common.items():
        fast = [*INSIDE, "load", path, "fast"]
        theirs = [*INSIDE, "open_clip", place.sizes.common, path]
        what = f"load {place.sizes.common}{suffix}, integrity checked"
        pair = in_turn(seconds_said_by(fast), seconds_said_by(theirs), runs)
        yield faster(f"{what} / open_clip.create_model, after imports", pair, 5)
        memory = f"{what}, peak memory of the process (RssAnon) / the same"
        yield in_less_memory(memory, run(fast, look=True), run(theirs, look=True), 1 / 3)
        full = in_turn(seconds_said_by([*INSIDE, "load", path, "full"]), seconds_said_by(theirs), 1)
        yield faster(f"the same with verify='full', {suffix}", full)
