"""What messages and pages tell a reader to run is there: commands with their options, functions with their arguments.

That the advice cures is tested where the finding is made; here no advice can name what there is not.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import manifest
from manifest.capture.options import RecordKeywords
from manifest.cli import application
from manifest.schema.rules import RULES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"`manifest ([a-z][^`]*)`")
CALL = re.compile(r"\bmanifest\.([a-z_]+)\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")


def texts() -> Iterator[tuple[str, str]]:
    """Where a text stands, and the text: every string of the package, with X for what is put in, and every page."""
    for path in sorted((ROOT / "manifest").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(each.value) if isinstance(each, ast.Constant) else "X" for each in node.values]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    for page in PAGES:
        yield str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")


TEXTS = list(texts())
COMMANDS = sorted({found for _, text in TEXTS for found in COMMAND.findall(text)})
CALLS = sorted({found for _, text in TEXTS for found in CALL.findall(text)})


def command_of(words: str) -> tuple[Any, str]:
    """The command that some words begin with, and the rest of them."""
    command: Any = typer.main.get_command(application())
    rest = words.split()
    while rest and hasattr(command, "commands"):
        name = rest.pop(0)
        for each in name.split("|"):
            assert each in command.commands, f"there is no command {each!r}"
        command = command.commands[name.split("|")[0]]
    return command, " ".join(rest)


def test_there_is_advice_to_look_at() -> None:
    assert len(COMMANDS) > 30
    assert len(CALLS) > 20
    assert all(rule.cure for rule in RULES.values())


@pytest.mark.parametrize("words", COMMANDS)
def test_command_has_the_options_that_are_named(words: str) -> None:
    command, rest = command_of(words)
    if command.name == "run":
        rest = rest.partition("-- ")[0]  # what follows is another program's
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for option in OPTION.findall(rest):
        assert option in known | {"--help"}, f"{command.name} has no {option}"


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_function_has_the_arguments_that_are_named(name: str, arguments: str) -> None:
    function = getattr(manifest, name)
    call = inspect.signature(function.__init__ if inspect.isclass(function) else function)
    known = set(call.parameters)
    if any(each.kind is each.VAR_KEYWORD for each in call.parameters.values()):
        known |= set(RecordKeywords.__annotations__)
        if name.startswith("create_model"):
            return  # the arguments of the library
    for keyword in re.findall(r"(?:^|[,(\s])([a-z_]+)=(?!=)", re.sub(r"[\[{(].*?[\])}]", "", arguments)):
        assert keyword in known, f"manifest.{name} has no argument {keyword}"
