"""Opening a checkpoint: what is listed, and what is open."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from manifest.checkpoint import StridedTensor, View, open_checkpoint
from manifest.digests import tensor_digest
from manifest.errors import CheckpointError, InputError

WEIGHTS = {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(4.6)}


def test_torch_zip_when_opened_then_lists_its_tensors_in_stored_order(save):
    with open_checkpoint(save(WEIGHTS)) as checkpoint:
        assert checkpoint.container == "torch-zip"
        assert list(checkpoint.tensors) == ["visual.proj", "logit_scale"]
        projection = checkpoint.tensors["visual.proj"]
        assert (projection.dtype, projection.shape, projection.stride) == ("float32", (2, 3), (3, 1))
        assert (projection.itemsize, projection.numel, projection.nbytes) == (4, 6, 24)
        assert projection.contiguous
        assert checkpoint.tensors["logit_scale"].shape == ()


def test_safetensors_when_opened_then_lists_its_tensors_and_metadata(tmp_path, strangers):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path, metadata={"format": "pt"})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.container == "safetensors"
        assert checkpoint.tensors.keys() == WEIGHTS.keys()
        assert checkpoint.contents.metadata == {"format": "pt"}
        assert (checkpoint.state_path, checkpoint.prefix, checkpoint.extras) == ((), "", ())
        assert strangers(checkpoint) == ()


def test_path_when_given_as_text_then_is_opened_and_kept_as_a_path(save):
    path = save(WEIGHTS)
    with open_checkpoint(str(path)) as checkpoint:
        assert checkpoint.path == path
        assert checkpoint.size == path.stat().st_size


def test_name_of_the_file_when_misleading_then_the_bytes_decide(save):
    with open_checkpoint(save(WEIGHTS, "model.safetensors")) as checkpoint:
        assert checkpoint.container == "torch-zip"


def test_offset_when_asked_of_torch_then_is_where_the_record_lies(save):
    path = save(WEIGHTS)
    reader = torch._C.PyTorchFileReader(str(path))
    with open_checkpoint(path) as checkpoint:
        for index, tensor in enumerate(checkpoint.tensors.values()):
            start, end = tensor.storage
            assert tensor.offset == start == reader.get_record_offset(f"data/{index}")
            assert end - start == tensor.nbytes


def test_offsets_when_records_pass_four_gigabytes_then_are_still_found(save):
    tensors = {"large": torch.empty(2**30 + 5), "after": torch.empty(7)}
    with torch.serialization.skip_data():  # a sparse file of a few kilobytes
        path = save(tensors)
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        with open_checkpoint(path) as checkpoint:
            offsets = [tensor.offset for tensor in checkpoint.tensors.values()]
            assert offsets == [reader.get_record_offset("data/0"), reader.get_record_offset("data/1")]
            assert offsets[1] > 2**32
    finally:
        path.unlink()


def test_values_when_contiguous_then_are_the_mapping_itself(save):
    with open_checkpoint(save(WEIGHTS)) as checkpoint:
        tensor = checkpoint.tensors["visual.proj"]
        view = checkpoint.values(tensor)
        view[0:4] = b"\x00\x00\x80\x3f"
        assert checkpoint.mapping[tensor.offset : tensor.offset + 4] == b"\x00\x00\x80\x3f"
        view.release()


def test_mapping_when_written_to_then_leaves_the_file_alone(save):
    path = save(WEIGHTS)
    before = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        checkpoint.mapping[:] = bytes(checkpoint.size)
    assert path.read_bytes() == before


def test_file_when_replaced_after_opening_then_the_opened_one_is_still_read(save):
    path = save(WEIGHTS)
    with open_checkpoint(path) as checkpoint:
        replacement = path.with_suffix(".new")
        torch.save({name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}, replacement)
        replacement.replace(path)
        values = WEIGHTS["visual.proj"].numpy().tobytes()
        assert checkpoint.digest(checkpoint.tensors["visual.proj"]) == tensor_digest("float32", (2, 3), values)


def test_close_when_a_view_is_alive_then_keeps_the_view_valid(save):
    with open_checkpoint(save(WEIGHTS)) as checkpoint:
        view = checkpoint.values(checkpoint.tensors["visual.proj"])
    assert torch.equal(torch.frombuffer(view, dtype=torch.float32).reshape(2, 3), WEIGHTS["visual.proj"])


def test_close_when_nothing_is_alive_then_frees_the_mapping(save):
    with open_checkpoint(save(WEIGHTS)) as checkpoint:
        checkpoint.digest(checkpoint.tensors["visual.proj"])
    assert checkpoint.mapping.closed
    checkpoint.close()


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_open_files_when_opening_fails_then_none_is_left(forge):
    path = forge.archive(b"not a pickle")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_tied_weights_when_saved_by_torch_then_are_named_as_aliases(save):
    shared = torch.randn(4, 4)
    state = {"token.weight": shared, "head.weight": shared, "head.half": shared[:2], "head.turned": shared.t()}
    with open_checkpoint(save(state)) as checkpoint:
        assert checkpoint.aliases() == {"head.weight": "token.weight"}


def test_empty_tensors_when_of_one_place_then_are_no_aliases(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.empty(0), "b": torch.empty(0), "c": torch.ones(1)}, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.aliases() == {}


@pytest.mark.parametrize(
    ("shape", "stride", "contiguous"),
    [((), (), True), ((2, 3), (3, 1), True), ((2, 3), (1, 2), False), ((1, 3), (99, 1), True), ((0, 3), (7, 7), True)],
)
def test_contiguous_when_asked_then_agrees_with_torch(shape, stride, contiguous):
    assert StridedTensor("w", "float32", shape, stride, 0, (0, 24)).contiguous is contiguous
    assert torch.empty_strided(shape, stride).is_contiguous() is contiguous


def test_missing_file_when_opened_then_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"^There is no file .*nothing\.pt; check the path\.$"):
        open_checkpoint(tmp_path / "nothing.pt")


def test_missing_file_when_its_name_has_an_escape_sequence_then_it_is_shown_escaped(tmp_path):
    with pytest.raises(InputError) as caught:
        open_checkpoint(tmp_path / "\x1b[31mred.pt")
    assert "\\x1b[31mred.pt" in str(caught.value)


def test_directory_when_it_holds_no_checkpoint_then_is_refused(tmp_path, refusal):
    (tmp_path / "notes.txt").write_text("no weights")
    error = refusal(tmp_path)
    assert error.rule == "F001"
    assert "a directory without a checkpoint" in str(error)


def test_directory_when_it_holds_one_checkpoint_then_is_that(save, tmp_path):
    path = save(WEIGHTS)
    (tmp_path / "config.json").write_text("{}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path == tmp_path
        assert [file.name for file in checkpoint.files] == [path.name]
        assert checkpoint.tensors.keys() == WEIGHTS.keys()


def test_directory_when_it_holds_several_checkpoints_then_asks_for_one(save, tmp_path):
    save(WEIGHTS, "a.pt")
    save(WEIGHTS, "b.pt")
    with pytest.raises(InputError, match=r"has 2 checkpoints, 'a.pt', 'b.pt'; pass one of them\.$"):
        open_checkpoint(tmp_path)


def test_directory_when_weights_are_there_in_two_forms_then_opens_that_without_code(save, tmp_path):
    save(WEIGHTS, "pytorch_model.bin")
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.container == "safetensors"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_when_opened_then_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(InputError, match="Not a regular file"):
        open_checkpoint(tmp_path / "pipe.pt")


def test_path_when_it_has_a_null_character_then_is_an_input_error():
    with pytest.raises(InputError, match="Cannot open"):
        open_checkpoint(Path("a\0b"))


def test_alias_when_not_stored_then_is_another_name_of_the_same_tensor(save):
    with open_checkpoint(save(WEIGHTS)) as opened:
        checkpoint = opened.with_aliases({"second": "first", "logit_scale": "first", "unknown": "absent"})
        assert opened.tensors.keys() == WEIGHTS.keys()
        assert list(checkpoint.tensors) == ["visual.proj", "logit_scale", "first", "second"]
        assert checkpoint.aliases() == {"first": "logit_scale", "second": "logit_scale"}
        assert checkpoint.candidates[0].tensors.keys() == WEIGHTS.keys()


def test_view_when_of_a_part_then_its_tensors_lose_its_prefix_and_others_are_extras(save):
    path = save({"state_dict": {"net.a.w": torch.ones(2), "net.b": torch.ones(1), "loss.w": torch.ones(3)}})
    with open_checkpoint(path) as opened:
        checkpoint = opened.select(View(("state_dict",), "net.", {"b": "bias"}))
        assert list(checkpoint.tensors) == ["a.w", "bias"]
        assert (checkpoint.prefix, checkpoint.extras) == ("net.", ("state_dict.loss",))
        assert list(checkpoint.select(("state_dict",)).tensors) == ["a.w", "bias"]
        assert list(opened.tensors) == ["net.a.w", "net.b", "loss.w"]
