"""`manifest schema`: print the JSON Schema of a format."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel


class Which(StrEnum):
    MANIFEST = "manifest"
    REPORT = "report"
    POLICY = "policy"
    TRUST = "trust"


def run(
    which: Annotated[Which, typer.Argument(help="Which format.")] = Which.MANIFEST,
) -> None:
    """Print the JSON Schema of a format: of the report, as `verify --format json` prints it."""
    print(json.dumps(json_schema(which), indent=2))


def json_schema(which: Which) -> dict[str, Any]:
    """JSON Schema (2020-12) of a format, as `schemas/` holds it."""
    from manifest.checks.policy import Policy
    from manifest.schema.document import Manifest
    from manifest.schema.report import Report
    from manifest.signing.trust_file import TrustFile

    models: dict[Which, type[BaseModel]] = {
        Which.MANIFEST: Manifest,
        Which.REPORT: Report,
        Which.POLICY: Policy,
        Which.TRUST: TrustFile,
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    # People write policies and trust files and may leave things out; the others are what this package writes.
    by_people = which in (Which.POLICY, Which.TRUST)
    mode: Literal["validation", "serialization"] = "validation" if by_people else "serialization"
    return dialect | models[which].model_json_schema(by_alias=True, mode=mode)
