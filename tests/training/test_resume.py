"""Going on training from a checkpoint: everything is there again, bit for bit, and nothing in the file runs."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import manifest
from manifest.checkpoint.pickles.numpy_pickles import READERS
from manifest.errors import CheckpointError, NoManifestError
from manifest.schema.report import VerificationError
from manifest.storage.transaction import read_manifest
from tests.warm import warm_run

TRAIN = """
import random
import sys

import numpy as np
import torch

import manifest

sys.path.insert(0, sys.argv[1])
import evaluate

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
start, ends = sys.argv[2], dict(word.split("=") for word in sys.argv[3:])
evaluate.register_model()

if start == "begin":
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    model = manifest.load(evaluate.WEIGHTS, verify="none").train()
    done = 0
else:
    checkpoint = manifest.load_checkpoint(start)
    model = checkpoint.model
    done = checkpoint["step"]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=50)
if done:
    optimizer.load_state_dict(checkpoint["optimizer"])
    schedule.load_state_dict(checkpoint["schedule"])
    random.setstate(checkpoint["generators"]["python"])
    np.random.set_state(checkpoint["generators"]["numpy"])
    torch.set_rng_state(checkpoint["generators"]["torch"])

assert model.training
for done in range(done + 1, max(map(int, ends)) + 1):
    images = torch.randn(8, 3, 32, 32) + random.random() + np.random.rand()
    tokens = torch.randint(1, 20, (8, 8))
    image_features, text_features = model.encode_image(images), model.encode_text(tokens)
    loss = (image_features @ text_features.T).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if str(done) in ends:
        generators = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
        extras = {
            "step": done,
            "loss": np.float64(loss.item()),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "generators": generators,
        }
        manifest.save(model, ends[str(done)], extras=extras, golden=False)
