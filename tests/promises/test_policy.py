"""Policies that nothing met, that took back what they demanded, or that could not be read.

The first table has every demand of a policy by what there is to meet it, for `verify`, `verify --fast` and `audit`. The
other is of single attempts: a row's `make` takes a directory of copies and gives the exit status and what was said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.checks.policy import FIRM, read_policy
from manifest.rendering import junit, sarif
from manifest.workflows.auditing import audit
from tests.promises.attempts import Attempt
from tests.promises.policy_files import FACTORY, Place, command, file, half_a_file, said, without_components

MODULE = FACTORY.partition(":")[0]
NEVER = "9999-12-31"
QUOTED = '"{}"'
TODAY = datetime.now(UTC).date()


@dataclass(frozen=True)
class Evidence:
    """What there is to meet a demand.

    Attributes:
        name: In words.
        file: The checkpoint, made or damaged.
        key: Whether the trusted key is given.
        probes: Whether the user's probe is given.
    """

    name: str
    file: Callable[[Place], Path]
    key: bool = False
    probes: bool = False


def golden_edited(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Place], Path]:
    """A checkpoint whose first record of golden outputs is changed in place."""

    def change(text: str) -> str:
        content = json.loads(text)
        edit(content["golden"][0])
        return json.dumps(content)

    return lambda place: place.edited(name, change)


def with_other_outputs(golden: dict[str, Any]) -> None:
    for output in golden["outputs"].values():
        output |= {"digest": f"blake3:{1:064x}", "sketch": [-number for number in output["sketch"]]}


GOLDEN = "golden: {required: true}"
FLOOR = "golden: {max_floor: 1.0e-3}"
TRAINED = "components: {trained: true}"
REQUIRE = "components: {require: [backbone, head]}"
FORBID = "containers: {forbid: [torch-zip, torch-legacy]}"
SIGNED = "signature: {required: true}"

MATRIX: list[tuple[str, Evidence, str | None, str | None, str | None]] = [
    # demand, evidence, and the finding of verify, of verify --fast, and of audit
    (GOLDEN, Evidence("compared", file("good.safetensors")), None, "G003", "G003"),
    (GOLDEN, Evidence("none recorded", file("good.pt")), "G003", "G003", "G003"),
    (GOLDEN, Evidence("a probe that was not given", file("noise.pt")), "G003", "G003", "G003"),
    (GOLDEN, Evidence("a probe that was given", file("noise.pt"), probes=True), None, "G003", "G003"),
    (
        GOLDEN,
        Evidence("other outputs", golden_edited("noise.pt", with_other_outputs), probes=True),
        "G003",
        "G003",
        "G003",
    ),
    (GOLDEN, Evidence("changed bytes", lambda place: place.flipped("good.safetensors")), "G003", "G003", "G003"),
    (FLOOR, Evidence("measured", file("good.safetensors")), None, None, "G006"),
    (FLOOR, Evidence("no golden outputs", file("good.pt")), "G006", "G006", "G006"),
    (
        FLOOR,
        Evidence("not measured", golden_edited("unsigned.safetensors", lambda each: each.update(floor={}))),
        "G006",
        "G006",
        "G006",
    ),
    ("golden: {max_floor: 1.0e-30}", Evidence("over the bound", file("good.safetensors")), "G006", "G006", "G006"),
    (TRAINED, Evidence("all trained", file("good.safetensors")), None, None, None),
    (TRAINED, Evidence("a head of which nothing tells", file("unknown.safetensors")), "P013", "P013", "P013"),
    (TRAINED, Evidence("noise of which nothing tells", file("noise.pt")), "P013", "P013", "P013"),
    (TRAINED, Evidence("as initialised", file("fresh.safetensors")), "P013", "P013", "P013"),
    (TRAINED, Evidence("no components on record", without_components), "P013", "P013", None),
    (REQUIRE, Evidence("both there", file("good.safetensors")), None, None, None),
    (REQUIRE, Evidence("others", file("noise.pt")), "P010", "P010", "P010"),
    (REQUIRE, Evidence("no components on record", without_components), "P010", "P010", None),
    (REQUIRE, Evidence("a file that cannot be read", half_a_file), "P010", "P010", "P010"),
    (FORBID, Evidence("another container", file("good.safetensors")), None, None, None),
    (FORBID, Evidence("that container", file("good.pt")), "P011", "P011", "P011"),
    (FORBID, Evidence("a file that cannot be read", half_a_file), "P011", "P011", "P011"),
    (SIGNED, Evidence("by the trusted key", file("good.safetensors"), key=True), None, None, "P012"),
    (SIGNED, Evidence("by a key that was not given", file("good.safetensors")), "P012", "P012", "P012"),
    (SIGNED, Evidence("by nobody", file("unsigned.safetensors"), key=True), "P012", "P012", "P012"),
    (SIGNED, Evidence("of a manifest that was edited", without_components, key=True), "P012", "P012", "P012"),
]
RUNS = [
    (demand, evidence, how, finding)
    for demand, evidence, *findings in MATRIX
    for how, finding in zip(("verify", "fast", "audit"), findings, strict=True)
]


@pytest.mark.parametrize(
    ("demand", "evidence", "how", "finding"), RUNS, ids=[f"{how}: {of}: {each.name}" for of, each, how, _ in RUNS]
)
def test_demand_is_met_by_evidence_and_by_nothing_else(
    demand: str, evidence: Evidence, how: str, finding: str | None, place: Place
) -> None:
    path, policy = evidence.file(place), read_policy(place.policy(demand))
    if how == "audit":
        report = audit(path, policy=policy)
    else:
        key = place.key if evidence.key else None
        probes = [place.file("mine")] if evidence.probes else []
        report = manifest.verify(path, key=key, fast=how == "fast", policy=policy, probes=probes, allow=[MODULE])
    last = report.rungs[-1]
    errors = [item.rule for item in last.findings if item.severity == "error"]
    assert last.name == "policy"
    assert (set(errors), last.reason) == (({finding}, "not met") if finding else (set(), "met"))
    if finding:
        assert report.exit_code == 1


def held(name: str, policy: str, place: Place, *, damage: bool = False, **arguments: Any) -> tuple[int, str]:
    """What a quick verify says of a checkpoint by a policy."""
    path = place.flipped(name) if damage else place.file(name)
    return said(lambda: manifest.verify(path, fast=True, policy=place.policy(policy), **arguments))


def corrupt(policy: str) -> Callable[[Place], tuple[int, str]]:
    return partial(held, "good.safetensors", policy, damage=True)


def audited(policy: str, damage: Callable[[Place], Path]) -> Callable[[Place], tuple[int, str]]:
    return lambda place: said(lambda: audit(damage(place), policy=place.policy(policy)))


def checked(content: str | bytes) -> Callable[[Place], tuple[int, str]]:
    """`manifest policy check` of a file."""

    def check(place: Place) -> tuple[int, str]:
        path = place.policy("")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return command("policy", "check", path)

    return check


def waived(rule: str, expires: object, path: str | None = None, reason: str = "we know") -> str:
    where = f"path: '{path}', " if path else ""
    return f"waivers: [{{rule: {rule}, {where}reason: {reason}, expires: {expires}}}]"


def policies_check(make_file: Callable[[Path], object]) -> Callable[[Place], tuple[int, str]]:
    def check(place: Place) -> tuple[int, str]:
        path = place.folder / "odd.yaml"
        make_file(path)
        return command("policy", "check", path)

    return check


HEAD = "schema: policy/v1\n"
BOMB = (
    HEAD
    + "a: &a {k0: 1, k1: 2, k2: 3, k3: 4}\n"
    + "".join(
        f"{n}: &{n} {{<<: [{', '.join([f'*{b}'] * 9)}]}}\n" for b, n in zip("abcdefghi", "bcdefghij", strict=True)
    )
)
LAUGHS = (
    HEAD
    + "a: &a [ha]\n"
    + "".join(f"{n}: &{n} [{', '.join([f'*{b}'] * 9)}]\n" for b, n in zip("abcdefghi", "bcdefghij", strict=True))
)
SEVERITIES = "the integrity rung passed"
RULES_OF_WAIVERS = "needs a path with the name of a file or folder"

ATTEMPTS = [
    # What says that a file is corrupt, forged or runs code
    *(
        Attempt(
            f"{code} counted as {weight}",
            checked(f"{HEAD}severities: {{{code}: {weight}}}"),
            2,
            f"cannot count as {weight}",
            SEVERITIES if code.startswith("I") else "accepted",
        )
        for code in sorted(FIRM)
        for weight in ("ignore", "note", "warning")
    ),
    Attempt("I002 counted as an error", checked(f"{HEAD}severities: {{I002: error}}"), 0, "demands nothing"),
    Attempt("a corrupt file, ignored", corrupt("severities: {I002: ignore}"), 2, "waive it for a path", SEVERITIES),
    Attempt("a corrupt file, waived everywhere", corrupt(waived("I002", NEVER)), 2, RULES_OF_WAIVERS, "passes"),
    *(
        Attempt(
            f"a corrupt file, waived for {path}", corrupt(waived("I002", NEVER, path)), 2, RULES_OF_WAIVERS, "passes"
        )
        for path in ("*", "*.safetensors", "/*", "*/*", "?*", "[a-z]*", "./*", "../*", "*.*")
    ),
    Attempt(
        "a corrupt file, waived by its name",
        corrupt(waived("I002", NEVER, "good.safetensors")),
        0,
        "passes, with 1 waived",
        "passes",
    ),
    Attempt("a corrupt file, waived for another", corrupt(waived("I002", NEVER, "od.safetensors")), 1, "I002"),
    Attempt("a corrupt file, waived for a folder that begins so", corrupt(waived("I002", NEVER, "goo")), 1, "I002"),
    Attempt("a corrupt file, waived in other letters", corrupt(waived("I002", NEVER, "GOOD.safetensors")), 1, "I002"),
    Attempt("a corrupt file, waived by another rule", corrupt(waived("I001", NEVER, "good.safetensors")), 1, "I002"),
    Attempt(
        "a corrupt file, waived until yesterday",
        corrupt(waived("I002", TODAY - timedelta(1), "good.safetensors")),
        1,
        "P001",
    ),
    Attempt(
        "a corrupt file, waived until tomorrow",
        corrupt(waived("I002", TODAY + timedelta(1), "good.safetensors")),
        0,
        "1 waived",
    ),
    Attempt(
        "a corrupt file, waived twice, once expired",
        corrupt(
            "waivers:\n"
            "- {rule: I002, path: good.safetensors, reason: old, expires: 2020-01-01}\n"
            f"- {{rule: I002, path: good.safetensors, reason: renewed, expires: {NEVER}}}"
        ),
        0,
        "waived: renewed",
    ),
    Attempt(
        "a corrupt file, waived, and golden outputs demanded",
        corrupt(f"{waived('I002', NEVER, 'good.safetensors')}\n{GOLDEN}"),
        1,
        "G003",
        "passes",
    ),
    Attempt(
        "a file that cannot be read, ignored",
        audited("severities: {F001: ignore, F003: ignore, F004: ignore}", half_a_file),
        1,
        "cannot be read",
        "exit 0, the format rung passed",
    ),
    Attempt(
        "a file that cannot be read, all of whose rules are notes",
        audited("severities: {F001: note, F003: note, F004: note}", half_a_file),
        1,
        "cannot be read",
        "exit 0, the format rung passed",
    ),
    Attempt(
        "a file with other bytes around its tensors, ignored",
        audited("severities: {F002: ignore}", lambda place: place.flipped("good.pt", at=2000)),
        2,
        "F002 (malformed) cannot count as ignore",
        "passes",
    ),
    # A demand that the policy takes back
    *(
        Attempt(
            f"{demand} with {code} counted as {weight}",
            checked(f"{HEAD}{demand}\nseverities: {{{code}: {weight}}}"),
            2,
            "nothing would meet",
            "accepted, and met by nothing",
        )
        for demand, code in ((GOLDEN, "G003"), (FLOOR, "G006"), (TRAINED, "P013"), (FORBID, "P011"), (SIGNED, "P012"))
        for weight in ("ignore", "note")
    ),
    Attempt(
        "a demand that is a warning is still not met",
        partial(held, "good.pt", f"{FORBID}\nseverities: {{P011: warning}}"),
        0,
        "not met",
        "met",
    ),
    Attempt(
        "a demand that is waived is said to be",
        partial(held, "good.pt", f"{FORBID}\n{waived('P011', NEVER)}"),
        0,
        "passes, with 1 waived",
        "passes",
    ),
    Attempt(
        "no golden outputs, which nobody demands, ignored", partial(held, "good.pt", "severities: {G003: ignore}"), 0
    ),
    # Names that there are none of
    Attempt(
        "a field", checked(f"{HEAD}signature: {{require: true}}"), 2, "did you mean required", "Extra inputs are not"
    ),
    Attempt(
        "a field at the top", checked(f"{HEAD}severity: {{}}"), 2, "did you mean severities", "Extra inputs are not"
    ),
    Attempt(
        "a field of a waiver",
        checked(f"{HEAD}waivers: [{{rule: C003, reasons: r, expires: {NEVER}}}]"),
        2,
        "did you mean reason",
        "Field required",
    ),
    Attempt(
        "a field like none", checked(f"{HEAD}xyzzy: 1"), 2, "expected one of schema, components", "Extra inputs are not"
    ),
    Attempt("a role", checked(f"{HEAD}components: {{require: [text_towr]}}"), 2, "did you mean text_tower", "accepted"),
    Attempt(
        "a role in other letters",
        checked(f"{HEAD}components: {{require: [Text-Tower]}}"),
        2,
        "did you mean text_tower",
        "accepted",
    ),
    Attempt(
        "a role of a family of somebody's own",
        checked(f"{HEAD}components: {{require: [denoiser]}}"),
        0,
        "denoiser complete",
    ),
    Attempt("a rule", checked(f"{HEAD}severities: {{I02: error}}"), 2, "did you mean I002"),
    Attempt(
        "a container",
        checked(f"{HEAD}containers: {{forbid: [torch_zip]}}"),
        2,
        "did you mean torch-zip",
        "expected one of",
    ),
    Attempt(
        "a role that this file has not",
        partial(held, "good.safetensors", "components: {require: [denoiser]}"),
        1,
        "P010",
    ),
    # Days
    *(
        Attempt(
            f"a waiver until {day}",
            checked(f"{HEAD}{waived('C003', day)}"),
            2,
            "expires",
            "accepted, but for the second and third",
        )
        for day in (
            "0",
            "99999999999",
            "1.5",
            "2027-01-31 00:00:00",
            "2027-01-31T00:00:00+14:00",
            "2027-01-31T00:00:00Z",
        )
    ),
    *(
        Attempt(f"a waiver until {day} in quotes", checked(f"{HEAD}{waived('C003', QUOTED.format(day))}"), 2, "expires")
        for day in ("2027-01-31T00:00:00+14:00", "1800000000", "", "2027-W05-1", "tomorrow")
    ),
    Attempt(
        "a waiver until a day that is none",
        checked(f"{HEAD}{waived('C003', QUOTED.format('2027-02-30'))}"),
        2,
        "expires",
    ),
    Attempt(
        "a waiver until a day in quotes",
        checked(f"{HEAD}{waived('C003', QUOTED.format('2027-02-28'))}"),
        0,
        "waives C003",
    ),
    # Files that are no policies
    Attempt("a FIFO that nobody writes to", policies_check(os.mkfifo), 2, "no regular file", "waits for ever"),
    Attempt("a device without an end", policies_check(lambda path: path.symlink_to("/dev/zero")), 2, "no regular file"),
    Attempt("a folder", policies_check(Path.mkdir), 2, "cannot be read"),
    Attempt("a file of a megabyte", checked(HEAD + "#" * (1 << 20)), 2, "larger than"),
    Attempt("merge keys that grow to millions", checked(BOMB), 2, "merge key", "runs out of memory"),
    Attempt("lists of lists of lists", checked(LAUGHS), 2, "there is no field"),
    Attempt(
        "a number in sixties of many digits",
        checked(HEAD + "a: 1" + ":59" * 20_000),
        2,
        "characters",
        "45 s a megabyte",
    ),
    Attempt("a list in itself", checked(f"{HEAD}waivers: &a [*a]"), 2, "waivers.0"),
    Attempt("brackets without an end", checked(HEAD + "a: " + "[" * 20_000), 2, "policy.yaml"),
    Attempt("a tag that calls Python", checked(f"{HEAD}a: !!python/object/apply:os.system [id]"), 2, "not valid YAML"),
    Attempt("two documents", checked(f"{HEAD}---\n{HEAD}"), 2, "not valid YAML"),
    Attempt("letters of another encoding", checked(b"\xff\xfe\xfa"), 2, "not valid YAML"),
    Attempt("a name with an escape", checked(f'{HEAD}"\\e[2Jx": 1'), 2, "x1b[2Jx"),
    Attempt("a manifest", lambda place: command("policy", "check", place.file("good.safetensors.manifest.json")), 2),
]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=str)
def test_policy_cannot_be_met_or_read_wrongly(attempt: Attempt, place: Place) -> None:
    code, words = attempt.make(place)
    assert (code, attempt.says is None or attempt.says in words) == (attempt.exit, True), words
    assert code != 2 or len(words.splitlines()) == 1, words


def test_waived_is_suppressed_for_ci_and_what_is_ignored_is_not_there(place: Place) -> None:
    path = place.flipped("good.safetensors")
    policy = place.policy(f"severities: {{T001: ignore}}\n{waived('I002', NEVER, 'good.safetensors')}")
    report = manifest.verify(path, fast=True, policy=policy)
    (result,) = (each for each in json.loads(sarif.render([report]))["runs"][0]["results"] if each["ruleId"] == "I002")
    assert result["suppressions"] == [{"kind": "external", "justification": "we know"}]
    xml = junit.render([report])
    assert 'failures="0"' in xml
    assert "waived: we know" in xml
    assert "T001" not in xml
    assert "1 ignored" in report.rungs[0].reason
