"""How text out of a file is shown.

Names, keys and metadata are written by whoever made the file, so they may hold control characters, terminal escape
sequences or marks that turn the reading direction. Every message of this package shows them through `printable`.
"""

from __future__ import annotations

from collections.abc import Iterable


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


def printable_list(texts: Iterable[str], most: int = 8) -> str:
    """The first few of some texts from a file, quoted and separated by commas."""
    shown: list[str] = []
    for text in texts:
        if len(shown) == most:
            shown.append("…")
            break
        shown.append(f"'{printable(text, 40)}'")
    return ", ".join(shown)


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
