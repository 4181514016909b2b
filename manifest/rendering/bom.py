"""A manifest as a bill of materials: CycloneDX 1.6, with the model, its files, and the libraries that made it.

The form is that of https://cyclonedx.org/docs/1.6/json/. What it has no field for is a property `manifest:…`.
"""

from __future__ import annotations

import uuid
from typing import Any

from manifest.schema.document import File, Manifest, Parent
from manifest.schema.vocabulary import activation_words

_MODEL = "model"


def bill(manifest: Manifest) -> dict[str, Any]:
    """The bill, of JSON; the same for the same manifest."""
    libraries = [_library(name, version) for name, version in manifest.environment.libraries.items()]
    files = [_file(each) for each in manifest.checkpoint.files]
    parts = [*files, *libraries]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{manifest.weights.digest} {manifest.created}')}",
        "version": 1,
        "metadata": {
            "timestamp": manifest.created,
            "tools": {
                "components": [{"type": "application", "name": manifest.tool.name, "version": manifest.tool.version}]
            },
            "component": _model(manifest),
        },
        "components": parts,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }


def _model(manifest: Manifest) -> dict[str, Any]:
    architecture, weights = manifest.architecture, manifest.weights
    name = architecture.name or architecture.class_name
    parameters: dict[str, Any] = {"architectureFamily": architecture.family, "modelArchitecture": name}
    if manifest.provenance.dataset:
        parameters["datasets"] = [{"type": "dataset", "name": manifest.provenance.dataset}]
    said = {
        "weights.digest": weights.digest,
        "weights.parameters": str(weights.parameters),
        "architecture.precision": architecture.precision,
        "architecture.activations": activation_words(architecture.activations),
        "pretrained": manifest.provenance.pretrained or "",
        "git_commit": manifest.provenance.git_commit or "",
        "golden": ", ".join(dict.fromkeys(golden.probe for golden in manifest.golden)),
        **{
            f"component.{part.role}": f"{part.status}{' by design' if part.by_design else ''}, {part.training.words}"
            for part in manifest.components
        },
    }
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": name,
        "version": weights.digest.partition(":")[2][:16],
        "modelCard": {"modelParameters": parameters},
        "properties": [{"name": f"manifest:{key}", "value": value} for key, value in said.items() if value],
    }
    if manifest.provenance.parents:
        model["pedigree"] = {"ancestors": [_ancestor(parent) for parent in manifest.provenance.parents]}
    return model


def _ancestor(parent: Parent) -> dict[str, Any]:
    known = [{"name": "manifest:weights.digest", "value": parent.weights}] if parent.weights else []
    return {"type": "machine-learning-model", "name": parent.name, **({"properties": known} if known else {})}


def _file(file: File) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{file.path}",
        "name": file.path,
        "hashes": [{"alg": "SHA-256", "content": file.sha256}, {"alg": "BLAKE3", "content": file.blake3}],
        "properties": [{"name": "manifest:size", "value": str(file.size)}],
    }


def _library(name: str, version: str) -> dict[str, Any]:
    address = f"pkg:pypi/{name.lower().replace('_', '-')}@{version.partition('+')[0]}"
    return {"type": "library", "bom-ref": f"library:{name}", "name": name, "version": version, "purl": address}
