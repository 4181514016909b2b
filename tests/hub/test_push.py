"""Pushing: what goes up, in which commit, and what does not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.errors import HubError, InputError, StorageError
from manifest.hub import uploading
from manifest.schema.report import VerificationError
from tests.hub.conftest import INDEX, SHARDS
from tests.hub.server import TOKEN, Hub

Run = Callable[..., Any]
_SIDECARS = (".manifest.json", ".manifest.sig")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("clip.pt", {"clip.pt", *(f"clip.pt{end}" for end in _SIDECARS)}),
        (INDEX, {INDEX, *SHARDS, *(f"{INDEX}{end}" for end in _SIDECARS)}),
        ("step-9", {f"step-9/{each}" for each in (".metadata", "__0_0.distcp", "manifest.json", "model.sig")}),
    ],
)
def test_checkpoint_and_all_that_belongs_to_it_go_up_in_one_commit(
    name: str, files: set[str], hub: Hub, made: Path, run: Run
) -> None:
    answer = run("push", made / name, "acme/clip", "--key", made / "release.pub")
    first, commit = hub.repository("acme/clip").commits
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"Pushed: acme/clip@{commit.sha}\n"
    assert commit.files.keys() - first.files.keys() == {*files, "README.md"}
    folder = made / name if (made / name).is_dir() else made
    assert all(commit.files[each] == (folder / Path(each).name).read_bytes() for each in files)


def test_card_section_is_replaced_and_everything_around_it_kept(hub: Hub, made: Path) -> None:
    manifest.push(made / "clip.safetensors", "acme/clip")
    repository = hub.repository("acme/clip")
    before = b"---\r\nlicense: mit\r\n---\r\n# Mine\n\n<!-- manifest -->\nWhat was there\n<!-- /manifest -->\n\nthe end"
    repository.commit({**repository.head.files, "README.md": before})
    manifest.push(made / "clip.safetensors", "acme/clip")
    after = repository.head.files["README.md"]
    start, end = before.split(b"What was there\n")
    assert after.startswith(start + b"## Manifest\n")
    assert after.endswith(end)
    assert after.count(b"<!-- manifest -->") == 1


def test_card_is_left_alone_where_it_is_told(hub: Hub, made: Path) -> None:
    manifest.push(made / "clip.safetensors", "acme/clip", card=False)
    assert "README.md" not in hub.repository("acme/clip").head.files


def test_card_with_one_mark_alone_ends_the_push_before_it_began(hub: Hub, here: Path, run: Run) -> None:
    manifest.push(here / "clip.safetensors", "acme/clip")
    repository = hub.repository("acme/clip")
    repository.commit({**repository.head.files, "README.md": b"<!-- manifest -->\n"})
    said = run("push", "clip.pt", "acme/clip").complaint
    assert "README.md of acme/clip cannot be a model card" in said
    assert said.endswith("correct it, or pass `--no-card`.")
    assert "clip.pt" not in repository.head.files


def test_checkpoint_that_fails_is_not_pushed_and_its_report_is_shown(hub: Hub, here: Path, run: Run) -> None:
    data = bytearray((here / "clip.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (here / "clip.pt").write_bytes(data)
    answer = run("push", "clip.pt", "acme/clip")
    assert (answer.code, answer.err) == (1, "")
    assert "clip.pt fails: integrity" in answer.out
    assert hub.requests == []
    with pytest.raises(VerificationError, match="fails its integrity check"):
        manifest.push(here / "clip.pt", "acme/clip")


@pytest.mark.usefixtures("here")
def test_checkpoint_of_another_signer_is_not_pushed(hub: Hub, run: Run) -> None:
    answer = run("push", "clip.pt", "acme/clip", "--key", "other.pub")
    assert answer.code == 1
    assert "T003" in answer.out
    assert hub.requests == []


def test_signature_of_an_earlier_push_goes_where_the_new_one_has_none(hub: Hub, here: Path) -> None:
    manifest.push(here / "clip.pt", "acme/clip")
    (here / "clip.pt.manifest.json").unlink()
    (here / "clip.pt.manifest.sig").unlink()
    manifest.create(here / "clip.pt", "digits-clip", family="open_clip", golden=False)
    manifest.push(here / "clip.pt", "acme/clip")
    files = hub.repository("acme/clip").head.files
    assert "clip.pt.manifest.sig" not in files
    assert files["clip.pt.manifest.json"] == (here / "clip.pt.manifest.json").read_bytes()


def test_weights_go_up_though_the_repository_ignores_such_files(hub: Hub, made: Path) -> None:
    manifest.push(made / "clip.safetensors", "acme/clip")
    repository = hub.repository("acme/clip")
    repository.commit({".gitignore": b"*.pt\n"})
    manifest.push(made / "clip.pt", "acme/clip")
    assert "clip.pt" in repository.head.files


def test_branch_that_is_not_there_is_made(hub: Hub, made: Path) -> None:
    pushed = manifest.push(made / "clip.pt", "acme/clip", revision="v2", message="Second try")
    repository = hub.repository("acme/clip")
    commit = repository.at("v2")
    assert commit is not None
    assert (pushed, commit.message) == (f"acme/clip@{commit.sha}", "Second try")
    assert "clip.pt" not in repository.head.files


def test_private_repository_is_made_so_and_a_public_one_refused(hub: Hub, made: Path) -> None:
    manifest.push(made / "clip.pt", "acme/secret", private=True)
    manifest.push(made / "clip.pt", "acme/secret", private=True)
    manifest.push(made / "clip.pt", "acme/open")
    assert hub.repository("acme/secret").private
    with pytest.raises(InputError, match="acme/open is public and was there before"):
        manifest.push(made / "clip.pt", "acme/open", private=True)


def test_commit_of_somebody_else_meanwhile_is_not_overwritten(hub: Hub, made: Path) -> None:
    manifest.push(made / "clip.safetensors", "acme/clip")
    repository = hub.repository("acme/clip")
    hub.after_listing = lambda: repository.commit({**repository.head.files, "README.md": b"mine"}, "theirs")
    with pytest.raises(HubError, match="got another commit at the same time, so nothing was changed; push again"):
        manifest.push(made / "clip.pt", "acme/clip")
    assert repository.head.files["README.md"] == b"mine"
    assert "clip.pt" not in repository.head.files


def test_file_that_changes_while_it_goes_up_is_not_committed(
    hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head_of = uploading._head

    def changing(*args: Any, **kwargs: Any) -> Any:
        """A training writes into the file once it was verified."""
        with (here / "clip.pt").open("ab") as file:
            file.write(b"more")
        return head_of(*args, **kwargs)

    monkeypatch.setattr(uploading, "_head", changing)
    with pytest.raises(StorageError, match=r"clip\.pt changed while it was pushed, so nothing was committed"):
        manifest.push(here / "clip.pt", "acme/clip")
    assert len(hub.repository("acme/clip").commits) == 1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["clip", "acme/clip@v1", "a/b/c", "../clip", "acme/..", "https://x/acme/clip", ""])
def test_name_that_is_no_repository_is_told(name: str, hub: Hub, run: Run) -> None:
    assert "is no name of a repository, expected OWNER/REPO" in run("push", "clip.pt", name).complaint
    assert hub.requests == []


def test_token_that_may_not_write_is_told_and_not_shown(hub: Hub, here: Path, run: Run) -> None:
    manifest.push(here / "clip.pt", "acme/clip")
    assert "does not take this token" in run("push", "clip.pt", "acme/clip", HF_TOKEN="hf_wrong").complaint
    assert "does not do that for anybody; log in" in run("push", "clip.pt", "acme/new", HF_TOKEN="").complaint
    hub.status = 403
    assert "This token may not do that to acme/clip: told to; use one" in run("push", "clip.pt", "acme/clip").complaint


@pytest.mark.usefixtures("here")
def test_token_is_never_shown(hub: Hub, run_process: Run) -> None:
    """Nor are the library's own messages."""
    answers = [
        run_process("push", "clip.pt", "acme/clip", "--verbose"),
        run_process("pull", "acme/clip", "--to", "x", "-v"),
    ]
    hub.status = 500
    answers.append(run_process("pull", "acme/clip", "--to", "y", "--verbose"))
    # No header can hold the last character; what the library says of it quotes the whole.
    answers.append(run_process("pull", "acme/clip", "--to", "y", "--verbose", HF_TOKEN=TOKEN + "\x01"))
    assert [answer.code for answer in answers] == [0, 0, 2, 2]
    assert not any(TOKEN in answer.out + answer.err for answer in answers)
    assert len(answers[2].err.splitlines()) == 1


def test_without_the_library_what_to_install_is_told(here: Path) -> None:
    hidden = "import sys; sys.modules['huggingface_hub'] = None; from manifest.cli import main; main()"
    for command in ("push clip.pt acme/clip", "pull acme/clip"):
        done = subprocess.run(
            [sys.executable, "-c", hidden, *command.split()], capture_output=True, text=True, check=False, cwd=here
        )
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "needs the library huggingface_hub, which is not installed: `pip install " in line
        assert "[hub]" in line


def test_hub_that_names_no_commit_is_told(pushed: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushed.repository("acme/clip").head, "sha", "\x1b[2J")
    pushed.repository("acme/clip").branches["main"] = "\x1b[2J"
    assert "names no commit of acme/clip; check that HF_ENDPOINT" in run("pull", "acme/clip").complaint


def test_large_files_go_up_once(hub: Hub, made: Path) -> None:
    manifest.push(made / "clip.safetensors", "acme/clip")
    manifest.push(made / "clip.safetensors", "acme/other")
    digest = hashlib.sha256((made / "clip.safetensors").read_bytes()).hexdigest()
    assert [path for method, path in hub.requests if method == "PUT"].count(f"/large/{digest}") == 1
