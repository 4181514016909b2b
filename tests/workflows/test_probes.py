"""Probes for every family, and of the user's own: asked, compared, and recorded without what was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from transformers import BertConfig, BertModel

import manifest
from manifest.errors import ArchitectureError, InputError
from manifest.probes.inputs import photographs
from manifest.storage.transaction import read_manifest

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def alone() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A probe of the user's own: two images of their own, and prompts."""
    place = tmp_path / "street"
    place.mkdir()
    for index, name in enumerate(("first", "second")):
        Image.linear_gradient("L").rotate(90 * index).convert("RGB").save(place / f"{name}.png")
    (place / "prompts.txt").write_text("a gradient\n\na digit\n", encoding="utf-8")
    return place


CASES = {
    "resnet": (lambda: timm.create_model("test_resnet"), "photos/1", {"logits"}),
    "features": (lambda: timm.create_model("test_resnet", features_only=True), "photos/1", {"features.0"}),
    "segmentation": (
        lambda: torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None),
        "photos/1",
        {"logits"},
    ),
    "detection": (
        lambda: torchvision.models.get_model(
            "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, score_thresh=0.0
        ),
        "photos-to-search/1",
        {"head.cls_logits", "head.bbox_regression"},
    ),
    "two stages": (
        lambda: torchvision.models.get_model(
            "fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None, min_size=64, max_size=64
        ),
        "photos-to-search/1",
        {"head.0.0", "box.0"},
    ),
    "flow": (lambda: torchvision.models.get_model("raft_small", weights=None), "pairs/1", {"flow"}),
    "text": (
        lambda: BertModel(
            BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=99)
        ),
        "tokens/2",
        {"output.last_hidden_state"},
    ),
}


# Objects in one stage are found in `tests/scenarios/test_p4_retinanet.py` too; features are one more list of tensors.
WHOLE = {"detection", "features", "flow", "segmentation"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.whole) if case in WHOLE else case for case in CASES]
)
def test_models_of_every_kind_are_asked_and_say_the_same_again(case: str, tmp_path: Path) -> None:
    make, probe, outputs = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    path = tmp_path / "model.safetensors"
    manifest.save(model, path)
    (golden,) = read_manifest(path).golden
    assert golden.probe == probe
    assert outputs <= golden.outputs.keys()
    report = manifest.verify(path)
    assert report.exit_code == 0
    assert next(rung for rung in report.rungs if rung.name == "golden").reason.startswith(("exact", "equivalent"))
    wrong = manifest.load(path)
    # The first, since fresh detectors let next to nothing of what their last levels see through.
    next(value for value in wrong.parameters() if value.ndim > 1).data.mul_(1.5)
    assert manifest.compare(wrong, path).exit_code == 1


def test_users_own_probe_is_recorded_by_what_was_answered(digits_model: Any, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    recorded = manifest.save(digits_model, path, probes=[folder])
    standard, own = recorded.golden
    assert (standard.probe, own.probe) == ("photos-and-prompts/2", "user/street")
    assert [reading.image for reading in own.reading] == ["first", "second"]
    assert list(own.reading[0].prompts) == ["a gradient", "a digit"]
    with_it = manifest.verify(path, probes=[folder])
    assert with_it.exit_code == 0
    assert not [found for found in with_it.findings() if found.rule == "G005"]
    without = manifest.verify(path)
    assert without.exit_code == 0
    assert "'street', which was not given" in next(f.message for f in without.findings() if f.rule == "G005")
    Image.new("RGB", (32, 32), "red").save(folder / "first.png")
    changed = manifest.verify(path, probes=[folder])
    assert changed.exit_code == 1
    assert next(f for f in changed.findings() if f.rule == "G002").message


def test_probe_made_in_code_needs_a_name(digits_model: Any, tmp_path: Path) -> None:
    images = {"cat": photographs()["chelsea"]}
    with pytest.raises(InputError, match="has no name"):
        manifest.save(digits_model, tmp_path / "a.pt", probes=[manifest.Probe(images=images, prompts=["a cat"])])
    with pytest.raises(InputError, match="asks nothing"):
        manifest.save(digits_model, tmp_path / "a.pt", probes=[manifest.Probe("nothing")])
    numbers = manifest.Probe("numbers", tensors={"x": torch.ones(2)})
    with pytest.raises(InputError, match="'numbers' has nothing that a CLIP takes"):
        manifest.save(digits_model, tmp_path / "a.pt", probes=[numbers])
    recorded = manifest.save(
        digits_model, tmp_path / "a.pt", probes=[manifest.Probe("mine", images=images, prompts=["a cat", "a dog"])]
    )
    assert recorded.golden[1].probe == "user/mine"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "holds no images"),
        ({"a.png": b"no image"}, "a.png cannot be read"),
        ({"prompts.txt": b"\xff\xfe\xff"}, "prompts.txt cannot be read"),
        ({"tensors.safetensors": b"x"}, "tensors.safetensors of the probe own cannot be read"),
    ],
)
def test_probe_that_cannot_be_read_is_one_sentence(
    files: dict[str, bytes], expected: str, digits_model: Any, tmp_path: Path
) -> None:
    place = tmp_path / "own"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    with pytest.raises(InputError, match=expected):
        manifest.save(digits_model, tmp_path / "a.pt", probes=[place])
    assert not (tmp_path / "a.pt").exists()
    with pytest.raises(InputError, match="no directory"):
        manifest.save(digits_model, tmp_path / "a.pt", probes=[tmp_path / "none"])


def test_factory_of_ones_own_is_asked_the_tensors_that_are_given(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import ownmodels

    torch.manual_seed(0)
    model = ownmodels.Pairs()
    probe = manifest.Probe("numbers", tensors={"x": torch.randn(5, 4), "scale": torch.rand(5)})
    path = tmp_path / "own.pt"
    recorded = manifest.save(model, path, model_name="ownmodels:Pairs", family="callable", probes=[probe])
    (golden,) = recorded.golden
    assert golden.probe == "user/numbers"
    assert list(golden.outputs) == ["output.pair.0", "output.pair.1", "output.scaled"]
    assert manifest.verify(path, allow=["ownmodels"], probes=[probe]).exit_code == 0
    assert manifest.load(path, allow=["ownmodels"]) is not None


def test_model_that_fails_on_its_probe_says_so_and_nothing_is_written(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")

    def fail(*_: Any) -> None:
        raise ValueError("no such thing")

    model.fc.register_forward_pre_hook(fail)
    with pytest.raises(ArchitectureError, match="fails on the probe photos/1 \\(ValueError: no such thing\\)"):
        manifest.save(model, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())
