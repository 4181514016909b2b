"""How documents show themselves in Python: a line, the text that a terminal shows, and that text in a notebook."""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import Any

from pydantic import BaseModel

_RENDERING = "manifest.rendering.text"
"""By name, since the floors above know documents, and documents do not know them."""


class Shown(BaseModel):
    """A document whose `repr` is a line and whose `str` is what the command line prints."""

    @property
    @abstractmethod
    def in_short(self) -> str:
        """What it is of and what it says, in a few words; texts out of files are escaped."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.in_short}>"

    def __str__(self) -> str:
        text: str = import_module(_RENDERING).plain(self)
        return text

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        page: str = import_module(_RENDERING).html(self)
        return page

    def __rich_repr__(self) -> Any:
        """What `rich.print` shows."""
        yield self.in_short
