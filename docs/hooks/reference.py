"""Two pages of the site that are written when it is built, so that they say what the code does.

The page of commands comes from the typer application, the page of rules from the catalogue of rules.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from manifest.cli import application
from manifest.schema.rules import LETTERS, RULES, Rule


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; mkdocs calls this once it has found the others."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/rules.md", content=rules_page()))
    return files


def commands_page() -> str:
    """Every command with what it does, its usage, arguments and options."""
    program: Any = typer.main.get_command(application())
    context = program.context_class(program, info_name="manifest")
    return (
        "# Commands\n\nThis page is made from the command line itself; `manifest COMMAND --help` prints the same.\n\n"
        "Exit codes: `0` all checks passed, `1` something is wrong, `2` it could not be checked, `130` Ctrl-C ended "
        "it. Of several checkpoints, the worst counts.\n\n"
        + "\n".join(f"- [`{each.command_path}`](#{_anchor(each)}): {_first(each)}" for each in _contexts(context))
        + "\n\n"
        + "\n".join(_command(each) for each in _contexts(context))
        + "\n## Options of `manifest` itself\n\n"
        + _table("option", _records(context, "option"))
    )


def rules_page() -> str:
    """Every rule, by what it is about."""
    parts = [
        "# Rules\n\nA rule is one thing that can be wrong with a checkpoint. Its code never changes. "
        "`manifest rule C003` prints a rule in the terminal. A [policy](../policies.md) can give a rule another "
        "severity.\n"
    ]
    for letter, about in LETTERS.items():
        parts.append(f"\n## {letter}: {about}\n\n")
        parts.extend(_rule(rule) for code, rule in sorted(RULES.items()) if code.startswith(letter))
    return "".join(parts)


def _contexts(context: Any) -> Iterator[Any]:
    """A context for each command, those inside of others after their group's place."""
    for name, command in context.command.commands.items():
        inner = command.context_class(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from _contexts(inner)
        else:
            yield inner


def _command(context: Any) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = "\n\n".join(_plain(part) for part in command.help.split("\n\n"))
    parts = [f"## {context.command_path} {{#{_anchor(context)}}}\n\n{text}\n\n```text\n{usage}\n```\n"]
    for kind in ("argument", "option"):
        if records := _records(context, kind):
            parts.append(_table(kind, records))
    return "\n".join(parts)


def _records(context: Any, kind: str) -> list[tuple[str, str]]:
    """What the help of a command says of its arguments or its options."""
    parameters = context.command.get_params(context)
    return [each.get_help_record(context) for each in parameters if each.param_type_name == kind and not each.hidden]


def _anchor(context: Any) -> str:
    return str(context.command_path).replace(" ", "-")


def _first(context: Any) -> str:
    """The first paragraph of a command's help."""
    return _plain(context.command.help.split("\n\n")[0])


def _table(kind: str, records: list[tuple[str, str]]) -> str:
    rows = "".join(f"| `{_cell(name)}` | {_cell(_plain(text))} |\n" for name, text in records)
    return f"| {kind} | |\n| --- | --- |\n{rows}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _rule(rule: Rule) -> str:
    return (
        f"### {rule.code} {rule.name} {{#{rule.code}}}\n\n"
        f"**Counts as:** {rule.severity}\n\n"
        f"**It says, for example:** {_plain(rule.example)}\n\n"
        f"**Why it matters:** {_plain(rule.why)}\n\n"
        f"**What to do:** {_plain(rule.cure)}\n\n"
    )


def _plain(text: str) -> str:
    """Text as Markdown that shows it as it is, but for what is between backquotes, which stays code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]#{}])", r"\\\1", html.escape(text, quote=False))
