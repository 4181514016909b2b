"""Trust files: whose signatures count, when, for what, how many are needed, and which file holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import manifest
from manifest.cli.schema import Which, json_schema
from manifest.errors import InputError, SignatureError
from manifest.schema.report import Outcome, Report, Severity, VerificationError
from manifest.storage.trust_files import trusted_signers

TODAY = datetime.now(UTC).date()
DAY = timedelta(days=1)
Run = Callable[..., Any]


def trust_file(path: Path, *names: str, threshold: int = 1, **fields: Any) -> Path:
    """A trust file that names some people; the further fields are of the first."""
    people = [{"name": name, "key": Path(f"{name}.pub").read_text()} for name in names]
    people[0].update(fields)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"schema": "trust/v1", "threshold": threshold, "signers": people}))
    return path


def found(report: Report) -> dict[str, Severity]:
    """The findings of trust: their rules, and how severe each is."""
    return {item.rule: item.severity for item in report.rungs[0].findings}


def verify(checkpoint: Path, **options: Any) -> Report:
    return manifest.verify(checkpoint, fast=True, **options)


def test_checkpoint_signed_by_a_named_signer_passes_and_says_by_which_file(checkpoint: Path) -> None:
    path = trust_file(Path("trust.yaml"), "alice", "bob")

    report = verify(checkpoint, trust=path)

    assert report.passed
    assert report.rungs[0].reason.startswith("signed by the trusted alice (key ")
    assert report.rungs[0].reason.endswith("; trust file trust.yaml")


def test_checkpoint_signed_by_somebody_else_fails(checkpoint: Path) -> None:
    report = verify(checkpoint, trust=trust_file(Path("trust.yaml"), "bob"))

    assert found(report) == {"T003": Severity.ERROR}


def test_checkpoint_without_a_signature_fails_where_a_trust_file_holds(checkpoint: Path) -> None:
    Path("ckpt.safetensors.manifest.sig").unlink()

    assert found(verify(checkpoint, trust=trust_file(Path("trust.yaml"), "alice"))) == {"T004": Severity.ERROR}


@pytest.mark.parametrize(
    ("fields", "rule", "says"),
    [
        ({"valid_until": TODAY - DAY}, "T012", f"was valid until {TODAY - DAY}, and today is {TODAY}."),
        ({"valid_from": TODAY + DAY}, "T012", f"is valid from {TODAY + DAY} on, and today is {TODAY}."),
        ({"removed": TODAY}, "T013", f"was removed on {TODAY}."),
        ({"removed": TODAY + DAY}, "T013", f"was removed on {TODAY + DAY}."),
        ({"checkpoints": ["heads/*.pt"]}, "T014", "may sign heads/*.pt, and this is ckpt.safetensors."),
    ],
)
def test_signer_who_does_not_count_today_or_here_is_its_own_finding(
    checkpoint: Path, fields: dict[str, Any], rule: str, says: str
) -> None:
    report = verify(checkpoint, trust=trust_file(Path("trust.yaml"), "alice", "bob", **fields))

    assert found(report) == {rule: Severity.ERROR}
    assert report.rungs[0].findings[0].message.endswith(says)


@pytest.mark.parametrize(
    "fields",
    [
        {"valid_from": TODAY, "valid_until": TODAY},
        {"checkpoints": ["other.pt", "*.safetensors"]},
    ],
)
def test_signer_counts_on_the_first_and_last_day_and_for_one_of_its_patterns(
    checkpoint: Path, fields: dict[str, Any]
) -> None:
    assert verify(checkpoint, trust=trust_file(Path("trust.yaml"), "alice", **fields)).passed


def test_pattern_with_a_folder_is_of_the_folder_where_the_checkpoint_really_lies(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("heads").mkdir()
    for file in checkpoint.parent.glob("ckpt.safetensors*"):
        file.rename(Path("heads") / file.name)
    path = trust_file(Path("trust.yaml"), "alice", checkpoints=["heads/*"]).absolute()
    monkeypatch.chdir("heads")

    assert verify(Path("ckpt.safetensors"), trust=path).passed


def test_threshold_is_met_by_so_many_signers_and_not_by_fewer(checkpoint: Path) -> None:
    path = trust_file(Path("trust.yaml"), "alice", "bob", "carol", threshold=2)
    before = verify(checkpoint, trust=path)
    manifest.sign(checkpoint, "bob.key")

    after = verify(checkpoint, trust=path)

    assert found(before) == {"T015": Severity.ERROR}
    assert before.rungs[0].findings[0].message.startswith("1 of 2 signers that are demanded have signed: alice (key ")
    assert after.passed
    assert after.rungs[0].reason.startswith("signed by the trusted alice (key ")
    assert ", bob (key " in after.rungs[0].reason


def test_threshold_is_not_met_by_one_signature_twice(checkpoint: Path) -> None:
    signature = Path("ckpt.safetensors.manifest.sig").read_bytes()
    Path("ckpt.safetensors.manifest.2.sig").write_bytes(signature)

    report = verify(checkpoint, trust=trust_file(Path("trust.yaml"), "alice", "bob", threshold=2))

    assert found(report) == {"T015": Severity.ERROR}


@pytest.mark.parametrize("fields", [{"removed": TODAY}, {"valid_until": TODAY - DAY}])
def test_signer_who_does_not_count_is_a_note_where_others_are_enough(checkpoint: Path, fields: dict[str, Any]) -> None:
    manifest.sign(checkpoint, "bob.key")

    report = verify(checkpoint, trust=trust_file(Path("trust.yaml"), "alice", "bob", **fields))

    assert report.passed
    assert found(report) == {"T016": Severity.NOTE}


def test_signer_who_does_not_count_is_an_error_where_others_are_too_few(checkpoint: Path) -> None:
    manifest.sign(checkpoint, "bob.key")

    report = verify(checkpoint, trust=trust_file(Path("trust.yaml"), "alice", "bob", removed=TODAY, threshold=2))

    assert found(report) == {"T013": Severity.ERROR, "T015": Severity.ERROR}


def test_unknown_cosigner_is_a_note_and_a_damaged_cosignature_an_error(checkpoint: Path) -> None:
    path = trust_file(Path("trust.yaml"), "alice", "bob")
    cosignature = manifest.sign(checkpoint, "eve.key")
    unknown = found(verify(checkpoint, trust=path))
    cosignature.write_bytes(cosignature.read_bytes()[:-1])

    assert unknown == {"T016": Severity.NOTE}
    assert found(verify(checkpoint, trust=path)) == {"T005": Severity.ERROR}


def test_recorded_verdicts_are_taken_only_where_the_trust_file_is_satisfied(checkpoint: Path) -> None:
    enough = verify(checkpoint, trust=trust_file(Path("trust.yaml"), "alice"))
    too_few = verify(checkpoint, trust=trust_file(Path("trust.yaml"), "alice", "bob", threshold=2))

    reasons = [rung.reason for report in (enough, too_few) for rung in report.rungs if rung.name == "completeness"]
    assert reasons[0].endswith(", as the signer recorded")
    assert not reasons[1].endswith(", as the signer recorded")


def test_load_refuses_what_the_trust_file_does_not_let_pass(checkpoint: Path) -> None:
    path = trust_file(Path("trust.yaml"), "bob")

    with pytest.raises(VerificationError, match="fails its trust check"):
        manifest.load(checkpoint, trust=path, verify="fast")


def test_trust_files_are_taken_in_the_order_that_is_promised(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def used() -> str:
        return verify(checkpoint).rungs[0].reason.rpartition("; trust file ")[2]

    of_user = trust_file(tmp_path / "config" / "manifest" / "trust.yaml", "alice")
    assert used() == str(of_user)
    of_project = trust_file(tmp_path / ".manifest" / "trust.yaml", "alice")
    assert used() == str(of_project)
    of_environment = trust_file(tmp_path / "environment.yaml", "alice")
    monkeypatch.setenv("MANIFEST_TRUST", str(of_environment))
    assert used() == str(of_environment)
    given = verify(checkpoint, trust=trust_file(Path("given.yaml"), "alice"))
    assert given.rungs[0].reason.endswith("; trust file given.yaml")


def test_empty_variable_switches_the_search_off(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_file(Path(".manifest/trust.yaml"), "bob")
    monkeypatch.setenv("MANIFEST_TRUST", "")

    assert found(verify(checkpoint)) == {"T001": Severity.WARNING}


def test_key_that_is_given_holds_before_a_trust_file_that_is_found(checkpoint: Path) -> None:
    trust_file(Path(".manifest/trust.yaml"), "bob")

    assert verify(checkpoint, key="alice.pub").passed


def test_key_and_trust_file_given_together_are_refused(checkpoint: Path) -> None:
    path = trust_file(Path("trust.yaml"), "bob")

    with pytest.raises(InputError, match="A key and a trust file are given, expected one of them"):
        verify(checkpoint, key="alice.pub", trust=path)


def test_project_ends_at_the_folder_with_git(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trust_file(folder / ".manifest" / "trust.yaml", "alice")
    (folder / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(folder / "a" / "b")
    outside_git = trusted_signers()
    (folder / ".git").mkdir()
    inside = trusted_signers()
    (folder / "a" / ".git").mkdir()
    in_another = trusted_signers()

    assert outside_git is None
    assert inside is not None and inside.source == path
    assert in_another is None


@pytest.mark.skipif(not hasattr(os, "chown") or os.geteuid() != 0, reason="only root gives files away")
def test_project_trust_file_of_another_user_is_refused(checkpoint: Path) -> None:
    path = trust_file(Path(".manifest/trust.yaml"), "alice")
    os.chown(path, 12345, 12345)

    with pytest.raises(InputError, match="belongs to another user; name it by `--trust`"):
        verify(checkpoint)
    assert verify(checkpoint, trust=path).passed


def test_verify_works_where_the_current_directory_is_gone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = checkpoint.parent / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert verify(checkpoint, key=checkpoint.parent / "alice.pub").passed
    assert trusted_signers() is None


_ALICE = "{name: alice, key: KEY}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("signers: []", "is not valid at 'schema': Field required"),
        ("{schema: trust/v2, signers: []}", "is not valid at 'schema'"),
        ("{schema: trust/v1, threshold: 0}", "is not valid at 'threshold'"),
        ("{schema: trust/v1, threshold: true}", "is not valid at 'threshold'"),
        ("{schema: trust/v1, thresold: 2}", "is not valid at 'thresold'"),
        ("{schema: trust/v1, schema: trust/v1}", "the key 'schema' twice"),
        ("{schema: trust/v1, signers: [{name: alice}]}", "at 'signers.0': 'alice' has neither a key nor an identity"),
        ("{schema: trust/v1, signers: [{name: alice, key: x}]}", "at 'signers.0.key': the field holds no PEM key"),
        ("{schema: trust/v1, signers: [{name: '', key: KEY}]}", "is not valid at 'signers.0.name'"),
        ('{schema: trust/v1, signers: [{name: "a\\e[2J", key: KEY}]}', "printable characters on one line"),
        ("{schema: trust/v1, signers: [{name: alice, key: KEY, until: 2027-01-31}]}", "is not valid at"),
        ("{schema: trust/v1, signers: [{name: alice, key: KEY, valid_until: tomorrow}]}", "no day 'tomorrow'"),
        ("{schema: trust/v1, signers: [{name: alice, key: KEY, checkpoints: ['**/x']}]}", "a pattern matches from"),
        ("{schema: trust/v1, signers: [ALICE, ALICE]}", "the name 'alice' is there twice"),
        ("{schema: trust/v1, signers: [ALICE, {name: a2, key: KEY}]}", "the key of 'alice' is there twice"),
        (
            "{schema: trust/v1, signers: [{name: a, key: KEY, valid_from: 2027-02-01, valid_until: 2027-01-31}]}",
            "is valid until 2027-01-31, before 2027-02-01",
        ),
        ("[" * 5000, "nested too deeply"),
        ("\x00", "not valid YAML"),
        ("", "is not valid at"),
    ],
)  # fmt: skip
def test_trust_file_that_is_none_is_refused_in_one_sentence(checkpoint: Path, text: str, says: str) -> None:
    key = '"' + Path("alice.pub").read_text().replace("\n", "\\n") + '"'
    Path("trust.yaml").write_text(text.replace("ALICE", _ALICE).replace("KEY", key))

    with pytest.raises(InputError, match=r"^The trust file trust\.yaml ") as raised:
        verify(checkpoint, trust="trust.yaml")
    assert says in str(raised.value)
    assert str(raised.value).isprintable()


def test_private_key_in_a_trust_file_is_refused_and_not_shown(checkpoint: Path) -> None:
    secret = Path("alice.key").read_text()
    Path("trust.yaml").write_text(yaml.safe_dump({"schema": "trust/v1", "signers": [{"name": "a", "key": secret}]}))

    with pytest.raises(InputError, match="holds a private key where a public key is expected") as raised:
        verify(checkpoint, trust="trust.yaml")
    assert secret.splitlines()[1][:20] not in str(raised.value)


def test_trust_file_that_is_not_there_is_refused_with_how_to_make_one(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"The trust file gone\.yaml cannot be read \(No such file"):
        verify(checkpoint, trust="gone.yaml")


@pytest.mark.usefixtures("folder")
def test_commands_add_list_and_remove_signers(run: Run) -> None:
    added = run("trust", "add", "alice", "alice.pub", "--threshold", 2, "--until", "2099-01-31")
    run("trust", "add", "bob", "bob.pub", "--only", "heads/*.pt")
    listed = run("trust", "list")
    removed = run("trust", "remove", "bob")
    after = run("trust", "list")

    assert added.out == "Added alice to .manifest/trust.yaml.\n"
    head, alice, bob = listed.out.splitlines()
    assert head.endswith(".manifest/trust.yaml: 2 of 2 must have signed")
    assert alice.startswith("alice  ") and alice.endswith("  until 2099-01-31")
    assert bob.startswith("bob    ") and bob.endswith("  only heads/*.pt")
    assert removed.code == 0
    assert after.out.splitlines()[2].endswith(f"  removed on {TODAY}")
    written = yaml.safe_load(Path(".manifest/trust.yaml").read_text())
    assert [signer["name"] for signer in written["signers"]] == ["alice", "bob"]
    jsonschema.validate(_as_json(written), json_schema(Which.TRUST))


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    return (
        [_as_json(each) for each in value]
        if isinstance(value, list)
        else value
        if isinstance(value, int)
        else str(value)
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "alice", "bob.pub"), "the name 'alice' is there twice"),
        (("add", "al", "alice.pub"), "the key of 'alice' is there twice"),
        (("add", "bob", "bob.key"), "holds a private key where a public key is expected"),
        (("add", "bob", "bob.pub", "--only", "**"), "a pattern matches from the right"),
        (("add", "bob", "bob.pub", "--threshold", "0"), "is not valid at 'threshold'"),
        (("remove", "alcie"), "names no signer 'alcie', did you mean alice"),
    ],
)
def test_change_that_would_make_a_trust_file_none_is_refused(
    folder: Path, run: Run, words: tuple[str, ...], says: str
) -> None:
    run("trust", "add", "alice", "alice.pub")
    before = (folder / ".manifest" / "trust.yaml").read_bytes()

    answer = run("trust", *words)

    assert answer.code == 2
    assert says in answer.err
    assert (folder / ".manifest" / "trust.yaml").read_bytes() == before


@pytest.mark.usefixtures("folder")
def test_list_without_a_trust_file_says_where_one_is_looked_for(run: Run) -> None:
    answer = run("trust", "list")

    assert answer.code == 2
    assert "There is no trust file: $MANIFEST_TRUST names none" in answer.err


def test_sign_refuses_a_key_that_would_not_count(checkpoint: Path) -> None:
    before = sorted(path.name for path in checkpoint.parent.iterdir())
    expired = trust_file(Path("trust.yaml"), "bob", valid_until=TODAY - DAY)

    with pytest.raises(SignatureError, match=r"does not name the key .* was not signed; add the public key") as unknown:
        manifest.sign(checkpoint, "eve.key", trust=expired)
    with pytest.raises(SignatureError, match=r"the signer bob .* was valid until .* was not signed") as raised:
        manifest.sign(checkpoint, "bob.key", trust=expired)

    assert (unknown.value.rule, raised.value.rule) == ("T003", "T012")
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == sorted([*before, "trust.yaml"])


def test_policy_that_demands_a_signature_is_not_met_by_too_few_signers(checkpoint: Path) -> None:
    Path("policy.yaml").write_text("schema: policy/v1\nsignature: {required: true}\n")
    manifest.sign(checkpoint, "eve.key")
    met = verify(checkpoint, policy="policy.yaml", trust=trust_file(Path("trust.yaml"), "alice"))
    unmet = verify(checkpoint, policy="policy.yaml", trust=trust_file(Path("trust.yaml"), "alice", "bob", threshold=2))

    assert [rung.outcome for rung in met.rungs if rung.name == "policy"] == [Outcome.PASS]
    assert [item.rule for rung in unmet.rungs if rung.name == "policy" for item in rung.findings] == ["P012"]


def test_trust_file_is_named_in_the_report_of_each_of_many_checkpoints(checkpoint: Path, run: Run) -> None:
    trust_file(Path(".manifest/trust.yaml"), "alice")
    for number in range(3):
        for file in list(checkpoint.parent.glob("ckpt.safetensors*")):
            Path("many").mkdir(exist_ok=True)
            (Path("many") / file.name.replace("ckpt", f"ckpt{number}")).write_bytes(file.read_bytes())

    answer = run("verify", "--fast", "many", "--format", "json")

    assert answer.code == 0
    assert answer.out.count(".manifest/trust.yaml") == 3


def test_trust_file_on_the_command_line_decides(checkpoint: Path, run: Run) -> None:
    trust_file(Path("trust.yaml"), "bob")

    refused = run("verify", "--fast", checkpoint, "--trust", "trust.yaml")
    signed = run("sign", checkpoint, "--key", "bob.key", "--trust", "trust.yaml")
    accepted = run("verify", "--fast", checkpoint, "--trust", "trust.yaml")

    assert (refused.code, signed.code, accepted.code) == (1, 0, 0)
