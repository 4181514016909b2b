"""The bill of materials is CycloneDX 1.6, by the schema that is published."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from manifest.rendering.bom import bill
from manifest.schema.document import Manifest, Parent, Provenance
from manifest.storage.transaction import read_manifest


@pytest.fixture(scope="module")
def recorded(digits: ModuleType) -> Manifest:
    manifest = read_manifest(Path(digits.WEIGHTS))
    parents = [Parent(name="a.pt", weights="blake3:" + "1" * 64), Parent(name="b.pt")]
    return manifest.model_copy(update={"provenance": Provenance(parents=parents, dataset="LAION", pretrained="openai")})


def test_bill_is_what_the_published_schema_says(recorded: Manifest) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill(recorded))) is None


def test_bill_names_the_model_its_files_and_its_libraries(recorded: Manifest) -> None:
    found = bill(recorded)
    model = found["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "digits-clip")
    assert model["modelCard"]["modelParameters"]["datasets"][0]["name"] == "LAION"
    assert [each["name"] for each in model["pedigree"]["ancestors"]] == ["a.pt", "b.pt"]
    said = {each["name"]: each["value"] for each in model["properties"]}
    assert said["manifest:weights.digest"] == recorded.weights.digest
    assert said["manifest:component.vision_tower"] == "complete, trained"
    (file,) = (each for each in found["components"] if each["type"] == "file")
    assert {each["alg"]: each["content"] for each in file["hashes"]} == {
        "SHA-256": recorded.checkpoint.files[0].sha256,
        "BLAKE3": recorded.checkpoint.files[0].blake3,
    }
    libraries = {each["name"]: each["purl"] for each in found["components"] if each["type"] == "library"}
    assert libraries["open_clip_torch"].startswith("pkg:pypi/open-clip-torch@")
    refs = {each["bom-ref"] for each in found["components"]} | {model["bom-ref"]}
    assert {each["ref"] for each in found["dependencies"]} == refs


def test_bill_is_the_same_for_the_same_manifest(recorded: Manifest) -> None:
    assert bill(recorded) == bill(recorded)
    other = recorded.model_copy(update={"created": "2020-01-01T00:00:00Z"})
    assert bill(other)["serialNumber"] != bill(recorded)["serialNumber"]
