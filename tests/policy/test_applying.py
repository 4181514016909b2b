"""What a policy makes of a report: demands, severities, waivers."""

from __future__ import annotations

from datetime import date
from pathlib import PurePosixPath
from typing import Any

import pytest

from manifest.checks.policy import Policy
from manifest.checks.policy_check import apply
from manifest.schema.report import ComponentVerdict, Finding, Kind, Outcome, Report, Rung, outcome_of
from manifest.schema.rules import finding
from manifest.schema.vocabulary import Status, Training

TODAY = date(2027, 1, 31)
PATH = PurePosixPath("/models/heads/ckpt.pt")


def policy(**parts: Any) -> Policy:
    return Policy.model_validate({"schema": "policy/v1", **parts})


def part(role: str, status: str = "complete", training: str = "trained", by_design: bool = False) -> ComponentVerdict:
    return ComponentVerdict(role=role, status=Status(status), training=Training(training), by_design=by_design)


def rung(name: str, *findings: Finding) -> Rung:
    return Rung(name=name, outcome=outcome_of(list(findings)), reason="looked at", seconds=0.1, findings=list(findings))


def report(*rungs: Rung, kind: Kind = Kind.VERIFY, **fields: Any) -> Report:
    return Report(kind=kind, subject="ckpt.pt", path="ckpt.pt", rungs=list(rungs), **fields)


def held(demanded: Policy, content: Report, today: date = TODAY) -> Report:
    return apply(demanded, content, PATH, today)


def rules(content: Report) -> list[str]:
    return [item.rule for item in content.findings()]


UNTRAINED = finding("C003", "The text tower was never trained.", where="text_tower")
WAIVER = {"rule": "C003", "reason": "heads are trained by the customer", "expires": TODAY}


def test_policy_that_demands_nothing_changes_nothing_but_says_so() -> None:
    before = report(rung("completeness", UNTRAINED))
    after = held(policy(), before)
    assert after.rungs[0] == before.rungs[0]
    assert (after.rungs[1].name, after.rungs[1].reason, after.rungs[1].outcome) == ("policy", "met", Outcome.PASS)
    assert len(before.rungs) == 1


def test_required_component_that_is_complete_is_met() -> None:
    content = report(rung("format"), components=[part("text_tower")])
    assert held(policy(components={"require": ["text_tower"]}), content).exit_code == 0


@pytest.mark.parametrize(
    ("components", "words"),
    [
        ([part("text_tower", "partial")], "it is partial in ckpt.pt"),
        ([part("text_tower", "absent", by_design=True)], "it is absent by design in ckpt.pt"),
        ([part("vision_tower")], "there is none among vision_tower of ckpt.pt"),
        ([], "nothing is known of the components of ckpt.pt"),
    ],
)
def test_required_component_that_is_not_complete_fails(components: list[ComponentVerdict], words: str) -> None:
    after = held(policy(components={"require": ["text_tower"]}), report(rung("format"), components=components))
    assert rules(after) == ["P010"]
    assert after.exit_code == 1
    assert after.rungs[-1].reason == "not met"
    assert words in next(after.findings()).message


def test_trained_concerns_the_required_components_alone() -> None:
    content = report(components=[part("text_tower"), part("head", training="initialised")])
    assert held(policy(components={"require": ["text_tower"], "trained": True}), content).passed
    assert rules(held(policy(components={"require": ["head"], "trained": True}), content)) == ["P013"]
    assert rules(held(policy(components={"trained": True}), content)) == ["P013"]


def test_component_that_shows_no_training_fails_the_demand_yet_is_not_untrained() -> None:
    content = report(components=[part("logit_scale", training="unknown")])
    (item,) = held(policy(components={"trained": True}), content).findings()
    assert item.rule == "P013"
    assert "nothing in its numbers shows that it was trained" in item.message


def test_forbidden_container_fails() -> None:
    demanded = policy(containers={"forbid": ["torch-zip"]})
    assert rules(held(demanded, report(container="torch-zip"))) == ["P011"]
    assert held(demanded, report(container="safetensors")).passed


@pytest.mark.parametrize("code", ["T001", "T002"])
def test_signature_that_no_trusted_key_made_is_not_the_one_demanded(code: str) -> None:
    demanded = policy(signature={"required": True})
    after = held(demanded, report(rung("trust", finding(code, "No."))))
    assert rules(after) == [code, "P012"]
    assert after.exit_code == 1
    assert held(demanded, report(rung("trust"))).passed


