"""What a checkpoint holds, as text for a person and as data for a program; nothing about it is judged here.

A manifest is shown by `text.show`; this is for files that have none, and for their lists of tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from manifest.checkpoint import Checkpoint, CompositeTensor, StoredTensor, StridedTensor
from manifest.checkpoint.contents import StateDictCandidate
from manifest.checks.safety import Safety, is_only_unknown, safety_of
from manifest.escaping import printable
from manifest.rendering import text

_SAFETY = {
    Safety.SAFE: "safe: nothing in it would run",
    Safety.UNSAFE: "unsafe: it would run code; see `manifest audit`",
}
_NOT_KNOWN = "unsafe: it names classes that are not known to be harmless; see `manifest audit`"
_MOST_SHOWN = 400


def show(stored: Checkpoint, *, tensors: bool, manifest: str | None = None) -> RenderableType:
    """The facts of an open checkpoint, and every tensor when asked for.

    Args:
        stored: The checkpoint.
        tensors: Whether to list every tensor.
        manifest: Name of the manifest beside it, if there is one.
    """
    first, others = _chosen(stored)
    facts = {
        "checkpoint": f"{stored.path.name}: {stored.container}, {stored.size:,} bytes"
        + (f" in {len(stored.files)} files" if len(stored.files) > 1 else ""),
        "weights": f"{_describe(first)}, under {_place(first)}",
        "prefix": stored.prefix,
        "other weights": "; ".join(f"{_place(other)}: {_describe(other)}" for other in others),
        "beside them": ", ".join(stored.extras),
        "without values": ", ".join(f"{name} ({kind})" for name, kind in stored.unlisted.items()),
        "metadata": ", ".join(f"{key}: {text}" for key, text in stored.contents.metadata.items()),
        "loading it": _loading(stored),
        "globals": ", ".join(stored.globals),
        "programs": ", ".join(stored.contents.code),
        "manifest": f"{manifest}; `manifest show` without options prints it"
        if manifest
        else "none; `manifest create` writes one",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(Text(name, style="dim"), Text(printable(value, _MOST_SHOWN)))
    return Group(table, Text(), listing(stored)) if tensors else table


def line(stored: Checkpoint, name: str) -> RenderableType:
    """The same in a line, as one of several.

    Args:
        stored: The checkpoint, without a manifest.
        name: How it was named.
    """
    first, _ = _chosen(stored)
    warning = "" if safety_of(stored) is Safety.SAFE else _loading(stored)
    return text.line_of_file(name, f"{stored.container}, {_describe(first)}", warning)


def listing(stored: Checkpoint) -> Table:
    """Every tensor: name, type, shape, and where its values lie."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("tensor", "type", "shape", "bytes"):
        table.add_column(column, overflow="fold")
    aliases = stored.aliases()
    for name, tensor in stored.tensors.items():
        where = f"the same as {aliases[name]}" if name in aliases else _bytes(stored, tensor)
        cells = (
            printable(name, 300),
            tensor.dtype,
            "×".join(map(str, tensor.shape)) or "scalar",
            printable(where, 300),
        )
        table.add_row(*map(Text, cells))
    return table


def data(stored: Checkpoint) -> dict[str, Any]:
    """The same as JSON values; names as they are, for an encoder that escapes."""
    first, others = _chosen(stored)
    aliases = stored.aliases()
    return {
        "checkpoint": stored.path.name,
        "container": stored.container,
        "files": [{"path": file.name, "size": len(file.mapping)} for file in stored.files],
        "safety": str(safety_of(stored)),
        "state": {"path": list(first.path), "prefix": first.prefix},
        "candidates": [
            {"path": list(candidate.path), "average": candidate.average, "tensors": len(candidate.tensors)}
            for candidate in (first, *others)
        ],
        "extras": list(stored.extras),
        "unlisted": dict(stored.unlisted),
        "metadata": dict(stored.contents.metadata),
        "globals": list(stored.globals),
        "code": list(stored.contents.code),
        "tensors": [
            {
                "name": name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "alias": aliases.get(name),
                **_data_of(stored, tensor),
            }
            for name, tensor in stored.tensors.items()
        ],
    }


def _data_of(stored: Checkpoint, tensor: StoredTensor) -> Mapping[str, Any]:
    if isinstance(tensor, StridedTensor):
        return {
            "file": stored.files[tensor.file].name,
            "offset": tensor.offset,
            "stride": list(tensor.stride),
            "storage": list(tensor.storage),
        }
    if isinstance(tensor, CompositeTensor):
        parts = {role: {"dtype": part.dtype, **_data_of(stored, part)} for role, part in tensor.parts.items()}
        return {"layout": tensor.layout, "facts": tensor.facts, "parts": parts}
    return {}


def _chosen(stored: Checkpoint) -> tuple[StateDictCandidate, list[StateDictCandidate]]:
    """The candidate that is chosen, and the others."""
    first = next(candidate for candidate in stored.candidates if candidate.path == stored.state_path)
    return first, [candidate for candidate in stored.candidates if candidate is not first]


def _describe(candidate: StateDictCandidate) -> str:
    types = Counter(tensor.dtype for tensor in candidate.tensors.values())
    elements = sum(tensor.numel for tensor in candidate.tensors.values())
    counts = ", ".join(f"{count} {dtype}" for dtype, count in sorted(types.items()))
    return f"{elements:,} elements in {len(candidate.tensors)} tensors ({counts})" + (
        ", an average" if candidate.average else ""
    )


def _loading(stored: Checkpoint) -> str:
    return _NOT_KNOWN if is_only_unknown(stored) else _SAFETY[safety_of(stored)]


def _place(candidate: StateDictCandidate) -> str:
    return ".".join(candidate.path) or "the top"


def _bytes(stored: Checkpoint, tensor: StoredTensor) -> str:
    if isinstance(tensor, StridedTensor):
        file = f" of {stored.files[tensor.file].name}" if len(stored.files) > 1 else ""
        kind = "" if tensor.plain else ", strided" if not tensor.contiguous else ", encoded"
        return f"{tensor.nbytes:,} at {tensor.offset:,}{file}{kind}"
    if isinstance(tensor, CompositeTensor):
        return f"{tensor.nbytes:,} as {tensor.layout}"
    return f"{tensor.nbytes:,} in pieces"
