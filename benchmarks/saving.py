"""Saving a model, beside `torch.save`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator

from measuring import INSIDE, Pair, run
from place import Place
from table import Row, within


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time of `manifest.save`, for each container."""
    for suffix in (".pt", ".safetensors"):
        said = run([*INSIDE, "save", place.sizes.saved, suffix, str(runs), place.saves]).output
        seconds = json.loads(said.splitlines()[-1])
        ours = seconds["manifest"]
        for other, words in (("torch", "torch.save"), ("durable", "torch.save and fsync")):
            theirs = seconds[other]
            ratio = statistics.median(one / two for one, two in zip(ours, theirs, strict=True))
            pair = Pair(statistics.median(ours), statistics.median(theirs), ratio)
            yield within(f"save {place.sizes.saved}{suffix}, no golden outputs, with fsync / {words}", pair, 1.15)