def test_waived_trust_finding_is_no_signature() -> None:
    waivers = [{"rule": "T002", "reason": "r", "expires": TODAY}]
    after = held(
        policy(signature={"required": True}, waivers=waivers), report(rung("trust", finding("T002", "Not signed.")))
    )
    assert after.exit_code == 1


def test_what_an_audit_cannot_tell_is_not_met() -> None:
    demanded = policy(signature={"required": True}, golden={"required": True})
    after = held(demanded, report(rung("format"), kind=Kind.AUDIT))
    assert rules(after) == ["P012", "G003"]
    assert all("manifest verify" in item.message for item in after.findings())


def test_severity_that_is_raised_fails_its_rung() -> None:
    content = report(rung("environment", finding("E001", "torch 2 instead of 3.")))
    after = held(policy(severities={"E001": "error"}), content)
    assert after.rungs[0].outcome is Outcome.FAIL
    assert after.exit_code == 1


def test_severity_that_is_lowered_passes_its_rung() -> None:
    after = held(policy(severities={"C003": "note"}), report(rung("completeness", UNTRAINED)))
    assert after.rungs[0].outcome is Outcome.PASS
    assert rules(after) == ["C003"]


def test_rule_that_is_ignored_leaves_the_report_and_is_counted() -> None:
    after = held(policy(severities={"C003": "ignore"}), report(rung("completeness", UNTRAINED)))
    assert rules(after) == []
    assert after.rungs[0].reason == "looked at; 1 ignored"
    assert after.passed


def test_severities_weigh_the_policys_own_rules() -> None:
    content = report(container="torch-zip")
    assert held(policy(containers={"forbid": ["torch-zip"]}, severities={"P011": "warning"}), content).passed


def test_waived_finding_stays_with_its_reason_and_decides_nothing() -> None:
    after = held(policy(waivers=[WAIVER]), report(rung("completeness", UNTRAINED)))
    (item,) = after.findings()
    assert item.waived == WAIVER["reason"]
    assert item.severity == "error"
    assert after.rungs[0].outcome is Outcome.PASS
    assert after.rungs[0].reason == "looked at; 1 waived"
    assert after.exit_code == 0


def test_waiver_holds_on_its_last_day_and_not_after() -> None:
    content = report(rung("completeness", UNTRAINED))
    assert held(policy(waivers=[WAIVER]), content, TODAY).exit_code == 0
    after = held(policy(waivers=[WAIVER]), content, date(2027, 2, 1))
    assert rules(after) == ["C003", "P001"]
    assert after.exit_code == 1
    assert "expired on 2027-01-31" in list(after.findings())[1].message


def test_waiver_without_anything_to_waive_is_a_note() -> None:
    after = held(policy(waivers=[WAIVER]), report(rung("completeness")))
    assert rules(after) == ["P002"]
    assert after.rungs[-1].outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*.pt", True),
        ("heads/*.pt", True),
        ("heads/ckpt.*", True),
        ("/models/heads/ckpt.pt", True),
        ("models/*.pt", False),
        ("/heads/*.pt", False),
        ("towers/*.pt", False),
        ("*.safetensors", False),
    ],
)
def test_path_of_a_waiver_matches_from_the_right(pattern: str, matches: bool) -> None:
    after = held(policy(waivers=[WAIVER | {"path": pattern}]), report(rung("completeness", UNTRAINED)))
    assert after.passed is matches
    assert rules(after) == ["C003"]  # a waiver for other checkpoints is no remark on this one


def test_first_waiver_that_covers_a_checkpoint_gives_its_reason() -> None:
    waivers = [WAIVER | {"path": "heads/*", "reason": "heads"}, WAIVER]
    (item,) = held(policy(waivers=waivers), report(rung("completeness", UNTRAINED))).findings()
    assert item.waived == "heads"


def test_demand_can_be_waived_for_a_while() -> None:
    demanded = policy(
        containers={"forbid": ["torch-zip"]}, waivers=[{"rule": "P011", "reason": "until spring", "expires": TODAY}]
    )
    after = held(demanded, report(container="torch-zip"))
    assert after.passed
    assert [item.waived for item in after.findings()] == ["until spring"]


def test_rung_that_was_skipped_stays_so() -> None:
    skipped = Rung(name="golden", outcome=Outcome.SKIP, reason="not asked for", seconds=0)
    assert held(policy(), report(skipped)).rungs[0].outcome is Outcome.SKIP


def test_report_of_what_could_not_be_checked_stays_as_it_is() -> None:
    content = Report(subject="x.pt", error="There is no file x.pt.")
    assert held(policy(signature={"required": True}), content) == content
