"""Models of several processes: saved together, they have one manifest, which is that of the whole model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.distributed.process_group import ProcessGroup
from manifest.distributed.sharding import is_sharded
from manifest.errors import InputError, NoManifestError
from manifest.schema.report import Report, VerificationError
from manifest.signing import generate_keys
from manifest.storage.transaction import read_manifest
from manifest.workflows.saving_distributed import _dealt, _state

WORLDS = [2, pytest.param(4, marks=pytest.mark.whole)]
"""How many processes save together."""

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.filterwarnings("ignore::UserWarning")]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Played:
    """What processes said and how they ended, by rank; see `saving_together.py`."""

    folder: Path
    codes: list[int | None]

    @property
    def answers(self) -> list[Any]:
        """What each of them returned; None for one that did not come so far."""
        paths = [self.folder / f"{rank}.json" for rank in range(len(self.codes))]
        return [json.loads(path.read_text()) if path.exists() else None for path in paths]

    def whole(self) -> Played:
        """The same, if all of them came through."""
        errors = [path.read_text()[-2000:] for path in sorted(self.folder.glob("*.err"))]
        assert self.codes == [0] * len(self.codes), "\n".join(errors)
        return self


Play = Callable[..., Played]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """Have so many processes play a scenario of `saving_together.py`; each way is played once."""
    # Without a network: the interface that gloo looks for by the name of the host may not be there.
    surroundings = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    program = subprocess.Popen(
        [sys.executable, HERE / "saving_together.py"],
        env=surroundings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    commands, answers = program.stdin, program.stdout
    assert answers.readline() == "ready\n"
    played: dict[tuple[Any, ...], Played] = {}

    def call(scenario: str, world: int, *moment: Any) -> Played:
        if (scenario, world, *moment) not in played:
            folder = tmp_path_factory.mktemp(scenario)
            generate_keys(folder / "release")
            (folder / "moment").write_text(json.dumps(moment))
            commands.write(json.dumps({"scenario": scenario, "world": world, "folder": str(folder)}) + "\n")
            commands.flush()
            played[scenario, world, *moment] = Played(folder, json.loads(answers.readline()))
        return played[scenario, world, *moment]

    yield call
    commands.close()
    program.wait(timeout=60)


@pytest.fixture
def own_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory of `tied.py` can be imported."""
    monkeypatch.syspath_prepend(str(HERE))


def digest_of(path: Path) -> str:
    return read_manifest(path).weights.digest


def findings(report: Report) -> list[str]:
    return [f"{item.rule} {item.message}" for rung in report.rungs for item in rung.findings]


@pytest.mark.parametrize("world", WORLDS)
def test_sharded_model_when_saved_then_has_the_digest_of_the_whole_one(play: Play, world: int) -> None:
    folder = play("clip", world).whole().folder
    first, second, whole = play("clip", world).answers[0]
    assert play("clip", world).answers == [[first, second, whole]] * world
    assert first != second == whole
    assert second == digest_of(folder / "step-1") == digest_of(folder / "whole.pt")
    assert second == digest_of(folder / "alone.safetensors") == digest_of(folder / "signed")


def test_sharded_model_when_joined_by_torch_then_has_the_recorded_digests(play: Play, tmp_path: Path) -> None:
    folder = play("clip", 2).whole().folder / "signed"
    dcp_to_torch_save(folder, tmp_path / "joined.pt")
    recorded = {tensor.name: tensor.digest for tensor in read_manifest(folder).weights.tensors}
    with open_checkpoint(tmp_path / "joined.pt") as joined:
        assert {name: joined.digest(tensor) for name, tensor in joined.tensors.items()} == recorded


def test_sharded_model_when_recorded_then_is_the_original_in_all_respects(play: Play) -> None:
    folder = play("clip", 4).whole().folder
    sharded, alone = read_manifest(folder / "signed"), read_manifest(folder / "alone.safetensors")
    assert [file.path for file in sharded.checkpoint.files] == [
        ".metadata",
        *(f"__{rank}_0.distcp" for rank in range(4)),
    ]
    assert (sharded.checkpoint.container, sharded.checkpoint.state.path) == ("dcp", ["model"])
    assert sharded.architecture.frozen == ["visual."]
    assert sharded.provenance.parents == alone.provenance.parents != []
    same = {"frozen": None, "mode": None}
    assert sharded.architecture.model_copy(update=same) == alone.architecture.model_copy(update=same)
    assert [part.digest for part in sharded.components] == [part.digest for part in alone.components]


