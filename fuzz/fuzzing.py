"""One target under atheris: `python fuzz/fuzzing.py TARGET CRASHES [options of libFuzzer] [folders of seeds]`.

Findings are written to the folder of crashes, one for each place in the code that they come from, and fuzzing goes on.
`--replay FILE` instead runs a single input and says how it ends.
"""

from __future__ import annotations

import hashlib
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType

import atheris
import numpy

with atheris.instrument_imports(include=["manifest"]):
    import manifest.checkpoint

from targets import TARGETS, Broken, Target

_SECONDS = 5.0
_MOST_GROWTH = 300 << 20
_PAGE = resource.getpagesize()
_MEMORY = Path("/dev/shm")
_BLIND = 0.1


class Hang(BaseException):
    """An input took longer than any may; no `except Exception` on its way takes it for something else."""


def main(name: str, crashes: Path, options: list[str]) -> None:
    """Fuzz until libFuzzer says that it is enough; does not return."""
    target = TARGETS[name]
    seen: set[str] = set()
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:

        def once(data: bytes) -> None:
            found = outcome(target, data, Path(folder))
            if found is not None and (place := _place(found)) not in seen:
                seen.add(place)
                _keep(crashes, name, data, found)

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            random = Random(seed)
            changed = data
            for _ in range(random.choice((1, 1, 2, 4))):
                if len(changed) <= most:
                    changed = target.mutate(changed, random)
            if len(changed) > most or random.random() < _BLIND:
                return bytes(atheris.Mutate(data, most))
            return changed

        atheris.Setup([sys.argv[0], *options], once, custom_mutator=mutate)
        atheris.Fuzz()


def outcome(target: Target, data: bytes, folder: Path) -> BaseException | None:
    """What was found when reading these bytes within the limits of time and memory; None when all is well."""
    try:
        with _limited():
            target.run(data, folder)
    except (Exception, Hang) as found:
        return found
    return None


@contextmanager
def _limited() -> Iterator[None]:
    """At most so many seconds of computing, and so much more memory than now."""
    pages = int(Path("/proc/self/statm").read_text().partition(" ")[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * _PAGE + _MOST_GROWTH, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _hang(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Hang(f"more than {_SECONDS} seconds")


def _place(found: BaseException) -> str:
    """Where a finding comes from: its class and the innermost line of the package that is fuzzed, or what it says."""
    if isinstance(found, Broken):
        return re.sub(r"\d+|'.*?'", "", str(found))[:80]
    package = str(Path(manifest.__file__).parent)
    frames = [frame for frame in traceback.extract_tb(found.__traceback__) if frame.filename.startswith(package)]
    if isinstance(found, Hang):
        return f"Hang {frames[-1].name if frames else ''}"
    inner = frames[-1] if frames else traceback.extract_tb(found.__traceback__)[-1]
    return f"{type(found).__name__} {Path(inner.filename).name}:{inner.lineno}"


def _keep(crashes: Path, name: str, data: bytes, found: BaseException) -> None:
    path = crashes / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text("".join(traceback.format_exception(found)), "utf-8", "backslashreplace")
    print(f"FINDING {path.name} {_place(found)}", flush=True)


def _replay(path: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = outcome(TARGETS[path.name.partition("-")[0]], path.read_bytes(), Path(folder))
    if found is not None:
        traceback.print_exception(found)
    print("found again" if found is not None else "nothing found")
    return int(found is not None)


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, _hang)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DeprecationWarning)
    numpy.zeros(1)
    if sys.argv[1] == "--replay":
        sys.exit(_replay(Path(sys.argv[2])))
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
