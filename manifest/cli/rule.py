"""`manifest rule`: explain a rule, or list them all."""

from __future__ import annotations

from typing import Annotated

import typer

from manifest.errors import InputError


def run(
    code: Annotated[
        str | None, typer.Argument(help="Code or name of the rule, as in C003; without one, all.", show_default=False)
    ] = None,
) -> None:
    """Explain a rule: what it finds, why it matters, how to fix it; or list all rules."""
    from manifest.schema.rules import LETTERS, RULES, nearest_rules

    if code is None:
        width = max(len(rule.name) for rule in RULES.values())
        for rule in sorted(RULES.values(), key=lambda rule: (list(LETTERS).index(rule.code[0]), rule.code)):
            print(f"{rule.code}  {rule.name:{width}}  {rule.severity:7}  {LETTERS[rule.code[0]]}")
        return
    asked = {rule.name: rule for rule in RULES.values()} | RULES
    found = asked.get(code.upper()) or asked.get(code.lower())
    if found is None:
        nearest = nearest_rules(code)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`manifest rule` lists them."
        raise InputError(f"There is no rule {code!r}; {hint}")
    print(f"{found.code} {found.name} ({found.severity}, {LETTERS[found.code[0]]})\n")
    print(f"Why it matters: {found.why}\nWhat to do: {found.cure}\nAn example: {found.example}")
