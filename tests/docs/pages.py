"""The pages of the documentation, as the tests read them: blocks of code, headings, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_VARYING = ((re.compile(r" *\b\d+\.\d\d s\b"), " 0.00 s"), (re.compile(r"\s+$", re.MULTILINE), ""))


@dataclass(frozen=True)
class Block:
    """Code or output on a page.

    Attributes:
        language: What stands behind its quotes.
        text: Its lines.
    """

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(language, text) for language, text in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console's block, and what it is said to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Where its links lead that stay in this project."""
    return [link for link in _LINK.findall(prose(page)) if "://" not in link]


def anchors(page: Path) -> set[str]:
    """What a link can name in it, as mkdocs and code hosts make it of headings."""
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose(page)))
    return {heading.strip().replace(" ", "-") for heading in headings}


def prints(printed: str, expected: str) -> bool:
    """Whether something printed is what a page shows: any time is the same, and `…` stands for anything."""
    for pattern, constant in _VARYING:
        printed, expected = pattern.sub(constant, printed), pattern.sub(constant, expected)
    parts = map(re.escape, expected.strip().split("…"))
    return re.fullmatch(".*".join(parts), printed.strip(), re.DOTALL) is not None
