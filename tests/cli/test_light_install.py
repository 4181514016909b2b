"""Without the model libraries: what needs them says how to install them, and whoever only looks is not stopped.

`make test-pythons` runs this file in environments that have none of them; elsewhere they are hidden from a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from manifest import installing

LIBRARIES = ("torch", "open_clip", "timm", "torchvision", "safetensors", "PIL", "transformers", "lightning")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({(*LIBRARIES, 'pytorch_lightning')!r}));"
SHIPPED = Path(__file__).parents[2] / "fixtures" / "digits_clip" / "digits_clip.safetensors"


def without(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python without the libraries, from the root of the repository."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + program, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=SHIPPED.parents[2],
    )


@pytest.mark.parametrize(
    "command",
    [
        f"verify {SHIPPED}",
        f"create {SHIPPED} --model ViT-B-32",
        f"create {SHIPPED} --model test_vit --family timm",
        f"diff {SHIPPED} {SHIPPED} --outputs",
        f"doctor {SHIPPED}",
    ],
)
def test_command_that_needs_a_library_says_how_to_install_it(command: str) -> None:
    done = without("from manifest.cli import main; main()", *command.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "needs the library " in line
    assert f"which is not installed: `{installing.install_command('models')}`" in line
    assert not done.stdout


@pytest.mark.parametrize("command", ["verify --fast", "audit", "show", "log"])
def test_command_that_needs_none_works(command: str) -> None:
    done = without("from manifest.cli import main; main()", *command.split(), str(SHIPPED))
    assert (done.returncode, done.stderr) == (0, "")


def test_whoever_looks_at_the_package_is_not_stopped() -> None:
    program = """
import inspect, io, contextlib, manifest
there = {name for name, _ in inspect.getmembers(manifest)}
with contextlib.redirect_stdout(io.StringIO()) as page:
    help(manifest)
print(hasattr(manifest, "load"), hasattr(manifest, "timm"), hasattr(manifest, "lightning"), "audit" in there)
print("Fingerprints model checkpoints" in page.getvalue())
for name in ("load", "transformers"):
    try:
        getattr(manifest, name)
    except AttributeError as error:
        print(error)
"""
    done = without(program)
    assert (done.returncode, done.stderr) == (0, "")
    looked, helped, load, transformers = done.stdout.splitlines()
    assert looked == "False False False True"
    assert helped == "True"
    assert load == f"manifest.load needs the library torch, which is not installed: {quoted('models')}"
    assert transformers.endswith(quoted("transformers")) or "needs the library torch" in transformers


def quoted(extra: str) -> str:
    return f"`{installing.install_command(extra)}`"


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'checkpoint-manifest[models]'"),
        ({"url": "file:///my%20code/manifest", "dir_info": {}}, "pip install '/my code/manifest[models]'"),
        ({"url": "file:///code", "dir_info": {"editable": True}}, "pip install -e '/code[models]'"),
        (
            {
                "url": "https://host/x.git",
                "vcs_info": {"vcs": "git", "commit_id": "abc123"},
            },
            "pip install 'checkpoint-manifest[models] @ git+https://host/x.git@abc123'",
        ),
        (
            {"url": "file:///w/checkpoint_manifest-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'checkpoint-manifest[models] @ file:///w/checkpoint_manifest-0.1.0-py3-none-any.whl'",
        ),
    ],
)
def test_command_installs_from_where_this_was_installed(
    origin: dict[str, object] | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if origin is not None:
        (tmp_path / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    monkeypatch.setattr(installing, "distribution", lambda _: metadata.PathDistribution(tmp_path))
    assert installing.install_command("models") == command


def test_command_installs_the_source_where_nothing_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installing, "distribution", none)
    assert installing.install_command("models") == f"pip install '{Path(__file__).parents[2]}[models]'"
