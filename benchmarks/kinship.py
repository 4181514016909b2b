"""Sketches of weights: what they cost beside reading and saving, and how fast many are searched."""

from __future__ import annotations

import json
from collections.abc import Iterator

from measuring import INSIDE, MANIFEST, Pair, in_turn, run, seconds_of, seconds_said_by
from place import Place, gigabytes
from table import Row, in_memory, quick, within

_PRECISIONS = {"float32": "fp32", "float16": "fp16"}


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time of sketches by themselves and in a save, and time and memory of a search in an index."""
    name = place.sizes.saved
    for dtype, precision in _PRECISIONS.items():
        path = place.bare(f"bare-{dtype}.safetensors", dtype)
        what = f"sketches of {gigabytes(path)} of {dtype}"
        sketches = seconds_said_by([*INSIDE, "sketches", path])
        for other, words in (("blocks", "one read"), ("digests", "digests")):
            pair = in_turn(sketches, seconds_said_by([*INSIDE, other, path]), runs)
            yield within(f"{what} / {words} of its tensors, both from memory and after imports", pair)
        said = run([*INSIDE, "save_sketched", name, precision, str(runs), place.saves]).output
        seconds = json.loads(said.splitlines()[-1])
        added = [one - other for one, other in zip(seconds["with"], seconds["without"], strict=True)]
        what = f"save {name} in {dtype}, with fsync and no golden outputs"
        yield within(f"{what}, what sketches add / torch.save", Pair.of(added, seconds["torch"]), 0.1)
        yield within(f"{what}, with sketches / without", Pair.of(seconds["with"], seconds["without"]))
    asked = place.bare("bare-float16.safetensors", "float16")
    command = [*MANIFEST, "relate", asked, "--against", place.index(asked)]
    what = f"relate {gigabytes(asked)} --against an index of {place.sizes.indexed:,} sketches of {name}"
    yield quick(f"{what}, whole process", seconds_of(command), runs, 10)
    yield in_memory(f"{what}, peak memory (RssAnon)", run(command, look=True), 150e6)
