"""What may go on record of a command line or a note, and what becomes `***` or a file name first.

A manifest is published with its weights, and a command line holds whatever somebody typed: tokens, addresses with
passwords in them, where their home is. What cannot be told from a secret is treated as one: a word too few costs a
reader a moment, and a word too many costs its owner a key.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

HIDDEN = "***"
MOST_WORDS = 1_000
MOST_CHARACTERS = 1_000

_SECRET_NAME = re.compile(
    r"passw|passphrase|passcode|pwd|secret|credential|token(?!iz)|auth(?!or(?!i))|api_?key"
    r"|(?:keys?|pass|creds?|cookies?)(?![a-z])"
    r"|(?<![a-z])(?:api|pw|pin|session|jwt|bearer|pat|sas|dsn|otp|signature|webhook)(?![a-z])",
)
"""In the name of an option or a variable, in small letters: what follows it is nobody's business."""

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ASSIGNMENT = re.compile(r"([-+~]{0,2}[A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
_OPTION = re.compile(r"-{1,2}[A-Za-z_][\w.-]*:?")
_PROSE = re.compile(r"[\s:={}\[\],;&|]")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://((?:(?!::)[^\s'\"<>])*)")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_SOMEBODY_SOMEWHERE = re.compile(r"[^\s'\"]*[^\s'\"@]@[^\s'\"@][^\s'\"]*")
_PIECE = re.compile(r"[^\s,;:='\"()<>\[\]{}|&*?!`]+")
_NO_PATH = re.compile(r"([A-Za-z0-9][^/\\]*)/[^/\\.]+")
_HOMES = frozenset({"home", "homes", "users", "user", "u", "people"})
_EVERYONES = frozenset(
    {"root", "user", "users", "home", "admin", "ubuntu", "runner", "localhost", "jovyan", "ec2-user"}
)
"""Names that say nothing about who or where."""

_ISSUED = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_|gh[opsu]_|github_pat_|glpat-|sk-|xox[a-z]-|AKIA|ASIA|AIza|ya29\.|eyJ|npm_|pypi-|dckr_pat_)"
    r"[\w.\-+/=]{8,}"
)
"""Tokens that say so: by how those who issue them begin them."""

_LONGEST_PLAIN = 20
"""Characters from which a word is looked at."""
_LONG = re.compile(rf"[\w.~+/%=-]{{{_LONGEST_PLAIN},}}", re.ASCII)
_RUN = re.compile(r"[A-Za-z0-9]+")
_SCRIPT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\.(?:py|ipynb|sh|ya?ml|toml)")
"""A file that a person named, in whatever capitals; a secret has no such ending."""
_HEXADECIMAL = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_LEAST_DIGITS = 16
_LEAST_CAPITALS = 16
_LONGEST_WORD = 24
_LONG_RUN = 12
_MOST_CHANGES = 0.4
_MOST_CHANGES_IN_A_RUN = 0.25
"""Of how many of its characters a name is of another kind (capital, small, digit) than the one before, at most.

Random letters and digits: 0.6, hexadecimal: 0.5; `ViT-SO400M-14-SigLIP-384`: 0.3. Of 2,166 names of models and weights
in open_clip and timm, three are over it.
"""

_MARK = "\ue000"
"""Stands for what is hidden, until paths are told from words."""


def own_names() -> tuple[str, ...]:
    """Names of this user and this machine, by which a text tells who wrote it and where."""
    host = socket.gethostname()
    found = (_user(), Path("~").expanduser().name, host, host.partition(".")[0])
    return tuple(dict.fromkeys(name for name in found if name.strip("~") and name.lower() not in _EVERYONES))


def scrubbed_command(words: Sequence[str], names: Iterable[str] = ()) -> list[str]:
    """A command line without secrets, paths, and names of people and machines.

    Args:
        words: The words of it, as a shell took them apart.
        names: Who and where it must not tell: `own_names()`.

    Returns:
        As many words, a path as its file name, an address without its user and query, a secret as `***`; of very many,
        the first, and `…`.
    """
    names = tuple(names)
    found: list[str] = []
    announced = False
    for word in map(_writable, words[:MOST_WORDS]):
        found.append(HIDDEN if announced else _scrubbed_word(word, names))
        announced = _announces(word)
    return [*found, "…"] if len(words) > MOST_WORDS else found


def scrubbed_text(text: str, names: Iterable[str] = ()) -> str:
    """A note of somebody's without paths, random words, names, and who may read an address; see `scrubbed_command`."""
    shown = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    return _scrubbed(_writable(shown), tuple(names))


