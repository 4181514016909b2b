"""Distributed checkpoints: pieces in several files are read as the tensors that they are pieces of."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from manifest.checkpoint import Checkpoint, gathering, open_checkpoint
from manifest.checkpoint.tensors import ChunkedTensor

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PROGRAM = Path(__file__).with_name("saving_distributed.py")
PROCESSES = (2, pytest.param(4, marks=pytest.mark.whole))


def digests(checkpoint: Checkpoint) -> dict[str, str]:
    return {name: checkpoint.digest(tensor) for name, tensor in checkpoint.tensors.items()}


def chunks(checkpoint: Checkpoint) -> list[ChunkedTensor]:
    return [tensor for tensor in checkpoint.tensors.values() if isinstance(tensor, ChunkedTensor)]


@pytest.fixture(scope="module")
def saved_by(tmp_path_factory) -> Callable[[int], Path]:
    """The folder that a number of processes saved into together, over gloo; see `saving_distributed.py`."""
    folders: dict[int, Path] = {}

    def saved(world: int) -> Path:
        if world not in folders:
            folders[world] = folder = tmp_path_factory.mktemp(f"world{world}")
            # Without a network: the interface that gloo looks for by the name of the host may not be there.
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, PROGRAM, str(world), folder],
                env=environment,
                capture_output=True,
                text=True,
                timeout=1200,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        return folders[world]

    return saved


@pytest.fixture
def save_alone(tmp_path) -> Callable[[Any], Path]:
    """What one process saves without any others."""

    def saved(state: Any) -> Path:
        dcp.save(state, checkpoint_id=tmp_path / "alone")
        return tmp_path / "alone"

    return saved


@pytest.mark.parametrize("world", PROCESSES)
def test_pieces_when_laid_out_in_any_way_then_digest_as_the_whole(saved_by, world):
    folder = saved_by(world)
    with open_checkpoint(folder / "sharded") as pieces, open_checkpoint(folder / "sharded.pt") as whole:
        assert pieces.container == "dcp"
        assert len(pieces.files) == 1 + world
        assert len(chunks(pieces)) > 10
        assert digests(pieces) == digests(whole)


@pytest.mark.parametrize("world", PROCESSES)
@pytest.mark.parametrize("block", [1, 10, 64])
def test_pieces_when_larger_than_a_block_then_digest_as_the_whole(saved_by, world, block, monkeypatch):
    monkeypatch.setattr(gathering, "_BLOCK", block)
    folder = saved_by(world)
    with open_checkpoint(folder / "sharded") as pieces, open_checkpoint(folder / "sharded.pt") as whole:
        assert digests(pieces) == digests(whole)
        for name, tensor in pieces.tensors.items():
            assert bytes(pieces.values(tensor)) == bytes(whole.values(whole.tensors[name]))


@pytest.mark.parametrize("world", PROCESSES)
def test_model_when_trained_under_fsdp_then_is_the_consolidated_one(saved_by, world):
    folder = saved_by(world)
    with open_checkpoint(folder / "trained") as pieces, open_checkpoint(folder / "trained.pt") as whole:
        assert (pieces.state_path, pieces.extras) == (("model",), ("optimizer", "step"))
        assert [candidate.path for candidate in pieces.candidates] == [("model",)]
        assert chunks(pieces)
        assert digests(pieces) == digests(whole)


def test_pieces_when_joined_by_torch_then_are_the_same(saved_by, tmp_path):
    folder = saved_by(2)
    dcp_to_torch_save(folder / "trained", tmp_path / "joined.pt")
    with open_checkpoint(folder / "trained") as pieces, open_checkpoint(tmp_path / "joined.pt") as joined:
        assert joined.state_path == pieces.state_path
        assert digests(joined) == digests(pieces)


def test_metadata_when_passed_instead_of_the_directory_then_is_the_same_checkpoint(saved_by):
    folder = saved_by(2) / "trained"
    with open_checkpoint(folder) as one, open_checkpoint(folder / ".metadata") as other:
        assert one.tensors == other.tensors


def test_nested_state_when_saved_by_one_process_then_its_weights_are_found(save_alone, check_weights):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "layers": [torch.ones(2)]}
    with open_checkpoint(save_alone(state)) as checkpoint:
        assert checkpoint.container == "dcp"
        assert checkpoint.state_path == ("model",)
        assert set(checkpoint.extras) == {"optimizer", "epoch", "layers"}
        assert [candidate.path for candidate in checkpoint.candidates] == [("model",), ("layers",)]
        check_weights(checkpoint, model.state_dict())


def test_tensors_when_at_the_top_then_are_the_weights(save_alone, check_weights):
    flat = torch.arange(24.0)
    state = {
        "strided": flat.reshape(4, 6)[:, ::2],
        "expanded": flat[:1].expand(3, 2),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 5),
        "half": flat.half(),
        "small": flat.to(torch.float8_e4m3fn),
        "count": torch.ones(3, dtype=torch.uint16),
        "complex": torch.randn(2, 3, dtype=torch.complex64),
    }
    with open_checkpoint(save_alone(state)) as checkpoint:
        assert checkpoint.state_path == ()
        check_weights(checkpoint, state)


def test_tensor_when_its_conj_or_neg_bit_is_set_then_digests_as_its_values(save_alone, check_weights):
    plain = torch.randn(5, dtype=torch.complex64)
    state = {"conj": plain.conj(), "neg": torch._neg_view(torch.randn(3))}
    with open_checkpoint(save_alone(state)) as checkpoint:
        check_weights(checkpoint, state)


def test_prefix_of_a_wrapper_when_on_every_name_then_is_stripped(save_alone):
    state = {"module.v": torch.ones(2), "module.w": torch.ones(3)}
    with open_checkpoint(save_alone({"model": state})) as checkpoint:
        assert (checkpoint.prefix, list(checkpoint.tensors)) == ("module.", ["v", "w"])


def test_globals_when_in_the_metadata_then_are_named(save_alone):
    with open_checkpoint(save_alone({"w": torch.ones(2)})) as checkpoint:
        assert "torch.distributed.checkpoint.metadata.Metadata" in checkpoint.globals
        assert "STACK_GLOBAL" in checkpoint.contents.refused_opcodes


def test_checkpoint_when_it_has_no_tensors_then_is_refused(save_alone, refusal):
    assert refusal(save_alone({"epoch": 3})).rule == "F001"


def test_tensor_when_quantized_then_is_refused_by_name(save_alone, refusal):
    error = refusal(save_alone({"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 1, torch.qint8)}))
    assert error.rule == "F004"
    assert "tensor 'w' is quantized" in str(error)


FIRST = "__0_0.distcp"


def changed(folder: Path, old: bytes, new: bytes) -> None:
    metadata = folder / ".metadata"
    data = metadata.read_bytes()
    assert old in data
    assert len(old) == len(new)
    metadata.write_bytes(data.replace(old, new))


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def overwritten(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def linked(folder: Path) -> None:
    (folder / FIRST).rename(folder.parent / "outside")
    (folder / FIRST).symlink_to("../outside")


BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a file missing": (lambda folder: (folder / FIRST).unlink(), "F008", "names '__0_0.distcp', which is no readable"),
    "a file empty": (lambda folder: (folder / FIRST).write_bytes(b""), "F001", "of '__0_0.distcp', which it names"),
    "a file cut short": (lambda folder: cut(folder / FIRST, 1), "F002", "reaches to byte"),
    "a file of something else": (
        lambda folder: (folder / FIRST).write_bytes(bytes(100_000)),
        "F002",
        "in the chunk of 'v' in '__0_0.distcp', the file does not end with a zip directory",
    ),
    "a file linked from elsewhere": (linked, "F007", "names '__0_0.distcp', a link that leads out"),
    "a file above": (lambda folder: changed(folder, b"__0_0.distcp", b"../_0.distcp"), "F007", "names '../_0.distcp'"),
    "a file by an absolute path": (
        lambda folder: changed(folder, b"__0_0.distcp", b"/etc/ld.conf"),
        "F007",
        "names '/etc/ld.conf'",
    ),
    "metadata cut short": (lambda folder: cut(folder / ".metadata", 1), "F002", "more than it has left"),
    "metadata that goes on": (
        lambda folder: (folder / ".metadata").write_bytes((folder / ".metadata").read_bytes() + b"x"),
        "F002",
        "the metadata goes on after the pickle",
    ),
    "another type in the metadata": (
        lambda folder: changed(folder, b"float64", b"float32"),
        "F002",
        "is float64 of shape [4, 4] where the metadata says float32 of [4, 4]",
    ),
    "an unknown type in the metadata": (
        lambda folder: changed(folder, b"float64", b"floatXX"),
        "F002",
        "the unknown element type 'floatXX'",
    ),
    "a larger shape in the metadata": (
        lambda folder: changed(folder, b"K\x04K\x04\x86", b"K\x04K\x05\x86"),
        "F002",
        "where the metadata says float64 of [4, 5]",
    ),
    "a pickle in the chunk that is none": (
        lambda folder: overwritten(folder / FIRST, b"ctorch._utils", b"ctorch._Utils"),
        "F002",
        "does not have its checksum",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_distributed_checkpoint_when_broken_or_hostile_then_is_refused(case, save_alone, refusal):
    change, rule, found = BROKEN[case]
    folder = save_alone({"v": torch.ones(4, 4, dtype=torch.float64)})
    change(folder)
    error = refusal(folder)
    assert (error.rule, found in str(error)) == (rule, True), str(error)


def replanned(**changes: Any) -> Callable[[Path], None]:
    """The metadata of a checkpoint of one tensor, written anew with other words about it."""

    def change(folder: Path) -> None:
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        (name,) = metadata.state_dict_metadata
        tensor = metadata.state_dict_metadata[name]
        for field, value in changes.items():
            setattr(tensor, field, value)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return change


def piece(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Any:
    return dcp.metadata.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "overlap": ({"chunks": [piece((0, 0), (3, 4)), piece((2, 0), (1, 4))]}, "two chunks of 'v' overlap"),
    "leave something out": ({"chunks": [piece((0, 0), (3, 4))]}, "have 12 elements where the whole has 16"),
    "reach out": ({"chunks": [piece((1, 0), (4, 4))]}, "a chunk of 'v' reaches out of the whole"),
    "have other dimensions": ({"chunks": [piece((0,), (16,))]}, "another number of dimensions"),
    "are nowhere": ({"chunks": [piece((2, 0), (2, 4)), piece((0, 0), (2, 4))]}, "where a chunk of 'v' is stored"),
    "are none": ({"chunks": None}, "'v' has no list of at most"),
    "begin at a negative place": ({"chunks": [piece((-1, 0), (4, 4))]}, "a shape or offset of 'v' that is none"),
}


@pytest.mark.parametrize("case", PLANS)
def test_chunks_when_they_do_not_make_up_the_whole_then_are_refused(case, save_alone, refusal):
    changes, found = PLANS[case]
    folder = save_alone({"v": torch.ones(4, 4, dtype=torch.float64)})
    replanned(**changes)(folder)
    error = refusal(folder)
    assert found in str(error)
    assert error.rule in ("F002", "F003")


def test_chunks_when_thousands_of_columns_then_are_checked_soon(save_alone, refusal):
    folder = save_alone({"v": torch.ones(4, 4, dtype=torch.float64)})
    columns = [piece((0, column), (2, 1)) for column in range(1, 4097)]
    replanned(size=torch.Size((2, 4097)), chunks=[*columns[:-1], piece((0, 0), (2, 2))])(folder)
    # Comparing each with each takes half a minute; there is nothing to measure.
    assert "two chunks of 'v' overlap" in str(refusal(folder))