def test_sharded_checkpoint_when_verified_alone_then_passes_with_its_golden_outputs(play: Play) -> None:
    folder = play("clip", 2).whole().folder
    report = manifest.verify(folder / "signed", key=folder / "release.pub")
    assert report.passed, findings(report)
    assert [rung.name for rung in report.rungs if rung.outcome == "pass"][-1] == "golden"


def test_sharded_checkpoint_when_loaded_then_answers_as_the_whole_one(play: Play) -> None:
    folder = play("clip", 4).whole().folder
    pictures, tokens = torch.randn(2, 3, 32, 32), torch.randint(49408, (2, 8))
    with torch.no_grad():
        ours: Any = manifest.load(folder / "signed", key=folder / "release.pub")(pictures, tokens)
        theirs: Any = manifest.load(folder / "alone.safetensors", verify="fast")(pictures, tokens)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_signed_checkpoint_when_saved_over_without_a_key_then_is_not_signed(play: Play) -> None:
    folder = play("clip", 2).whole().folder
    assert sorted(path.name for path in (folder / "step-1").iterdir()) == [
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        "manifest.json",
    ]


@pytest.fixture
def damaged(play: Play, tmp_path: Path) -> Path:
    """A copy of a sharded checkpoint to damage."""
    return Path(shutil.copytree(play("clip", 2).whole().folder / "signed", tmp_path / "signed"))


def test_shard_when_its_bytes_change_then_the_tensor_is_named(damaged: Path) -> None:
    name = "transformer.resblocks.1.mlp.c_fc.weight"
    with open_checkpoint(damaged) as stored:
        (_, piece) = stored.tensors[name].chunks[1]
        path = stored.files[piece.file].path
    data = bytearray(path.read_bytes())
    data[piece.offset] ^= 1
    path.write_bytes(data)
    found = findings(manifest.verify(damaged, fast=True))
    assert f"I002 In the text tower, 1 of 28 tensors changed: {name}." in found


def test_shard_when_missing_then_is_named(damaged: Path) -> None:
    (damaged / "__1_0.distcp").unlink()
    found = findings(manifest.verify(damaged, fast=True))
    assert "F008 The file __1_0.distcp is not there, and the manifest describes it." in found
    with pytest.raises(VerificationError, match=r"__1_0\.distcp"):
        manifest.load(damaged)


def test_directory_when_shown_then_all_its_files_count(play: Play, run: Any) -> None:
    folder = play("clip", 2).whole().folder / "signed"
    size = sum(file.size for file in read_manifest(folder).checkpoint.files)
    assert f"dcp, {size:,} bytes in 3 files" in run("show", folder).out


def test_script_of_its_own_when_it_saved_wrapped_parts_in_bfloat16_then_is_described(play: Play) -> None:
    played = play("resnet", 4).whole()
    recorded = read_manifest(played.folder / "own")
    assert set(played.answers) == {digest_of(played.folder / "own")} == {digest_of(played.folder / "alone.pt")}
    assert recorded.checkpoint.state.path == ["app", "model"]
    assert recorded.weights.dtypes.keys() == {"bfloat16", "int64"}
    report = manifest.verify(played.folder / "own")
    assert report.passed, findings(report)


@pytest.mark.usefixtures("own_factory")
@pytest.mark.parametrize("world", WORLDS)
def test_tied_weights_when_sharded_unevenly_then_are_tied_again(play: Play, world: int) -> None:
    played = play("tied", world).whole()
    assert set(played.answers) == {digest_of(played.folder / "alone.pt")}
    model: Any = manifest.load(played.folder / "step", allow=["tied"])
    assert model.head.weight is model.embedding.weight
    assert model.head.weight.shape == (11, 7)


def test_ddp_when_every_process_saves_then_the_first_one_writes(play: Play) -> None:
    played = play("ddp", 2).whole()
    digest = digest_of(played.folder / "ckpt.pt")
    # A file by the wrapper, a directory by all of them together, and a file each by the module inside.
    assert played.answers == [[digest, digest, digest], [None, digest, digest]]
    names = sorted(path.name for path in played.folder.glob("ckpt*"))
    assert names == ["ckpt.pt", "ckpt.pt.manifest.json"]
    assert (played.folder / "mine-1.pt.manifest.json").is_file()


