"""Every checkpoint of ten published packages against a table that was reviewed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import manifest

EXPECTED = yaml.safe_load(Path(__file__).with_name("expected.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_published_file_is_what_the_table_says(name: str, folders: Any, packages: Any) -> None:
    assert folders
    report = manifest.audit(packages.cache() / name)
    reasons = {rung.name: rung.reason for rung in report.rungs}
    assert report.safety == "safe"
    assert report.exit_code == 0
    assert reasons["identity"].startswith(EXPECTED[name]["is"])
    assert reasons["numbers"] == EXPECTED[name]["numbers"]
    rules = [found.rule for found in report.findings() if found.rule not in {"A010", "A011"}]
    assert rules == EXPECTED[name].get("rules", [])
