"""Where a trust file lies, which one holds where none is named, and how it is written.

The one that `$MANIFEST_TRUST` names comes before the project's, and the project's before the user's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from manifest.errors import InputError
from manifest.escaping import printable
from manifest.signing.keys import Trusted, public_keys
from manifest.signing.trusted import Signers
from manifest.storage.files import write_durably
from manifest.storage.places import storage_errors

if TYPE_CHECKING:
    from manifest.signing.trust_file import TrustFile

VARIABLE = "MANIFEST_TRUST"
"""Environment variable that names the trust file; empty, none is looked for."""
PLACE = Path(".manifest", "trust.yaml")
"""Where a project has its trust file, below its directory."""
_LARGEST = 64 << 10  # bytes; a hundred signers have a quarter of it


Trust: TypeAlias = "str | os.PathLike[str] | Signers | None"
"""Whose signatures count: a trust file, or what was read out of one; None for the one that is found."""


def trusted_signers(key: Trusted = None, trust: Trust = None) -> Signers | None:
    """The signers that are trusted; None where nobody says who is.

    Args:
        key: Public keys, as `public_keys` takes them; with them, no trust file is looked for.
        trust: A trust file; where neither is given, one is looked for.

    Raises:
        KeyFileError: A key cannot be used.
        InputError: The trust file cannot be read, or both are given.
    """
    if key is not None and trust is not None:
        raise InputError("A key and a trust file are given, expected one of them; add the key to the trust file.")
    if key is not None:
        return Signers.of_keys(public_keys(key))
    if isinstance(trust, Signers):
        return trust
    source = Path(trust) if trust is not None else find_trust_file()
    if source is None:
        return None
    return read_trust(source).signers_from(source)


def read_trust(path: Path) -> TrustFile:
    """A trust file.

    Raises:
        InputError: There is no such file, or it is none; the message names the field.
    """
    from manifest.signing.trust_file import parse_trust  # most checkpoints are read without one
    from manifest.storage.bounded_read import read_small

    return parse_trust(read_small(path, "trust file", most=_LARGEST), f"The trust file {printable(str(path), 300)}")


def write_trust(path: Path, content: Mapping[str, Any]) -> None:
    """Write a trust file, which is there whole or not at all; comments in an older one are lost.

    Args:
        path: Where.
        content: Its fields.

    Raises:
        InputError: With this content it would be none; the message names the field.
        StorageError: The place cannot be written.
    """
    from manifest.signing.trust_file import to_yaml

    data = to_yaml(content, f"With this change, the trust file {printable(str(path), 300)}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, data, path)


def find_trust_file() -> Path | None:
    """The trust file that holds where none is given: that of the environment, of the project, or of the user.

    The project's is looked for in the current directory and those above it, up to the one with `.git`; without such a
    one, in the current directory only.

    Raises:
        InputError: The project's belongs to another user, who could then say whom this one trusts.
    """
    if (named := os.environ.get(VARIABLE)) is not None:
        return Path(named) if named else None
    for directory in _project():
        if (path := directory / PLACE).is_file():
            _require_own(path)
            return path
    path = users_trust_file()
    return path if path.is_file() else None


def users_trust_file() -> Path:
    """Where the user's trust file is, if there is one."""
    home = os.environ.get("XDG_CONFIG_HOME") or (os.environ.get("APPDATA") if os.name == "nt" else None)
    return Path(home or os.path.expanduser("~/.config"), "manifest", PLACE.name)  # noqa: PTH111 - where there is no home


def _project() -> list[Path]:
    """The current directory and those above it, as far as they are one project."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return []
    above = [here, *here.parents]
    top = next((index for index, directory in enumerate(above) if (directory / ".git").exists()), 0)
    return above[: top + 1]


def _require_own(path: Path) -> None:
    if hasattr(os, "geteuid") and path.stat().st_uid not in (0, os.geteuid()):
        raise InputError(
            f"The trust file {path} belongs to another user; name it by `--trust` or ${VARIABLE} if you trust it."
        )
