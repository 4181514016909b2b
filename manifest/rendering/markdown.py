"""Reports and manifests as Markdown: a comment on a pull request, a section of a model card.

Names and texts come out of files that nobody trusts. All that means something in Markdown or in HTML is escaped, also
the sign that mentions a user; text between backquotes is code.
"""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from manifest.escaping import printable
from manifest.rendering.facts import facts
from manifest.rendering.verdicts import MARKS, count_of, mark_of, sentence_of, shown_outcome, weight_of, with_code
from manifest.schema.document import Manifest
from manifest.schema.report import Finding, Kind, Report
from manifest.schema.vocabulary import role_words

BEGIN, END = "<!-- manifest -->", "<!-- /manifest -->"
"""What a section stands between in a model card."""
_MEANING = re.compile(r"([\\`*_\[\]#!|~:]|(?<=www)\.)")
_LONGEST = 1000
_MOST_FINDINGS = 20
_FOR_A_CARD = (
    *("model", "precision", "activations", "arguments", "preprocess", "tokenizer", "weights", "training"),
    *("started from", "digest", "signed by", "saved", "libraries"),
)
_NOT_TOLD = frozenset({"", "none", "nobody", "nothing on record", "defaults"})


def reports(contents: Sequence[Report]) -> str:
    """Reports, each with its verdict, its findings, and its rungs to unfold; above several, how many are good."""
    head = [] if len(contents) == 1 else [f"**{count_of(contents)}**"]
    return "\n\n".join([*head, *(part for content in contents for part in _report(content))])


def _report(content: Report) -> Iterator[str]:
    mark = MARKS[mark_of(content)]
    name = _code(printable(content.path or content.subject, _LONGEST))
    if content.error is not None:
        yield f"### {mark} {name} could not be checked"
        yield _text(content.error)
        return
    yield f"### {mark} {name} {_text(sentence_of(content)[0])}"
    yield from (_finding(item) for item in sorted(content.findings(), key=weight_of)[:_MOST_FINDINGS])
    rows = [
        (MARKS[shown_outcome(rung)], _text(rung.name), f"{rung.seconds:.2f} s", _text(rung.reason))
        for rung in content.rungs
    ]
    title = "What was checked" if content.kind is not Kind.DIFF else "What was compared"
    yield f"<details><summary>{title}</summary>\n\n{_table(('', 'rung', 'time', 'found'), rows)}\n</details>"


def _finding(item: Finding) -> str:
    where = f" {_text(item.where)}" if item.where else ""
    lines = [f"- **{item.severity} {item.rule} {_text(item.name)}**{where}: {_text(item.message)}"]
    lines += [f"    - {_code(printable(str(line), _LONGEST))}" for line in item.evidence.get("diff", ())]
    end = f"waived: {item.waived}" if item.waived is not None else f"→ {item.remedy}"
    return "\n".join([*lines, f"    - {_text(end)}"])


def card(manifest: Manifest, name: str | None = None) -> str:
    """The section of a model card: what is recorded of the model, its components, and how to check the file."""
    said = facts(manifest, name)
    name = name or manifest.checkpoint.files[0].path
    rows = [(what, _text(said[what])) for what in _FOR_A_CARD if said.get(what, "") not in _NOT_TOLD]
    parts = [
        (_text(role_words(part.role)), f"{part.present}/{part.expected}", str(part.status), part.training.words)
        for part in manifest.components
    ]
    asked = ", ".join(dict.fromkeys(golden.probe for golden in manifest.golden))
    golden = f"Golden outputs are recorded of {_text(asked)}." if asked else "No golden outputs are recorded."
    return "\n".join(
        [
            "## Manifest",
            "",
            f"What is on record beside {_code(printable(name, _LONGEST))}.",
            "",
            _table(("", ""), rows),
            _table(("component", "tensors", "status", "training"), parts),
            f"{golden} To hold the file to this record:",
            "",
            f"    manifest verify {printable(shlex.quote(name), _LONGEST)}"
            + (" --key PUBLIC_KEY" if manifest.signer else ""),
        ]
    )


def with_card(page: str, section: str) -> str:
    """A model card with the section in it: in the place of the one that is there, else at the end.

    Raises:
        ValueError: It has one of the two marks alone, or one of them twice.
    """
    lines = page.splitlines(keepends=True)
    begins, ends = ([at for at, line in enumerate(lines) if line.strip() == mark] for mark in (BEGIN, END))
    if not begins and not ends:
        end = "" if not page or page.endswith("\n\n") else "\n" if page.endswith("\n") else "\n\n"
        return f"{page}{end}{BEGIN}\n{section}\n{END}\n"
    if (len(begins), len(ends)) != (1, 1) or begins[0] > ends[0]:
        raise ValueError(f"lines {BEGIN} and {END} are expected once each, in this order")
    return "".join([*lines[: begins[0] + 1], f"{section}\n", *lines[ends[0] :]])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(text: str) -> str:
    """Text in which nothing means anything, but for what is between backquotes."""
    return "".join(_code(part) if is_code else _plain(part) for part, is_code in with_code(text, _LONGEST))


def _plain(text: str) -> str:
    """Printable text in which nothing means anything."""
    return _MEANING.sub(r"\\\1", html.escape(text, quote=False)).replace("@", "&#64;")


def _code(text: str) -> str:
    """Printable text as code."""
    escaped = html.escape(text, quote=False)
    return f"<code>{_MEANING.sub(lambda found: f'&#{ord(found[0])};', escaped).replace('@', '&#64;')}</code>"
