"""What a policy may say, and the one sentence that answers what it may not."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from manifest.checks.policy import CONTAINER_NAMES, demands, read_policy
from manifest.cli.policy import EXAMPLES, Example
from manifest.cli.schema import Which, json_schema
from manifest.errors import InputError

ROOT = Path(__file__).parents[2]
WAIVER = "schema: policy/v1\nwaivers: [{rule: C003, reason: r, expires: 2027-01-31, %s}]"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("which", list(Example))
def test_shipped_examples_are_policies_of_the_published_schema(which: Example) -> None:
    shipped = ROOT / "policies" / f"{which}.yaml"
    assert "demands" in demands(read_policy(shipped))
    content = yaml.load(shipped.read_text(), Loader=yaml.BaseLoader)  # JSON knows no dates
    schema = json_schema(Which.POLICY)
    content["components"] = read_policy(shipped).components.model_dump(mode="json")
    content["signature"] = read_policy(shipped).signature.model_dump(mode="json")
    content["golden"] = read_policy(shipped).golden.model_dump(mode="json")
    jsonschema.validate(content, schema)


@pytest.mark.parametrize("which", list(Example))
def test_examples_in_the_checkout_are_those_that_the_package_prints(which: Example) -> None:
    assert (ROOT / "policies" / f"{which}.yaml").read_text() == (EXAMPLES / f"{which}.yaml").read_text()


def test_policy_of_before_waivers_is_read(tmp_path: Path) -> None:
    policy = read_policy(written(tmp_path, "schema: policy/v1\ngolden: {required: true, max_floor: 1.0e-5}\n"))
    assert policy.golden.max_floor == 1e-5
    assert demands(policy) == "demands golden outputs, a numerics floor up to 1e-05"


def test_demands_in_one_line_name_everything(tmp_path: Path) -> None:
    text = """
schema: policy/v1
components: {require: [vision_tower, text_tower], trained: true}
containers: {forbid: [torch-zip, torch-legacy]}
signature: {required: true}
severities: {E001: error, D004: ignore}
waivers: [{rule: C003, path: "heads/*.pt", reason: r, expires: 2027-01-31}]
"""
    assert demands(read_policy(written(tmp_path, text))) == (
        "demands vision_tower and text_tower complete and trained, no torch-zip or torch-legacy, "
        "a signature by a trusted key; counts E001 as error, D004 as ignore; waives C003 for heads/*.pt"
    )


def test_policy_that_says_nothing_demands_nothing(tmp_path: Path) -> None:
    assert demands(read_policy(written(tmp_path, "schema: policy/v1\n"))) == "demands nothing"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schema: policy/v1\nseverities: {C03: error}", "'severities.C03': there is no rule 'C03', did you mean C003"),
        ("schema: policy/v1\nseverities: {C003: fatal}", "'severities.C003': Input should be 'error', 'warning'"),
        ("schema: policy/v1\nseverities: {C003: error, C003: ignore}", "the key 'C003' twice"),
        ("schema: policy/v1\ncontainers: {forbid: [pickle]}", "no container 'pickle', expected one of safetensors"),
        ("schema: policy/v1\ncomponents: {require: text_tower}", "'components.require'"),
        ("schema: policy/v1\ncomponents: {trained: 1}", "'components.trained'"),
        ("schema: policy/v1\nsignature: {required: 'yes'}", "'signature.required'"),
        (
            "schema: policy/v1\nsignature: {require: true}",
            "'signature.require': there is no field 'require', did you mean required",
        ),
        ("schema: policy/v1\nwaivers: [{rule: C003, expires: 2027-01-31}]", "'waivers.0.reason': Field required"),
        ("schema: policy/v1\nwaivers: [{rule: C003, reason: '  ', expires: 2027-01-31}]", "'waivers.0.reason'"),
        ("schema: policy/v1\nwaivers: [{rule: C003, reason: r}]", "'waivers.0.expires': Field required"),
        ("schema: policy/v1\nwaivers: [{rule: P001, reason: r, expires: 2027-01-31}]", "cannot be waived"),
        (WAIVER % "path: '**/x.pt'", "matches from the right"),
        (WAIVER % "path: ''", "the pattern is empty"),
        (WAIVER % "path: '.'", "the pattern is empty"),
        ("schema: policy/v1\nwaivers: [{rule: C003, reason: r, expires: 2027-06-31}]", "not valid YAML (day"),
        ("schema: policy/v1\nx: !!bool perhaps", "not valid YAML"),
        ("schema: policy/v1\nx: !!int ''", "not valid YAML"),
        ("schema: policy/v1\nx: !!timestamp soon", "not valid YAML"),
        ("schema: policy/v1\n? [a, b]\n: c", "not valid"),
    ],
)
def test_policy_that_is_none_is_refused_with_field_and_cure(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        read_policy(written(tmp_path, text))
    assert expected in str(refusal.value)
    assert str(refusal.value).startswith("The policy policy.yaml is not valid")


@given(text=st.text(st.sampled_from("ab:[]{}-,!&*?|>'\"#% \n0123TZ~.<=@`"), max_size=40) | st.binary(max_size=40))
def test_any_text_is_a_policy_or_refused(text: str | bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "policy.yaml"
    path.write_bytes(b"schema: policy/v1\n" + (text.encode() if isinstance(text, str) else text))
    try:
        read_policy(path)
    except InputError as refusal:
        assert "policy.yaml" in str(refusal)


def test_containers_are_named_as_checkpoints_name_theirs() -> None:
    assert {"safetensors", "torch-zip", "torch-legacy", "dcp", "npz"} <= set(CONTAINER_NAMES)
