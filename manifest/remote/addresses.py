"""What an address is, and what the file at it is called."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from manifest.errors import InputError
from manifest.escaping import printable, public

_MOST_NAME = 200
"""Characters of a name; files beside it have longer ones."""


class Address(str):
    """Where a file is: `https://…`, `s3://bucket/key`, `gs://bucket/key`, `hf://owner/repository/file`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """What the file is called.

        Raises:
            InputError: Not as a file can be.
        """
        name = unquote(urlsplit(self).path.rpartition("/")[2]) if self.is_web else self.rpartition("/")[2]
        if name in ("", ".", "..") or any(mark in name for mark in "/\\\0") or len(os.fsencode(name)) > _MOST_NAME:
            raise InputError(f"{printable(self, 1000)} ends in no name of a file; give the address of the checkpoint.")
        return name

    @property
    def is_web(self) -> bool:
        """Whether it is of a web server."""
        return self.startswith("http")

    def beside(self, name: str) -> Address:
        """The address of another file in the same place; what a query asked for is of the one file only."""
        if not self.is_web:
            return Address(f"{self.rpartition('/')[0]}/{name}")
        parts = urlsplit(self)
        return Address(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{name}", query="", fragment="").geturl())

    @property
    def public(self) -> str:
        """Without what may be secret in it."""
        return public(self)

    @property
    def shown(self) -> str:
        """The same for a message."""
        return printable(self.public, 1000)
