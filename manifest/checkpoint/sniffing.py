"""What a file is when it is no container that can be read, told from its bytes and never from its name.

Known containers that cannot be listed yet are refused by name under rule `F004`, everything else under `F001`. A new
container takes its line out of these tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from manifest.checkpoint.containers.zip_records import is_zip, list_names
from manifest.checkpoint.file_bytes import FileBytes
from manifest.errors import CheckpointError

_HEAD = 4096
_TAR_MAGIC = slice(257, 262)
_CONVERT = "if you trust it, load it with what wrote it and save its weights with safetensors or torch.save"


@dataclass(frozen=True)
class Foreign:
    """A kind of file that is known and cannot be read.

    Attributes:
        what: What it is, in words.
        rule: `F004` for a form of checkpoint, `F001` for anything else.
        cure: What to do.
    """

    what: str
    rule: str
    cure: str

    def refusal(self) -> CheckpointError:
        verdict = "is not supported yet" if self.rule == "F004" else "is no checkpoint"
        return CheckpointError(f"it is {self.what}, which {verdict}; {self.cure}.", rule=self.rule)


class Sniffed:
    """A file's beginning, and, looked up once however many containers ask, the names in it when it is an archive.

    Attributes:
        file: Its bytes.
    """

    def __init__(self, file: FileBytes) -> None:
        self.file = file

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in the directory of a zip archive; none when it is no archive, or a broken one."""
        if not is_zip(self.file):
            return ()
        try:
            return list_names(self.file)
        except CheckpointError:
            return ()

    @cached_property
    def inside(self) -> frozenset[str]:
        """The same without the first folder of each."""
        return frozenset(name.partition("/")[2] for name in self.names)


def refusal(sniffed: Sniffed) -> CheckpointError:
    """The error for a file that no container recognises."""
    file = sniffed.file
    foreign = foreign_zip(sniffed) or _foreign_by_magic(file) or _foreign_text(file[:_HEAD])
    if foreign is not None:
        return foreign.refusal()
    return CheckpointError(
        f"its first bytes, {file[:8]!r}, are of no checkpoint that is known; "
        "check that it is the file you meant and that its download is complete.",
        rule="F001",
    )


def foreign_zip(sniffed: Sniffed) -> Foreign | None:
    """What kind of archive it is when torch did not write it; None for one that it did, and for a broken one."""
    for foreign, recognises in _ARCHIVES:
        if sniffed.names and recognises(sniffed):
            return foreign
    return None


def _foreign_by_magic(file: FileBytes) -> Foreign | None:
    head = file[:_HEAD]
    if head[_TAR_MAGIC] == b"ustar":
        return _LEGACY_TAR if b"\0" in head and _is_torch_tar(file) else _archive("a tar archive")
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return _PICKLE
    return next((foreign for magic, foreign in _MAGICS if head.startswith(magic)), None)


def _is_torch_tar(file: FileBytes) -> bool:
    """Whether a tar begins with one of the three members that torch gave it before 0.1.10."""
    name = file[:100].partition(b"\0")[0].rpartition(b"/")[2]
    return name in (b"storages", b"tensors", b"pickle", b"sys_info")


def _foreign_text(head: bytes) -> Foreign | None:
    if not head.strip(b"\0"):
        return Foreign(
            "a file that begins with zeros only", "F001", "its download was probably interrupted, so get it again"
        )
    try:
        # A character may be cut in two where the head ends.
        text = head.decode("utf-8", "strict" if len(head) < _HEAD else "ignore").lstrip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        return None
    lower = text.lower()
    for beginning, foreign in _TEXTS:
        if lower.startswith(beginning):
            return foreign
    if text[-1:] == "." and text[:1] in "(c]}I":
        return _PICKLE
    if all(character.isprintable() or character in "\t\r\n\f" for character in text):
        return Foreign("a text file", "F001", "pass the file that holds the weights")
    return None


def _archive(what: str) -> Foreign:
    return Foreign(what, "F001", "unpack it and pass the checkpoint in it")


_LEGACY_TAR = Foreign("torch's tar form from before version 0.1.10", "F004", _CONVERT)
_PICKLE = Foreign("a plain pickle without torch's container", "F004", _CONVERT)
_KERAS = Foreign("a Keras model", "F004", _CONVERT)
_PAGE = Foreign("a web page or XML", "F001", "get the file itself: this is what a server sent in its place")

_ARCHIVES: tuple[tuple[Foreign, Callable[[Sniffed], bool]], ...] = (
    (_KERAS, lambda sniffed: bool({*sniffed.inside, *sniffed.names} & {"model.weights.h5", "keras_metadata.pb"})),
    (
        Foreign("a TorchScript program from before torch 1.4", "F004", _CONVERT),
        lambda sniffed: "model.json" in sniffed.inside and "data.pkl" not in sniffed.inside,
    ),
    (
        _archive("a zip archive that torch did not write"),
        lambda sniffed: not any(name.casefold().endswith("data.pkl") for name in sniffed.names),
    ),
)

_MAGICS: tuple[tuple[bytes, Foreign], ...] = (
    (b"\x93NUMPY", Foreign("a numpy array (.npy)", "F004", _CONVERT)),
    (b"\x89HDF\r\n\x1a\n", Foreign("an HDF5 file, such as Keras writes", "F004", _CONVERT)),
    (b"GGUF", Foreign("a GGUF file", "F004", _CONVERT)),
    (b"\x1f\x8b", _archive("a gzip archive")),
    (b"\xfd7zXZ\0", _archive("an xz archive")),
    (b"\x28\xb5\x2f\xfd", _archive("a zstd archive")),
    (b"BZh", _archive("a bzip2 archive")),
    (b"7z\xbc\xaf\x27\x1c", _archive("a 7z archive")),
    (b"Rar!", _archive("a rar archive")),
)

_TEXTS: tuple[tuple[str, Foreign], ...] = (
    (
        "version https://git-lfs",
        Foreign("a pointer of git-lfs", "F001", "run `git lfs pull` to get the file that it stands for"),
    ),
    ("<", _PAGE),
)
