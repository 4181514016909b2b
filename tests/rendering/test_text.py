"""What a person reads at a terminal of a manifest."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from manifest.rendering import text
from manifest.storage.transaction import read_manifest


def shown(content: Any) -> str:
    page = StringIO()
    Console(file=page, width=200).print(content)
    return page.getvalue()


def test_manifest_when_no_floor_was_measured_then_says_so(digits: Any) -> None:
    recorded = read_manifest(digits.WEIGHTS)
    assert "\n  arithmetic moves them by " in shown(text.show(recorded))
    without = [golden.model_copy(update={"floor": {}}) for golden in recorded.golden]
    page = shown(text.show(recorded.model_copy(update={"golden": without})))
    assert "how far arithmetic moves them was not measured; a wrong architecture by" in page
