"""Names of files in a signature: which are refused because they lead out of the directory or can be taken for others.

A name is relative to the signature's directory and reads in one way only, on every file system and to every eye.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PureWindowsPath

_LOOK_ALIKES = str.maketrans(
    "авеёікмнорсԁѕтухһјԛԝѵӏ" + "αβεικνορτυχγ" + "\u0131\u2010\u2011\u2012\u2013\u2014\u2015\u2212",
    "abeeikmhopcdstyxhjqwvl" + "abeikvoptuxy" + "i-------",
)
"""Small Cyrillic and Greek letters that look like Latin ones, an i without its dot, and dashes that are no hyphen."""


def name_fault(name: str) -> str | None:
    """Why a file name could lead out of the signature's directory, or be read in two ways; None when it is plain."""
    if fault := text_fault(name):
        return fault
    if "\\" in name:
        return "contains a backslash where `/` is expected between directories"
    if name.startswith("/") or PureWindowsPath(name).drive:
        return "is absolute where one relative to the signature's directory is expected"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "has an empty, `.` or `..` part where a plain relative name is expected"
    return None


def text_fault(text: str) -> str | None:
    """Why a text is unfit to be shown or written: characters that control, cannot be seen, or are half of one."""
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text):
        return "contains a control character where printable text is expected"
    return None


def first_twins(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are the same, or the same but for capitals, Unicode forms and look-alike letters.

    File systems differ on whether these are one file, and people take one for the other.
    """
    seen: dict[str, str] = {}
    for name in names:
        shape = _shape(name)
        if shape in seen:
            return seen[shape], name
        seen[shape] = name
    return None


def _shape(name: str) -> str:
    """What is alike in names that can be taken for each other."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return folded.translate(_LOOK_ALIKES)
