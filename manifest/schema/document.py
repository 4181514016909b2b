"""The manifest, version 1: the pydantic model that is the file format, and its reading and writing.

`schemas/manifest.v1.json` is generated from this module and from nothing else. A manifest is data: no code, no pickles,
no absolute paths, no user or host names.

This file is long because it is the whole file format: the classes of the document in its own order, and the strict
reading that nothing else may do in another way, are read and changed together.
"""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifest.digests import weights_digest
from manifest.errors import DocumentError, NewerSchemaError
from manifest.escaping import printable
from manifest.schema.shown import Shown
from manifest.schema.vocabulary import Mode, Status, Training, component_tensors
from manifest.strict_json import NotStrictError, read_object
from manifest.validation import fields_at, first_fault, nearest_names, quoted

SCHEMA = "manifest/v1"
LARGEST = 64 << 20
SOURCE_LENGTH = 100_000
"""Characters of a script that are recorded."""
"""Bytes of the largest manifest that is read: a hundred thousand tensors fit in half of it."""

Digest = Annotated[str, Field(pattern=r"^blake3:[0-9a-f]{64}$")]
Hex256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FILE_NAME = r"^[^/\\\x00-\x1f\x7f]+$"
FileName = Annotated[str, Field(min_length=1, max_length=255, pattern=FILE_NAME)]


def _is_none(value: object) -> bool:
    return value is None


def _is_empty(value: object) -> bool:
    return not value


class _Part(BaseModel):
    """Unknown fields are kept, so that a later minor version survives a round trip; `strict` reading refuses them."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, defer_build=True)


class Tool(_Part):
    name: str = "manifest"
    version: str


class File(_Part):
    path: FileName
    size: int = Field(ge=0, description="Bytes.")
    blake3: Hex256
    sha256: Hex256


class State(_Part):
    """Where the weights are inside the checkpoint's object."""

    path: list[str] = Field(default_factory=list, description="Keys from the root to the state dict.")
    prefix: str = Field(default="", description="What their stored names begin with, such as `module.` or `net.`.")


class CheckpointRecord(_Part):
    container: str
    files: list[File] = Field(min_length=1)
    state: State = Field(default_factory=State)
    extras: list[str] = Field(default_factory=list, description="What else the object holds.")


class TensorRecord(_Part):
    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    dtype: str
    digest: Digest
    alias: str | None = Field(
        default=None, exclude_if=_is_none, description="The first name of the same storage, for a tied weight."
    )
    stored: str | None = Field(
        default=None, exclude_if=_is_none, description="Its name in the file, where the model has another."
    )


class Kinship(_Part):
    """Linear sketches of the tensors, in the order of `tensors` without aliases and those in `without`.

    `docs/kinship.md` has the formula.
    """

    version: int = Field(ge=1, description="Of the formula.")
    numbers: str = Field(description="Base64 of all sketches' numbers one after the other, as little-endian float32.")
    norms: list[Annotated[float, Field(ge=0)]] = Field(description="Euclidean norm of each tensor.")
    zeros: list[Annotated[int, Field(ge=0)]] = Field(description="How many values of each tensor are zero.")
    without: list[str] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="Tensors that have none: of no type that weights are trained in, empty, or not finite.",
    )


class Weights(_Part):
    digest: Digest
    parameters: int = Field(ge=0, description="Elements of all tensors; tied ones once.")
    dtypes: dict[str, int] = Field(description="Number of tensors of each element type.")
    tensors: list[TensorRecord]
    kinship: Kinship | None = Field(
        default=None, exclude_if=_is_none, description="By which these weights are compared without the file."
    )

    @property
    def tied(self) -> dict[str, str]:
        """Names of tied weights, each with the first name of the same one."""
        return {each.name: each.alias for each in self.tensors if each.alias is not None}

    def under_own_names(self) -> Weights:
        """The same in a file that has the model's names for them."""
        return self.model_copy(update={"tensors": [each.model_copy(update={"stored": None}) for each in self.tensors]})

    @property
    def stored(self) -> dict[str, str]:
        """Names in the file that are not the model's, each with the model's."""
        return {each.stored: each.name for each in self.tensors if each.stored is not None}


