"""`manifest convert`: the weights of any container as safetensors, with the manifest carried over."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_file, save_model
from torch.distributed import checkpoint as dcp

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.digests import weights_digest
from manifest.errors import CheckpointError, InputError, StorageError
from manifest.storage.transaction import read_manifest
from manifest.workflows.converting import convert

Run = Callable[..., Any]
STATE = {
    "visual.proj": torch.arange(12.0).reshape(3, 4),
    "turned": torch.arange(12.0).reshape(3, 4).t(),
    "brain": torch.ones(5).bfloat16(),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "eighth": torch.ones(4).to(torch.float8_e4m3fn),
}


def digest_of(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        return weights_digest((name, checkpoint.digest(tensor)) for name, tensor in checkpoint.tensors.items())


def zipped(path: Path) -> None:
    torch.save({"state_dict": STATE, "epoch": 3}, path)


def legacy(path: Path) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=False)


def prefixed(path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in STATE.items()}, path)


def scripted(path: Path) -> None:
    module = torch.nn.Module()
    module.inner = torch.nn.Module()
    for name, tensor in STATE.items():
        module.register_buffer(name.replace("visual.", ""), tensor)
    torch.jit.save(torch.jit.script(module), path)


def packaged(path: Path) -> None:
    with torch.package.PackageExporter(path) as exporter:
        exporter.extern("torch.**")
        exporter.save_pickle("weights", "state.pkl", STATE)


def distributed(path: Path) -> None:
    dcp.save({"model": STATE, "epoch": 3}, checkpoint_id=path)


def sharded(path: Path) -> None:
    path.mkdir()
    names = list(STATE)
    shards = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    for file, members in shards.items():
        save_file({name: STATE[name].contiguous() for name in members}, path / file)
    weight_map = {name: file for file, members in shards.items() for name in members}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


SOURCES = [zipped, legacy, prefixed, scripted, packaged, distributed, sharded]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("write", SOURCES, ids=lambda write: write.__name__)
def test_checkpoint_when_converted_then_safetensors_reads_the_same_values(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    source, output = tmp_path / "source", tmp_path / "out.safetensors"
    write(source)
    assert convert(source, output) is None
    assert digest_of(output) == digest_of(source)
    with safe_open(output, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = {name.replace("visual.", "") if write is scripted else name: tensor for name, tensor in STATE.items()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def test_arrays_of_numpy_when_converted_then_are_little_endian_and_row_major(tmp_path: Path) -> None:
    array = numpy.asfortranarray(numpy.arange(6, dtype=">f4").reshape(2, 3))
    numpy.savez_compressed(tmp_path / "a.npz", w=array)
    convert(tmp_path / "a.npz", tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        numpy.testing.assert_array_equal(file.get_tensor("w"), array)


def test_manifest_when_its_checkpoint_is_converted_then_comes_along_and_verifies(
    signed: Path, run: Run, tmp_path: Path
) -> None:
    answer = run("convert", signed.name, "out.safetensors", "--key", "release.key")
    assert (answer.code, answer.out) == (0, "Wrote out.safetensors, with its manifest and signature.\n")
    before, after = read_manifest(signed), read_manifest(tmp_path / "out.safetensors")
    assert after.weights == before.weights
    assert after.golden == before.golden
    assert after.checkpoint.container == "safetensors"
    assert run("verify", "out.safetensors", "--key", "release.pub").code == 0


def test_manifest_when_converted_without_a_key_then_is_unsigned(signed: Path, run: Run, tmp_path: Path) -> None:
    assert run("convert", signed.name, "out.safetensors").out == "Wrote out.safetensors, with its manifest.\n"
    assert read_manifest(tmp_path / "out.safetensors").signer is None
    assert not (tmp_path / "out.safetensors.manifest.sig").exists()


def test_checkpoint_when_changed_since_its_manifest_then_is_not_converted(signed: Path, tmp_path: Path) -> None:
    state = torch.load(signed, weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, signed)
    with pytest.raises(StorageError, match="does not hold the weights that its manifest describes"):
        convert(signed, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Linear(4, 3, bias=False)
        self.head = torch.nn.Linear(4, 3, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_tensors_when_converted_then_are_kept_once_and_noted(tmp_path: Path) -> None:
    model = Tied()
    source, output = tmp_path / "tied.pt", tmp_path / "out.safetensors"
    torch.save(model.state_dict(), source)
    convert(source, output)
    with safe_open(output, "pt") as file:
        assert list(file.keys()) == ["embedding.weight"]
        assert file.metadata() == {"format": "pt", "head.weight": "embedding.weight"}
    with open_checkpoint(output) as checkpoint:
        assert checkpoint.aliases() == {"head.weight": "embedding.weight"}
    assert digest_of(output) == digest_of(source)
    again = Tied()
    load_model(again, output)  # the library's own note of what was left out
    assert torch.equal(again.head.weight, model.head.weight)


def test_tied_tensors_when_untied_then_are_written_for_each_name(tmp_path: Path) -> None:
    source, output = tmp_path / "tied.pt", tmp_path / "out.safetensors"
    torch.save(Tied().state_dict(), source)
    convert(source, output, untie=True)
    with safe_open(output, "pt") as file:
        assert sorted(file.keys()) == ["embedding.weight", "head.weight"]
    assert digest_of(output) == digest_of(source)


def test_file_of_save_model_when_read_then_has_the_tied_names_too(tmp_path: Path) -> None:
    model = Tied()
    save_model(model, str(tmp_path / "tied.safetensors"))
    torch.save(model.state_dict(), tmp_path / "tied.pt")
    assert digest_of(tmp_path / "tied.safetensors") == digest_of(tmp_path / "tied.pt")


def test_average_when_asked_for_then_is_what_is_converted(run: Run, tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2)}, "model_ema": {"w": torch.ones(2)}}, tmp_path / "both.pt")
    assert run("convert", "both.pt", "out.safetensors", "--state", "model_ema").code == 0
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("w"), torch.ones(2))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.eye(3).to_sparse(), "stored as sparse_coo"),
        (torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8), "stored as per_tensor_affine"),
        (torch.ones(2, dtype=torch.complex128), "of complex128"),
        (torch.empty(2, device="meta"), "a meta tensor"),
    ],
    ids=["sparse", "quantized", "complex128", "meta"],
)
def test_tensor_when_safetensors_cannot_hold_it_then_nothing_is_written(
    tensor: torch.Tensor, what: str, tmp_path: Path
) -> None:
    torch.save({"w": torch.ones(2), "odd": tensor}, tmp_path / "odd.pt")
    with pytest.raises(
        CheckpointError, match=f"odd.pt: tensor 'odd' is {what}.*which safetensors cannot hold"
    ) as caught:
        convert(tmp_path / "odd.pt", tmp_path / "out.safetensors")
    assert caught.value.rule == "F004"
    assert [path.name for path in tmp_path.iterdir()] == ["odd.pt"]


def test_output_when_it_exists_then_is_kept_unless_forced(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already; choose another name, or replace it with --force"):
        convert(tmp_path / "a.pt", output)
    assert output.read_bytes() == b"precious"
    convert(tmp_path / "a.pt", output, force=True)
    assert digest_of(output) == digest_of(tmp_path / "a.pt")


def test_sidecars_of_an_older_file_when_it_is_replaced_then_go(signed: Path, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "plain.pt")
    output = tmp_path / "out.safetensors"
    convert(signed, output)
    convert(tmp_path / "plain.pt", output, force=True)
    assert not (tmp_path / "out.safetensors.manifest.json").exists()


def test_pickle_when_it_would_run_code_then_converts_and_nothing_ran(run: Run, tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Bomb:
        def __reduce__(self) -> Any:
            return open, (str(trap), "w")

    torch.save({"state_dict": STATE, "callback": Bomb()}, tmp_path / "bomb.pt")
    assert run("convert", "bomb.pt", "out.safetensors").code == 0
    assert not trap.exists()
    assert digest_of(tmp_path / "out.safetensors") == digest_of(tmp_path / "bomb.pt")


def test_converted_model_when_loaded_then_answers_as_before(signed: Path, tmp_path: Path, digits_model: Any) -> None:
    convert(signed, tmp_path / "out.safetensors")
    model: Any = manifest.load(tmp_path / "out.safetensors")
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.encode_image(pictures), digits_model.eval().encode_image(pictures))


def test_large_tensor_when_converted_then_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    with torch.serialization.skip_data():  # a sparse file of a few kilobytes
        torch.save({"large": torch.empty(2**14, 2**14).t()}, tmp_path / "large.pt")  # 1 GB, turned
    program = (
        "import resource, sys; from manifest.checkpoint import open_checkpoint;"
        "from manifest.checkpoint.safetensors_writing import write_safetensors;"
        "import numpy;"
        "checkpoint = open_checkpoint(sys.argv[1]);"
        "used = resource.getrlimit(resource.RLIMIT_DATA);"
        "data = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmData')) * 1024;"
        "resource.setrlimit(resource.RLIMIT_DATA, (data + (300 << 20), used[1]));"
        "write_safetensors(checkpoint, open('/dev/null', 'wb'), aliases={})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "large.pt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_each_model_of_a_described_file_when_converted_then_its_manifest_comes_along(run: Run, tmp_path: Path) -> None:
    model = trained("test_vit")
    average = copy.deepcopy(model)
    with torch.no_grad():
        for each in average.parameters():
            each.mul_(0.9)
    saved = {"state_dict": model.state_dict(), "state_dict_ema": average.state_dict(), "other": {"w": torch.ones(3)}}
    manifest.torch_save(saved, tmp_path / "ckpt.pth.tar", golden=False)
    for state, weights in (("state_dict", model), ("state_dict_ema", average)):
        assert run("convert", "ckpt.pth.tar", f"{state}.safetensors", "--state", state).out.endswith("its manifest.\n")
        assert run("verify", f"{state}.safetensors", "--fast").code == 0
        loaded = manifest.load(tmp_path / f"{state}.safetensors", verify="fast")
        assert torch.equal(loaded.head.weight, weights.head.weight)
    said = run("convert", "ckpt.pth.tar", "other.safetensors", "--state", "other").out
    assert "without a manifest, since that of ckpt.pth.tar does not describe these weights" in said
    assert run("convert", "ckpt.pth.tar", "x.safetensors", "--state", "other", "--key", "a.key").code == 2


def trained(name: str) -> Any:
    """A small model of timm's with some steps behind it."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 160, 160)).square().mean().backward()
        optimizer.step()
    return model
