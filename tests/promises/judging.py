"""What comes of verifying a checkpoint whose manifest was changed, and which changes are harmless, with the reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import manifest
from manifest.errors import ManifestError
from manifest.schema.document import Manifest, parse
from manifest.schema.report import Report
from manifest.storage.sidecars import Sidecars
from tests.promises.mutating import Place, mutated
from tests.promises.six import MODULE, PROBE

HARMLESS: dict[str, str] = {
    r"tool\..*": "which tool and version wrote a manifest decides nothing",
    r"created.*": "no bytes show when they were written",
    r"checkpoint\.files\.0\.path .*": "a file by itself may be renamed",
    r"checkpoint\.files\.\d+ swapped": "files are known by their names",
    r"environment.*": "where a checkpoint was saved cannot be seen here; what differs is noted, and excuses no output",
    r"provenance.*": "what a person or script noted down; no byte of the checkpoint shows it",
    r"architecture\.(name|arguments)(\..*)? .*": "words for a person: the config builds the model",
    r"architecture\.mode .*": "golden outputs are in eval mode, whatever mode the model was saved in",
    r"architecture\.frozen .*": "which parameters a training held still shows in no weight; names must be the model's",
    r"architecture\.preprocess\.(fill_color|crop_mode|mode|antialias|resize|crop_pct) .*": "where it changes no pixel",
    r"architecture\.tokenizer(\.digest .*| other length)": "null where the vocabulary was not at hand",
    r"architecture\.tokenizer\.vocabulary (drop|null)": "saves of earlier versions have none",
    r"components\.\d+\.training .*": "a verdict of unknown claims nothing",
    r"components\.\d+\.by_design .*": "a save with `partial=` says so of a whole component",
    r"weights\.tensors\.\d+ swapped": "the order of tensors means nothing",
    r"architecture\.config\..*": "where it builds the same modules, which run the same operators and answer the same",
    r"architecture\.modules (drop|empty)": "saves of the first version have none",
    r"golden\.\d+\.(brief\.\w+|layers\.\d+|prepared\.\d+) drop": "the same, where it was the only one",
    r"golden\.\d+\.(brief|layers|prepared) (drop|empty|other length)": "saves of the first version have none",
    r"golden\.\d+\.floor(\..*)? .*": "a floor that is smaller asks for more, and one as small as any is believed",
    r"golden\.\d+\.layers\.\d+\.floor .*": "only words say which layer departs first",
    r"golden\.\d+\.reading\.\d+\.objects\.\d+ swapped": "objects are matched, in whatever order",
    r"golden\.\d+(\.unreached (drop|null)| other length)": "saves of earlier versions lack the last of its fields",
    r"golden\.\d+\.threads .*": "never more are used than there are",
}
"""Changes that may pass, as patterns of a place joined by dots and the change, each with the reason."""

_ADDED = ("huge", "duplicate", "unicode")


@dataclass
class Tally:
    """What came of many changes.

    Attributes:
        by_rung: How many were found, by the rung that found them; `refused` where one sentence refuses the manifest.
        harmless: How many passed, as they may.
        wrong: Those that passed, or raised, and must not.
    """

    by_rung: Counter[str] = field(default_factory=Counter)
    harmless: int = 0
    wrong: list[str] = field(default_factory=list)


def judge(
    path: Path, content: Any, plain: set[str], sign: Callable[[Any], None] | None = None, key: Path | None = None
) -> str:
    """The rung that finds what is wrong, `refused`, or `passed`; exceptions of Python's are let through.

    Args:
        path: The checkpoint.
        content: The manifest as JSON, which is put beside it.
        plain: Messages of the findings that the unchanged manifest has.
        sign: Signs the changed manifest.
        key: Public key that is trusted.
    """
    Sidecars(path).manifest.write_text(json.dumps(content))
    if sign is not None:
        try:
            sign(content)
        except ManifestError:
            return "refused"
        except (AttributeError, KeyError, LookupError, TypeError, UnicodeError):  # it lists no files to sign
            Sidecars(path).signature.unlink(missing_ok=True)
    try:
        for fast in (True, False):
            probes = [] if fast else [PROBE]
            report = manifest.verify(path, key=key, fast=fast, allow=[MODULE], probes=probes)
            shown(report)
            if report.exit_code:
                return next(rung.name for rung in report.rungs if rung.outcome == "fail")
    except ManifestError as error:
        assert str(error)
        assert error.exit_code in (1, 2)
        return "refused"
    new = [rung.name for rung in report.rungs for item in rung.findings if item.message not in plain]
    return f"{new[0]} (said, and passed)" if new else "passed"


def shown(report: Report) -> None:
    """Show a report in every format, since what is in a file reaches the terminal."""
    import io

    from rich.console import Console

    from manifest.rendering import junit, sarif, text

    Console(file=io.StringIO(), width=200).print(text.report(report))
    junit.render([report]).encode()
    sarif.render([report]).encode()
    report.model_dump_json()


def changes(content: Any, asked: Iterable[tuple[Place, str]]) -> Iterator[tuple[Place, str, Any]]:
    """Each field with a mutation of it, and the content so changed; those that change nothing are left out."""
    for place, name in asked:
        new = mutated(content, place, name)
        if new is not None:
            yield place, name, new


def reason_of(place: Place, name: str, old: Manifest, new: Manifest) -> str | None:
    """Why a change may pass; None where it may not."""
    if new.model_dump() == old.model_dump():
        return "it says the same, as where a default is left out"
    if name in _ADDED and known_fields(new) == known_fields(old):
        return "a field that a later version may have is kept, and nothing reads it"
    where = ".".join(map(str, place))
    return next((why for what, why in HARMLESS.items() if re.fullmatch(what, f"{where} {name}")), None)


def known_fields(part: Any) -> Any:
    """A manifest without the fields that the format does not know."""
    if isinstance(part, BaseModel):
        return {name: known_fields(getattr(part, name)) for name in type(part).model_fields}
    if isinstance(part, dict):
        return {name: known_fields(item) for name, item in part.items()}
    return [known_fields(item) for item in part] if isinstance(part, list) else part


def tally(
    path: Path,
    cases: Sequence[tuple[Place, str, Any]],
    plain: set[str],
    *,
    sign: Callable[[Any], None] | None = None,
    key: Path | None = None,
) -> Tally:
    """Judge many changes of one manifest, which is put back afterwards.

    Args:
        path: The checkpoint.
        cases: The changes.
        plain: Messages of the findings that the unchanged manifest has.
        sign: Signs each changed manifest, where it can be signed.
        key: Public key that is trusted.
    """
    before = Sidecars(path).manifest.read_bytes()
    old, result = parse(before), Tally()
    try:
        for place, name, content in cases:
            what = f"{'.'.join(map(str, place))}: {name}"
            try:
                found = judge(path, content, plain, sign, key)
            except Exception as error:  # every exception of Python's is what is looked for
                result.wrong.append(f"{what}: {type(error).__name__}: {error}")
                continue
            if found == "passed":
                if reason_of(place, name, old, parse(json.dumps(content).encode())) is None:
                    result.wrong.append(f"{what}: passed")
                else:
                    result.harmless += 1
            else:
                result.by_rung[found] += 1
    finally:
        Sidecars(path).manifest.write_bytes(before)
        if sign is not None:
            Sidecars(path).signature.unlink(missing_ok=True)
    return result
