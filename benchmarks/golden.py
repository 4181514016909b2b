"""What golden outputs cost, as multiples of one forward pass over the same probe: recording, comparing, diagnosing.

`python benchmarks/run.py --only golden`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from measuring import INSIDE, run
from place import Place
from table import Row

_LARGEST_RECORD = 64 << 10  # bytes of JSON, for ViT-L-14 with its layers


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Cost and size of golden outputs of the model that is saved."""
    said = json.loads(run([*INSIDE, "golden", place.sizes.saved, str(runs), place.saves]).output.splitlines()[-1])
    forward = said.pop("forward")
    size = said.pop("bytes")
    for what, seconds in said.items():
        yield Row(
            f"{what}, {place.sizes.saved} / one forward pass over the whole probe",
            f"{seconds:.2f} s",
            f"{forward:.2f} s",
            f"{seconds / forward:.1f}×",
        )
    yield Row(
        f"golden record of {place.sizes.saved} with layers, as JSON",
        f"{size / 1024:.0f} KB",
        "",
        f"{size / 1024:.0f} KB",
        "< 64 KB",
        size < _LARGEST_RECORD,
    )
