"""Saves inside `recording` are followed by manifests; whatever holds no model is left alone; nothing stays behind."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file, save_model
from torch import nn, save

import manifest
from manifest.errors import NoManifestWarning
from manifest.schema.document import Manifest, serialize
from manifest.storage.transaction import read_manifest
from manifest.training.recording import recording

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)


def perceptron(width: int = 16) -> Any:
    """Trained for a step, so that it is not as initialised."""
    return stepped(importlib.import_module("own_networks").Perceptron(width), torch.randn(8, 8))


def resnet() -> nn.Module:
    return stepped(timm.create_model("test_resnet", num_classes=3), torch.randn(2, 3, 64, 64))


def stepped(model: Any, inputs: torch.Tensor) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        model(inputs).square().mean().backward()
        optimizer.step()
    return model


def holds(path: Path) -> Manifest:
    """The manifest of a checkpoint that verifies."""
    report = manifest.verify(path, allow=["own_networks"])
    assert report.passed, report
    return read_manifest(path)


def averaged(model: nn.Module) -> nn.Module:
    average = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.9)
    return average


def test_every_way_to_save_a_model_is_followed_by_its_manifest(tmp_path: Path) -> None:
    with recording() as recorder:
        model = resnet()
        wrapped = nn.DataParallel(model)
        torch.save(model.state_dict(), tmp_path / "bare.pt")
        save({"epoch": 2, "state_dict": wrapped.state_dict()}, str(tmp_path / "by_a_name_of_old.pt"))
        torch.save(
            {"net": {name: value.cpu().clone() for name, value in model.state_dict().items()}}, tmp_path / "clones.pt"
        )
        torch.save(dict(model.state_dict()), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
        save_file(model.state_dict(), tmp_path / "file.safetensors")
        save_model(model, str(tmp_path / "model.safetensors"))
        with (tmp_path / "opened.pt").open("wb") as file:
            torch.save(model.state_dict(), file)
        torch.save(model.state_dict(), (tmp_path / "closed_by_nobody.pt").open("wb"))
        assert torch.load(tmp_path / "closed_by_nobody.pt")
    assert not recorder.failed
    paths = sorted(path for path in tmp_path.iterdir() if path.suffix in (".pt", ".safetensors"))
    assert sorted(recorder.described) == paths
    found = [holds(path) for path in paths]
    assert len({each.weights.digest for each in found}) == 1
    assert all(each.architecture.name == "test_resnet" and each.golden for each in found)


def test_the_savers_of_libraries_are_followed(digits_model: Any, tmp_path: Path) -> None:
    from open_clip.push_to_hf_hub import save_for_hf
    from transformers import ViTConfig, ViTForImageClassification

    class Tokenizer:
        """Stands for one from a hub, whose files are no weights."""

        def save_pretrained(self, place: Path) -> None:
            (place / "tokenizer.json").write_text("{}")

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with recording(golden="none") as recorder:
        save_for_hf(digits_model, Tokenizer(), {"embed_dim": 64}, str(tmp_path / "open_clip"))
        model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        model(torch.randn(2, 3, 32, 32)).logits.square().mean().backward()
        optimizer.step()
        model.save_pretrained(tmp_path / "transformers")
    assert not recorder.failed
    weights = ["open_clip/open_clip_model.safetensors", "open_clip/open_clip_pytorch_model.bin"]
    for name in [*weights, "transformers/model.safetensors"]:
        assert manifest.verify(tmp_path / name, fast=True).passed
    assert read_manifest(tmp_path / weights[0]).weights.digest == read_manifest(tmp_path / weights[1]).weights.digest


def test_a_model_of_ones_own_is_rebuilt_by_what_its_class_was_called_with(tmp_path: Path) -> None:
    with recording():
        model = perceptron(24)
        torch.save({"model": model.state_dict()}, tmp_path / "own.pt")
    found = holds(tmp_path / "own.pt")
    assert (found.architecture.name, found.architecture.arguments) == (
        "own_networks:Perceptron",
        {"width": 24, "depth": 2, "dropout": 0.1},
    )
    assert manifest.load(tmp_path / "own.pt", allow=["own_networks"])(torch.zeros(1, 8)).shape == (1, 3)


def test_a_module_that_is_not_hashable_is_made_as_without(tmp_path: Path) -> None:
    class Compared(nn.Linear):
        """Equal to whatever has its size, and so without a hash."""

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Compared) and other.in_features == self.in_features

    with pytest.warns(NoManifestWarning), recording() as recorder:
        model = Compared(4, 4)
        torch.save({"weight": model.weight, "bias": model.bias}, tmp_path / "a.pt")
    assert [path.name for path, _ in recorder.failed] == ["a.pt"]
    assert torch.load(tmp_path / "a.pt")["weight"].shape == (4, 4)


def test_a_compiled_model_is_described_as_the_model_inside(tmp_path: Path) -> None:
    with recording():
        model = resnet()
        torch.save(torch.compile(model).state_dict(), tmp_path / "compiled.pt")
    assert holds(tmp_path / "compiled.pt").checkpoint.state.prefix == "_orig_mod."


def test_several_models_in_a_file_are_all_described(tmp_path: Path) -> None:
    path = tmp_path / "several.pt"
    with recording():
        model, other = resnet(), perceptron()
        average = averaged(model)
        copies = {name: value.clone() for name, value in average.state_dict().items()}
        saved = {"state_dict": model.state_dict(), "state_dict_ema": copies, "head": {"net": other.state_dict()}}
        torch.save(saved, path)
    found = holds(path)
    assert [each.state.path for each in found.others] == [["head", "net"], ["state_dict_ema"]]
    assert [each.architecture.name for each in found.others] == ["own_networks:Perceptron", "test_resnet"]
    loaded = manifest.load(path, state="state_dict_ema")
    assert all(torch.equal(value, copies[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(manifest.errors.InputError, match="describes no 'ema', only"):
        manifest.load(path, state="ema")
    assert manifest.verify(path).exit_code == 1  # the second class may not be imported without leave


def test_what_is_wrong_with_another_model_fails_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "several.pt"
    with recording():
        model = resnet()
        torch.save({"state_dict": model.state_dict(), "state_dict_ema": averaged(model).state_dict()}, path)
    document = path.with_name("several.pt.manifest.json")
    found = read_manifest(path)
    average = found.others[0]
    elsewhere = average.state.model_copy(update={"path": ["nowhere"]})
    for wrong, rung_name, where in (
        (average.model_copy(update={"golden": found.golden}), "golden", "state_dict_ema: golden"),
        (average.model_copy(update={"state": elsewhere}), "format", "nowhere"),
    ):
        document.write_bytes(serialize(found.model_copy(update={"others": [wrong]})))
        report = manifest.verify(path)
        rung = next(rung for rung in report.rungs if rung.name == rung_name)
        assert report.exit_code == 1
        assert where in [each.where for each in rung.findings]


def test_what_holds_no_model_is_left_alone_and_says_why(tmp_path: Path) -> None:
    with recording() as recorder:
        model = resnet()
        torch.save(torch.optim.AdamW(model.parameters()).state_dict(), tmp_path / "optimizer.pt")
        torch.save({"loss": 0.5}, tmp_path / "metrics.pt")
        torch.save({"weight": torch.zeros(3, 3)}, tmp_path / "stranger.pt")
        save_file(
            {"trunk." + name: value for name, value in list(model.state_dict().items())[:4]},
            tmp_path / "part.safetensors",
        )
    assert [path.name for path, _ in recorder.left_alone] == [
        "optimizer.pt",
        "metrics.pt",
        "stranger.pt",
        "part.safetensors",
    ]
    assert "no weights" in recorder.left_alone[1][1]
    assert "no model in memory" in recorder.left_alone[2][1]
    assert not list(tmp_path.glob("*.manifest.*"))
    assert not recorder.failed


def test_a_manifest_goes_where_its_checkpoint_goes(tmp_path: Path) -> None:
    with recording():
        model = resnet()
        torch.save(model.state_dict(), tmp_path / "tmp.pt")
        os.replace(tmp_path / "tmp.pt", tmp_path / "latest.pt")  # noqa: PTH105
        shutil.copy2(tmp_path / "latest.pt", tmp_path / "best.pt")
        torch.save(model.state_dict(), tmp_path / "old.pt")
        torch.save(averaged(model).state_dict(), tmp_path / "tmp.pt")
        (tmp_path / "tmp.pt").rename(tmp_path / "moved.pt")
        (tmp_path / "old.pt").unlink()
        (tmp_path / "folder").mkdir()
        torch.save(model.state_dict(), tmp_path / "folder" / "a.pt")
        os.rename(tmp_path / "folder", tmp_path / "renamed")  # noqa: PTH104
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    paths = ["best.pt", "latest.pt", "moved.pt", "renamed/a.pt"]
    assert names == sorted([*paths, *(f"{path}.manifest.json" for path in paths)])
    assert all(holds(tmp_path / path) for path in paths)


def test_a_folder_can_be_cleared_file_by_file(tmp_path: Path) -> None:
    with recording(golden="none") as recorder:
        model = resnet()
        torch.save(model.state_dict(), tmp_path / "a.pt")
        recorder.wait()
        for path in sorted(tmp_path.iterdir()):
            path.unlink()
        with pytest.raises(FileNotFoundError):
            (tmp_path / "b.pt").unlink()
    assert not list(tmp_path.iterdir())


def test_an_overwritten_checkpoint_has_the_manifest_of_its_last_save(tmp_path: Path) -> None:
    path = tmp_path / "same.pt"
    with recording(golden="none"):
        model = resnet()
        for _ in range(8):
            with torch.no_grad():
                next(model.parameters()).add_(1.0)
            torch.save(model.state_dict(), path)
    assert manifest.verify(path, fast=True).passed
    assert not read_manifest(path).golden


def test_a_save_of_this_package_is_its_own(tmp_path: Path) -> None:
    with recording() as recorder:
        model = resnet()
        for _ in range(2):
            manifest.save(model, tmp_path / "a.pt", extras={"epoch": 1})
            manifest.save(model, tmp_path / "b.safetensors")
            manifest.torch_save(model.state_dict(), tmp_path / "c.pt")
    assert not recorder.failed + recorder.left_alone
    assert not recorder.described
    assert all(holds(tmp_path / name) for name in ("a.pt", "b.safetensors", "c.pt"))


def test_what_a_training_starts_from_is_its_parent(tmp_path: Path) -> None:
    manifest.save(resnet(), tmp_path / "start.pt", golden=False)
    with recording(golden="none", dataset="digits, seed 0"):
        model, other = resnet(), resnet()
        with (tmp_path / "start.pt").open("rb") as file:
            state = torch.load(file)
        model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
        torch.save({"model": stepped(model, torch.randn(2, 3, 64, 64)).state_dict(), "epoch": 4}, tmp_path / "next.pt")
        torch.save(other.state_dict(), tmp_path / "other.pt")
    found = read_manifest(tmp_path / "next.pt").provenance
    digest = read_manifest(tmp_path / "start.pt").weights.digest
    assert [(parent.name, parent.weights) for parent in found.parents] == [("start.pt", digest)]
    assert (found.epoch, found.dataset) == (4, "digits, seed 0")
    assert not read_manifest(tmp_path / "other.pt").provenance.parents


def test_the_last_save_alone_can_be_asked(tmp_path: Path) -> None:
    with recording(golden="last"):
        model = resnet()
        torch.save(model.state_dict(), tmp_path / "1.pt")
        torch.save(averaged(model).state_dict(), tmp_path / "2.pt")
    assert [bool(holds(tmp_path / name).golden) for name in ("1.pt", "2.pt")] == [False, True]


def test_what_cannot_be_described_is_a_warning_and_a_file_beside_it(tmp_path: Path) -> None:
    class Hidden(nn.Linear):
        """Of which torch itself cannot list the parameters."""

        __hash__ = None  # type: ignore[assignment]

    path = tmp_path / "hidden.pt"
    with pytest.warns(NoManifestWarning, match=r"hidden\.pt was saved and got no manifest"), recording() as recorder:
        model = Hidden(4, 4)
        torch.save(model.state_dict(), path)
    assert recorder.failed[0][0] == path
    assert "Hidden" in path.with_name("hidden.pt.manifest.error").read_text()
    assert torch.load(path)["weight"].shape == (4, 4)
    with pytest.raises(TypeError, match="unhashable"), recording(strict=True):
        torch.save(model.state_dict(), path)
    with recording():
        other = resnet()
        torch.save(other.state_dict(), path)
    assert not path.with_name("hidden.pt.manifest.error").exists()


@pytest.mark.filterwarnings("error")
def test_nothing_is_raised_where_warnings_are_errors(tmp_path: Path) -> None:
    class Hidden(nn.Linear):
        """Of a place that nobody can import it from."""

    model = Hidden(4, 4)
    with recording() as recorder:
        torch.save(model.state_dict(), tmp_path / "hidden.pt")
    assert [path.name for path in recorder.described] == ["hidden.pt"], recorder.failed


def test_untrained_parts_are_declared_or_get_no_manifest(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    import open_clip

    fresh: Any = open_clip.create_model(digits.MODEL)
    for part in ("transformer", "token_embedding", "ln_final"):
        getattr(digits_model, part).load_state_dict(getattr(fresh, part).state_dict())
    with torch.no_grad():
        digits_model.positional_embedding.copy_(fresh.positional_embedding)
    with pytest.warns(NoManifestWarning, match="text tower was never trained"), recording(golden="none"):
        torch.save(digits_model.state_dict(), tmp_path / "refused.pt")
    with recording(golden="none", partial=["text_tower", "text_projection"]) as recorder:
        torch.save(digits_model.state_dict(), tmp_path / "declared.pt")
    assert [path.name for path in recorder.described] == ["declared.pt"]
    assert [path.name for path in sorted(tmp_path.glob("*.manifest.*"))] == [
        "declared.pt.manifest.json",
        "refused.pt.manifest.error",
    ]


@pytest.fixture
def names() -> Iterator[dict[str, Any]]:
    """What the functions are that recording stands in for."""
    import open_clip

    yield {
        "torch.save": lambda: torch.save,
        "here": lambda: save,
        "file": lambda: save_file,
        "timm": lambda: timm.create_model,
        "open_clip": lambda: open_clip.create_model,
        "replace": lambda: os.replace,
        "unlink": lambda: os.unlink,
        "copyfile": lambda: shutil.copyfile,
        "init": lambda: nn.Module.__init__,
    }


def test_nothing_stays_behind_whatever_happens(names: dict[str, Any], tmp_path: Path) -> None:
    before = {name: get() for name, get in names.items()}
    finders = list(sys.meta_path)
    with pytest.raises(KeyboardInterrupt), recording():
        assert all(get() is not before[name] for name, get in names.items())
        kept = torch.save
        raise KeyboardInterrupt
    assert all(get() is before[name] for name, get in names.items())
    assert sys.meta_path == finders
    kept(resnet().state_dict(), tmp_path / "after.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["after.pt"]


def test_a_pickled_model_does_not_need_this_package(tmp_path: Path) -> None:
    with recording():
        torch.save(resnet(), tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert holds(tmp_path / "whole.pt").architecture.name == "test_resnet"
    assert b"manifest." not in pickle.dumps(loaded)


def test_an_error_of_the_save_is_the_scripts_own(tmp_path: Path) -> None:
    with recording() as recorder:
        with pytest.raises(RuntimeError, match="does not exist"):
            torch.save(resnet().state_dict(), tmp_path / "nowhere" / "a.pt")
        with pytest.raises((AttributeError, pickle.PicklingError)):
            torch.save({"function": lambda: None}, tmp_path / "a.pt")
    assert not recorder.described
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_torch_save_returns_the_manifest(tmp_path: Path) -> None:
    model = manifest.timm.create_model("test_resnet", num_classes=3)
    stepped(model, torch.randn(2, 3, 64, 64))
    found = manifest.torch_save({"model": model.state_dict(), "epoch": 3}, tmp_path / "a.pt")
    assert found is not None
    assert found.weights.digest == holds(tmp_path / "a.pt").weights.digest
    assert manifest.torch_save({"loss": 1.0}, tmp_path / "b.pt") is None
    with pytest.warns(UserWarning, match="Linear is recorded, and not how to rebuild it"):
        found = manifest.torch_save(nn.Linear(2, 2), tmp_path / "c.pt")
    assert found is not None
    assert found.architecture.family == "opaque"
    assert torch.load(tmp_path / "c.pt", weights_only=False).weight.shape == (2, 2)


def test_torchvisions_models_are_remembered(tmp_path: Path) -> None:
    model = manifest.torchvision.get_model("shufflenet_v2_x0_5", num_classes=5)
    stepped(model, torch.randn(2, 3, 64, 64))
    found = manifest.torch_save(model.state_dict(), tmp_path / "a.pt", golden=False)
    assert found is not None
    assert found.architecture.name == "shufflenet_v2_x0_5"


@pytest.mark.parametrize("argument", [{"golden": "sometimes"}, {"floor": "low"}])
def test_arguments_are_checked_before_anything_is_replaced(argument: dict[str, str]) -> None:
    before = torch.save
    with pytest.raises(manifest.errors.InputError), recording(**argument):  # type: ignore[arg-type]
        pass
    assert torch.save is before
