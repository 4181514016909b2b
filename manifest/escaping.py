"""How text out of a file is shown.

Names, keys and metadata are written by whoever made the file, so they may hold control characters, terminal escape
sequences or marks that turn the reading direction. Every message of this package shows them through `printable`.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterable

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+")
"""With one slash too: paths of this system have no two in a row. A drive of Windows is a single letter."""
_FETCHED = re.compile(r"(https?|s3|gs|hf):/+(?=[^/])")
_ON_HUB = re.compile(
    r"(?:hf://|https?://(?:huggingface\.co|hf\.co)/)(?!(?:api|buckets|datasets|spaces)/)([\w.-]+/[\w.-]+)"
    r"(?:@([^/]+))?(?:/(?:blob|raw|resolve|tree)/([^/?#]+))?/?([^?#]*)(?:[?#].*)?"
)
"""Of a repository of models: its name, a revision in either of two places, and a file."""
_MOST_BESIDE = 10_000
_IN_ASCII = {"✔": "+", "✘": "x", "–": "-", "×": "x", "→": "->", "…": "..."}
"""What stands for the signs of this package where a terminal has none of them."""


def printable(text: str, limit: int = 80) -> str:
    """Text from a file, safe to show in one line of a terminal or log.

    Args:
        text: Anything, lone surrogates included.
        limit: How many of its characters are shown; the rest becomes `…`.

    Returns:
        The text with every character that Unicode does not call printable, and the backslash, as `\\x..`, `\\u....` or
        `\\U........`.
    """
    shown = text if len(text) <= limit else text[: max(limit - 1, 0)]
    escaped = "".join(map(_escape, shown))
    return escaped if shown is text else escaped + "…"


def writable(text: str) -> str:
    """Text from a file that every encoding of Unicode can write: a lone surrogate becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def in_fewer_characters(error: UnicodeError) -> tuple[str, int]:
    """A handler of errors for `codecs.register_error`: this package's signs in ASCII, and every other as its escape."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(each) or each.encode("ascii", "backslashreplace").decode() for each in lost), error.end


def printable_list(texts: Iterable[str], most: int = 8) -> str:
    """The first few of some texts from a file, quoted and separated by commas."""
    shown: list[str] = []
    for text in texts:
        if len(shown) == most:
            shown.append("…")
            break
        shown.append(f"'{printable(text, 40)}'")
    return ", ".join(shown)


def address_in(path: str | os.PathLike[str]) -> str | None:
    """The address that somebody means whose bytes can be fetched, as in `https://…`; None for what is a path."""
    text = os.fspath(path)
    written = _FETCHED.match(text)
    return None if written is None else f"{written[1]}://{text[written.end() :]}"


def public(address: str) -> str:
    """An address without what may be secret in it: the user's name and password, and what is asked of a web server."""
    scheme, _, rest = address.partition("://")
    if not scheme.startswith("http"):
        return address
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def how_to_download(address: str) -> str:
    """What to do with an address that is not read, as a clause; `manifest pull` gets what is in a repository."""
    found = _ON_HUB.fullmatch(address)
    if found is None:
        return "download it first"
    name, at, revision, file = found.groups()
    words = [name + (f"@{at or revision}" if at or revision else ""), *([file] if file else [])]
    return f"download it by `manifest pull {printable(shlex.join(words), 1000)}`"


def no_such_file(path: str, *, look_beside: bool = True) -> str:
    """The sentence for a file that is not there: whether it is an address, and which name beside it is like it.

    Args:
        path: As somebody gave it.
        look_beside: Whether to look for that name; not where a file gave the path, and nobody typed it.
    """
    address = _ADDRESS.match(path)
    if address is not None:
        whole = f"{address[1]}://{path[address.end() :]}"
        return f"{printable(whole, 1000)} is an address, and files are read here; {how_to_download(whole)}."
    if os.path.islink(path):  # noqa: PTH114 - of any text
        return f"{printable(path, 1000)} is a link to a file that is not there; get the file, or mend the link."
    if not look_beside:
        return f"There is no file {printable(path, 1000)}; check the path."
    import difflib

    folder, name = os.path.split(path)
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in itertools.islice(entries, _MOST_BESIDE)]
    except (OSError, ValueError):
        names = []
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    hint = f"did you mean {printable(os.path.join(folder, near[0]), 1000)}?" if near else "check the path."  # noqa: PTH118
    return f"There is no file {printable(path, 1000)}; {hint}"


def _escape(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def show_log() -> None:
    """Print what the package logs, on stderr: what was opened, hashed, built and skipped, and how long it took."""
    import logging

    class Escaped(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"manifest: {printable(super().format(record), 1000)}"

    handler = logging.StreamHandler()
    handler.setFormatter(Escaped())
    logger = logging.getLogger("manifest")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG)
