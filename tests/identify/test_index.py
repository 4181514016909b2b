"""The index that ships is what the installed libraries say, small, and read without them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import open_clip
import pytest

from manifest.identification import index
from manifest.identification.index.layout import PRETRAINED, TEMPLATES
from manifest.identification.index.writing import Model, pack

SAMPLE = [
    ("open_clip", "ViT-B-32-quickgelu"),
    ("open_clip", "RN50"),
    ("open_clip", "ViT-B-16-SigLIP2"),
    ("open_clip", "coca_base"),
    ("open_clip", "PE-Core-T-16-384"),
    ("open_clip", "ViTamin-S"),
    ("timm", "swin_tiny_patch4_window7_224"),
    ("timm", "efficientnet_b0"),
    ("timm", "vit_base_patch16_clip_quickgelu_224"),
    ("timm", "hrnet_w18_small"),
    ("torchvision", "swin_v2_t"),
    ("torchvision", "keypointrcnn_resnet50_fpn"),
    ("torchvision", "inception_v3"),
]


def installed(generator: ModuleType) -> dict[str, str]:
    return {library: version(package) for library, package in generator.LIBRARIES.items()}


@pytest.fixture(autouse=True)
def same_versions(generator: ModuleType, request: pytest.FixtureRequest) -> None:
    if "drift" in request.node.name and index.versions() != installed(generator):
        pytest.skip(f"the index is of {index.versions()}; `make index` writes it anew")


@pytest.mark.parametrize(("library", "name"), SAMPLE, ids=[name for _, name in SAMPLE])
def test_drift_of_an_architecture_is_none(library: str, name: str, generator: ModuleType) -> None:
    model = generator.model(library, name)
    known = index.named(library, name)
    assert known is not None
    entry = index.entry(known.entry)
    assert dict(entry.shapes) == model.shapes
    assert dict(entry.roles) == model.roles
    assert known.settings == model.settings


def test_drift_of_names_is_none(generator: ModuleType) -> None:
    known = {(each.library, each.name) for each in index.architectures()}
    there = {(library, name) for library in generator.BUILDERS for name in generator.names(library)}
    # Other tests may have added configs of their own to open_clip's registry in this process.
    configs = {path.stem for path in (Path(open_clip.__file__).parent / "model_configs").glob("*.json")}
    assert known == {(library, name) for library, name in there if library != "open_clip" or name in configs}
    assert index.left_out() == {"open_clip": generator.left_out()}


def test_drift_of_published_weights_is_none(generator: ModuleType) -> None:
    for library, rows in json.loads(json.dumps(generator.pretrained())).items():
        assert index.document(PRETRAINED.format(library)) == rows


def test_drift_of_templates_is_none(generator: ModuleType) -> None:
    sample = [kind for kind in generator.KINDS if kind.name in {"CLIPModel", "ViTModel", "BertForMaskedLM"}]
    written = [each for each in index.document(TEMPLATES) if each["class"] in {kind.name for kind in sample}]
    assert json.loads(json.dumps(generator.templates(sample))) == written


def test_index_when_packed_twice_then_its_bytes_are_the_same() -> None:
    shapes = {"blocks.0.weight": (2, 3), "blocks.1.weight": (2, 3), "head.weight": (5, 2)}
    model = Model("timm", "tiny", {}, shapes, {name: name.partition(".")[0] for name in shapes})
    assert pack([model], {}, {}, [], {}) == pack([model], {}, {}, [], {})


def test_index_is_small() -> None:
    assert len(files("manifest.identification.index").joinpath("index.zip").read_bytes()) < 800_000


def test_architectures_that_a_hub_describes_are_told_to_be_left_out() -> None:
    assert len(index.left_out()["open_clip"]) == 10


def test_identification_imports_neither_torch_nor_any_library_of_models() -> None:
    script = (
        "import sys; from manifest.identification.identify import identify; "
        "identify({f'layer{n}.0.conv1.weight': (64, 64, 3, 3) for n in range(9)}); "
        "print({'torch', 'open_clip', 'timm', 'torchvision', 'transformers', 'numpy'} & sys.modules.keys())"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
