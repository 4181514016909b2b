"""`--policy`, `--format sarif` and `junit`, several checkpoints, `--fail-on`, `manifest policy` and `manifest rule`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import torch

import manifest
from manifest.schema.rules import LETTERS, RULES

Run = Callable[..., Any]

SARIF = json.loads((Path(__file__).parents[1] / "rendering" / "data" / "sarif-schema-2.1.0.json").read_text())


@pytest.fixture
def policy(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(f"schema: policy/v1\n{text}\n")
        return path

    return write


@pytest.fixture
def unsafe(tmp_path: Path) -> Path:
    """A checkpoint that would run a command."""

    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return __import__("os").system, ("true",)

    (tmp_path / "heads").mkdir()
    torch.save({"weight": torch.ones(2), "x": Runs()}, tmp_path / "heads" / "unsafe.pt")
    return tmp_path / "heads" / "unsafe.pt"


def sarif(text: str) -> dict[str, Any]:
    log = json.loads(text)
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    assert isinstance(run, dict)
    return run


def test_release_that_keeps_its_policy_passes(signed: Path, run: Run, policy: Callable[[str], Path]) -> None:
    policy(
        "components: {require: [vision_tower, text_tower], trained: true}\n"
        "containers: {forbid: [torch-legacy]}\nsignature: {required: true}\ngolden: {required: true}"
    )
    answer = run("verify", signed.name, "--key", "release.pub", "--policy", "policy.yaml")
    assert answer.code == 0, answer
    assert "✔  policy" in answer.out
    fast = run("verify", signed.name, "--fast", "--key", "release.pub", "--policy", "policy.yaml")
    assert (fast.code, "G003" in fast.out) == (1, True)


@pytest.mark.parametrize(
    ("demand", "rule"),
    [
        ("components: {require: [text_decoder]}", "P010"),
        ("containers: {forbid: [torch-zip]}", "P011"),
        ("signature: {required: true}", "P012"),
        ("severities: {T001: error}", "T001"),
    ],
)
def test_release_that_breaks_its_policy_fails(
    demand: str, rule: str, signed: Path, run: Run, policy: Callable[[str], Path]
) -> None:
    policy(demand)
    answer = run("verify", signed.name, "--fast", "--policy", "policy.yaml", "--format", "json")
    report = json.loads(answer.out)
    assert answer.code == 1
    jsonschema.validate(report, json.loads(run("schema", "report").out))
    assert rule in {item["rule"] for rung in report["rungs"] for item in rung["findings"]}


def test_report_tells_the_components_and_the_container(signed: Path, run: Run) -> None:
    report = json.loads(run("verify", signed.name, "--fast", "--format", "json").out)
    assert report["container"] == "torch-zip"
    assert {"role": "text_tower", "status": "complete", "training": "trained", "by_design": False} in report[
        "components"
    ]


def test_audit_is_held_to_a_policy_without_torch(signed: Path, run: Run, policy: Callable[[str], Path]) -> None:
    policy("containers: {forbid: [torch-zip]}")
    answer = run("audit", signed.name, "--policy", "policy.yaml")
    assert answer.code == 1
    assert "✘ ckpt.pt is safe to load, and fails: policy" in answer.out
    assert "P011" in answer.out
    assert manifest.verify(signed, fast=True).passed


@pytest.mark.usefixtures("unsafe")
def test_waiver_excuses_by_path_until_it_expires(run: Run, policy: Callable[[str], Path]) -> None:
    waiver = "waivers: [{{rule: F010, path: 'heads/*.pt', reason: we wrote it, expires: {}}}]"
    policy(waiver.format("9999-12-31"))
    answer = run("audit", "heads/unsafe.pt", "--policy", "policy.yaml")
    assert answer.code == 0
    assert "waived: we wrote it" in answer.out
    policy(waiver.format("2020-01-01"))
    expired = run("audit", "heads/unsafe.pt", "--policy", "policy.yaml")
    assert expired.code == 1
    assert "P001 waiver-expired" in expired.out


def test_sarif_of_a_file_names_it_relative_to_the_working_directory(unsafe: Path, run: Run) -> None:
    answer = run("audit", unsafe, "--format", "sarif", "--output", "report.sarif")
    assert answer.code == 1
    assert answer.out == ""
    found = sarif((unsafe.parents[1] / "report.sarif").read_text())
    (result,) = (each for each in found["results"] if each["level"] != "note")
    assert result["ruleId"] == "F010"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "heads/unsafe.pt"
    assert found["invocations"][0]["exitCode"] == 1


def test_sarif_of_two_runs_is_the_same(unsafe: Path, run: Run) -> None:
    first, second = (run("audit", unsafe, "--format", "sarif").out for _ in range(2))
    assert first == second


def test_checkpoints_that_are_verified_together_each_have_a_report(signed: Path, run: Run) -> None:
    shutil.copy(signed, signed.with_name("bare.pt"))
    signed.with_name("ckpt.safetensors").write_bytes(b"broken")
    names = ("ckpt.pt", "bare.pt", "ckpt.safetensors")
    answer = run("verify", *names, "--fast", "--format", "json")
    assert answer.code == 2
    reports = json.loads(answer.out)
    assert [report["path"] for report in reports] == list(names)
    schema = json.loads(run("schema", "report").out)
    for report in reports:
        jsonschema.validate(report, schema)
    assert reports[0]["error"] is None
    assert "no manifest beside bare.pt" in reports[1]["error"]
    assert "no manifest beside bare.pt" in answer.err
    assert {rung["outcome"] for rung in reports[2]["rungs"]} >= {"fail"}


def test_text_of_several_says_once_what_could_not_be_checked(signed: Path, run: Run) -> None:
    shutil.copy(signed, signed.with_name("bare.pt"))
    answer = run("verify", "bare.pt", "ckpt.pt", "--fast")
    assert answer.code == 2
    assert "✘ bare.pt  could not be checked: There is no manifest beside bare.pt" in answer.out
    assert answer.err == ""


def test_text_of_several_has_each_kind_of_finding_once(signed: Path, run: Run) -> None:
    """A line each, then errors before warnings, each with those that it was found in and its remedy."""
    for number in range(4):
        for name in ("ckpt.pt", "ckpt.pt.manifest.json"):
            shutil.copy(signed.with_name(name), signed.with_name(name.replace("ckpt", f"unsigned{number}")))
    signed.with_name("ckpt.safetensors").write_bytes(b"broken")
    names = ["ckpt.pt", *(f"unsigned{number}.pt" for number in range(4)), "ckpt.safetensors"]
    lines = run("verify", *names, "--fast", "--key", "release.pub").out.splitlines()
    assert [line[:2] for line in lines[:6]] == ["✔ ", *["✘ "] * 5]
    assert "ckpt.pt  passes" in lines[0]
    headings = [line.split("  ") for line in lines if line.startswith(("error", "warning"))]
    unsigned = ["error T004 signature-missing", "unsigned0.pt, unsigned1.pt, unsigned2.pt and 1 more"]
    assert headings.count(unsigned) == 1
    assert len(headings) == len({heading[0] for heading in headings})
    assert sum("→" in line for line in lines) == len(headings)


def test_text_of_several_ends_with_how_many_pass(signed: Path, run: Run) -> None:
    signed.with_name("ckpt.safetensors").write_bytes(b"broken")
    answer = run("verify", "ckpt.pt", "ckpt.safetensors", "--fast")
    assert answer.code == 1
    assert answer.out.rstrip().endswith("1 of 2 pass")
    quiet = run("verify", "ckpt.pt", "ckpt.safetensors", "--fast", "--quiet")
    assert "ckpt.safetensors  fails: integrity" in quiet.out
    assert "ckpt.pt" not in quiet.out


@pytest.mark.usefixtures("signed")
def test_several_that_pass_are_quiet(run: Run) -> None:
    answer = run("verify", "ckpt.pt", "ckpt.safetensors", "--fast", "--quiet")
    assert (answer.code, answer.out) == (0, "")


@pytest.mark.usefixtures("signed")
def test_policy_that_is_none_is_said_once_for_several(run: Run, policy: Callable[[str], Path]) -> None:
    policy("golden: 1")
    for command in ("verify", "audit"):
        assert "'golden'" in run(command, "ckpt.pt", "ckpt.safetensors", "--policy", "policy.yaml").complaint


@pytest.mark.parametrize("form", ["sarif", "junit"])
def test_single_checkpoint_that_cannot_be_checked_is_in_the_report_for_ci(form: str, signed: Path, run: Run) -> None:
    signed.with_name("ckpt.pt.manifest.json").unlink()
    answer = run("verify", signed.name, "--fast", "--format", form)
    assert answer.code == 2
    assert "no manifest beside ckpt.pt" in answer.complaint
    if form == "sarif":
        assert sarif(answer.out)["invocations"][0]["executionSuccessful"] is False
    else:
        assert ElementTree.fromstring(answer.out).get("errors") == "1"


def test_junit_has_a_case_for_each_rung(signed: Path, run: Run) -> None:
    root = ElementTree.fromstring(run("verify", signed.name, "--fast", "--format", "junit").out)
    names = [case.get("name") for case in root.iter("testcase")]
    assert names == [
        f"verify: {rung}"
        for rung in ("trust", "integrity", "format", "completeness", "architecture", "environment", "golden")
    ]


@pytest.mark.parametrize(("fail_on", "code"), [("error", 0), ("warning", 1), ("never", 0)])
def test_fail_on_says_from_where_a_finding_fails(fail_on: str, code: int, signed: Path, run: Run) -> None:
    answer = run("verify", signed.name, "--fast", "--fail-on", fail_on, "--format", "sarif")
    assert answer.code == code  # nobody gave a key, which is a warning
    assert sarif(answer.out)["invocations"][0]["exitCode"] == code


def test_fail_on_never_forgives_findings_and_not_what_could_not_be_checked(unsafe: Path, run: Run) -> None:
    assert run("audit", unsafe, "--fail-on", "never").code == 0
    assert run("audit", "absent.pt", "--fail-on", "never").code == 2


def test_show_has_no_formats_for_reports(signed: Path, run: Run) -> None:
    answer = run("show", signed.name, "--format", "sarif")
    assert answer.code == 2
    assert "sarif" in answer.err


@pytest.mark.parametrize("which", ["release", "download"])
def test_example_that_is_printed_is_a_policy(which: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(run("policy", "example", which).out)
    answer = run("policy", "check", "mine.yaml")
    assert answer.code == 0
    assert answer.out.startswith("mine.yaml demands ")
    assert len(answer.out.splitlines()) == 1


def test_policy_check_refuses_in_one_sentence(run: Run, policy: Callable[[str], Path]) -> None:
    policy("severities: {C004: error}")
    assert "no rule 'C004', did you mean C0" in run("policy", "check", "policy.yaml").complaint
    assert "name its file" in run("policy", "check", "absent.yaml").complaint


def test_rule_without_a_code_lists_them_all(run: Run) -> None:
    lines = run("rule").out.splitlines()
    assert {line.split()[0] for line in lines} == set(RULES)
    assert any(line.split() == ["C003", "component-initialised", "error", "completeness"] for line in lines)


def test_rule_is_found_by_its_name(run: Run) -> None:
    assert "C003 component-initialised (error, completeness)" in run("rule", "component-initialised").out


@pytest.mark.parametrize(("asked", "hint"), [("C03", "C003"), ("C0003", "C003"), ("component-initialized", "C003")])
def test_rule_that_is_none_gets_the_nearest(asked: str, hint: str, run: Run) -> None:
    assert f"There is no rule '{asked}'; did you mean {hint}" in run("rule", asked).complaint


@pytest.mark.parametrize("code", list(RULES))
def test_every_rule_has_a_page_of_whole_sentences(code: str) -> None:
    rule = RULES[code]
    assert code[0] in LETTERS
    assert code[1:].isdigit()
    assert rule.name == rule.name.lower()
    assert rule.example.endswith(".")
    for text in (rule.why, rule.cure):
        assert text[0].isupper() or text[0] == "`" or text.startswith("torch.")
        assert text.endswith(".")
        assert len(text.split()) >= 3


def test_rule_when_explained_then_an_example_of_its_finding_is_shown(run: Run) -> None:
    assert "An example: In the logit scale, 1 of 1 tensors changed: logit_scale." in run("rule", "I002").out


def test_names_of_rules_are_distinct() -> None:
    assert len({rule.name for rule in RULES.values()}) == len(RULES)


def test_folders_and_patterns_stand_for_what_has_a_manifest_in_them(signed: Path, run: Run) -> None:
    folder = signed.with_name("runs")
    for number in range(2):
        (folder / f"checkpoint-{number}").mkdir(parents=True)
        for name in ("ckpt.safetensors", "ckpt.safetensors.manifest.json", "ckpt.safetensors.manifest.sig"):
            shutil.copy(signed.with_name(name), folder / f"checkpoint-{number}" / name)
    shutil.copy(signed, folder / "bare.pt")
    answer = run("verify", "runs", "--fast", "--format", "json")
    assert answer.code == 0
    paths = [report["path"] for report in json.loads(answer.out)]
    assert paths == [f"runs/checkpoint-{number}/ckpt.safetensors" for number in range(2)]
    assert run("verify", "runs/*/*.safetensors", "--fast").out.endswith("2 of 2 pass\n")
    assert "no manifest beside" in run("verify", "runs/*.pt", "--fast").complaint
    (folder / "empty").mkdir()
    assert run("verify", "runs/empty", "--fast").code == 2


def test_checkpoint_that_is_named_twice_is_verified_once(signed: Path, run: Run) -> None:
    assert run("verify", signed.name, signed.name, "--fast").out.count("passes") == 1
