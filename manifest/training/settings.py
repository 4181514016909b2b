"""How the saves of a command are recorded: its options, as they reach every process under it by the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from manifest.errors import InputError
from manifest.golden.thoroughness import as_thoroughness
from manifest.signing import private_key

RECORD = "MANIFEST_RECORD"
"""The variable that turns recording on in a process that imports torch."""
_PREFIX = "MANIFEST_"
_OFF = ("", "0")


class When(StrEnum):
    """Which saves get golden outputs."""

    EVERY = "every"
    LAST = "last"
    NONE = "none"


def as_when(text: When | str) -> When:
    """Which saves get golden outputs, as a caller says it.

    Raises:
        InputError: It is none of those there are.
    """
    try:
        return When(text)
    except ValueError:
        raise InputError(f"golden is {text!r}, expected 'every', 'last' or 'none'; choose one.") from None


@dataclass(frozen=True)
class RecordSettings:
    """What `manifest run` is asked for; see `manifest.recording`.

    Attributes:
        key: Private key to sign with: a file, `file:…` or `env:VARIABLE`.
        golden: Which saves get golden outputs.
        floor: How much time the numerics floor may take.
        partial: Roles of components that are untrained by design.
        dataset: A note on the data.
        strict: Whether what fails ends the training.
        verbose: Whether each process logs on stderr what it does.
        passphrase: Of an encrypted key; it stays in the variable where it is.
    """

    key: str | None = None
    golden: str = When.EVERY
    floor: str = "quick"
    partial: tuple[str, ...] = ()
    dataset: str | None = None
    strict: bool = False
    verbose: bool = False
    passphrase: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> RecordSettings | None:
        """Those that some environment asks for, None where nothing is to be recorded."""
        if variables.get(RECORD, "") in _OFF:
            return None
        return cls(
            key=variables.get(f"{_PREFIX}KEY") or None,
            golden=variables.get(f"{_PREFIX}GOLDEN") or When.EVERY,
            floor=variables.get(f"{_PREFIX}FLOOR") or "quick",
            partial=tuple(each.strip() for each in variables.get(f"{_PREFIX}PARTIAL", "").split(",") if each.strip()),
            dataset=variables.get(f"{_PREFIX}DATASET") or None,
            strict=variables.get(f"{_PREFIX}STRICT", "") not in _OFF,
            verbose=variables.get(f"{_PREFIX}VERBOSE", "") not in _OFF,
            passphrase=variables.get(f"{_PREFIX}PASSPHRASE", "").encode() or None,
        )

    def variables(self) -> dict[str, str]:
        """The environment that asks for them. A key's file is named in full, since a process may go elsewhere."""
        found = {"RECORD": "1", "GOLDEN": str(self.golden), "FLOOR": str(self.floor), "KEY": ""}
        found |= {"PARTIAL": ",".join(self.partial), "DATASET": self.dataset or ""}
        found |= {"STRICT": str(int(self.strict)), "VERBOSE": str(int(self.verbose))}
        if self.key is not None:
            is_variable = self.key.startswith("env:")
            found["KEY"] = self.key if is_variable else str(Path(self.key.removeprefix("file:")).absolute())
        return {_PREFIX + name: value for name, value in found.items()}

    def check(self) -> None:
        """Find out before anything runs whether they can be used.

        Raises:
            InputError: One of them is none of those there are.
            KeyFileError: The key cannot be used.
        """
        as_when(self.golden)
        as_thoroughness(self.floor)
        if self.key is not None:
            private_key(self.key, self.passphrase)

    def keywords(self) -> dict[str, Any]:
        """The arguments of `manifest.recording` that mean the same."""
        return {
            "key": self.key,
            "passphrase": self.passphrase,
            "golden": self.golden,
            "floor": self.floor,
            "partial": list(self.partial),
            "dataset": self.dataset,
            "strict": self.strict,
        }
