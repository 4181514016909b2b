"""The record of the models that a run made, by which a checkpoint is described whose saving was not seen.

It lies in the folder that the run was started in, and says of each model what `manifest create` would be told by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from manifest.errors import InputError, one_line
from manifest.escaping import printable
from manifest.storage.bounded_read import read_small
from manifest.storage.files import write_durably
from manifest.strict_json import NotStrictError, read_object
from manifest.validation import first_fault

RUN_RECORD = ".manifest/run.json"
"""Where it lies, seen from the folder that a run was started in."""
MOST_MODELS = 100
"""Models on record; of more, those that were made last."""

_Text = Annotated[str, Field(min_length=1, max_length=1000)]


class MadeModel(BaseModel):
    """How a model was made.

    Attributes:
        family: The model library.
        name: What it was asked for by: a name of the library's, or `package.module:Class`.
        arguments: The builder's other arguments, as a manifest has them.
        pretrained: Tag of the weights it started from.

    Raises:
        ValidationError: Something of it is no Unicode, and could not be read again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    family: _Text
    name: _Text
    arguments: dict[str, Any] = {}
    pretrained: _Text | None = None

    @field_validator("arguments")
    @classmethod
    def _is_unicode(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        json.dumps(arguments, ensure_ascii=False).encode()  # raises what is a ValueError
        return arguments


class _RunRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["run/v1"] = "run/v1"
    models: list[MadeModel] = Field(max_length=MOST_MODELS)


def write_run_record(folder: Path, models: Sequence[MadeModel]) -> Path:
    """Write down the models of a run, in place of those of the one before.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / RUN_RECORD
    path.parent.mkdir(exist_ok=True)
    different = list({json.dumps(each.model_dump()): each for each in models}.values())
    record = _RunRecord(models=different[-MOST_MODELS:])
    write_durably(path, (json.dumps(record.model_dump(), indent=1) + "\n").encode(), path)
    return path


def run_record_of(checkpoint: Path) -> Path | None:
    """The record of the run that a checkpoint may be of: in the current folder, or where the checkpoint lies."""
    places = (Path(), checkpoint.parent)
    return next((path for folder in places if (path := folder / RUN_RECORD).is_file()), None)


def read_run_record(path: Path) -> list[MadeModel]:
    """The models that a run made, the last one first.

    Raises:
        InputError: It is no such record.
    """
    shown = printable(str(path))
    again = "run the training once more with `manifest run`, or name the architecture with `--model`"
    try:
        content = read_object(read_small(path, "record of a run", most=64 << 20))
        return _RunRecord.model_validate(content).models[::-1]
    except NotStrictError as error:
        raise InputError(f"{shown} {one_line(error)}; {again}.") from None
    except ValidationError as error:
        fault = first_fault(error, _RunRecord)
        raise InputError(f"{shown} is not valid at {fault.where!r}: {fault.what}; {again}.") from None