class Preprocess(_Part):
    """How a photograph becomes a tensor; `size` is (height, width) of what the model sees."""

    size: list[int]
    mode: str = "RGB"
    mean: list[float]
    std: list[float]
    interpolation: str
    resize_mode: str
    fill_color: int = Field(default=0, ge=0, le=255)
    crop_pct: float | None = Field(
        default=None, exclude_if=_is_none, description="Share of the resized image that the crop keeps."
    )
    crop_mode: str | None = Field(default=None, exclude_if=_is_none)
    resize: list[int] | None = Field(
        default=None, exclude_if=_is_none, description="Size before cropping: the short side, or both."
    )
    antialias: bool | None = Field(default=None, exclude_if=_is_none)


class Tokenizer(_Part):
    """How prompts become tokens; `digest` is null when the vocabulary was not at hand."""

    class_name: str = Field(alias="class")
    name: str | None = Field(default=None, description="Name on a hub, for tokenizers that come from one.")
    arguments: dict[str, Any] = Field(default_factory=dict)
    context_length: int = Field(gt=0)
    digest: Digest | None = None
    vocabulary: int | None = Field(
        default=None,
        gt=0,
        exclude_if=_is_none,
        description="One more than the greatest id that texts become; null when the vocabulary was not at hand.",
    )


class Operators(_Part):
    """The ATen operators of one forward pass, views left out."""

    digest: Digest
    counts: dict[str, int]
    random: list[str] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="Those that draw random numbers, in eval mode: none in a sound model.",
    )


class ModuleRecord(_Part):
    """Modules of one class and one set of hyper-parameters, whose paths differ in numbers only."""

    path: str = Field(description="Such as `transformer.resblocks.{0..11}.mlp.gelu`; `.` for the model itself.")
    class_name: str = Field(alias="class")
    settings: dict[str, str] = Field(default_factory=dict, description="Hyper-parameters as text.")


class Source(_Part):
    """The statements of a script or a notebook that a class or function in it needs."""

    digest: Digest
    text: str | None = Field(default=None, max_length=SOURCE_LENGTH, description="Null where it is longer than that.")


class Architecture(_Part):
    """What must be known, besides weights, to rebuild the module."""

    family: str
    name: str | None = Field(default=None, description="Name in the family's registry, when the config has one.")
    class_name: str = Field(alias="class")
    builder: str
    source: Source | None = Field(
        default=None, exclude_if=_is_none, description="Of what is defined in a script: what it consisted of."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="As given at creation, defaults left out.")
    config: dict[str, Any] = Field(description="Resolved: what the model class was constructed with.")
    activations: dict[str, dict[str, int]] = Field(description="By tower: activation class and how many.")
    preprocess: Preprocess | None = Field(
        default=None, description="Null where it is no part of the model, or part of the module itself."
    )
    tokenizer: Tokenizer | None = None
    precision: str
    frozen: list[str] | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Parameters that take no gradient, or how their names begin when ending in a dot; "
        "null where the family's builder decides.",
    )
    mode: Mode = Field(description="Mode the model was in when it was saved.")
    structure: Digest
    modules: list[ModuleRecord] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="What `structure` is the digest of, like modules together.",
    )
    operators: Operators | None = Field(
        default=None, description="Null where a forward pass cannot be traced without weights."
    )


class Component(_Part):
    role: str
    prefixes: list[str] = Field(description="Names of its tensors, or how they begin when ending in a dot.")
    expected: int = Field(ge=0)
    present: int = Field(ge=0)
    missing: list[str] = Field(default_factory=list)
    status: Status
    by_design: bool = Field(default=False, description="Whether being absent or untrained was declared.")
    training: Training
    digest: Digest


class Environment(_Part):
    python: str
    platform: str
    libraries: dict[str, str]
    hardware: dict[str, Any] = Field(default_factory=dict)
    flags: dict[str, Any] = Field(default_factory=dict)


class Output(_Part):
    shape: list[int]
    dtype: str
    digest: Digest
    norm: float = Field(ge=0, description="Euclidean norm of all its values.")
    sketch: list[float] = Field(description="64 random ±1 projections of all its values; see golden/sketch.py.")


class Found(_Part):
    """An object in an image."""

    label: str
    score: float
    box: list[float] = Field(min_length=4, max_length=4, description="Left, top, right and bottom, in pixels.")


class Reading(_Part):
    """What a person reads off the outputs for one image: the probability of each prompt or class, or objects."""

    image: str
    prompts: dict[str, float] = Field(default_factory=dict)
    objects: list[Found] = Field(default_factory=list, exclude_if=_is_empty)