"""


def train(place: Path, digits: Any, start: str, ends: dict[int, str]) -> None:
    """Train in a process of its own, from a checkpoint or from the beginning, and save after some of the steps."""
    script = place / "train.py"
    script.write_text(TRAIN)
    done = warm_run([script, str(digits.HERE), start, *(f"{step}={end}" for step, end in ends.items())], place)
    assert done.returncode == 0, done.stderr


def same(one: Any, other: Any) -> bool:
    """Whether two objects of plain containers, tensors and arrays are the same bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and (one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@pytest.mark.whole
def test_training_that_was_resumed_ends_where_an_uninterrupted_one_does(digits: Any, tmp_path: Path) -> None:
    train(tmp_path, digits, "begin", {3: "half.pt", 6: "whole.pt"})
    train(tmp_path, digits, "half.pt", {6: "resumed.pt"})
    whole, resumed = (read_manifest(tmp_path / name) for name in ("whole.pt", "resumed.pt"))
    assert resumed.weights.digest == whole.weights.digest
    assert resumed.weights.digest != read_manifest(tmp_path / "half.pt").weights.digest
    assert resumed.provenance.step == whole.provenance.step == 6
    assert [parent.name for parent in resumed.provenance.parents] == ["half.pt"]
    assert same(
        dict(manifest.load_checkpoint(tmp_path / "whole.pt")), dict(manifest.load_checkpoint(tmp_path / "resumed.pt"))
    )


@pytest.fixture
def extras(digits_model: Any) -> dict[str, Any]:
    optimizer = torch.optim.SGD(digits_model.parameters(), 0.1, momentum=0.9)
    for parameter in digits_model.parameters():
        parameter.grad = torch.ones_like(parameter) * 1e-6
    optimizer.step()
    return {"epoch": 3, "optimizer": optimizer.state_dict(), "note": "half way", "best": 0.25, 5: (1, None, True)}


def test_checkpoint_reads_as_torch_load_gives_it(digits_model: Any, extras: dict[str, Any], tmp_path: Path) -> None:
    saved = manifest.save(digits_model.train(), tmp_path / "x.pt", extras=extras)
    checkpoint = manifest.load_checkpoint(tmp_path / "x.pt")
    assert isinstance(checkpoint, dict)
    assert checkpoint.manifest == saved
    assert same(dict(checkpoint), torch.load(tmp_path / "x.pt", weights_only=True))
    assert same(dict(checkpoint["state_dict"]), dict(checkpoint.model.state_dict()))
    assert checkpoint.model.training


def test_what_is_trained_on_changes_neither_the_file_nor_the_state_dict(digits_model: Any, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "x.pt", extras={"epoch": 1}, golden=False)
    before = (tmp_path / "x.pt").read_bytes()
    checkpoint = manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")
    with torch.no_grad():
        checkpoint.model.logit_scale.add_(1)  # type: ignore[operator]
    assert checkpoint["state_dict"]["logit_scale"] == digits_model.logit_scale
    assert (tmp_path / "x.pt").read_bytes() == before


@pytest.mark.parametrize(("train_mode", "expected"), [(True, True), (False, False)])
def test_model_is_in_the_mode_in_which_it_was_saved(
    train_mode: bool, expected: bool, digits_model: Any, tmp_path: Path
) -> None:
    manifest.save(digits_model.train(train_mode), tmp_path / "x.pt", golden=False)
    assert manifest.load_checkpoint(tmp_path / "x.pt", verify="fast").model.training is expected


def test_model_of_mixed_modes_is_in_train_mode_and_that_is_said(digits_model: Any, tmp_path: Path) -> None:
    digits_model.train()
    digits_model.visual.eval()
    manifest.save(digits_model, tmp_path / "x.pt", golden=False)
    with pytest.warns(UserWarning, match=r"^x\.pt was saved with some modules in train mode and some not") as said:
        checkpoint = manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")
    assert all(module.training for module in checkpoint.model.modules())
    assert said[0].filename == __file__


def test_safetensors_file_has_the_texts_beside_its_weights(digits_model: Any, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "x.safetensors", extras={"note": "half way"}, golden=False)
    checkpoint = manifest.load_checkpoint(tmp_path / "x.safetensors", verify="fast")
    assert checkpoint == {"format": "pt", "note": "half way"}
    assert same(dict(checkpoint.model.state_dict()), dict(digits_model.state_dict()))


def test_state_dict_by_itself_reads_as_it_is(digits_model: Any, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "x.pt", golden=False)
    checkpoint = manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")
    assert same(dict(checkpoint), dict(digits_model.state_dict()))


def test_file_of_the_old_form_is_resumed_too(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    content = {"state_dict": dict(digits_model.state_dict()), "epoch": 2, "array": np.arange(3)}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    manifest.create(tmp_path / "x.pt", digits.MODEL, golden=False)
    assert same(dict(manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")), content)


def test_directory_of_shards_has_its_model_alone(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(
        digits_model.state_dict(), tmp_path, max_shard_size=300_000, filename_pattern="model{suffix}.safetensors"
    )
    manifest.create(tmp_path, digits.MODEL, golden=False)
    checkpoint = manifest.load_checkpoint(tmp_path, verify="fast")
    assert same(dict(checkpoint.model.state_dict()), dict(digits_model.state_dict()))


def test_changed_checkpoint_is_not_resumed(digits_model: Any, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "x.pt", extras={"epoch": 1}, golden=False)
    data = bytearray((tmp_path / "x.pt").read_bytes())
    data[-5000] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(VerificationError, match="fails its integrity check"):
        manifest.load_checkpoint(tmp_path / "x.pt")


def test_checkpoint_without_a_manifest_is_not_resumed(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "x.pt")
    with pytest.raises(NoManifestError):
        manifest.load_checkpoint(tmp_path / "x.pt")


def test_what_is_read_is_what_was_verified(digits_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever puts another file in place after the check has come too late."""
    from manifest.workflows import resuming

    path = tmp_path / "x.pt"
    manifest.save(digits_model, path, extras={"epoch": 1}, golden=False)
    rebuilt = resuming.rebuilt

    def and_then_replaced(*arguments: Any, **options: Any) -> Any:
        found = rebuilt(*arguments, **options)
        torch.save({"state_dict": {}, "epoch": 666}, tmp_path / "other.pt")
        (tmp_path / "other.pt").replace(path)
        return found

    monkeypatch.setattr(resuming, "rebuilt", and_then_replaced)
    assert manifest.load_checkpoint(path, verify="fast")["epoch"] == 1


class _Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.fspath(self.file),)


def test_code_beside_the_weights_is_refused_by_name_and_not_run(digits_model: Any, tmp_path: Path) -> None:
    path, sprung = tmp_path / "x.pt", tmp_path / "sprung"
    manifest.save(digits_model, path, extras={"callback": _Trap(sprung)}, golden=False)
    expected = (
        "x.pt holds objects beside its weights that are made by 'posix.mkdir', and loading runs no code that a file "
        "names; save their numbers, texts and tensors as `extras` instead, import the class and call within "
        "`torch.serialization.safe_globals([…])` if you trust it, or load the model alone with `manifest.load`."
    )
    with pytest.raises(CheckpointError) as refused:
        manifest.load_checkpoint(path, verify="fast")
    assert str(refused.value) == expected
    assert refused.value.rule == "F010"
    assert not sprung.exists()
    assert manifest.load(path, verify="fast") is not None


def test_class_that_the_caller_trusts_is_made(digits_model: Any, tmp_path: Path) -> None:
    options = argparse.Namespace(lr=0.1)
    manifest.save(digits_model, tmp_path / "x.pt", extras={"args": options, "array": np.ones(2)}, golden=False)
    with pytest.raises(CheckpointError, match=r"made by 'argparse\.Namespace', and loading"):
        manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")
    assert checkpoint["args"] == options
    assert set(torch.serialization.get_safe_globals()) == before


def test_how_the_caller_reads_arrays_of_numpy_goes_first(digits_model: Any, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "x.pt", extras={"array": np.ones(2)}, golden=False)
    own = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype("f8"))]
    with torch.serialization.safe_globals(own):
        assert type(manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")["array"]) is np.ndarray
        assert set(own) <= set(torch.serialization.get_safe_globals())


def test_object_that_is_no_dictionary_is_said_so(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    torch.save([dict(digits_model.state_dict()), 3], tmp_path / "x.pt")
    manifest.create(tmp_path / "x.pt", digits.MODEL, golden=False)
    with pytest.raises(CheckpointError, match=r"^x\.pt holds a list and nothing beside it, where a dictionary was"):
        manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")


def unpickled(pickled: bytes) -> Any:
    """What torch's weights-only unpickler makes of a pickle with these readers."""
    from torch import _weights_only_unpickler

    with torch.serialization.safe_globals(list(READERS)):
        return _weights_only_unpickler.load(io.BytesIO(pickled), encoding="utf-8")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="<u4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1 + 2j]),
        np.array([True, False]),
        np.arange(3, dtype=">i2"),
        np.zeros((0, 3), dtype="f2"),
        np.array(7),
        np.random.RandomState(0).get_state()[1],
    ],
    ids=str,
)
def test_arrays_of_numbers_are_what_they_were(array: Any) -> None:
    read = unpickled(pickle.dumps(array, protocol=2))
    expected = pickle.loads(pickle.dumps(array, protocol=2))
    assert (read.dtype, read.shape, read.flags.fnc) == (expected.dtype, expected.shape, expected.flags.fnc)
    assert (read == array).all()
    assert pickle.dumps(read, protocol=2) == pickle.dumps(expected, protocol=2)


@pytest.mark.parametrize("number", [np.float64(0.25), np.int32(-3), np.bool_(True), np.complex64(1j)])
def test_numbers_of_numpy_are_what_they_were(number: Any) -> None:
    read = unpickled(pickle.dumps(number, protocol=2))
    assert type(read) is type(number)
    assert read == number


@pytest.mark.parametrize(
    "array",
    [
        np.array([{1}, None], dtype=object),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.array(["2026-01-01"], dtype="M8[D]"),
        np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_other_things_are_refused(array: Any) -> None:
    with pytest.raises(ValueError, match="numpy array"):
        unpickled(pickle.dumps(array, protocol=2))


@example(shape=(3036988439, 3037012561, 0), data=b"", kind="u4")  # more than numpy can count, beside a 0
@given(
    shape=st.lists(st.integers(-2, 2**63) | st.booleans(), max_size=3).map(tuple),
    data=st.binary(max_size=40) | st.none() | st.lists(st.integers()),
    kind=st.sampled_from(["u4", "f8", "b1"]),
)
def test_state_that_is_not_that_of_its_bytes_is_refused(shape: Any, data: Any, kind: str) -> None:
    readers = {name: reader for reader, name in READERS}
    array = readers["numpy._core.multiarray._reconstruct"](None, (0,), b"b")
    made = readers["numpy.dtype"](kind, False, True)
    try:
        array.__setstate__((1, shape, made, False, data))
    except ValueError:
        return
    assert array.shape == shape
    assert array.tobytes() == data


def test_python_generators_state_is_plain_data(digits_model: Any, tmp_path: Path) -> None:
    extras = {"python": random.getstate(), "numpy": np.random.default_rng(3).bit_generator.state}
    manifest.save(digits_model, tmp_path / "x.pt", extras=extras, golden=False)
    checkpoint = manifest.load_checkpoint(tmp_path / "x.pt", verify="fast")
    assert (checkpoint["python"], checkpoint["numpy"]) == (extras["python"], extras["numpy"])
