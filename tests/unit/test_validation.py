"""One clause out of what pydantic finds: the fault that matters, its place, and the nearest of known names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from manifest.checks.policy import Policy
from manifest.errors import DocumentError
from manifest.schema.document import Manifest, parse
from manifest.validation import Fault, first_fault, nearest_names

WRITTEN = Path(__file__).parents[2] / "fixtures" / "digits_clip" / "digits_clip.safetensors.manifest.json"


def fault_of(content: Any) -> Fault:
    with pytest.raises(ValidationError) as refusal:
        Policy.model_validate(content)
    return first_fault(refusal.value, Policy)


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ({"schema": "policy/v1", "waiver": []}, "waiver", "did you mean waivers"),
        ({"schema": "policy/v1", "golden": {"maxfloor": 1}}, "golden.maxfloor", "did you mean max_floor"),
        (
            {"schema": "policy/v1", "waivers": [{"rule": "C003", "expire": 1}]},
            "waivers.0.expire",
            "did you mean expires",
        ),
        ({"schem": "policy/v1"}, "schem", "did you mean schema"),
        ({"schema": "policy/v1", "x" * 10_000: 1}, "x" * 200, "expected one of schema, components"),
        ({"schema": "policy/v1", "severities": {"C3": "error"}}, "severities.C3", "there is no rule 'C3'"),
        ([], "the top", "dictionary"),
    ],
)
def test_fault_has_its_place_and_the_nearest_name(content: Any, where: str, what: str) -> None:
    fault = fault_of(content)
    assert fault.where == where
    assert what in fault.what
    assert len(fault.what) < 300


def test_unknown_field_of_a_manifest_that_is_read_strictly_gets_its_nearest() -> None:
    content = json.loads(WRITTEN.read_text())
    content["components"][0]["statuss"] = "complete"
    with pytest.raises(DocumentError, match=r"'components\.0\.statuss'; did you mean status;"):
        parse(json.dumps(content).encode(), strict=True)
    assert isinstance(parse(json.dumps(content).encode()), Manifest)


def test_field_of_a_manifest_that_is_missing_is_named() -> None:
    content = json.loads(WRITTEN.read_text())
    del content["weights"]["tensors"][3]["digest"]
    with pytest.raises(DocumentError, match=r"not valid at 'weights\.tensors\.3\.digest': Field required"):
        parse(json.dumps(content).encode())


def test_nearest_names_look_past_case_and_what_joins_words() -> None:
    assert nearest_names("Torch Zip", ["torch-zip", "npz"]) == ["torch-zip"]
    assert nearest_names("x" * 1_000_000, ["torch-zip", "npz"]) == []
    assert nearest_names("", ["torch-zip"]) == []
