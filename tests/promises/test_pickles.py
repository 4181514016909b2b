"""Files that hold other weights for torch than for whoever lists them, or that cost more than they should to read.

Each row is a file. It is refused in one sentence with the given rule, or opens and holds what torch reads out of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file

from manifest.checkpoint import open_checkpoint
from manifest.errors import CheckpointError
from tests.promises.attempts import Attempt
from tests.sampling import sampled

DATA = {"0": bytes(range(16)), "1": bytes(range(100, 116))}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def storage(key: str = "0", kind: str = "torch.FloatStorage", place: str = "cpu", count: int = 4) -> bytes:
    return b"(" + text("storage") + named(kind) + text(key) + text(place) + b"K" + bytes([count]) + b"tQ"


def tensor(key: str = "0", tail: bytes = b"\x89}", version: str = "v2", **options: str) -> bytes:
    inside = storage(key, **options) + b"K\x00K\x04\x85K\x01\x85" + tail
    return named(f"torch._utils._rebuild_tensor_{version}") + b"(" + inside + b"tR"


OTHER = tensor("1")
DATA_STATE = b"}" + text("data") + OTHER + b"s"
SET = b"(" + storage("1") + b"K\x00K\x04\x85K\x01\x85t"
FIVE = b"(" + OTHER + b"N\x89\x89}t"
PARAMETER = named("torch._utils._rebuild_parameter") + tensor() + b"\x88}\x87R"


def with_state(state: bytes) -> bytes:
    return named("torch._utils._rebuild_parameter_with_state") + b"(" + tensor() + b"\x88}" + state + b"tR"


def from_type(state: bytes, function: str = "torch._utils._rebuild_tensor_v2") -> bytes:
    inner = b"(" + storage() + b"K\x00K\x04\x85K\x01\x85\x89}t"
    arguments = named(function) + named("torch.Tensor") + inner + state
    return named("torch._tensor._rebuild_from_type_v2") + b"(" + arguments + b"tR"


def held(value: bytes) -> bytes:
    """A dictionary of one weight; storage 1 is there beside it."""
    return b"\x80\x02}(" + text("w") + value + text("z") + OTHER + b"u."


def copied(kind: str, opcode: bytes) -> bytes:
    """`{"model": d, "state_dict": kind(d)}`, where `d["w"]` is set anew after `kind` has copied it."""
    source = b"}q\x01" + text("w") + tensor() + b"s"
    copy = named(kind) + b"h\x01\x85" + opcode
    later = b"h\x01" + text("w") + OTHER + b"s"
    return b"\x80\x02}(" + text("x") + source + text("state_dict") + copy + text("y") + later + b"u."


PAIRS = named("collections.Counter") + b"](" + text("w") + tensor() + b"\x86e\x85R"
SAME = b"\x80\x02}(" + text("w") + tensor() + text("z") + OTHER + text("v") + tensor(kind="torch.IntStorage") + b"u."
NAMED_TWICE = b"\x80\x02}(K\x01" + tensor() + b"G" + struct.pack(">d", 1.0) + b"N" + text("z") + OTHER + b"u."

OTHER_WEIGHTS = [
    Attempt("BUILD of a tensor by four", lambda: held(tensor() + SET + b"b"), 2, "F004", "listed the first values"),
    Attempt("BUILD of a parameter by four", lambda: held(PARAMETER + SET + b"b"), 2, "F004", "listed the first values"),
    Attempt("BUILD of a parameter by five", lambda: held(PARAMETER + FIVE + b"b"), 2, "F004", "listed the first"),
    Attempt("BUILD of a tensor by nothing", lambda: held(tensor() + b"}b"), 2, "F004", "listed the first values"),
    Attempt("BUILD of a storage", lambda: held(tensor().replace(b"tQ", b"tQ}b", 1)), 2, "F004", "listed it"),
    Attempt("a parameter's state with data", lambda: held(with_state(DATA_STATE)), 2, "F004", "listed the first"),
    Attempt("the same as slots", lambda: held(with_state(b"N" + DATA_STATE + b"\x86")), 2, "F004", "listed the first"),
    Attempt("a type's state with data", lambda: held(from_type(DATA_STATE)), 2, "F004", "listed the first values"),
    Attempt("the same as slots of both", lambda: held(from_type(b"}" + DATA_STATE + b"\x86")), 2, "F004", "listed"),
    Attempt("a parameter's state with a real part", lambda: held(with_state(DATA_STATE.replace(b"data", b"real"))), 2,
            "F004", "listed the first values"),
    Attempt("a parameter of five", lambda: held(named("torch._utils._rebuild_parameter") + FIVE + b"R"), 2, "F002",
            "listed the first values"),
    Attempt("a tensor of three arguments", lambda: held(named("torch._utils._rebuild_tensor_v2") + b"(" + storage()
            + b"K\x00)tR"), 2, "F002"),
    Attempt("a tensor without its last argument", lambda: held(tensor(tail=b"\x89")), 2, "F002", "listed it"),
    Attempt("a tensor without a type", lambda: held(tensor(tail=b"\x89}N", version="v3")), 2, "F002", "listed it"),
    Attempt("integers that want gradients", lambda: held(tensor(tail=b"\x88}", kind="torch.IntStorage")), 2, "F002",
            "listed them"),
    Attempt("a tensor on the meta device", lambda: held(tensor(place="meta")), 2, "F004", "listed values of none"),
    Attempt("a storage of two types", lambda: SAME, 2, "F002", "listed them by the second type"),
    Attempt("a type by another function", lambda: held(from_type(b"}", "torch.Tensor")), 2, "F004", "left it out"),
    Attempt("a Counter of pairs", lambda: held(PAIRS), 2, "F004", "took the pairs for a dictionary"),
    Attempt("attributes that hide the items of a dictionary", lambda: held(named("collections.OrderedDict") + b")R}"
            + text("items") + named("torch.Size") + b"sb"), 2, "F004", "listed the items"),
    Attempt("a function made by NEWOBJ", lambda: held(tensor()[:-1] + b"\x81"), 2, "F002", "listed it"),
    Attempt("an OrderedDict of a dictionary that changes later", lambda: copied("collections.OrderedDict", b"R"), 0,
            None, "gave the copy what came later"),
    Attempt("an OrderedDict by NEWOBJ", lambda: copied("collections.OrderedDict", b"\x81"), 0, None,
            "gave it what torch ignores"),
    Attempt("a Counter by NEWOBJ", lambda: copied("collections.Counter", b"\x81"), 0, None, "gave it what is ignored"),
    Attempt("1 and 1.0 as keys", lambda: NAMED_TWICE, 0, None, "took them for two keys"),
    Attempt("a parameter with a note", lambda: held(with_state(b"}" + text("note") + text("x") + b"s")), 0),
]  # fmt: skip


def write(path: Path, pickle: bytes, storages: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": pickle, "version": b"3\n"}.items():
            archive.writestr(f"made/{name}", data)
        for key, data in storages.items():
            archive.writestr(f"made/data/{key}", data)
    return path


@pytest.mark.parametrize("row", OTHER_WEIGHTS, ids=str)
def test_file_when_torch_reads_it_otherwise_then_is_refused_or_listed_as_torch_does(row, tmp_path):
    pickle = row.make()
    path = write(tmp_path / "made.pt", pickle, {key: data for key, data in DATA.items() if text(key) in pickle})
    if row.exit == 2:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        assert caught.value.rule == row.says, str(caught.value)
        return
    live = torch.load(path, weights_only=True)
    with open_checkpoint(path) as checkpoint:
        for key in checkpoint.state_path:
            live = live[key]
        expected = {name: bytes(each.untyped_storage()) for name, each in live.items() if torch.is_tensor(each)}
        assert {name: bytes(checkpoint.values(each)) for name, each in checkpoint.tensors.items()} == expected


MANY = 1_000_000
COSTLY = [
    Attempt("objects of 21 MB", lambda: b"](" + b"ca\nB\n)R" * 2_600_000 + b"e.", 2, "MiB",
            "took 26 s and 0.9 GB"),
    Attempt("dictionaries of 20 MB", lambda: b"]("
            + b"}X\x01\x00\x00\x00aNs" * 2_200_000 + b"e.", 2, "MiB", "took 17 s and 1.0 GB"),
    Attempt("objects with a state", lambda: b"ca\nB\nq\x01](" + b"h\x01)\x81}X\x01\x00\x00\x00aNsb" * MANY + b"e.", 2,
            "than", "took as long"),
    Attempt("lists of a list", lambda: b"](" + b"]]a" * MANY + b"e.", 2, "MiB", "took as long"),
    Attempt("texts", lambda: b"](" + b"X\x01\x00\x00\x00a" * 2 * MANY + b"e.", 2, "MiB", "took as long"),
    Attempt("keys that are large", lambda: b"}(" + b"".join(b"J%bN" % struct.pack("<i", 2000 + n) for n in range(MANY))
            + b"u.", 2, "MiB", "took as long"),
    Attempt("names", lambda: b"](" + b"".join(b"ca\n%d\n" % n for n in range(MANY)) + b"e.", 2, "globals", "took long"),
    Attempt("empty dictionaries", lambda: b"](" + b"}" * 3 * MANY + b"e.", 2, "MiB", "took as long"),
    Attempt("a memo", lambda: b"".join(b"Nr%b0" % struct.pack("<I", n) for n in range(MANY)) + b"N.", 2, "no weights"),
    Attempt("marks", lambda: b"(0" * 2 * MANY + b"N.", 2, "no weights"),
    Attempt("long integers", lambda: b"](" + (b"\x8a\xff" + b"\x7f" * 255) * 100_000 + b"e.", 2, "no weights"),
]  # fmt: skip

_COUNTED = """
import resource, sys
from manifest.checkpoint import open_checkpoint
from manifest.errors import CheckpointError
begun = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (begun + (300 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
try:
    open_checkpoint(sys.argv[1])
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("row", sampled(COSTLY, 2), ids=str)
def test_file_when_small_then_is_read_or_refused_in_bounded_memory_and_time(row, tmp_path):
    path = write(tmp_path / "made.pt", b"\x80\x02" + row.make(), {})
    done = subprocess.run([sys.executable, "-c", _COUNTED, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert row.says in done.stdout


_CUT = """
import os, sys, threading, time
import manifest.digests
from manifest.checkpoint import open_checkpoint
from manifest.errors import InputError
from manifest.initialisation.values import not_finite
what, path = sys.argv[1:]
def cut():
    os.truncate(path, os.path.getsize(path) // 100)
def read():
    if what == "file":
        return manifest.digests.file_blake3(path_of)
    if what == "sha256":
        return manifest.digests.file_sha256(path_of)
    with open_checkpoint(path) as checkpoint:
        threading.Timer(0.02, cut).start()
        if what == "ahead":
            checkpoint.hash_ahead()
        if what == "tensor":
            return checkpoint.digest(checkpoint.tensors["w"])
        if what == "numbers":
            return not_finite(checkpoint, checkpoint.tensors)
        if what == "both":
            return checkpoint.files[0].digests()
        return checkpoint.blake3()
from pathlib import Path
path_of = Path(path)
if what in ("file", "sha256"):
    threading.Timer(0.02, cut).start()
try:
    print(read())
except InputError as error:
    print(error)
    sys.exit(2)
"""


def sparse(path: Path) -> Path:
    """A file of zeros that takes longer to read than the time until it is cut."""
    size = 4 << 30
    header = b'{"w":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (size // 4, size)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)
    return path


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open; its other files may be closed while they are listed."""
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if link.readlink() == path.resolve():
                return True
    return False


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only /proc shows when a process has a file open")
def test_file_when_cut_under_a_command_then_is_one_sentence_and_exit_2(tmp_path):
    path = sparse(tmp_path / "cut.safetensors")
    auditing = [sys.executable, "-m", "manifest", "audit", path]
    with subprocess.Popen(auditing, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not has_open(process.pid, path):
            time.sleep(0.001)
        time.sleep(0.2)
        os.truncate(path, 1 << 20)
        _, err = process.communicate()
    assert process.returncode == 2
    assert err.startswith("manifest: ")
    assert "was cut at byte" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("what", ["file", "sha256", "whole", "ahead", "tensor", "numbers", "both"])
def test_file_when_cut_while_it_is_read_then_is_told_in_a_sentence(what, tmp_path):
    # It killed the process by SIGBUS.
    path = sparse(tmp_path / "cut.safetensors")
    done = subprocess.run([sys.executable, "-c", _CUT, what, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    assert "was cut at byte" in done.stdout


_CUT_AT_OPENING = """
import os, sys
from pathlib import Path
from manifest.checkpoint.files import Files
from manifest.checkpoint.opening import containers
from manifest.checkpoint.sniffing import Sniffed
from manifest.errors import InputError
for path in map(Path, sys.argv[1:]):
    files = Files(path)
    sniffed = Sniffed(files[0].read())
    container = next(each for each in containers() if each.recognises(sniffed))
    os.truncate(path, 0)
    try:
        container.read(files)
    except InputError as error:
        print(f"{container.name}: {error}")
"""


def test_file_when_cut_between_its_opening_and_its_header_then_is_told_in_a_sentence(tmp_path):
    # Headers, pickles and directories of archives were parsed where the file is mapped.
    state = {"weight": torch.randn(64, 64)}
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Linear(8, 8)), tmp_path / "script.pt")
    save_file(state, tmp_path / "one.safetensors")
    numpy.savez(tmp_path / "arrays.npz", weight=state["weight"].numpy())
    write_shards(tmp_path / "shards", state)
    torch.distributed.checkpoint.save(state, checkpoint_id=tmp_path / "dcp")
    paths = [path for path in tmp_path.iterdir() if path.is_file()]
    paths += [*(tmp_path / "shards").glob("*.index.json"), tmp_path / "dcp" / ".metadata"]
    told = subprocess.run([sys.executable, "-c", _CUT_AT_OPENING, *paths], capture_output=True, text=True, check=True)
    assert {line.partition(":")[0] for line in told.stdout.splitlines()} == {
        "torch-zip",
        "torch-legacy",
        "torchscript",
        "safetensors",
        "npz",
        "sharded",
        "dcp",
    }
    assert all(" was cut at byte " in line for line in told.stdout.splitlines()), told.stdout


@pytest.mark.parametrize("seed", range(6))
def test_byte_of_a_shard_or_dcp_file_when_flipped_then_is_found_or_refused(seed, tmp_path):
    chance = random.Random(seed)
    state = {f"layer{index}.weight": torch.randn(8, 8) for index in range(4)}
    folder = tmp_path / "many"
    if seed % 2:
        torch.distributed.checkpoint.save(state, checkpoint_id=folder)
    else:
        write_shards(folder, state)
    with open_checkpoint(folder) as checkpoint:
        before = weights(checkpoint), [checkpoint.blake3(each) for each in range(len(checkpoint.files))]
    for _ in range(12):
        path = chance.choice(sorted(each for each in folder.iterdir() if each.is_file()))
        kept = path.read_bytes()
        place = chance.randrange(len(kept))
        path.write_bytes(kept[:place] + bytes([kept[place] ^ (1 << chance.randrange(8))]) + kept[place + 1 :])
        try:
            with open_checkpoint(folder) as checkpoint:
                after = weights(checkpoint), [checkpoint.blake3(each) for each in range(len(checkpoint.files))]
                assert after[1] != before[1]
        except CheckpointError as error:
            assert str(error).isprintable()
        path.write_bytes(kept)


def weights(checkpoint) -> dict[str, str]:
    return {name: checkpoint.digest(tensor) for name, tensor in checkpoint.tensors.items()}


def write_shards(folder: Path, state: dict[str, torch.Tensor]) -> None:
    folder.mkdir()
    names = list(state)
    where = {}
    for number, part in enumerate((names[:2], names[2:]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / shard)
        where |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1024}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
