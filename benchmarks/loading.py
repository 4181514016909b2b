"""Loading a model with its integrity checked, beside the library that made it, which checks nothing.

`python benchmarks/run.py --only loading`. The libraries are given the same file by path; both sides are timed inside a
fresh process after its imports, and the whole model is on the CPU at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from measuring import INSIDE, in_turn, run, seconds_said_by
from place import Place
from table import Row, faster, in_less_memory, within

_CONTRACT = ("open_clip", "ViT-L-14")
_TENSORS = {".pt": "torch.load(weights_only=True)", ".safetensors": "safetensors.torch.load_file"}
_CALLS = {"open_clip": "open_clip.create_model(pretrained=path)", "timm": "timm.create_model(checkpoint_path=path)"}


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time and memory of `manifest.load`, for each model and container."""
    for library, name in place.sizes.common:
        promised = (library, name) == _CONTRACT
        for suffix, path in place.common(library, name).items():
            fast = [*INSIDE, "load", path, "fast", library]
            theirs = [*INSIDE, library, name, path]
            what = f"load {library} {name}{suffix}, integrity checked"
            pair = in_turn(seconds_said_by(fast), seconds_said_by(theirs), runs)
            yield faster(f"{what} / {_CALLS[library]}", pair, 5 if promised else None)
            bytes_alone = in_turn(seconds_said_by(fast), seconds_said_by([*INSIDE, "hash", path]), runs)
            yield within(f"{what} / hashing its bytes alone", bytes_alone, 1.5 if promised else None)
            tensors = in_turn(seconds_said_by(fast), seconds_said_by([*INSIDE, "tensors", path]), runs)
            yield within(f"{what} / {_TENSORS[suffix]}, which builds no model", tensors)
            memory = f"{what}, peak memory of the process (RssAnon) / the same"
            yield in_less_memory(memory, run(fast, look=True), run(theirs, look=True), 1 / 3 if promised else None)
            full = in_turn(seconds_said_by([*fast[:-2], "full", library]), seconds_said_by(theirs), runs)
            yield faster(f"the same with golden outputs compared, {suffix}", full, 1)
