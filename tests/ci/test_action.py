"""`action.yml` and the script it runs: which checkpoints are found, what is reported, how it ends."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
SARIF = json.loads((ROOT / "tests" / "rendering" / "data" / "sarif-schema-2.1.0.json").read_text())


@dataclass(frozen=True)
class Step:
    """How the step ended that checks the checkpoints."""

    code: int
    out: str
    err: str
    outputs: dict[str, str]

    @property
    def checked(self) -> list[str]:
        return [line.strip() for line in self.out.splitlines() if line.startswith("  ")]

    @property
    def results(self) -> list[dict[str, Any]]:
        log = json.loads(Path(self.outputs["sarif"]).read_text())
        jsonschema.validate(log, SARIF)
        found: list[dict[str, Any]] = log["runs"][0]["results"]
        return [result for result in found if result["level"] != "note"]


@pytest.fixture
def check(repository: Any, tmp_path: Path) -> Callable[..., Step]:
    """The step `check` of action.yml as GitHub runs it: inputs with their defaults, its `run` by its shell."""
    step = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "check")

    def call(base: str = "", place: Path | None = None, **given: str) -> Step:
        inputs = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()}
        inputs |= {name.replace("_", "-"): value for name, value in given.items()}
        assert inputs.keys() == ACTION["inputs"].keys()
        values = {f"inputs.{name}": value for name, value in inputs.items()}
        values |= {"github.event.pull_request.base.sha": base, "runner.temp": str(tmp_path)}
        variables = {
            name: re.sub(r"\$\{\{ *(.*?) *\}\}", lambda match: values[match[1]], text)
            for name, text in step["env"].items()
        }
        said = tmp_path / "said"
        said.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=place or repository.place,
            env={
                **repository.environment,
                **variables,
                "GITHUB_ACTION_PATH": str(ROOT),
                "GITHUB_OUTPUT": str(said),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        outputs = dict(line.split("=", 1) for line in said.read_text().splitlines())
        return Step(done.returncode, done.stdout, done.stderr, outputs)

    return call


Check = Callable[..., Step]


def test_action_is_composite_and_every_input_is_described_and_used() -> None:
    assert ACTION["runs"]["using"] == "composite"
    text = (ROOT / "action.yml").read_text()
    for name, each in ACTION["inputs"].items():
        assert each["description"]
        assert "default" in each
        assert f"inputs.{name}" in text
    for step in ACTION["runs"]["steps"]:
        assert ("run" in step) != ("uses" in step)
        assert "run" not in step or step["shell"] == "bash"


def test_nothing_that_is_given_is_part_of_a_command() -> None:
    assert all("${{" not in step.get("run", "") for step in ACTION["runs"]["steps"])


def test_action_installs_itself_and_uploads_also_after_a_failure() -> None:
    steps = {step.get("name"): step for step in ACTION["runs"]["steps"]}
    install = steps["Install manifest"]
    assert '"$GITHUB_ACTION_PATH$EXTRA"' in install["run"]
    assert "inputs.command == 'verify' && inputs.fast != 'true' && '[models]' || ''" in install["env"]["EXTRA"]
    upload = steps["Upload the findings"]
    assert upload["uses"].startswith("github/codeql-action/upload-sarif@")
    assert "!cancelled()" in upload["if"]
    assert "steps.check.outputs.sarif" in upload["with"]["sarif_file"]


def test_pull_request_is_checked_where_it_changed_a_checkpoint(repository: Any, check: Check) -> None:
    base = repository.git("rev-parse", "HEAD")
    repository.add_unsafe("new/it's a head.pt")
    repository.commit()
    step = check(base, command="audit")
    assert step.code == 1, step
    assert step.outputs["checkpoints"] == "1"
    (result,) = step.results
    assert result["ruleId"] == "F010"
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "new/it%27s%20a%20head.pt"


def test_pull_request_that_changed_none_passes_without_a_report(repository: Any, check: Check) -> None:
    base = repository.git("rev-parse", "HEAD")
    (repository.place / "README.md").write_text("More models.\n")
    repository.commit()
    step = check(base)
    assert (step.code, step.outputs) == (0, {"checkpoints": "0"})


@pytest.mark.parametrize("change", ["rewritten", "deleted"])
def test_changed_manifest_has_its_checkpoint_checked(change: str, repository: Any, check: Check) -> None:
    base = repository.git("rev-parse", "HEAD")
    sidecar = repository.place / "models" / "clip.safetensors.manifest.json"
    if change == "rewritten":
        sidecar.write_text(json.dumps(json.loads(sidecar.read_bytes()) | {"created": "2026-01-01T00:00:00Z"}))
    else:
        sidecar.unlink()
    repository.commit()
    step = check(base, fast="true")
    assert step.checked == ["models/clip.safetensors"]
    assert step.code == (2 if change == "deleted" else 0), step


def test_deleted_checkpoint_is_none_to_check(repository: Any, check: Check) -> None:
    base = repository.git("rev-parse", "HEAD")
    for file in (repository.place / "models").iterdir():
        file.unlink()
    repository.commit()
    assert check(base).outputs["checkpoints"] == "0"


def test_shallow_clone_fetches_what_it_is_compared_with(repository: Any, check: Check, tmp_path: Path) -> None:
    base = repository.git("rev-parse", "HEAD")
    repository.add_unsafe("head.pt")
    repository.commit()
    repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.place}", str(tmp_path / "shallow"))
    step = check(base, tmp_path / "shallow", command="audit")
    assert step.checked == ["head.pt"]
    assert step.code == 1


def test_push_has_every_tracked_checkpoint_checked(repository: Any, check: Check) -> None:
    repository.add_recorded("other.safetensors")
    repository.commit()
    (repository.place / "untracked.pt").write_bytes(b"no checkpoint")
    step = check(fast="true")
    assert step.checked == ["models/clip.safetensors", "other.safetensors"]
    assert step.code == 0, step


def test_paths_that_are_given_are_globs_and_nothing_else(repository: Any, check: Check) -> None:
    repository.add_unsafe("a/b/deep head.pt")
    repository.add_unsafe("$(touch owned)/x.pt")
    step = check(command="audit", paths="a/**/*.pt\n$(touch owned)/*.pt\n;touch owned\n")
    assert not (repository.place / "owned").exists()
    assert step.outputs["checkpoints"] == "3"
    assert step.code == 2  # there is no file called ;touch owned
    assert {result["ruleId"] for result in step.results} == {"F010"}


def test_paths_that_match_nothing_are_no_pass(check: Check) -> None:
    step = check(paths="dist/*.pt")
    assert step.code == 2
    assert "No file matches" in step.err


def test_name_that_begins_with_a_dash_is_no_option(repository: Any, check: Check) -> None:
    repository.add_unsafe("--quiet.pt")
    repository.commit()
    step = check(command="audit", paths="*.pt")
    assert step.code == 1
    assert len(step.results) == 1


def test_policy_and_key_and_fail_on_reach_the_command(repository: Any, check: Check) -> None:
    (repository.place / "policy.yaml").write_text("schema: policy/v1\nsignature: {required: true}\n")
    step = check(fast="true", policy="policy.yaml")
    assert step.code == 1
    assert "P012" in {result["ruleId"] for result in step.results}
    assert check(fast="true", policy="policy.yaml", fail_on="never").code == 0
    assert check(fast="true", fail_on="warning").code == 1  # it is not signed
    lost = check(fast="true", key="absent.pub")
    assert lost.code == 2
    assert "sarif" not in lost.outputs


def test_directory_is_one_checkpoint_when_a_manifest_of_ours_is_in_it(repository: Any, check: Check) -> None:
    base = repository.git("rev-parse", "HEAD")
    for name, schema in (("sharded", "manifest/v1"), ("website", "w3c")):
        (repository.place / name).mkdir()
        (repository.place / name / "manifest.json").write_text(json.dumps({"schema": schema}))
    repository.add_unsafe("sharded/part.pt")
    repository.commit()
    assert check(base, fast="true").checked == ["sharded"]


def test_shards_are_checked_by_their_index(repository: Any, check: Check) -> None:
    base = repository.git("rev-parse", "HEAD")
    place = repository.place / "shards"
    for number in (1, 2):
        repository.add_recorded(f"shards/model-0000{number}-of-00002.safetensors")
    for sidecar in place.glob("*.manifest.json"):
        sidecar.unlink()
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    repository.commit()
    assert check(base, command="audit").checked == ["shards/model.safetensors.index.json"]


def test_command_that_is_none_is_refused(check: Check) -> None:
    step = check(command="sign")
    assert step.code == 2
    assert "expected verify or audit" in step.err
