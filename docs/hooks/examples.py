"""The sections `Example:` of our docstrings, as examples that are shown as code.

Google's style has the section `Examples:`; mkdocstrings would take ours for a paragraph and its lists for links.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Calls `Example:` by the name that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        del others
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
