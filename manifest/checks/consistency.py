"""Whether a manifest can have been written by a save: what its parts say of each other and of the file beside it.

What it says of the architecture needs that rebuilt; see `workflows.misdescribed`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from manifest.checkpoint import Checkpoint
from manifest.digests import weights_digest
from manifest.schema.document import Component, Manifest, Preprocess, TensorRecord
from manifest.schema.name_ranges import shortened
from manifest.schema.vocabulary import Status, component_tensors, role_words

_VERSION = re.compile(r"\d[\w.+!-]{0,63}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LONGEST = 200
_RESIZE_MODES = ("shortest", "longest", "squash")
_LARGEST_SIDE = 1 << 20
_WORD = re.compile(r"[A-Za-z][\w, -]{0,40}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def contradictions(manifest: Manifest) -> list[str]:
    """Sentences on parts of a manifest that no save writes so, without their full stops."""
    found = manifest.inconsistencies()
    if not _TIME.fullmatch(manifest.created):
        found.append(f"the time of the save is {manifest.created!r}, expected such as 2026-01-31T12:00:00Z")
    if not manifest.tool.name or not manifest.tool.version:
        found.append("the manifest does not say what wrote it")
    found += _surroundings(manifest)
    paths = [file.path for file in manifest.checkpoint.files]
    if len(set(paths)) != len(paths):
        found.append("the manifest lists a file twice")
    models = [manifest, *(manifest.meaning(other) for other in manifest.others)]
    for model in models:
        found += [*_tensors(model), *_components(model), *_preprocess(model.architecture.preprocess)]
        asked = [(record.probe, record.precision) for record in model.golden]
        if len(set(asked)) != len(asked):
            found.append("the manifest has two records of the same answers")
    states = [tuple(model.checkpoint.state.path) for model in models]
    if len(set(states)) != len(states):
        found.append("the manifest describes the same weights twice")
    return found


def departures(manifest: Manifest, stored: Checkpoint, *, first: bool = True) -> list[str]:
    """Sentences on where a file that is intact is not what its manifest says, without their full stops.

    Args:
        manifest: Of the weights that are meant.
        stored: The file, with these weights chosen.
        first: Whether the manifest describes them first: what it lists beside the weights is beside these.
    """
    state, found = manifest.checkpoint.state, []
    if tuple(state.path) != stored.state_path:
        found.append(f"the manifest describes weights under {'.'.join(state.path)!r}, and the file holds none there")
    elif state.prefix != stored.prefix:
        found.append(f"stored names begin with {stored.prefix!r}, and the manifest says {state.prefix!r}")
    listed, held = [file.path for file in manifest.checkpoint.files], [file.name for file in stored.files]
    if not stored.path.is_dir():
        listed[0] = held[0]  # a file by itself may have been renamed
    if sorted(listed) != sorted(held):
        other = shortened(sorted({*listed} ^ {*held}))
        found.append(f"the checkpoint consists of other files than the manifest lists, {other} of one alone")
    if first and sorted(stored.extras) != manifest.checkpoint.extras:
        found.append("the file holds other things beside the weights than the manifest says")
    if stored.aliases() != manifest.weights.tied:
        found.append("other weights are tied in the file than the manifest says")
    return found


def _surroundings(manifest: Manifest) -> Iterator[str]:
    environment = manifest.environment
    versions = {"python": environment.python, **environment.libraries}
    if "torch" not in versions:
        yield "the manifest does not say by which torch the checkpoint was saved"
    for name, version in versions.items():
        if not _VERSION.fullmatch(version):
            yield f"the version of {name!r} is {version!r}, which is none"
    if not 0 < len(environment.platform) <= _LONGEST or not environment.platform.isprintable():
        yield f"the platform is {environment.platform!r}, which is none"
    for name, value in {**environment.hardware, **environment.flags}.items():
        if isinstance(value, str) and not (len(value) <= _LONGEST and value.isprintable()):
            yield f"{name!r} is {value!r}, which is no setting"
    commit = manifest.provenance.git_commit
    if commit is not None and not _COMMIT.fullmatch(commit):
        yield f"the commit is {commit!r}, expected 40 or 64 hexadecimal digits"


def _preprocess(record: Preprocess | None) -> Iterator[str]:
    if record is None:
        return
    if len(record.size) != 2 or not all(0 < side <= _LARGEST_SIDE for side in record.size):
        yield f"images are prepared to the size {record.size}, expected a height and a width"
    if not len(record.mean) == len(record.std) > 0 or not all(share > 0 for share in record.std):
        yield f"images are shifted by {record.mean} and scaled by {record.std}, expected a number for each channel"
    if record.resize_mode not in _RESIZE_MODES:
        yield f"images are resized by {record.resize_mode!r}, expected one of {', '.join(_RESIZE_MODES)}"
    for what in (record.mode, record.interpolation, record.crop_mode or "center"):
        if not _WORD.fullmatch(what):
            yield f"images are prepared by {what!r}, which is no way to"


def _tensors(manifest: Manifest) -> Iterator[str]:
    weights = manifest.weights
    by_name = {tensor.name: tensor for tensor in weights.tensors}
    if weights.parameters != sum(math.prod(each.shape) for each in weights.tensors if each.alias is None):
        yield f"the manifest counts {weights.parameters:,} parameters, and its tensors have another number"
    if weights.dtypes != dict(Counter(tensor.dtype for tensor in weights.tensors)):
        yield "the manifest counts other element types than its tensors have"
    for tensor in weights.tensors:
        if tensor.alias is not None and not _is_same(tensor, by_name.get(tensor.alias)):
            yield f"tensor {tensor.name!r} is said to be the same as {tensor.alias!r}, which it is not"


def _is_same(tensor: TensorRecord, other: TensorRecord | None) -> bool:
    return (
        other is not None
        and other.alias is None
        and other.name != tensor.name
        and (other.digest, other.shape, other.dtype) == (tensor.digest, tensor.shape, tensor.dtype)
    )


def _components(manifest: Manifest) -> Iterator[str]:
    digests = {tensor.name: tensor.digest for tensor in manifest.weights.tensors}
    parts = manifest.components
    if len({part.role for part in parts}) != len(parts):
        yield "the manifest has a component twice"
    owners = Counter(name for part in parts for name in component_tensors(part.prefixes, digests))
    if astray := [name for name in digests if owners[name] != 1]:
        yield f"{shortened(astray)} of the weights in no component, or in two"
    for part in parts:
        if part.digest != weights_digest((name, digests[name]) for name in component_tensors(part.prefixes, digests)):
            yield f"the digest of the {role_words(part.role)} is not that of its tensors"
        yield from _counts(part, digests)


def _counts(part: Component, digests: dict[str, str]) -> Iterator[str]:
    words = role_words(part.role)
    whole = Status.COMPLETE if part.present == part.expected else Status.PARTIAL if part.present else Status.ABSENT
    if part.expected == 0 or part.present > part.expected or part.status is not whole:
        yield f"the {words} is said to be {part.status}, with {part.present} of {part.expected} tensors"
    lacking = part.expected - part.present if part.status is Status.PARTIAL else 0
    missing = set(part.missing)
    if len(part.missing) != lacking or len(missing) != lacking or missing & digests.keys():
        yield f"the {words} lacks {part.expected - part.present} tensors, and the manifest names {len(part.missing)}"
    if part.status is not Status.COMPLETE and not part.by_design:
        yield f"the {words} is {part.status}, and not said to be so by design"
    if len(set(part.prefixes)) != len(part.prefixes):
        yield f"the {words} has a prefix twice"
