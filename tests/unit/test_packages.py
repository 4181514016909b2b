"""`fixtures/packages.py`: what it downloads, what it keeps of it, and what it refuses.

pip itself runs, on wheels made here and without an index.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
METADATA = "Metadata-Version: 2.1\nName: published\nVersion: 1.0\n"


@pytest.fixture
def publish(packages, tmp_path, monkeypatch) -> Callable[..., Any]:
    """Publish a package with these members, for pip to find; pinned as it is."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))

    def published(**members: bytes) -> Any:
        archive = links / "published-1.0-py3-none-any.whl"
        with zipfile.ZipFile(archive, "w") as wheel:
            for name, data in {
                **members,
                "published-1.0.dist-info/METADATA": METADATA,
                "published-1.0.dist-info/WHEEL": WHEEL,
                "published-1.0.dist-info/RECORD": "",
            }.items():
                wheel.writestr(name, data)
        return packages.Package("published", "1.0", hashlib.sha256(archive.read_bytes()).hexdigest())

    return published


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def kept(cache: Path) -> list[str]:
    """What a later run would take for a package."""
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_package_when_fetched_then_its_checkpoints_alone_are_kept_at_their_paths(packages, publish, cache):
    package = publish(**{"a/b/model.pt": b"1", "a/head.pth": b"2", "m.jit": b"3", "m.safetensors": b"4", "a/x.py": b""})
    folder = packages.fetch(package, cache)
    assert folder == cache / "published-1.0"
    assert files(folder) == {"a/b/model.pt": b"1", "a/head.pth": b"2", "m.jit": b"3", "m.safetensors": b"4"}
    assert kept(cache) == ["published-1.0"]


def test_package_when_fetched_again_then_no_index_is_needed(packages, publish, cache, tmp_path):
    package = publish(**{"model.pt": b"1"})
    packages.fetch(package, cache)
    (tmp_path / "links" / "published-1.0-py3-none-any.whl").unlink()
    assert files(packages.fetch(package, cache)) == {"model.pt": b"1"}


def test_package_when_a_run_was_killed_halfway_then_what_it_left_is_not_taken(packages, publish, cache):
    (cache / ".unfinished" / "files").mkdir(parents=True)
    (cache / ".unfinished" / "files" / "half.pt").write_bytes(b"0")
    assert files(packages.fetch(publish(**{"model.pt": b"1"}), cache)) == {"model.pt": b"1"}


def test_package_when_two_ask_for_it_at_once_then_both_get_it(packages, publish, cache):
    package = publish(**{"model.pt": b"1"})
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(packages.fetch, [package] * 2, [cache] * 2))
    assert [files(folder) for folder in folders] == [{"model.pt": b"1"}] * 2


def test_archive_when_changed_then_is_refused_and_nothing_is_kept(packages, publish, cache):
    pinned = publish(**{"model.pt": b"1"})
    changed = publish(**{"model.pt": b"2"})
    with pytest.raises(packages.PackageError) as caught:
        packages.fetch(pinned, cache)
    assert str(caught.value) == (
        f"published 1.0: published-1.0-py3-none-any.whl has SHA-256 {changed.sha256}, not {pinned.sha256} as pinned in "
        "fixtures/packages.py; find out who changed it before you trust it."
    )
    assert kept(cache) == []


@pytest.mark.parametrize("member", ["../out.pt", "a/../../out.pt", "/out.pt", "..\\out.pt", "C:out.pt"])
def test_member_when_it_climbs_out_then_is_refused_and_nothing_is_kept(packages, tmp_path, member):
    # Unpacked without pip, which itself refuses some of these.
    archive = tmp_path / "climbing.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr(member, b"1")
    with pytest.raises(packages.PackageError) as caught:
        packages.unpack(archive, packages.Package("published", "1.0", ""), tmp_path / "deep" / "files")
    assert str(caught.value) == (
        f"published 1.0: climbing.whl has the member {member!r}, which would be written outside its directory; "
        "do not use this archive."
    )
    assert list(tmp_path.rglob("*.pt")) == []


def test_version_when_the_index_lacks_it_then_that_is_not_an_unreachable_index(packages, publish, cache):
    package = publish(**{"model.pt": b"1"})._replace(version="2.0")
    with pytest.raises(packages.PackageError, match="pip could not download it") as caught:
        packages.fetch(package, cache)
    assert not isinstance(caught.value, packages.IndexUnreachableError)


def test_script_when_no_index_is_reached_then_says_so_in_a_sentence_and_exits_with_2(packages, tmp_path):
    unreachable = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",  # the port `discard`, where nothing listens
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "MANIFEST_PACKAGES": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, packages.__file__], env={**os.environ, **unreachable}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "geoclip 1.3.0: pip reaches no index that has it; connect to the network, or configure pip's index.\n"
    )
    assert kept(tmp_path) == []
