"""Saving a model, beside `torch.save`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product

from measuring import INSIDE, Pair, run
from place import Place
from table import Row, in_memory, within


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time of `manifest.save`, for each container, and of `torch.save` while it is recorded."""
    names = dict.fromkeys(("ViT-B-32", place.sizes.saved))
    for name, suffix in product(names, (".pt", ".safetensors")):
        said = run([*INSIDE, "save", name, suffix, str(runs), place.saves]).output
        seconds = json.loads(said.splitlines()[-1])
        ours = seconds["manifest"]
        for other, words, times in (("torch", "torch.save", None), ("durable", "torch.save and fsync", 1.15)):
            pair = Pair.of(ours, seconds[other])
            yield within(f"save {name}{suffix}, no golden outputs, with fsync / {words}", pair, times)
    for name in names:
        for when, words in (("none", "no golden outputs"), ("every", "golden outputs")):
            ran = run([*INSIDE, "record", name, when, str(runs), place.saves], look=True)
            seconds = json.loads(ran.output.splitlines()[-1])
            plain, durable = seconds["torch"], seconds["durable"]
            for what, theirs, than in (
                ("call", plain, "torch.save"),
                ("call", durable, "torch.save and fsync"),
                ("until the manifest", plain, "torch.save"),
            ):
                pair = Pair.of(seconds[what], theirs)
                contract = 1.05 if theirs is durable else None
                yield within(f"torch.save {name}, recorded, {words}, {what} / {than}", pair, contract)
            yield in_memory(f"torch.save {name}, recorded, {words}, peak memory (RssAnon)", ran)
