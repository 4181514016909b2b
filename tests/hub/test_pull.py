"""Pulling: what comes down, what is checked before it is put in place, and what is left where it fails."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.digests import file_digests
from manifest.errors import DocumentError, HubError, InputError, NoManifestError, StorageError
from manifest.hub import downloading
from manifest.schema.report import VerificationError
from manifest.storage.sidecars import Sidecars
from tests.cli.test_interrupts import INTERRUPTIBLE
from tests.hub.conftest import INDEX, SHARDS, visible
from tests.hub.server import TOKEN, Hub, cutting, endless, slow, stuck

Run = Callable[..., Any]
Alter = Callable[[str, bytes], None]
_FILES = {"clip.safetensors", "clip.safetensors.manifest.json", "clip.safetensors.manifest.sig"}


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors", INDEX, "step-9"])
def test_checkpoint_comes_back_as_it_went(name: str, hub: Hub, made: Path, tmp_path: Path) -> None:
    pushed = manifest.push(made / name, "acme/clip")
    path = manifest.pull(pushed, to=tmp_path / "new" / "place", key=made / "release.pub")
    assert path == tmp_path / "new" / "place" / name
    assert manifest.verify(path, key=made / "release.pub", fast=True).passed
    places = sorted(each.relative_to(path.parent) for each in path.parent.rglob("*"))
    assert all(
        (made / each).is_dir() or (made / each).read_bytes() == (path.parent / each).read_bytes() for each in places
    )
    assert len(places) == {"clip.pt": 3, "clip.safetensors": 3, INDEX: 5, "step-9": 5}[name]
    assert len(hub.repository("acme/clip").commits) == 2


def test_processes_push_and_pull(hub: Hub, here: Path, run_process: Run) -> None:
    assert run_process("push", "clip.pt", "acme/clip", "--key", "release.pub", "--private").code == 0
    answer = run_process("pull", "acme/clip", "--to", "new", "--key", "release.pub")
    assert (answer.code, answer.err) == (0, "")
    first, second, *_ = answer.out.splitlines()
    assert first == f"Pulled: new/clip.pt of acme/clip@{hub.repository('acme/clip').head.sha}"
    assert second.startswith("✔ clip.pt ")
    assert visible(here / "new") == {"clip.pt", "clip.pt.manifest.json", "clip.pt.manifest.sig"}


def test_full_verification_rebuilds_the_model(pushed: Hub, here: Path, run: Run) -> None:
    answer = run("pull", "acme/clip", "--to", "new", "--full")
    assert answer.code == 0, answer
    assert "✔  golden" in answer.out
    content = json.loads((here / "clip.safetensors.manifest.json").read_bytes())
    content["architecture"]["config"]["quick_gelu"] = False
    head = pushed.repository("acme/clip").head
    head.files["clip.safetensors.manifest.json"] = json.dumps({**content, "signer": None}).encode()
    del head.files["clip.safetensors.manifest.sig"]
    answer = run("pull", "acme/clip", "--to", "newer", "--full")
    assert answer.code == 1, answer
    assert "clip.safetensors fails: architecture" in answer.out
    assert not (here / "newer").exists()


def test_nothing_but_what_the_manifest_names_is_downloaded(pushed: Hub, tmp_path: Path) -> None:
    manifest.pull("acme/clip", to=tmp_path / "new")
    assert visible(tmp_path / "new") == _FILES
    assert pushed.downloaded() == _FILES


def test_repository_that_is_one_directory_is_pulled_under_its_own_name(hub: Hub, made: Path, tmp_path: Path) -> None:
    manifest.push(made / "step-9", "acme/clip", card=False)
    repository = hub.repository("acme/clip")
    files = {path.removeprefix("step-9/"): data for path, data in repository.head.files.items()}
    repository.commit({**files, "README.md": b"of somebody"})
    path = manifest.pull("acme/clip", to=tmp_path, key=made / "release.pub")
    assert path == tmp_path / "clip"
    assert visible(path) == visible(made / "step-9")


def test_several_manifests_are_listed_and_one_is_named(pushed: Hub, here: Path, run: Run) -> None:
    manifest.push(here / "step-9", "acme/clip")
    said = run("pull", "acme/clip", "--to", "new").complaint
    assert "acme/clip has 2 checkpoints with manifests, 'clip.safetensors', 'step-9'; name one of them" in said
    assert run("pull", "acme/clip", "step-9/", "--to", "new", "--quiet").out == ""
    assert visible(here / "new") == {"step-9"}
    with pytest.raises(InputError, match=r"has no 'clip\.bin'; those with manifests are 'clip\.safetensors', 'step-9'"):
        manifest.pull("acme/clip", "clip.bin", to=here / "new")
    assert pushed.repository("acme/clip").at("main") is not None


def test_file_without_a_manifest_is_refused(pushed: Hub, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(NoManifestError, match=r"acme/clip has training\.pkl and no manifest beside it"):
        manifest.pull("acme/clip", "training.pkl", to=tmp_path / "new")
    hub.repository("acme/clip").commit({"weights.pt": b"w"})
    with pytest.raises(NoManifestError, match="acme/clip has no checkpoint with a manifest at"):
        manifest.pull("acme/clip", to=tmp_path / "new")
    assert pushed.downloaded() == set()


@pytest.mark.parametrize("listed", [True, False], ids=["and lists them", "and does not say so"])
def test_weights_that_were_changed_are_not_put_in_place(listed: bool, pushed: Hub, here: Path, run: Run) -> None:
    head = pushed.repository("acme/clip").head
    changed = bytearray(head.files["clip.safetensors"])
    changed[-1] ^= 1
    if listed:
        head.files["clip.safetensors"] = bytes(changed)
    else:
        pushed.faults["clip.safetensors"] = lambda request, _: request.send(bytes(changed)) is None
    answer = run("pull", "acme/clip", "--to", "new", "--key", "release.pub")
    assert (answer.code, answer.err) == (1, "")
    assert "clip.safetensors fails: integrity" in answer.out
    assert ("I001 bytes-changed" if listed else "I002 tensors-changed") in answer.out
    assert ("clip.safetensors" in pushed.downloaded()) != listed
    assert not (here / "new").exists()


def test_signer_who_is_not_trusted_ends_it_before_the_weights(pushed: Hub, here: Path, run: Run) -> None:
    (here / "new").mkdir()
    answer = run("pull", "acme/clip", "--to", "new", "--key", "other.pub")
    assert answer.code == 1
    assert "T003" in answer.out
    assert "clip.safetensors" not in pushed.downloaded()
    assert visible(here / "new") == set()
    with pytest.raises(VerificationError, match=r"clip\.safetensors fails its trust check \(T003"):
        manifest.pull("acme/clip", to=here / "new", key=here / "other.pub")


@pytest.mark.parametrize(
    ("path", "error"), [("../x", "manifest"), ("..", "expected one beside it"), ("/x", "manifest")]
)
def test_manifest_that_names_files_elsewhere_is_refused(
    path: str, error: str, alter: Alter, pushed: Hub, tmp_path: Path
) -> None:
    content = json.loads(pushed.repository("acme/clip").head.files["clip.safetensors.manifest.json"])
    content["checkpoint"]["files"].append({**content["checkpoint"]["files"][0], "path": path})
    alter("clip.safetensors.manifest.json", json.dumps(content).encode())
    with pytest.raises(DocumentError, match=error):
        manifest.pull("acme/clip", to=tmp_path / "new")
    assert visible(tmp_path) == set()
    assert "clip.safetensors" not in pushed.downloaded()


def test_file_that_is_no_part_of_the_checkpoint_is_not_put_beside_it(alter: Alter, pushed: Hub, tmp_path: Path) -> None:
    """It would be imported by whoever starts Python there."""
    files = pushed.repository("acme/clip").head.files
    content = json.loads(files["clip.safetensors.manifest.json"])
    content["signer"] = None
    script = tmp_path / "torch.py"
    script.write_bytes(b"raise SystemExit\n")
    blake3, sha256 = file_digests(script)
    content["checkpoint"]["files"].append({"path": script.name, "size": 17, "blake3": blake3, "sha256": sha256})
    alter("torch.py", script.read_bytes())
    alter("clip.safetensors.manifest.json", json.dumps(content).encode())
    del pushed.repository("acme/clip").head.files["clip.safetensors.manifest.sig"]
    with pytest.raises(VerificationError, match="consists of other files than the manifest lists"):
        manifest.pull("acme/clip", to=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_path_in_the_listing_that_leads_elsewhere_is_no_checkpoint(pushed: Hub, tmp_path: Path) -> None:
    head = pushed.repository("acme/clip").head
    for name in ("../../x.pt", "a/../../y", "/z.pt"):
        head.files |= {name: b"", f"{name}.manifest.json": b"{}"}
    assert manifest.pull("acme/clip", to=tmp_path / "new").name == "clip.safetensors"
    with pytest.raises(NoManifestError):
        manifest.pull("acme/clip", "../../x.pt", to=tmp_path / "new")


@pytest.mark.parametrize("name", ["clip.safetensors", "clip.safetensors.manifest.sig"])
def test_server_that_sends_more_than_it_may_is_cut_off(
    name: str, pushed: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "LARGEST", 10 << 20)
    pushed.faults[name] = endless
    with pytest.raises(HubError, match=r"More than the [\d,]+ bytes that it may have came of clip\.safetensors"):
        manifest.pull("acme/clip", to=tmp_path / "new")
    assert visible(tmp_path) == set()


def test_connection_that_breaks_off_once_is_taken_up_again(pushed: Hub, tmp_path: Path) -> None:
    pushed.faults["clip.safetensors"] = cutting(1)
    assert manifest.pull("acme/clip", to=tmp_path / "new").is_file()


def test_connection_that_breaks_off_each_time_leaves_nothing(
    pushed: Hub, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    pushed.faults["clip.safetensors"] = cutting(100)
    said = run("pull", "acme/clip", "--to", "new").complaint
    assert said.startswith(f"{pushed.address} cannot be reached, or broke off (")
    assert said.endswith("; check the network and HF_ENDPOINT, and try again.")
    assert not (here / "new").exists()


def test_file_that_is_shorter_than_it_was_announced_is_told(pushed: Hub, here: Path, run: Run) -> None:
    pushed.faults["clip.safetensors"] = lambda request, data: request.send(data[:-100]) is None
    said = run("pull", "acme/clip", "--to", "new").complaint
    assert said == f"{pushed.address} sent another number of bytes of a file of acme/clip than it announced; try again."
    assert not (here / "new").exists()


def test_all_files_are_of_the_commit_that_was_seen_first(pushed: Hub, made: Path, tmp_path: Path) -> None:
    repository = pushed.repository("acme/clip")
    before = repository.head.sha
    pushed.after_listing = lambda: repository.commit({}, "everything is gone")
    path = manifest.pull("acme/clip@main", to=tmp_path, key=made / "release.pub")
    assert path.read_bytes() == (made / "clip.safetensors").read_bytes()
    assert repository.head.sha != before
    resolved = [each for _, each in pushed.requests if "/resolve/" in each]
    assert resolved
    assert all(f"/resolve/{before}/" in each for each in resolved)


def test_what_lies_there_already_is_verified_and_not_downloaded_again(pushed: Hub, here: Path) -> None:
    assert manifest.pull("acme/clip", to=here) == here / "clip.safetensors"
    assert "clip.safetensors" not in pushed.downloaded()


def test_other_files_there_are_replaced_only_when_it_is_asked_for(pushed: Hub, here: Path, run: Run) -> None:
    (here / "clip.safetensors").write_bytes(b"mine")
    said = run("pull", "acme/clip").complaint
    assert said == (
        "clip.safetensors is there already and is another file; name another directory by `--to`, or replace it by "
        "`--force`."
    )
    assert (here / "clip.safetensors").read_bytes() == b"mine"
    assert "clip.safetensors" not in pushed.downloaded()
    assert run("pull", "acme/clip", "--force", "--key", "release.pub").code == 0
    assert manifest.verify(here / "clip.safetensors", key=here / "release.pub", fast=True).passed


def test_signature_there_that_the_repository_has_not_goes_when_it_is_asked_for(pushed: Hub, here: Path) -> None:
    content = json.loads((here / "clip.safetensors.manifest.json").read_bytes())
    head = pushed.repository("acme/clip").head
    del head.files["clip.safetensors.manifest.sig"]
    head.files["clip.safetensors.manifest.json"] = json.dumps({**content, "signer": None}).encode()
    manifest.pull("acme/clip", to=here / "new")
    shutil.copy(here / "clip.safetensors.manifest.sig", here / "new")
    with pytest.raises(InputError, match=r"clip\.safetensors\.manifest\.sig is there already and is another file"):
        manifest.pull("acme/clip", to=here / "new")
    manifest.pull("acme/clip", to=here / "new", force=True)
    assert visible(here / "new") == _FILES - {"clip.safetensors.manifest.sig"}


@pytest.mark.parametrize("name", ["clip.safetensors", INDEX, "step-9"], ids=["a file", "shards", "a folder"])
def test_all_signatures_go_to_the_hub_and_come_back(name: str, hub: Hub, here: Path, made: Path) -> None:
    first, second = Sidecars(here / name).signature, manifest.sign(here / name, made / "other.key")
    manifest.push(here / name, "acme/clip")

    pulled = manifest.pull("acme/clip", to=here / "new")

    for key in ("release", "other"):
        assert manifest.verify(pulled, key=made / f"{key}.pub", fast=True).passed
    assert Sidecars(pulled).signature.read_bytes() == first.read_bytes()
    assert Sidecars(pulled).cosignature(2).read_bytes() == second.read_bytes()
    hub.requests.clear()
    assert manifest.pull("acme/clip", to=here / "new") == pulled
    assert {Path(each).name.rpartition(".")[2] for each in hub.downloaded()} == {"json", "sig"}


def test_signature_that_the_hub_has_no_more_goes_there_and_here(hub: Hub, here: Path, made: Path) -> None:
    checkpoint = here / "clip.safetensors"
    cosignature = manifest.sign(checkpoint, made / "other.key")
    manifest.push(checkpoint, "acme/clip")
    manifest.pull("acme/clip", to=here / "new")
    cosignature.unlink()
    manifest.push(checkpoint, "acme/clip")

    assert cosignature.name not in hub.repository("acme/clip").head.files
    with pytest.raises(InputError, match=r"clip\.safetensors\.manifest\.2\.sig is there already and is another file"):
        manifest.pull("acme/clip", to=here / "new")
    manifest.pull("acme/clip", to=here / "new", force=True)
    assert visible(here / "new") == _FILES


def test_threshold_is_met_by_what_came_from_the_hub(hub: Hub, here: Path, run: Run) -> None:
    run("trust", "add", "release", "release.pub")
    run("trust", "add", "other", "other.pub", "--threshold", "2")
    run("push", "clip.safetensors", "acme/clip", "--key", "release.pub")
    one = run("pull", "acme/clip", "--to", "new")
    run("sign", "clip.safetensors", "--key", "other.key")
    run("push", "clip.safetensors", "acme/clip")
    two = run("pull", "acme/clip", "--to", "new")

    assert (one.code, two.code) == (1, 0), two.err
    assert "T015" in one.out
    assert visible(here / "new") == _FILES | {"clip.safetensors.manifest.2.sig"}
    assert hub.repository("acme/clip").head.files.keys() > {"clip.safetensors.manifest.2.sig"}


def test_shards_there_are_replaced_and_those_that_are_the_same_stay(hub: Hub, here: Path, made: Path) -> None:
    manifest.push(made / INDEX, "acme/clip")
    (here / SHARDS[0]).write_bytes(b"mine")
    before = (here / SHARDS[1]).stat().st_ino
    with pytest.raises(InputError, match=f"{SHARDS[0]} is there already"):
        manifest.pull("acme/clip", to=here)
    manifest.pull("acme/clip", to=here, force=True)
    assert manifest.verify(here / INDEX, key=made / "release.pub", fast=True).passed
    assert (here / SHARDS[1]).stat().st_ino == before
    assert len(hub.repository("acme/clip").commits) == 2


def test_directory_there_is_replaced_only_when_it_is_asked_for(hub: Hub, here: Path, made: Path) -> None:
    manifest.push(made / "step-9", "acme/clip")
    assert manifest.pull("acme/clip", to=here) == here / "step-9"
    (here / "step-9" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is there already"):
        manifest.pull("acme/clip", to=here)
    (here / "step-9" / "__0_0.distcp").write_bytes(b"changed")
    manifest.pull("acme/clip", to=here, force=True)
    assert manifest.verify(here / "step-9", key=made / "release.pub", fast=True).passed
    assert (here / "step-9" / "notes.txt").read_text() == "mine"
    shutil.rmtree(here / "step-9")
    (here / "step-9").write_bytes(b"")
    with pytest.raises(InputError, match="step-9 is no directory, and one is expected"):
        manifest.pull("acme/clip", to=here / "step-9")
    with pytest.raises(InputError, match="step-9 is a file, and a directory belongs there"):
        manifest.pull("acme/clip", to=here, force=True)
    assert hub.repositories.keys() == {"acme/clip"}


def test_disk_with_too_little_space_is_told_before_the_download(
    pushed: Hub, mounted: Callable[..., Path], run: Run
) -> None:
    place = mounted("size=1m")
    said = run("pull", "acme/clip", "--to", place).complaint
    assert said.startswith("clip.safetensors has 13,947,420 bytes, and ")
    assert said.endswith("or name another directory by `--to`; nothing was downloaded.")
    assert "clip.safetensors" not in pushed.downloaded()
    assert visible(place) == set()


def test_place_that_may_not_be_written_is_told(pushed: Hub, mounted: Callable[..., Path], run: Run) -> None:
    place = mounted("ro,size=1m")
    assert "is on a read-only file system" in run("pull", "acme/clip", "--to", place).complaint
    with pytest.raises(StorageError):
        manifest.pull("acme/clip", to=place / "new")
    assert "clip.safetensors" not in pushed.downloaded()


@pytest.mark.parametrize(
    ("repository", "sentence"),
    [
        ("acme/nothing", "shows no repository acme/nothing; check the name, and if it is private, log in"),
        ("acme/clip@v9", "acme/clip has no revision 'v9'; name a branch, a tag or a commit of it."),
        ("acme/clip@", "names no revision after the @"),
        ("acme", "is no name of a repository, expected OWNER/REPO"),
    ],
)
def test_what_is_not_there_is_told_in_a_sentence(
    repository: str, sentence: str, pushed: Hub, tmp_path: Path, run: Run
) -> None:
    assert sentence in run("pull", repository, "--to", "new").complaint
    assert visible(tmp_path) == set()
    assert pushed.downloaded() == set()


def test_repository_that_is_private_or_gated_is_told(pushed: Hub, run: Run) -> None:
    pushed.repository("acme/clip").gated = True
    assert "acme/clip is gated: ask for access on its page" in run("pull", "acme/clip", "--to", "new").complaint
    pushed.repository("acme/clip").private = True
    assert "shows no repository acme/clip" in run("pull", "acme/clip", "--to", "new", HF_TOKEN="").complaint


@pytest.mark.parametrize(
    ("status", "sentence"), [(429, "too many requests"), (500, "answered with status 500: told to")]
)
def test_hub_that_refuses_is_told(status: int, sentence: str, pushed: Hub, run: Run) -> None:
    pushed.status = status
    assert sentence in run("pull", "acme/clip", "--to", "new").complaint


def test_hub_that_is_not_there_is_told(here: Path, run_process: Run) -> None:
    answer = run_process(
        "pull", "acme/clip", "--to", "new", HF_ENDPOINT="http://name:password@127.0.0.1:9", HF_TOKEN=TOKEN
    )
    assert answer.complaint.startswith("http://127.0.0.1:9 cannot be reached, or broke off (")
    answer = run_process("pull", "acme/clip", "--to", "new", HF_HUB_OFFLINE="1")
    assert answer.complaint == "HF_HUB_OFFLINE is set, so https://huggingface.co is not asked; unset it."
    assert not (here / "new").exists()


def test_progress_tells_how_much_is_there(pushed: Hub, tmp_path: Path) -> None:
    seen: list[Any] = []
    pushed.faults["clip.safetensors"] = slow
    manifest.pull("acme/clip", to=tmp_path, progress=seen.append)
    assert ("downloading", 13_947_420) in {(step.name, step.total) for step in seen}


def test_interrupt_leaves_nothing(pushed: Hub, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    pushed.faults["clip.safetensors"] = stuck
    command = [sys.executable, "-c", INTERRUPTIBLE, "pull", "acme/clip", "--to", "new"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: any((tmp_path / "new").rglob("*.incomplete")))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert err == "manifest: interrupted; no file was left half-written.\n"
    assert visible(tmp_path / "new") == set()


def test_leftovers_of_a_killed_pull_go_with_the_next(pushed: Hub, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    pushed.faults["clip.safetensors"] = stuck
    command = [sys.executable, "-m", "manifest", "pull", "acme/clip", "--to", "new"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: any((tmp_path / "new").rglob("*.incomplete")))
        process.kill()
        process.communicate(timeout=30)
    (left,) = visible(tmp_path / "new")
    assert left.startswith(".clip.safetensors.")
    pushed.faults.clear()
    manifest.pull("acme/clip", to=tmp_path / "new")
    assert visible(tmp_path / "new") == _FILES


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
