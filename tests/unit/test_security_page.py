"""`docs/security.md`: each threat names a test that is there, and the finding that this test wants."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from manifest.schema.rules import RULES
from manifest.signing.trust_file import parse_trust
from tests.signing.attacks import ATTACKS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
_TABLE = PAGE.partition("## Threats\n")[2].partition("| --- | --- | --- |\n")[2].partition("\n\n")[0]
ROWS = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in _TABLE.splitlines()]
_NAMED = {attack.name: attack for attack in ATTACKS}


def test_table_is_read() -> None:
    assert len(ROWS) >= 30
    assert {len(row) for row in ROWS} == {3}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_threat_names_a_test_that_is_there(row: tuple[str, str, str]) -> None:
    _, outcome, test = row
    if not test.startswith("`"):
        assert outcome.startswith(f"`{_NAMED[test].finding}`")
        return
    path, _, function = test.strip("`").partition("::")
    source = (ROOT / path).read_text(encoding="utf-8")
    assert f"def {function or 'test_'}" in source


def test_codes_on_the_page_are_rules() -> None:
    assert set(re.findall(r"`([A-Z]\d{3})`", PAGE)) <= RULES.keys()


def test_trust_file_on_the_page_is_one() -> None:
    text = PAGE.partition("```yaml\n")[2].partition("```")[0]

    signers = parse_trust(text.encode(), "The example").signers
    assert [signer.name for signer in signers] == ["alice", "release"]
    assert yaml.safe_load(text)["threshold"] == 2
