"""What is found after a training was killed, ran out of disk, may not write, or was not alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.checkpoint.discovering import discover
from manifest.digests import weights_digest
from manifest.errors import NoManifestError, NoManifestWarning
from manifest.storage.transaction import read_manifest
from manifest.training.recording import recording
from manifest.workflows.repairing import repair
from tests.warm import warm_run

KILLS = 50
"""With `--whole`; a tenth of them without."""
SAVING = """
    import os, random, signal, sys, tempfile, time
    from pathlib import Path
    import timm, torch
    import manifest
    from manifest.training.recording import recording

    place, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
    model = timm.create_model("test_vit", num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 160, 160)).square().mean().backward()
    optimizer.step()


    def save_to(target, model):
        with torch.no_grad():
            next(model.parameters()).add_(0.001)
        torch.save({"state_dict": model.state_dict()}, target / "tmp.pt")
        os.replace(target / "tmp.pt", target / "latest.pt")
        torch.save(model.state_dict(), target / "same.pt")
        manifest.save(model, target / "own.pt", golden=False)

    # Once before, so that the processes need not import what that takes; a small model, which is hashed in one thread.
    with recording(golden="none"), tempfile.TemporaryDirectory() as warm:
        small = timm.create_model("test_vit", depth=1, embed_dim=32, num_heads=2)
        small(torch.randn(2, 3, 160, 160)).square().mean().backward()
        torch.optim.AdamW(small.parameters()).step()
        save_to(Path(warm), small)

    said, say = os.pipe()

    def save_for_ever(target):
        with recording(golden="none"):
            while True:
                save_to(target, model)
                os.write(say, b".")

    chance = random.Random(0)
    for number in range(kills):
        target = place / f"{number:02}"
        target.mkdir()
        child = os.fork()
        if child == 0:
            save_for_ever(target)
        os.read(said, 1)
        time.sleep(chance.random() * 0.7)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.set_blocking(said, False)
        try:
            os.read(said, 100)
        except BlockingIOError:
            pass
        os.set_blocking(said, True)
"""


def test_a_killed_training_leaves_manifests_that_verify_or_none(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills = KILLS if request.config.getoption("--whole", default=False) else KILLS // 10
    done = warm_run(["-c", textwrap.dedent(SAVING), tmp_path, kills], tmp_path)
    assert done.returncode == 0, done
    described, bare = 0, 0
    for place in sorted(tmp_path.iterdir()):
        for path in place.glob("*.pt"):
            try:
                report = manifest.verify(path, fast=True)
            except NoManifestError:
                bare += 1
            else:
                assert report.passed, (path, report)
                described += 1
        if any(place.glob("*.pt")):
            assert all(path.suffix == ".pt" for path in discover([str(place)])), list(place.iterdir())
    assert described > kills
    assert described + bare > 2 * kills


SERVING = """
    import json, os, select, signal, sys, tempfile, time
    from pathlib import Path
    import timm, torch
    import manifest
    from manifest.training.recording import recording

    how, width = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads

    def made(width):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", num_classes=3, embed_dim=width, num_heads=2)
        model(torch.randn(2, 3, 160, 160)).square().mean().backward()
        torch.optim.AdamW(model.parameters()).step()
        return model

    def save(model, target):
        if how == "save":
            manifest.save(model, target, golden=False)
        else:
            with recording(golden="none"):
                torch.save(model.state_dict(), target)

    with tempfile.TemporaryDirectory() as warm:  # once before, so that the processes need not import what it takes
        save(made(32), Path(warm) / "a.pt")
    model = made(width)
    for line in sys.stdin:
        target, shift, delay = json.loads(line)
        said, say = os.pipe()
        child = os.fork()
        if child == 0:
            with torch.no_grad():
                next(model.parameters()).add_(shift)
            os.write(say, b"b")
            save(model, Path(target))
            os._exit(0)
        os.read(said, 1)
        os.close(say)
        began = time.monotonic()
        if delay is not None and not select.select([said], [], [], delay)[0]:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(said)
        print(json.dumps(time.monotonic() - began), flush=True)
