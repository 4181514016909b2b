"""The file format: what round-trips, what is refused, and what its schema says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from manifest.cli.schema import Which, json_schema
from manifest.errors import DocumentError, NewerSchemaError
from manifest.schema.document import now, parse, serialize
from manifest.storage.sidecars import Sidecars

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(digits: Any) -> bytes:
    """The manifest of the shipped model."""
    return Sidecars(digits.WEIGHTS).manifest.read_bytes()


def changed(data: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(data) | fields).encode()


def test_manifest_read_and_written_is_the_same_bytes(data: bytes) -> None:
    assert serialize(parse(data)) == data


def test_shipped_manifest_is_strictly_valid_and_consistent(data: bytes) -> None:
    assert parse(data, strict=True).inconsistencies() == []


@pytest.mark.parametrize("which", list(Which))
def test_published_schema_is_the_one_that_the_model_gives(which: Which) -> None:
    published = json.loads((ROOT / "schemas" / f"{which}.v1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    assert published == json_schema(which)


def test_shipped_manifest_is_of_the_published_schema(data: bytes) -> None:
    jsonschema.validate(json.loads(data), json_schema(Which.MANIFEST))


def test_unknown_field_is_kept_unless_reading_is_strict(data: bytes) -> None:
    later = changed(data, colour="blue")
    assert json.loads(serialize(parse(later)))["colour"] == "blue"
    with pytest.raises(DocumentError, match="does not know, 'colour'"):
        parse(later, strict=True)


def test_unknown_field_deep_inside_is_refused_by_its_path_when_strict(data: bytes) -> None:
    content = json.loads(data)
    content["weights"]["tensors"][0]["colour"] = "blue"
    with pytest.raises(DocumentError, match=r"'weights\.tensors\.0\.colour'"):
        parse(json.dumps(content).encode(), strict=True)


def test_newer_major_version_says_to_upgrade(data: bytes) -> None:
    with pytest.raises(NewerSchemaError, match=r"manifest/v2.*install a later version"):
        parse(changed(data, schema="manifest/v2"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON in UTF-8"),
        (b"\xff\xfe", "not JSON in UTF-8"),
        (b"[1]", "is a JSON list"),
        (b"{}", "no field"),
        (b'{"schema": "manifest/v1", "schema": "manifest/v1"}', "the key 'schema' twice"),
        (b'{"schema": NaN}', "has NaN, which is not JSON"),
        (b"[" * 100_000, "nests deeper"),
        (b'{"schema": "manifest/v1"}', "not valid at 'created'"),
    ],
    ids=["empty", "binary", "list", "no-schema", "twice", "nan", "deep", "missing"],
)
def test_what_is_no_manifest_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        parse(content)


def test_file_names_with_directories_are_refused(data: bytes) -> None:
    content = json.loads(data)
    content["checkpoint"]["files"][0]["path"] = "../other.pt"
    with pytest.raises(DocumentError, match=r"checkpoint\.files\.0\.path"):
        parse(json.dumps(content).encode())


def test_contradictions_are_told(data: bytes) -> None:
    content = json.loads(data)
    content["weights"]["tensors"].pop()
    content["components"][0]["present"] += 1
    problems = parse(json.dumps(content).encode()).inconsistencies()
    assert any("weights digest" in problem for problem in problems)
    assert any("claims" in problem for problem in problems)


def test_source_date_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(DocumentError, match="'yesterday', expected seconds"):
        now()
