"""Where output goes: results to stdout or a file, problems to stderr, colours only to a terminal."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from manifest.errors import StorageError

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH_OF_FILES = 120


def emit(content: RenderableType | str, output: Path | None, *, color: bool = True) -> None:
    """Print a result, or write it to a file without colours.

    Raises:
        StorageError: The file cannot be written.
    """
    if not isinstance(content, str):
        from rich.console import Console

        if output is None:
            terminal = sys.stdout.isatty()
            width = None if terminal else _WIDTH_OF_FILES
            Console(no_color=not color, highlight=False, soft_wrap=not terminal, width=width).print(content)
            return
        page = StringIO()
        Console(file=page, no_color=True, width=_WIDTH_OF_FILES, highlight=False).print(content)
        content = page.getvalue()
    if output is None:
        print(content.rstrip("\n"))
        return
    try:
        output.write_text(content.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{output} cannot be written ({error.strerror}); choose another place.") from None


def complain(sentence: str) -> None:
    """One sentence on stderr, escaped."""
    from manifest.checkpoint.escaping import printable

    print(f"manifest: {printable(sentence, 4000)}", file=sys.stderr)