"""

WHOLE = {"old, whole", "new, whole"}


@pytest.mark.parametrize(
    "width", [pytest.param(64, id="small"), pytest.param(768, id="large", marks=pytest.mark.whole)]
)
@pytest.mark.parametrize("how", [pytest.param("save", marks=pytest.mark.whole), "recorded"])
def test_killed_save_leaves_a_whole_checkpoint_and_nothing_that_a_repair_keeps(
    tmp_path: Path, request: pytest.FixtureRequest, how: str, width: int
) -> None:
    kills = KILLS if request.config.getoption("--whole", default=False) else KILLS // 20
    serving = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SERVING), how, str(width)]
    with subprocess.Popen(serving, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def save(path: Path, shift: float, delay: float | None) -> float:
            assert server.stdin is not None
            assert server.stdout is not None
            print(json.dumps([str(path), shift, delay]), file=server.stdin, flush=True)
            return float(server.stdout.readline())

        for name, shift in (("old", 0.0), ("new", 0.5)):
            (tmp_path / name).mkdir()
            taken = save(tmp_path / name / "a.pt", shift, None)  # of the second, when all is warm
        digests = {read_manifest(tmp_path / name / "a.pt").weights.digest: name for name in ("old", "new")}
        chance, outcomes = random.Random(width), Counter[str]()
        for _ in range(kills):
            place = shutil.copytree(tmp_path / "old", tmp_path / "killed")
            save(place / "a.pt", 0.5, chance.random() * taken)
            outcome = _outcome(place / "a.pt", digests)
            outcomes[outcome] += 1
            outcomes["with temporary files"] += any(path.name.endswith(".tmp") for path in place.iterdir())
            outcomes["with pending sidecars"] += any(path.name.endswith(".pending") for path in place.iterdir())
            repaired = repair(place)
            assert not repaired.refused + repaired.left
            assert _outcome(place / "a.pt", digests) == outcome
            assert {path.name for path in place.iterdir()} <= {"a.pt", "a.pt.manifest.json"}
            shutil.rmtree(place)
        assert server.stdin is not None
        server.stdin.close()
    size = (tmp_path / "old" / "a.pt").stat().st_size
    print(f"\n{how}, {size:,} bytes, {kills} kills within {taken:.2f} s: {dict(sorted(outcomes.items()))}")
    allowed = WHOLE if how == "save" else WHOLE | {"new, without manifest", "old, without manifest"}
    assert set(outcomes) - {"with temporary files", "with pending sidecars"} <= allowed


def _outcome(path: Path, digests: dict[str, str]) -> str:
    """What lies at a path after a kill: the old checkpoint or the new one, whole or without a manifest."""
    with open_checkpoint(path) as stored:
        found = weights_digest((name, stored.digest(tensor)) for name, tensor in stored.tensors.items())
    try:
        report = manifest.verify(path, fast=True)
    except NoManifestError:
        return f"{digests[found]}, without manifest"
    return f"{digests[found]}, {'whole' if report.passed else 'its manifest of other bytes'}"


@pytest.fixture
def model() -> torch.nn.Module:
    found = timm.create_model("test_vit", num_classes=3)
    found(torch.randn(2, 3, 160, 160)).square().mean().backward()
    torch.optim.AdamW(found.parameters()).step()
    return found


def test_a_disk_that_is_full_is_the_scripts_own_error(model: torch.nn.Module, mounted: Callable[..., Path]) -> None:
    place = mounted("size=4m")
    with recording(golden="none"):
        torch.save(model.state_dict(), place / "a.pt")
    (place / "ballast").write_bytes(bytes(place_left(place) - (256 << 10)))
    with recording(golden="none") as recorder, pytest.raises((RuntimeError, OSError)):
        torch.save(model.state_dict(), place / "b.pt")
    assert not recorder.described + recorder.failed
    assert manifest.verify(place / "a.pt", fast=True).passed
    assert not [path for path in place.iterdir() if path.name.endswith((".tmp", ".pending"))]


def test_where_there_is_no_room_for_two_a_save_is_made_as_without(
    model: torch.nn.Module, mounted: Callable[..., Path]
) -> None:
    place = mounted("size=4m")
    with recording(golden="none"):
        torch.save(model.state_dict(), place / "a.pt")
    (place / "ballast").write_bytes(bytes(place_left(place) - (256 << 10)))
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with recording(golden="none"):
        torch.save(model.state_dict(), place / "a.pt")
    assert torch.equal(next(iter(torch.load(place / "a.pt").values())), next(iter(model.state_dict().values())))
    assert manifest.verify(place / "a.pt", fast=True).passed


def test_where_nothing_may_be_written_the_script_hears_it_as_without(
    model: torch.nn.Module, tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    (tmp_path / "source").mkdir()
    place = mounted("ro", source=tmp_path / "source")
    with recording() as recorder, pytest.raises((RuntimeError, OSError)):
        torch.save(model.state_dict(), place / "a.pt")
    assert not recorder.described + recorder.failed + recorder.left_alone


def test_a_manifest_that_has_no_room_is_a_warning(model: torch.nn.Module, mounted: Callable[..., Path]) -> None:
    place = mounted("size=4m")
    with pytest.warns(NoManifestWarning, match="disk of|No space"), recording(golden="none") as recorder:
        torch.save(model.state_dict(), place / "a.pt")
        (place / "ballast").write_bytes(bytes(place_left(place)))
    assert [path.name for path, _ in recorder.failed] == ["a.pt"]
    assert torch.load(place / "a.pt")
    assert not (place / "a.pt.manifest.json").exists()


def place_left(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


TOGETHER = """
    import os, sys, traceback
    import timm, torch
    import manifest
    from manifest.training.recording import recording

    place = sys.argv[1]
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads

    def train(number):
        torch.manual_seed(number)
        model = timm.create_model("test_vit", num_classes=3)
        model(torch.randn(2, 3, 160, 160)).square().mean().backward()
        torch.optim.AdamW(model.parameters()).step()
        with recording(golden="none"):
            for step in range(8):
                with torch.no_grad():
                    next(model.parameters()).add_(0.001)
                if step % 2:
                    torch.save(model.state_dict(), place)
                else:
                    manifest.save(model, place, golden=False)

    children = []
    for number in (1, 2):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                train(number)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(0 if ends == [0, 0] else f"they ended with {ends}")
"""


def test_two_processes_that_save_to_the_same_path_leave_one_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "same.pt"
    done = warm_run(["-c", textwrap.dedent(TOGETHER), path], tmp_path)
    assert done.returncode == 0, done
    assert manifest.verify(path, fast=True).passed
    assert read_manifest(path).weights.digest
    assert sorted(each.name for each in tmp_path.iterdir()) == ["same.pt", "same.pt.manifest.json"]
