"""`manifest run` with any command: it ends, prints and sees what it does without; all its processes are recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manifest.storage.transaction import read_manifest
from manifest.training.account import FOLDER, gather
from manifest.training.settings import RecordSettings
from tests.warm import warm_run

SCRIPTS = Path(__file__).parent / "scripts"
RUN = [sys.executable, "-m", "manifest", "run", "--golden=none", "--"]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, str(SCRIPTS)]), **variables}


def both(place: Path, command: list[str], **variables: str) -> list[tuple[int, str, str]]:
    """How a command ends, and what it prints, by itself and under `manifest run`, whose own lines are left out."""
    ends = []
    for words in (command, [*RUN, *command]):
        done = subprocess.run(
            words, cwd=place, capture_output=True, text=True, check=False, env=environment(**variables)
        )
        own = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("manifest: "))
        ends.append((done.returncode, done.stdout, own))
    return ends


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("print('done')", 0),
        ("raise SystemExit(5)", 5),
        ("raise SystemExit('why')", 1),
        ("raise RuntimeError('why')", 1),
        ("import os; os._exit(9)", 9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("from manifest.errors import InputError; raise InputError('of the script')", 1),
    ],
)
def test_command_when_it_ends_in_some_way_then_run_ends_so(program, code, tmp_path):
    alone, recorded = both(tmp_path, [sys.executable, "-c", program])
    assert alone[0] == code
    assert recorded == alone


@pytest.mark.parametrize(
    "words",
    [
        ["bash", "-c", "echo $0 $#; exit 4", "name", "a b"],
        ["sh", "-c", "kill -USR1 $$"],
        ["python", "-u", "-W", "error", "-X", "utf8", "-O", "-c", "import sys; print(sys.flags, sys.argv)", "1"],
        ["python", "nowhere.py"],
        ["env", "python", "-I", "-c", "import sys; print(sys.flags.isolated)"],
    ],
)
def test_words_of_a_command_when_run_then_reach_it_unchanged(words, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    alone, recorded = both(tmp_path, words, PATH=path)
    assert recorded == alone


def test_sites_own_customisation_when_there_is_one_then_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('of this site')\n")
    done = subprocess.run(
        [*RUN, sys.executable, "-c", "pass"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=environment(PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path])),
    )
    assert "of this site" in done.stdout


def test_signal_when_sent_to_run_then_the_command_gets_it(tmp_path):
    program = (
        "import signal, time\n"
        "def end(number, frame):\n"
        "    raise SystemExit(number + 20)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    words = [*RUN, sys.executable, "-c", program]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == signal.SIGTERM + 20


@pytest.mark.skipif(not Path("/dev/ptmx").exists(), reason="there are no terminals here")
def test_keys_of_a_terminal_when_pressed_then_the_command_is_interrupted_once(tmp_path):
    program = (
        "import time\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(0.5)\n"
        "    print('once', flush=True)\n"
    )
    import pty

    child, terminal = pty.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what was started in the background ignores it
        os.chdir(tmp_path)
        os.execve(RUN[0], [*RUN, sys.executable, "-c", program], environment())
    said = b""
    while b"once" not in said:
        said += os.read(terminal, 1000)
        if b"ready" in said and b"^C" not in said:
            os.write(terminal, b"\x03")
            time.sleep(0.1)
        assert b"Traceback" not in said
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)


def test_program_when_recorded_then_sees_what_it_sees_without(tmp_path):
    (tmp_path / "deeper").mkdir()
    script = os.path.relpath(SCRIPTS / "surroundings.py", tmp_path / "deeper")
    alone, recorded = both(tmp_path / "deeper", [sys.executable, "-O", script, "--lr", "1"])
    assert alone[0] == 1
    assert "at the end" in alone[1]
    assert recorded == alone


@pytest.mark.whole
def test_coverage_when_recorded_then_counts_the_lines_that_it_counts_without(tmp_path):
    covered = [sys.executable, "-m", "coverage", "run", f"--include={SCRIPTS}/*"]
    alone, recorded = both(tmp_path, [*covered, str(SCRIPTS / "surroundings.py")])
    assert recorded == alone
    counts = [[sys.executable, "-m", "coverage", "report", "-m"] for _ in range(2)]
    subprocess.run([*covered, str(SCRIPTS / "plain.py")], cwd=tmp_path, check=True, env=environment())
    first = subprocess.run(counts[0], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    subprocess.run([*RUN, *covered, str(SCRIPTS / "plain.py")], cwd=tmp_path, check=True, env=environment())
    second = subprocess.run(counts[1], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert first == second
    assert "plain.py" in first


def warm(place: Path, *ways: str) -> tuple[int, set[str]]:
    """How `everywhere.py` ends in an environment that records, and which checkpoints have a manifest then."""
    told = place / "told"
    told.mkdir()
    variables = {**RecordSettings(golden="none").variables(), FOLDER: str(told)}
    ended = warm_run([SCRIPTS / "everywhere.py", *ways], place, environment(**variables))
    described = {path.stem for path in gather(told).described}
    for name in described:
        assert read_manifest(place / f"{name}.pt").architecture.name == "own_networks:Perceptron"
    return ended.returncode, described


def test_processes_when_forked_then_their_saves_are_described(tmp_path):
    code, described = warm(tmp_path, "fork", "process-by-fork", "pool", "plainly")
    assert (code, described) == (0, {"fork", "process-by-fork", "pool", "plainly"})


@pytest.mark.parametrize(("way", "code"), [("exec", 0), ("exit", 7)])
def test_process_when_it_ends_at_once_then_its_saves_are_described_before(way, code, tmp_path):
    assert warm(tmp_path, way) == (code, {f"before-{way}"})


@pytest.mark.whole
def test_processes_when_started_anew_then_one_line_tells_of_all(tmp_path):
    words = ["bash", "-c", f"python {SCRIPTS}/everywhere.py process-by-spawn subprocess"]
    done = subprocess.run([*RUN, *words], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment())
    assert done.stderr.splitlines() == ["manifest: described process-by-spawn.pt, plainly.pt"]


def test_command_when_no_process_imports_torch_then_that_is_said(tmp_path):
    done = subprocess.run([*RUN, "true"], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment())
    assert "nothing was recorded" in done.stderr
