"""The page of measurements and the README say what was measured."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks/page.py`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("page", "table", "measuring"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module("page")


def test_page_and_readme_are_those_of_the_results(page: Any) -> None:
    known = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.page(known)
    readme = page.README.read_text(encoding="utf-8")
    assert readme == page.with_part(readme, known)


def test_every_row_has_its_machine_and_its_verdict(page: Any) -> None:
    known = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    for measured in known.values():
        assert measured["date"] in page.PAGE.read_text(encoding="utf-8")
        assert "cores" in measured["machine"]
        for row in measured["rows"]:
            assert bool(row["contract"]) == bool(row["verdict"])
