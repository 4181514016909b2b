"""How saving and verifying grow with the number of tensors: ten times as many should cost ten times as much.

`python benchmarks/run.py --only counting`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from measuring import INSIDE, run
from place import Place
from table import Row

_FEW, _MANY = 1_000, 10_000


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Seconds to save and to verify a model of many tensors, beside those of one with a tenth of them."""
    few, many = (
        json.loads(run([*INSIDE, "count", str(count), str(runs), place.saves]).output.splitlines()[-1])
        for count in (_FEW, _MANY)
    )
    for what in few:
        yield Row(
            f"{what} of {_MANY:,} tensors / of {_FEW:,}",
            f"{many[what]:.2f} s",
            f"{few[what]:.2f} s",
            f"{many[what] / few[what]:.1f}×",
        )
