"""Documents that people write in YAML, read so that no two readers see two things in them: policies, trust files.

A key given twice, merge keys and unknown fields are refused. A fault is told in one sentence that names the place.
"""

from __future__ import annotations

from collections.abc import Hashable
from datetime import date, datetime
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

from manifest.errors import InputError, one_line
from manifest.validation import first_fault, quoted

_LONGEST_VALUE = 4096
_NO_VALUES = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What PyYAML raises, besides its own errors, for a value that is not what its form promises, as the 31st of June."""


class Part(BaseModel):
    """A part of such a document."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


AnyPart = TypeVar("AnyPart", bound=Part)


def _pattern(text: str) -> str:
    if "**" in text:
        raise ValueError("a pattern matches from the right, so '**' is not needed; write heads/*.pt for any heads/")
    try:
        PurePath("checkpoint").match(text)
    except ValueError:
        raise ValueError("the pattern is empty; write *.pt, or leave `path` out for every checkpoint") from None
    return text


def _day(value: object) -> object:
    """A day and not a moment: a time zone would make it another day in UTC, and a number is no date to a reader."""
    if isinstance(value, str):
        try:
            return datetime.strptime(value, "%Y-%m-%d").date()
        except ValueError:
            raise ValueError(f"there is no day {quoted(value)}, expected one such as 2027-01-31") from None
    if isinstance(value, datetime) or not isinstance(value, date):
        raise ValueError("a day is expected, such as 2027-01-31, without a time")
    return value


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Pattern = Annotated[str, AfterValidator(_pattern)]
"""Which checkpoints, as by `pathlib.PurePath.match` on the whole path."""
Day = Annotated[date, BeforeValidator(_day)]


def parse_yaml(data: bytes, model: type[AnyPart], what: str) -> AnyPart:
    """A document out of its bytes.

    Args:
        data: The bytes of the file.
        model: What it is.
        what: How a message calls it, as in "The policy release.yaml".

    Raises:
        InputError: It is none; the message names the field.
    """
    try:
        fields = yaml.load(data, Loader=_Plain)
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise InputError(f"{what} is not valid YAML ({place:.200}); correct it.") from None
    except RecursionError:
        raise InputError(f"{what} is nested too deeply; simplify it.") from None
    except _NO_VALUES as error:
        raise InputError(f"{what} is not valid YAML ({one_line(error)}); correct it.") from None
    return parse_fields(fields, model, what)


def parse_fields(fields: Any, model: type[AnyPart], what: str) -> AnyPart:
    """The same out of what YAML says.

    Raises:
        InputError: It is none; the message names the field.
    """
    try:
        return model.model_validate(fields)
    except RecursionError:
        raise InputError(f"{what} is nested too deeply; simplify it.") from None
    except ValidationError as error:
        fault = first_fault(error, model)
        raise InputError(f"{what} is not valid at {fault.where!r}: {fault.what}; correct it.") from None
    except _NO_VALUES as error:
        raise InputError(f"{what} is not valid YAML ({one_line(error)}); correct it.") from None


class _Plain(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error, and which cannot grow beyond what is written.

    Merge keys copy, and so a few lines of them could stand for millions; a number of many digits takes for ever.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "a merge key '<<'", key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {quoted(key.value)} twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_VALUE:
            found = f"a value of {len(node.value):,} characters, expected at most {_LONGEST_VALUE:,}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark)
        return super().construct_scalar(node)