def _scrubbed_word(word: str, names: Sequence[str]) -> str:
    if len(word) > MOST_CHARACTERS:
        return HIDDEN
    if assignment := _ASSIGNMENT.fullmatch(word):
        name, value = assignment.groups()
        return f"{_scrubbed(name, names)}={HIDDEN if _speaks_of_secrets(word) else _scrubbed(value, names)}"
    # A header, a piece of JSON, a list of settings: where in it the secret ends, nobody can tell.
    around = _URL.sub("", word)
    if _PROSE.search(around) and _speaks_of_secrets(around):
        return HIDDEN
    return _scrubbed(word, names)


def _announces(word: str) -> bool:
    """Whether the word after it is a secret: `--hub-token`, `Bearer`, `password:`."""
    if _OPTION.fullmatch(word):
        return _speaks_of_secrets(word)
    return bool(_SECRET_NAME.fullmatch(word.rstrip(":").lower()))


def _speaks_of_secrets(text: str) -> bool:
    """Whether a name, or a text that holds names, says that what follows is a secret."""
    return bool(_SECRET_NAME.search(_HUMP.sub("_", text).lower().replace("-", "_")))


def _scrubbed(text: str, names: Sequence[str]) -> str:
    """Text without names, random words, who may read an address, and the way to a file, in this order."""
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", _MARK, text, flags=re.IGNORECASE)
    text = _without_random(text)
    shown, after = [], 0
    for url in _URL.finditer(text):
        shown += [_without_paths(text[after : url.start()]), _address(url[1], url[2])]
        after = url.end()
    return "".join((*shown, _without_paths(text[after:]))).replace(_MARK, HIDDEN)


def _without_random(text: str) -> str:
    return _LONG.sub(lambda found: _MARK if _looks_random(found[0]) else found[0], _ISSUED.sub(_MARK, text))


def _address(scheme: str, rest: str) -> str:
    """An address by its host and the file there; where a password may hold what ends a host, nothing of it."""
    before = re.split(r"[?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(before) :]:
        return f"{scheme}://{_MARK}"
    host, _, path = before.rpartition("@")[2].partition("/")
    if not host or scheme.lower() == "file":
        return _file_name(path or host)
    shown = host if _HOST.fullmatch(host) else _MARK
    return f"{scheme}://{shown}/{_file_name(path)}" if path else f"{scheme}://{shown}"


def _without_paths(text: str) -> str:
    return _PIECE.sub(lambda piece: _without_path(piece[0]), _SOMEBODY_SOMEWHERE.sub(_MARK, text))


def _without_path(piece: str) -> str:
    """A word as it is, or the file name of a path; `ViT-B/32` is none, nor `laion/clip`."""
    pair = _NO_PATH.fullmatch(piece)
    if pair and pair[1].lower() not in _HOMES:
        return piece
    return _MARK if re.fullmatch(r"~[^/\\]+", piece) else _file_name(piece)


def _file_name(path: str) -> str:
    """The end of a path; of somebody's home, nothing."""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..", "~")]
    if not parts:
        return path.strip("/\\")
    return _MARK if len(parts) > 1 and parts[-2].lower() in _HOMES else parts[-1]


def _looks_random(word: str) -> bool:
    """Whether a long word was drawn rather than thought of: see `_MOST_CHANGES`."""
    script = re.split(r"[/=]", word)[-1]
    if _SCRIPT.fullmatch(script):
        before = word[: -len(script)]
        return any(map(_is_code, _RUN.findall(script))) or (len(before) >= _LONGEST_PLAIN and _looks_random(before))
    runs = _RUN.findall(word)
    changes = [sum(_kind(one) != _kind(other) for one, other in pairwise(run)) for run in runs]
    restless = sum(changes) > _MOST_CHANGES * sum(map(len, runs))
    return restless or any(
        _is_code(run) or (len(run) >= _LONG_RUN and change > _MOST_CHANGES_IN_A_RUN * len(run))
        for run, change in zip(runs, changes, strict=True)
    )


def _is_code(run: str) -> bool:
    """Whether letters and digits in a row are too many for a number, an abbreviation, or one word."""
    kinds = {_kind(character) for character in run}
    if kinds == {"digit"} or _HEXADECIMAL.fullmatch(run):
        return len(run) >= _LEAST_DIGITS
    if "small" not in kinds:
        return len(run) >= _LEAST_CAPITALS
    return len(run) >= _LONGEST_WORD and "capital" not in kinds


def _kind(character: str) -> str:
    return "digit" if character.isdigit() else "capital" if character.isupper() else "small"


def _writable(text: str) -> str:
    """Text that Unicode can write; the words of a command line may be any bytes."""
    return text.encode("utf-8", "replace").decode()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no name for its user
        return ""
