"""`manifest schema`: print the JSON Schema of a format."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel


class Which(StrEnum):
    MANIFEST = "manifest"
    REPORT = "report"


def run(
    which: Annotated[Which, typer.Argument(help="Which format.")] = Which.MANIFEST,
) -> None:
    """Print the JSON Schema of the manifest, or of the report that `verify --format json` prints."""
    print(json.dumps(json_schema(which), indent=2))


def json_schema(which: Which) -> dict[str, Any]:
    """JSON Schema (2020-12) of a format, as `schemas/` holds it."""
    from manifest.document import Manifest
    from manifest.findings import Report

    model: type[BaseModel] = Manifest if which is Which.MANIFEST else Report
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | model.model_json_schema(by_alias=True, mode="serialization")
