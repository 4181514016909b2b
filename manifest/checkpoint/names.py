"""What tensors are called without the wrappers of their model, and what else an object holds, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from manifest.checkpoint.pickles.stand_ins import OddKey
from manifest.escaping import writable

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "_fsdp_wrapped_module.")
"""What DataParallel, torch.compile, Lightning modules and FSDP put before every name."""

OF_OPENAI = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Settings that OpenAI's archives of CLIP hold as scalar tensors beside the weights."""

MOST_KEY_CHARACTERS = 200
"""Of a key, and of a text beside the weights; what is longer is cut, or passed over."""

_MOST_WRAPPERS = 100
_MOST_EXTRAS = 1_000

_Value = TypeVar("_Value")


def strip_prefixes(tensors: Mapping[str, _Value]) -> tuple[str, dict[str, _Value]]:
    """The wrapper prefix that every name has, repeated ones joined, and the tensors by their names without it."""
    prefix = ""
    for _ in range(_MOST_WRAPPERS if tensors else 0):
        found = next(
            (
                candidate
                for candidate in WRAPPER_PREFIXES
                if all(
                    name.startswith(candidate, len(prefix)) and len(name) > len(prefix) + len(candidate)
                    for name in tensors
                )
            ),
            "",
        )
        if not found:
            break
        prefix += found
    return prefix, {name[len(prefix) :]: tensor for name, tensor in tensors.items()}


def describe_key(key: Any) -> str:
    """A key of a dictionary as text; those that are no strings by their `repr`."""
    if isinstance(key, OddKey):
        if not isinstance(key.value, int | float):
            return f"<{key.kind}>"
        key = key.value
    if isinstance(key, int) and key.bit_length() > 64:
        return "<int>"  # beyond some thousand digits Python refuses to write it out
    if not isinstance(key, str | bytes):
        return repr(key)
    # It may be repeated for everything that it leads to.
    shown = key if len(key) <= MOST_KEY_CHARACTERS else key[: MOST_KEY_CHARACTERS - 1]
    described = writable(shown) if isinstance(shown, str) else repr(shown)
    return described if shown is key else described + "…"


def first_extras(keys: Sequence[Any], path: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What else an object holds, as far as anyone reads on: a file can have many keys beside many sets of weights.

    Args:
        keys: Texts, and others.
        path: What leads to them.
    """
    shown = tuple(".".join((*path, describe_key(key))) for key in keys[:_MOST_EXTRAS])
    return shown if len(shown) == len(keys) else (*shown, f"… and {len(keys) - len(shown):,} more")
