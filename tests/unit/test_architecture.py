"""The layout of the package: its floors in `pyproject.toml`, the page that shows them, and the limits of its files."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import manifest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "manifest"
CONTRACTS = {
    each["type"]: each
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
}
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
REASON = re.compile(r"\bThis file is long because\s+\S[^.]{30,}\.")
"""The sentence that allows a file to be long."""


def layers() -> list[list[str]]:
    """The packages and modules of each floor, the top floor first."""
    return [
        [name.strip().removeprefix("manifest.") for name in re.split("[:|]", floor)]
        for floor in CONTRACTS["layers"]["layers"]
    ]


def in_order() -> list[str]:
    return [name for floor in layers() for name in floor]


def present() -> set[str]:
    """What is importable directly under `manifest/`."""
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return packages | {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}


def table() -> dict[str, list[str]]:
    """The cells of the page's table, by package."""
    return {
        name: [cell.strip() for cell in rest.split("|")]
        for name, rest in re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.M)
    }


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_layers_when_read_then_they_are_all_that_lies_under_manifest():
    assert len(in_order()) == len(set(in_order()))
    assert set(in_order()) == present()


def test_page_when_its_picture_is_read_then_it_shows_the_floors_in_their_order():
    picture = PAGE.split("```")[1]
    rows = [line for line in picture.splitlines() if re.match("[a-z_]", line)][1:]  # below the heading
    shown = [re.split(r"\s{2,}", row)[0].split(" · ") for row in rows]
    assert shown == layers()


def test_page_when_its_table_is_read_then_it_tells_of_each_package_in_their_order():
    assert list(table()) == in_order()
    assert [name for name, cells in table().items() if not re.fullmatch(r"[A-Z].{10,}\.", cells[0])] == []


def test_page_when_it_says_what_goes_without_torch_then_that_is_the_contract():
    free = [name.removeprefix("manifest.") for name in CONTRACTS["forbidden"]["source_modules"]]
    parts = {name.partition(".")[0] for name in free}
    expected = {name: "all" if name in free else "in part" if name in parts else "–" for name in in_order()}
    assert {name: cells[1] for name, cells in table().items()} == expected


def code_names(path: Path) -> set[str]:
    """Functions, classes and their methods that a module defines."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


def is_defined(name: str) -> bool:
    """Whether a dotted name, such as `checks.ladder.run_ladder`, is of a module here or of something defined in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place, rest = PACKAGE.joinpath(*parts[:length]), ".".join(parts[length:])
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if module.is_file():
            return not rest or rest in code_names(module)
    return False


def test_page_when_it_names_code_then_that_is_defined_there():
    told = [name for name in re.findall(r"`(\w+(?:\.\w+)+)`", PAGE) if name.partition(".")[0] in present()]
    assert len(told) > 30
    assert [name for name in told if not is_defined(name)] == []


def test_public_names_when_compared_with_the_packages_then_none_is_hidden_by_one():
    public_packages = {"fleet"}
    assert set(dir(manifest)) & present() == public_packages


def test_package_when_its_files_are_counted_then_there_are_at_most_20():
    counts = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in sources()}}
    assert [f"{folder.relative_to(ROOT)}: {count}" for folder, count in counts.items() if count > 20] == []


def test_file_when_longer_than_400_lines_then_its_docstring_says_why():
    assert relative([path for path in sources() if lines(path) > 400 and not REASON.search(docstring(path))]) == []


def test_file_when_it_says_why_it_is_long_then_it_is():
    assert relative([path for path in sources() if lines(path) <= 400 and REASON.search(docstring(path))]) == []


@pytest.mark.parametrize("line", ["def test_{}():", "async def test_{}():"])
def test_name_when_over_80_characters_then_is_found(line):
    long, short = "a" * 76, "a" * 75
    assert names_too_long(line.format(long)) == [f"test_{long}"]
    assert names_too_long(line.format(short)) == []


def names_too_long(source: str) -> list[str]:
    return [name for name in re.findall(r"^\s*(?:async )?def (test_\w+)", source, re.M) if len(name) > 80]


def test_tests_when_their_names_are_measured_then_none_is_over_80_characters():
    found = {path: names_too_long(path.read_text("utf-8")) for path in (ROOT / "tests").rglob("*.py")}
    assert {path.name: names for path, names in found.items() if names} == {}


def test_errors_when_they_are_for_callers_then_all_are_public():
    from manifest import errors

    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception | Warning)]
    assert [kind.__name__ for kind in kinds if not hasattr(manifest, kind.__name__)] == []
