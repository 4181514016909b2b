"""What a release demands, beyond what its manifest promises: a YAML file, read strictly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifest.errors import InputError
from manifest.small_files import read_small


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GoldenPolicy(_Part):
    """What is demanded of golden outputs."""

    required: bool = Field(default=False, description="Whether there must be some.")
    max_floor: float | None = Field(
        default=None,
        gt=0,
        description="Greatest relative distance by which arithmetic alone may move outputs, whatever the cause.",
    )


class Policy(_Part):
    """What a release demands."""

    schema_version: Literal["policy/v1"] = Field(alias="schema")
    golden: GoldenPolicy = GoldenPolicy()


def read_policy(path: str | os.PathLike[str]) -> Policy:
    """A policy out of its file.

    Raises:
        InputError: There is no such file, or it is no policy; the message names the field.
    """
    source = Path(path)
    data = read_small(source, "policy")
    try:
        return Policy.model_validate(yaml.safe_load(data))
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise InputError(f"The policy {source.name} is not valid YAML ({place:.200}); correct it.") from None
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise InputError(f"The policy {source.name} is nested too deeply; simplify it.") from None
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the top"
        raise InputError(f"The policy {source.name} is not valid at {where!r}: {first['msg']}; correct it.") from None