class Layer(_Part):
    """What one layer gave for the first sample of each kind."""

    module: str
    norm: float = Field(ge=0)
    floor: float = Field(default=0.0, ge=0, description="Relative distance when the kernels change.")
    sketch: list[float] = Field(description="32 projections onto products of signs; see golden/layers.py.")


class Golden(_Part):
    probe: str
    batch: int = Field(gt=0)
    device: str
    precision: str
    threads: int = Field(gt=0)
    inputs: Digest
    outputs: dict[str, Output] = Field(min_length=1)
    brief: dict[str, Output] = Field(
        default_factory=dict,
        exclude_if=_is_empty,
        description="The outputs for the first sample of each kind in a batch of its own, by which a load is compared.",
    )
    floor: dict[str, float] = Field(
        description="Greatest relative L2 distance of any output when only the arithmetic changes, by what changed."
    )
    contrast: dict[str, float] = Field(
        default_factory=dict,
        description="Relative L2 distance when the architecture is wrong, by what is wrong.",
    )
    prepared: list[Layer] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="The inputs after preprocessing, by kind, as if they were what a layer gave.",
    )
    layers: list[Layer] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="What each layer gave for the first sample of each kind, in the order in which they finished.",
    )
    reading: list[Reading] = Field(default_factory=list)
    unreached: list[str] | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Parameters that no output depends on, by name or by what only their names begin with; "
        "absent where that was not asked.",
    )


class Parent(_Part):
    name: str
    weights: Digest | None = None


class Provenance(_Part):
    pretrained: str | None = Field(default=None, description="Tag, or file name, that the weights started from.")
    categories: list[str] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="Names of the classes that those weights tell apart, in order.",
    )
    conversions: list[str] = Field(
        default_factory=list, exclude_if=_is_empty, description="What was done to weights to make them fit, as asked."
    )
    parents: list[Parent] = Field(
        default_factory=list, description="Checkpoints with manifests that the weights started from."
    )
    git_commit: str | None = Field(default=None, description="What the training script's repository had checked out.")
    git_dirty: bool | None = Field(
        default=None, exclude_if=_is_none, description="Whether files that git follows differed from that commit."
    )
    epoch: int | None = Field(default=None, exclude_if=_is_none, description="As the training script counts.")
    step: int | None = Field(default=None, exclude_if=_is_none, description="As the training script counts.")
    dataset: str | None = Field(default=None, exclude_if=_is_none, description="A note by whoever trained.")
    command: list[str] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="Words of the training's command line, without secrets, and file names for paths.",
    )


class Model(_Part):
    """One model whose weights a checkpoint holds."""

    state: State
    weights: Weights
    architecture: Architecture
    components: list[Component]
    golden: list[Golden] = Field(default_factory=list)


class Manifest(Shown, _Part):
    """Everything that a checkpoint promises."""

    schema_version: str = Field(default=SCHEMA, alias="schema")
    created: str
    tool: Tool
    signer: Hex256 | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Hint of the key or the identity that signed, when it was signed.",
    )
    checkpoint: CheckpointRecord
    weights: Weights
    architecture: Architecture
    components: list[Component]
    environment: Environment
    golden: list[Golden] = Field(default_factory=list)
    others: list[Model] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="Other models in the same checkpoint, such as an average of the weights, each by its state.",
    )
    provenance: Provenance = Field(default_factory=Provenance)

    @property
    def in_short(self) -> str:
        """The file, its model, how large it is, and who signed it."""
        name = printable(self.architecture.name or self.architecture.class_name)
        signer = f"signed by {self.signer[:16]}" if self.signer else "not signed"
        file = printable(self.checkpoint.files[0].path) if self.checkpoint.files else "no file"
        return f"{file}: {self.architecture.family} {name}, {self.weights.parameters:,} parameters, {signer}"

    def meaning(self, other: Model) -> Manifest:
        """The same with another of its models as the one that is meant."""
        return self.model_copy(
            update={
                "checkpoint": self.checkpoint.model_copy(update={"state": other.state}),
                "weights": other.weights,
                "architecture": other.architecture,
                "components": other.components,
                "golden": other.golden,
                "others": [],
            }
        )

    def inconsistencies(self) -> list[str]:
        """Sentences on parts of the manifest that contradict each other, none when it is sound."""
        names = [tensor.name for tensor in self.weights.tensors]
        problems = []
        if len(set(names)) != len(names):
            problems.append("the manifest lists a tensor twice")
        if self.weights.digest != weights_digest((t.name, t.digest) for t in self.weights.tensors):
            problems.append("the weights digest is not that of the tensors listed")
        for component in self.components:
            members = component_tensors(component.prefixes, names)
            if component.present != len(members):
                problems.append(
                    f"component {component.role} claims {component.present} tensors and the list holds {len(members)}"
                )
        return problems + [problem for other in self.others for problem in self.meaning(other).inconsistencies()]


