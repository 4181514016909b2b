"""The formats of the digests, fixed by known answers: a manifest of today must hold in ten years."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from manifest.digests import (
    bytes_digest,
    file_blake3,
    file_digests,
    file_sha256,
    tensor_digest,
    text_digest,
    weights_digest,
)

A, B = f"blake3:{'a' * 64}", f"blake3:{'b' * 64}"
ODD_NAMES = st.text(max_size=8) | st.sampled_from(["", ":", "=", "a=", "1:a", "\n", "\ud800", "a\nb", A])
PAIRS = st.dictionaries(ODD_NAMES, st.sampled_from([A, B]), max_size=5).map(lambda named: list(named.items()))


@pytest.mark.parametrize(
    ("dtype", "shape", "values", "expected"),
    [
        (
            "float32",
            (2, 3),
            struct.pack("<6f", *range(6)),
            "blake3:9562ff2ce592a1ad2f799ed3fa954ca604ae2653365c574d8ff5a2b7660ab87e",
        ),
        (
            "float32",
            (),
            struct.pack("<f", 1),
            "blake3:46e3e3729219968aa0cc958980c534d895ff8bf16ea83b6c9e21e5d4ff28a915",
        ),
        ("bfloat16", (0, 4), b"", "blake3:1b32c438ed2f14b02d2d63eef78504301c1d4c6c721e4e757103939f111a0de0"),
    ],
    ids=["matrix", "scalar", "empty"],
)
def test_tensor_digest_of_known_values_is_the_published_one(
    dtype: str, shape: tuple[int, ...], values: bytes, expected: str
) -> None:
    assert tensor_digest(dtype, shape, values) == expected


def test_tensor_digest_is_blake3_of_header_and_values_as_documented() -> None:
    header = b"manifest/tensor/v1\nfloat16[3,2]\n"
    assert tensor_digest("float16", (3, 2), bytes(12)) == f"blake3:{blake3(header + bytes(12)).hexdigest()}"


def test_tensor_digest_is_the_same_on_one_thread_and_on_many() -> None:
    values = bytes(range(256)) * (1 << 13)  # 2 MiB, past the size from which several threads hash
    header = b"manifest/tensor/v1\nuint8[2097152]\n"
    assert tensor_digest("uint8", (len(values),), values) == f"blake3:{blake3(header + values).hexdigest()}"


def test_tensor_digest_differs_when_only_type_or_shape_does() -> None:
    same = bytes(24)
    digests = [
        tensor_digest("float32", (2, 3), same),
        tensor_digest("float32", (3, 2), same),
        tensor_digest("float32", (6,), same),
        tensor_digest("float32", (6, 1), same),
        tensor_digest("int32", (2, 3), same),
    ]
    assert len(set(digests)) == len(digests)


def test_weights_digest_of_known_pairs_is_the_published_one() -> None:
    assert weights_digest([("visual.proj", A), ("logit_scale", B)]) == (
        "blake3:9b209095bfefc5115c8cbada62a1cf9487f84faceb2c4df6ee68b015d5c615c8"
    )
    assert weights_digest([]) == "blake3:c1d6d3616563abe09742290b3e878ce7886150106a528958b83e192442d17586"


def test_text_digest_of_known_lines_is_the_published_one() -> None:
    assert text_digest(["a", "b"]) == "blake3:41153ec5e22e7e1d208eec929ef45dcd31fd71283799b0615bb8753491715e5b"


@given(pairs=PAIRS, order=st.randoms(use_true_random=False))
def test_weights_digest_when_pairs_are_reordered_is_the_same(pairs: list[tuple[str, str]], order: object) -> None:
    shuffled = list(pairs)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert weights_digest(shuffled) == weights_digest(pairs)


@given(one=PAIRS, other=PAIRS)
def test_weights_digests_are_equal_only_when_the_pairs_are(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    assert (weights_digest(one) == weights_digest(other)) == (sorted(one) == sorted(other))


def test_weights_digest_when_a_name_imitates_the_format_does_not_collide() -> None:
    imitation = f"a={A}\n1:b"
    assert weights_digest([("a", A), ("b", B)]) != weights_digest([(imitation, B)])


@pytest.mark.parametrize("size", [0, 1, 1 << 10, (1 << 20) + 1])
def test_file_digests_are_those_of_its_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(index * 7 % 256 for index in range(size))
    path = tmp_path / "file"
    path.write_bytes(content)
    expected = blake3(content).hexdigest(), hashlib.sha256(content).hexdigest()
    assert file_digests(path) == expected == (file_blake3(path), file_sha256(path))
    assert bytes_digest(content) == expected[0]
