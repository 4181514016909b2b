"""Sparse and quantized tensors: they have no plain values, and a digest of what they are stored as."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from manifest.checkpoint import CompositeTensor, open_checkpoint
from manifest.errors import CheckpointError

# Sparse compressed layouts are a beta, and quantized tensors deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

DENSE = torch.tensor([[0.0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 0, 4], [0, 5, 0, 0]])
LAYOUTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], set[str]]] = {
    "sparse_coo": (lambda dense: dense.to_sparse(), {"indices", "values"}),
    "sparse_csr": (lambda dense: dense.to_sparse_csr(), {"crow_indices", "col_indices", "values"}),
    "sparse_csc": (lambda dense: dense.to_sparse_csc(), {"ccol_indices", "row_indices", "values"}),
    "sparse_bsr": (lambda dense: dense.to_sparse_bsr((2, 2)), {"crow_indices", "col_indices", "values"}),
    "sparse_bsc": (lambda dense: dense.to_sparse_bsc((2, 2)), {"ccol_indices", "row_indices", "values"}),
}


def per_tensor(scale: float = 0.1, zero_point: int = 2, dtype: torch.dtype = torch.qint8) -> torch.Tensor:
    integers = torch.arange(6, dtype={torch.qint8: torch.int8, torch.quint8: torch.uint8}.get(dtype, torch.int32))
    return torch._make_per_tensor_quantized_tensor(integers.reshape(2, 3), scale, zero_point)


def per_channel(scale: float = 0.1, zero_point: int = 2, axis: int = 0, integer: int = 0) -> torch.Tensor:
    integers = torch.arange(9, dtype=torch.int8).reshape(3, 3)
    integers[0, 0] = integer
    scales, zero_points = torch.full((3,), scale, dtype=torch.float64), torch.full((3,), zero_point)
    return torch._make_per_channel_quantized_tensor(integers, scales, zero_points, axis)


COMPOSITES: dict[str, Callable[[], torch.Tensor]] = {
    **{layout: lambda make=make: make(DENSE) for layout, (make, _) in LAYOUTS.items()},
    "half": lambda: DENSE.half().to_sparse(),
    "brain": lambda: DENSE.bfloat16().to_sparse_csr(),
    "dense within sparse": lambda: DENSE.reshape(2, 2, 4).to_sparse(1),
    "narrow indices": lambda: torch.sparse_csr_tensor(
        torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([1, 0], dtype=torch.int32), torch.ones(2), (2, 2)
    ),
    "nothing in it": lambda: torch.zeros(3, 3).to_sparse(),
    "per tensor": per_tensor,
    "per tensor, unsigned": lambda: per_tensor(dtype=torch.quint8),
    "per tensor, wide": lambda: per_tensor(dtype=torch.qint32),
    "per channel": per_channel,
    "per channel, by floats": lambda: torch.quantize_per_channel(
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3), torch.zeros(3), 0, torch.quint8
    ),
    "strided": lambda: per_tensor().t(),
}


@pytest.fixture
def digest(save) -> Callable[..., str]:
    """The digest that a tensor has once it is saved and read."""

    def found(tensor: torch.Tensor, **options: bool) -> str:
        with open_checkpoint(save({"w": tensor}, **options)) as checkpoint:
            return checkpoint.digest(checkpoint.tensors["w"])

    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_tensor_when_saved_then_is_listed_by_its_parts(layout, save, values):
    make, roles = LAYOUTS[layout]
    tensor = make(DENSE)
    with open_checkpoint(save({"w": tensor, "plain": torch.ones(2)})) as checkpoint:
        found = checkpoint.tensors["w"]
        assert isinstance(found, CompositeTensor)
        assert (found.layout, found.dtype, found.shape, found.facts) == (layout, "float32", (4, 4), {})
        assert found.parts.keys() == roles
        assert checkpoint.unlisted == {}
        for role, part in found.parts.items():
            live = getattr(tensor, f"_{role}" if layout == "sparse_coo" else role)()
            assert bytes(checkpoint.values(part)) == values(live)


def test_tensor_when_quantized_as_a_whole_then_is_listed_with_its_scale(save, values):
    with open_checkpoint(save({"w": per_tensor(0.25, 3)})) as checkpoint:
        found = checkpoint.tensors["w"]
        assert isinstance(found, CompositeTensor)
        assert (found.layout, found.dtype, found.shape) == ("per_tensor_affine", "qint8", (2, 3))
        assert found.facts == {"scale": "0.25", "zero_point": "3"}
        assert found.nbytes == 6
        assert bytes(checkpoint.values(found.parts["integers"])) == values(per_tensor().int_repr())


def test_tensor_when_quantized_by_channel_then_is_listed_with_its_scales(save, values):
    tensor = per_channel()
    with open_checkpoint(save({"w": tensor})) as checkpoint:
        found = checkpoint.tensors["w"]
        assert isinstance(found, CompositeTensor)
        assert (found.layout, found.dtype, found.facts) == ("per_channel_affine", "qint8", {"axis": "0"})
        live = {
            "integers": tensor.int_repr(),
            "scales": tensor.q_per_channel_scales(),
            "zero_points": tensor.q_per_channel_zero_points(),
        }
        assert {role: bytes(checkpoint.values(part)) for role, part in found.parts.items()} == {
            role: values(part) for role, part in live.items()
        }


@pytest.mark.parametrize("kind", COMPOSITES)
def test_digest_when_saved_in_either_form_then_is_the_same(kind, digest):
    tensor = COMPOSITES[kind]()
    assert digest(tensor) == digest(tensor, _use_new_zipfile_serialization=False)


def test_digests_when_of_other_tensors_then_differ(digest):
    other = DENSE.clone()
    other[0, 1] = 9
    moved = DENSE.roll(1, 1)
    tensors = {
        **{layout: make(DENSE) for layout, (make, _) in LAYOUTS.items()},
        **{f"{layout} of another value": make(other) for layout, (make, _) in LAYOUTS.items()},
        **{f"{layout} at another index": make(moved) for layout, (make, _) in LAYOUTS.items()},
        "dense": DENSE,
        "of another shape": torch.sparse_coo_tensor(DENSE.to_sparse()._indices(), DENSE.to_sparse()._values(), (4, 5)),
        "of another type": DENSE.double().to_sparse(),
        "quantized": per_tensor(),
        "of another scale": per_tensor(scale=0.2),
        "of another zero": per_tensor(zero_point=1),
        "of another range": per_tensor(dtype=torch.quint8),
        "by channel": per_channel(),
        "by channel of another scale": per_channel(scale=0.2),
        "by channel of another zero": per_channel(zero_point=1),
        "by channel of another axis": per_channel(axis=1),
        "by channel of another integer": per_channel(integer=5),
    }
    found = {name: digest(tensor) for name, tensor in tensors.items()}
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("kind", COMPOSITES)
def test_values_when_of_a_composite_tensor_then_are_refused_in_one_sentence(kind, save):
    with open_checkpoint(save({"w": COMPOSITES[kind]()})) as checkpoint:
        with pytest.raises(
            CheckpointError, match=r"^model.pt: tensor 'w' is stored as \w+ and has no plain values; "
        ) as caught:
            checkpoint.values(checkpoint.tensors["w"])
        assert caught.value.rule == "F004"
        assert re.fullmatch(r"model.pt: [^.]*\.", str(caught.value))


def test_composite_tensors_when_saved_twice_then_are_no_aliases(save):
    tensor = DENSE.to_sparse()
    with open_checkpoint(save({"a": tensor, "b": tensor})) as checkpoint:
        assert checkpoint.aliases() == {}
        assert checkpoint.digest(checkpoint.tensors["a"]) == checkpoint.digest(checkpoint.tensors["b"])


def test_prefix_when_on_composite_tensors_then_is_stripped_from_their_names(save):
    with open_checkpoint(save({"module.w": DENSE.to_sparse(), "module.v": per_tensor()})) as checkpoint:
        assert list(checkpoint.tensors) == ["w", "v"]


@pytest.mark.parametrize("dtype", [torch.quint4x2, torch.quint2x4], ids=str)
def test_tensor_when_quantized_to_parts_of_bytes_then_is_named_as_unlisted(dtype, save):
    odd = torch.quantize_per_channel(torch.randn(3, 4), torch.ones(3), torch.zeros(3), 0, dtype)
    with open_checkpoint(save({"w": torch.ones(2), "odd": odd})) as checkpoint:
        assert checkpoint.unlisted == {"odd": "a quantized tensor of a packed or unknown kind"}


def test_sparse_tensor_when_its_parts_are_no_tensors_then_is_unlisted(forge):
    layout = forge.named("torch.serialization", "_get_layout") + forge.text("torch.sparse_coo") + b"\x85R"
    sparse = forge.named("torch._utils", "_rebuild_sparse_tensor") + b"(" + layout + b"(NN)\x88ttR"
    path = forge.archive(forge.state(w=forge.tensor(), odd=sparse), {"0": bytes(16)})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.unlisted == {"odd": "a sparse tensor of other things than tensors"}