def now() -> str:
    """The time of a save in UTC to the second, or that of `SOURCE_DATE_EPOCH` when it is set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        moment = datetime.now(UTC)
    else:
        try:
            moment = datetime.fromtimestamp(int(epoch), UTC)
        except (ValueError, OverflowError, OSError):
            raise DocumentError(
                f"SOURCE_DATE_EPOCH is {epoch!r}, expected seconds since 1970; unset it or correct it."
            ) from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def serialize(manifest: Manifest) -> bytes:
    """A manifest as the bytes of its file: pretty, in the order of the format, one tensor a line."""
    return (_pretty(manifest.model_dump(mode="json", by_alias=True), 0) + "\n").encode()


def parse(data: bytes, *, source: str = "the manifest", strict: bool = False) -> Manifest:
    """Read a manifest.

    Args:
        data: The bytes of its file.
        source: What to call it in messages.
        strict: Refuse fields that the format does not know.

    Raises:
        NewerSchemaError: It was written in a later major version of the format.
        DocumentError: It is not a valid manifest.
    """
    again = "write it anew: `manifest create CKPT --family LIBRARY --model NAME`"
    content = _object(data, source, again)
    version = re.fullmatch(r"manifest/v(\d{1,6})", str(content.get("schema")))
    if version is None:
        raise DocumentError(f'{source} has no field "schema": "{SCHEMA}", so it is no manifest; {again}.')
    if int(version[1]) > 1:
        raise NewerSchemaError(
            f"{source} is written in format manifest/v{version[1]}, and this version reads up to {SCHEMA}; "
            "install a later version of this package."
        )
    manifest = _validated(Manifest, content, source, again)
    if strict and (unknown := _unknown_fields(manifest)):
        clause = f"{source} has a field that the format does not know, {quoted(unknown[0])}"
        *place, name = unknown[0].split(".")
        nearest = nearest_names(name, fields_at(Manifest, [int(each) if each.isdigit() else each for each in place]))
        hint = f"; did you mean {' or '.join(nearest)}" if nearest else ""
        raise DocumentError(f"{clause}{hint}; {again}.")
    return manifest


def parse_answers(data: bytes, *, source: str) -> Golden:
    """Read what a model said somewhere else.

    Raises:
        DocumentError: It is no such thing.
    """
    again = "write it anew with `manifest.answer`"
    return _validated(Golden, _object(data, source, again), source, again)


def _object(data: bytes, source: str, again: str) -> dict[str, Any]:
    if len(data) > LARGEST:
        raise DocumentError(f"{source} is {len(data):,} bytes long, expected at most {LARGEST:,}; {again}.")
    try:
        return read_object(data)
    except NotStrictError as error:
        raise DocumentError(f"{source} {error}; {again}.") from None


_Document = TypeVar("_Document", bound=BaseModel)


def _validated(model: type[_Document], content: dict[str, Any], source: str, again: str) -> _Document:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        fault = first_fault(error, model)
        raise DocumentError(f"{source} is not valid at {fault.where!r}: {fault.what}; {again}.") from None


def _unknown_fields(part: Any, path: str = "") -> list[str]:
    if isinstance(part, BaseModel):
        found = [f"{path}{name}" for name in part.model_extra or ()]
        for name in type(part).model_fields:
            found += _unknown_fields(getattr(part, name), f"{path}{name}.")
        return found
    if isinstance(part, list):
        return [name for index, item in enumerate(part) for name in _unknown_fields(item, f"{path}{index}.")]
    if isinstance(part, dict):
        return [name for key, item in part.items() for name in _unknown_fields(item, f"{path}{key}.")]
    return []


def _pretty(value: Any, depth: int, width: int = 240) -> str:
    """JSON in which whatever fits on a line stays on one, and so does every list of numbers."""
    compact = json.dumps(value)
    flat = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    if flat or (depth > 1 and len(compact) + 2 * depth <= width) or not isinstance(value, dict | list) or not value:
        return compact
    inner = "  " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(key)}: {_pretty(item, depth + 1)}" for key, item in value.items()]
    else:
        lines = [inner + _pretty(item, depth + 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(lines) + f"\n{'  ' * depth}{closing}"
