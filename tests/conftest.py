"""What several rooms of tests share: the trained digits CLIP, published packages, the command line as a process."""

from __future__ import annotations

import gc
import importlib.util
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

import manifest
from manifest.cli import main
from manifest.collecting import collect_seldom

_ROOT = Path(__file__).parents[1]
_FIXTURES = _ROOT / "fixtures"
_SWEPT = Path(__file__).with_name("swept.txt")
_LAST_SWEEP = _ROOT / ".cache" / "sweep.json"

collect_seldom()
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("manifest", deadline=None)
hypothesis.settings.load_profile("manifest")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="do every case (`make sweep`), not a sample")
    parser.addoption("--snapshots-written", action="store_true", help="write tests/rendering/snapshots/*.txt anew")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "whole: a case that `make sweep` does and `make test` leaves out")
    # Before torch is imported: each worker's share of the cores. A sweep's large models want all of them.
    if _is_worker(config) and not config.getoption("--whole"):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        own = max(1, cores // config.workerinput["workercount"])  # type: ignore[attr-defined]
        os.environ.setdefault("OMP_NUM_THREADS", str(own))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is for `--whole`, and let one worker do all tests of a module that share a fixture."""
    for item in items:
        if item.get_closest_marker("whole") and not config.getoption("--whole"):
            item.add_marker(pytest.mark.skip(reason="`make sweep` does it"))
        if _shares_a_fixture(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def _shares_a_fixture(item: pytest.Item) -> bool:
    """Whether a test's module makes something once, as a fixture or in a cache; each worker would make it once more."""
    module = item.nodeid.partition("::")[0]
    used = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]  # type: ignore[attr-defined]
    if any(made.scope == "module" or (made.scope == "session" and made.baseid == module) for made in used):
        return True
    own = [each for each in vars(item.module).values() if hasattr(each, "cache_info")]  # type: ignore[attr-defined]
    return any(each.__module__ == item.module.__name__ for each in own)  # type: ignore[attr-defined]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse versions of pytest and pytest-xdist under which a group is no group, and every worker makes everything."""
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if getattr(session.config.option, "loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist does not group tests here; install the versions of constraints.txt")
    gc.freeze()  # a million objects of the libraries, which every collection would look at


def pytest_sessionstart(session: pytest.Session) -> None:
    if not session.config.getoption("--whole") or _is_worker(session.config):
        return
    last = json.loads(_LAST_SWEEP.read_text(encoding="utf-8")) if _LAST_SWEEP.exists() else None
    words = ", ".join(f"{name} {value}" for name, value in last.items()) if last else "none is known here"
    print(f"last whole run: {words}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """After a run of all that `make sweep` does, note down when that was, of which version, and what came of it."""
    if _is_worker(session.config) or exitstatus not in (0, 1) or not _is_all_of_the_sweep(session):
        return
    stats = session.config.pluginmanager.get_plugin("terminalreporter").stats  # type: ignore[union-attr]
    found = {"ended": datetime.now(UTC).isoformat(timespec="seconds"), "version": manifest.__version__}
    found |= {kind: len(stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    _LAST_SWEEP.parent.mkdir(exist_ok=True)
    _LAST_SWEEP.write_text(json.dumps(found), encoding="utf-8")


def _is_worker(config: pytest.Config) -> bool:
    """Whether this is one of xdist's processes and not the one that reports."""
    return hasattr(config, "workerinput")


def _is_all_of_the_sweep(session: pytest.Session) -> bool:
    """Whether every case of every place of `swept.txt` was asked for, and the run went to its end."""
    config = session.config
    chosen = ("keyword", "markexpr", "lf", "stepwise", "maxfail", "deselect", "ignore", "ignore_glob", "collectonly")
    asked = {(config.invocation_params.dir / each).resolve() for each in config.args if "::" not in each}
    places = {_ROOT / place for place in _SWEPT.read_text(encoding="utf-8").split()}
    return (
        config.getoption("--whole")
        and places <= asked
        and not any(getattr(config.option, name, None) for name in chosen)
        and not session.shouldstop
        and not session.shouldfail
    )


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether every case is asked for, and not a sample."""
    return bool(request.config.getoption("--whole"))


@dataclass(frozen=True)
class Answer:
    """What a process printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one sentence on stderr of a process that could not do what it was asked."""
        assert self.code == 2, self
        assert self.err.startswith("manifest: ")
        assert len(self.err.splitlines()) == 1
        return self.err.removeprefix("manifest: ").strip()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """`manifest ARGUMENTS` in this process, in `tmp_path`, with environment variables by keyword.

    The libraries are imported once a session instead of once a call; what depends on a process of its own is tested
    with `run_process`.
    """

    def call(*arguments: object, **environment: str) -> Answer:
        before = set(sys.modules)
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.syspath_prepend(str(tmp_path))
            patch.setattr(sys, "argv", ["manifest", *map(str, arguments)])
            for name, value in environment.items():
                patch.setenv(name, value)
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            try:
                main()
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
            except BaseException:
                traceback.print_exc()  # as a process would end, and no test takes it for an answer
                code = 1
            for stream in streams.values():
                stream.flush()
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
                del sys.modules[name]  # another test has another module of that name
        out, err = (stream.buffer.getvalue().decode() for stream in streams.values())  # type: ignore[attr-defined]
        assert "Traceback" not in out + err, err
        return Answer(code, out, err)

    return call


@pytest.fixture
def run_process(tmp_path: Path) -> Callable[..., Answer]:
    """`manifest ARGUMENTS` as a process of its own, with environment variables by keyword."""

    def call(*arguments: object, stdout: Any = subprocess.PIPE, **environment: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "manifest", *map(str, arguments)],
            cwd=tmp_path,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
            env={**os.environ, **environment},
        )
        assert "Traceback" not in (done.stdout or "") + done.stderr
        return Answer(done.returncode, done.stdout or "", done.stderr)

    return call


@pytest.fixture(scope="session")
def digits() -> ModuleType:
    """`fixtures/digits_clip/evaluate.py`, with its model registered."""
    module = _script("digits_clip_evaluate", _FIXTURES / "digits_clip" / "evaluate.py")
    module.register_model()
    return module


@pytest.fixture(scope="session")
def packages() -> ModuleType:
    """`fixtures/packages.py`."""
    return _script("fixtures_packages", _FIXTURES / "packages.py")


@pytest.fixture
def digits_model(digits: ModuleType) -> Any:
    """The trained model, loaded anew."""
    import manifest

    return manifest.load(digits.WEIGHTS, verify="none")


@pytest.fixture
def accuracy(digits: ModuleType) -> Any:
    """Zero-shot accuracy of a model on the held-out digits."""
    import open_clip

    tokenizer = open_clip.get_tokenizer(digits.MODEL)
    return lambda model: digits.zero_shot_accuracy(model, digits.preprocessing(model), tokenizer)


def _script(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def folders(packages: ModuleType) -> dict[str, Path]:
    """The directory of each package's checkpoints, by the name of the package."""
    try:
        return {package.name: packages.fetch(package, packages.cache()) for package in packages.PACKAGES}
    except packages.IndexUnreachableError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes file systems of a size or a mode; where that is not allowed, the test is skipped."""
    places: list[Path] = []

    def mount(options: str, source: Path | None = None) -> Path:
        place = tmp_path / f"mounted{len(places)}"
        place.mkdir()
        what = ["-t", "tmpfs", "-o", options, "tmpfs"] if source is None else ["-o", options, "--bind", str(source)]
        try:
            done = subprocess.run(["mount", *what, str(place)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no `mount` here")
        if done.returncode:
            pytest.skip(f"this user may not mount: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=False)
