"""What to install where a library is missing, from where this package itself was installed."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "checkpoint-manifest"
_EXTRAS = {
    **dict.fromkeys(("torch", "safetensors", "open_clip", "timm", "torchvision", "PIL"), "models"),
    **dict.fromkeys(("lightning", "pytorch_lightning"), "lightning"),
    "transformers": "transformers",
    "huggingface_hub": "hub",
}
"""Which extra of this package brings a library."""


def install_command(extra: str) -> str:
    """The command that installs an extra, from the origin that pip recorded (PEP 610), else from the source beside."""
    try:
        recorded = distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return f"pip install {shlex.quote(f'{Path(__file__).parents[1]}[{extra}]')}"
    if recorded is None:
        return f"pip install {shlex.quote(f'{DISTRIBUTION}[{extra}]')}"
    origin = json.loads(recorded)
    address = origin["url"]
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}{shlex.quote(f'{unquote(urlsplit(address).path)}[{extra}]')}"
    if (version := origin.get("vcs_info")) is not None:
        address = f"{version['vcs']}+{address}@{version['commit_id']}"
    return f"pip install {shlex.quote(f'{DISTRIBUTION}[{extra}] @ {address}')}"


def what_is_missing(error: ImportError) -> str | None:
    """Which library is missing and how to install it, in a clause; None where it is none that an extra brings."""
    library = (error.name or "").partition(".")[0]
    if library not in _EXTRAS:
        return None
    return f"needs the library {library}, which is not installed: `{install_command(_EXTRAS[library])}`"
