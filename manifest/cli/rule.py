"""`manifest rule`: explain a rule."""

from __future__ import annotations

from typing import Annotated

import typer

from manifest.errors import InputError


def run(code: Annotated[str, typer.Argument(help="Code of the rule, as in C003.", show_default=False)]) -> None:
    """Explain a rule: what it finds, why it matters, how to fix it."""
    from manifest.findings import RULES

    rule = RULES.get(code.upper())
    if rule is None:
        raise InputError(f"There is no rule {code!r}, expected one of {', '.join(RULES)}.")
    print(f"{rule.code} {rule.name} ({rule.severity})\n\nWhy it matters: {rule.why}\nWhat to do: {rule.cure}")