def test_one_process_when_it_fails_then_all_say_which_and_why(play: Play) -> None:
    played = play("failing", 2).whole()
    said = played.answers[0]
    assert said.pop("left") == "[]"
    assert played.answers[1] == {**said, "left": ""}
    assert said.pop("none") == "saved"
    assert all(sentence.startswith("GroupError: Rank ") for sentence in said.values()), said
    expected = {
        "state": "Rank 1 of 2 failed: KeyError: 'lost'; no manifest was written, so cure that and do it again.",
        "key": "Rank 0 of 2 failed: There is no key file missing.key; check the path",
        "family": "Rank 0 of 2 failed: This Tied cannot be rebuilt",
        "name": "Rank 0 of 2 failed: Extra 'model' would hide the weights; give it another name.",
        "place": "file is a file, expected a directory for a distributed checkpoint; name another.",
        "part": "Rank 0 of 2 failed: There is no component 'nobody' to declare partial, expected among backbone",
        "disk": "Rank 1 of 2 failed: step is larger than a file may be there; raise the limit or save elsewhere",
        "nothing": "nothing; check the path.",
    }
    assert {reason: sentence for reason, sentence in expected.items() if sentence not in said[reason]} == {}


@pytest.mark.parametrize(
    ("world", "victim", "moment"),
    [(2, 1, "write_data"), (4, 1, "_state"), (2, 0, "_publish"), (4, 3, "_share")],
)
def test_process_when_killed_then_the_others_end_and_the_old_checkpoint_stays(
    play: Play, world: int, victim: int, moment: str
) -> None:
    played = play("killed", world, victim, moment)
    assert played.codes == [-9 if rank == victim else 0 for rank in range(world)]
    survivors = [answer for answer in played.answers if answer is not None]
    assert len(survivors) == world - 1
    assert all(re.match(r"GroupError: The process group failed on rank \d of \d", answer) for answer in survivors)
    report = manifest.verify(played.folder / "step", fast=True)
    assert report.passed, findings(report)


def test_save_when_killed_at_any_step_then_no_manifest_describes_other_files(play: Play) -> None:
    folder = play("killed_alone", 1).whole().folder
    places = sorted(folder.glob("0??"))
    old, new = digest_of(folder / "old"), digest_of(places[-1] / "old")
    seen = []
    for place in places:
        assert (place / "old" / "config.yaml").read_text() == "mine"
        try:
            seen.append(digest_of(place / "old"))
        except NoManifestError:
            seen.append("none")
        else:
            assert manifest.verify(place / "old", fast=True).passed
        if (place / "new").exists():
            assert digest_of(place / "new") == new
            assert manifest.verify(place / "new", fast=True).passed
    assert old != new
    assert list(dict.fromkeys(seen)) == [old, "none", new]
    assert seen == sorted(seen, key=[old, "none", new].index)
    names = sorted(path.name for path in (places[-1] / "old").iterdir())
    assert names == [".metadata", "__0_0.distcp", "config.yaml", "manifest.json"]


@pytest.mark.usefixtures("own_factory")
def test_process_without_a_group_when_it_fails_then_raises_its_own_error(tmp_path: Path) -> None:
    from tied import build

    (tmp_path / "file").write_text("")
    making: Any = {"family": "callable", "model_name": "tied:build"}
    with pytest.raises(InputError, match="is a file, expected a directory"):
        manifest.save_distributed(build(), tmp_path / "file", golden=False, **making)
    with pytest.raises(InputError, match="Extra 'model' would hide"):
        manifest.save_distributed(build(), tmp_path / "step", golden=False, extras={"model": 1}, **making)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert not is_sharded(build())


def test_directory_when_a_process_does_not_see_it_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not see .*; save to a file system that all processes share"):
        _state(ProcessGroup.alone(), torch.nn.Linear(1, 1), {}, tmp_path / "elsewhere")


def test_tensors_when_dealt_out_then_everybody_has_about_as_many_bytes(play: Play) -> None:
    with open_checkpoint(play("clip", 2).whole().folder / "alone.safetensors") as stored:
        shares = _dealt(stored.tensors, 3)
        assert sorted(name for share in shares for name in share) == sorted(stored.tensors)
        loads = [sum(stored.tensors[name].nbytes for name in share) for share in shares]
        largest = max(tensor.nbytes for tensor in stored.tensors.values())
        assert max(loads) - min(loads) <= largest
