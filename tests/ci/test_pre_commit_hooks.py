"""`.pre-commit-hooks.yaml`: each hook's entry as pre-commit runs it, with the names of staged files behind it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOOKS: dict[str, dict[str, Any]] = {
    hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
}


def committed(repository: Any, hook: str) -> subprocess.CompletedProcess[str]:
    """What the hook says of the files that are staged, chosen by its pattern."""
    names = repository.git("diff", "--cached", "--name-only", "--diff-filter=d").splitlines()
    chosen = [name for name in names if re.search(HOOKS[hook]["files"], name)]
    assert chosen
    return subprocess.run(
        [*shlex.split(HOOKS[hook]["entry"]), *chosen],
        cwd=repository.place,
        env=repository.environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("hook", list(HOOKS))
def test_hook_has_what_pre_commit_needs(hook: str) -> None:
    assert {"id", "name", "entry", "language"} <= HOOKS[hook].keys()
    assert HOOKS[hook]["entry"].startswith("manifest ")
    assert HOOKS[hook]["require_serial"] is True


def test_there_is_a_hook_for_each_command() -> None:
    assert set(HOOKS) == {"manifest-verify", "manifest-audit"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a/b.safetensors", True),
        ("x.pt", True),
        ("pytorch_model.bin", True),
        ("firmware.bin", False),
        ("x.pt.manifest.json", False),
        ("script.py", False),
    ],
)
def test_hooks_are_for_checkpoints_alone(name: str, meant: bool) -> None:
    assert all(bool(re.search(hook["files"], name)) is meant for hook in HOOKS.values())


def test_verify_lets_checkpoints_pass_that_keep_their_manifests(repository: Any) -> None:
    repository.add_recorded("one.safetensors")
    repository.add_recorded("two.safetensors")
    repository.git("add", "--all")
    done = committed(repository, "manifest-verify")
    assert (done.returncode, done.stdout) == (0, "")


def test_verify_stops_a_checkpoint_that_was_changed(repository: Any) -> None:
    path = repository.place / "models" / "clip.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    repository.git("add", "--all")
    done = committed(repository, "manifest-verify")
    assert done.returncode == 1
    assert "I002" in done.stdout


def test_audit_stops_a_checkpoint_that_would_run_code(repository: Any) -> None:
    repository.add_recorded("good.safetensors")
    repository.add_unsafe("bad.pt")
    repository.git("add", "--all")
    done = committed(repository, "manifest-audit")
    assert done.returncode == 1
    assert "F010" in done.stdout
    assert "good.safetensors" not in done.stdout
