"""What pages link to is there, their snippets are Python, and the README is short."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import typer
import yaml

from manifest.cli import application
from tests.docs.pages import PAGES, ROOT, anchors, blocks, links

MOST_LINES = 150
_WRITTEN_LATER = ("reference/commands.md", "reference/rules.md")
"""Pages that are made when the site is built; the build checks links to them."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_readme_is_read_in_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        if path.endswith(_WRITTEN_LATER):
            assert page.name != "README.md", "a code host does not have it"
            continue
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_snippet_is_what_it_is_said_to_be(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f": {page.relative_to(ROOT / 'docs')}\n" in config


def test_readme_names_every_command() -> None:
    program = typer.main.get_command(application())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in program.commands:  # type: ignore[attr-defined]
        assert f"`manifest {name}" in readme, name
