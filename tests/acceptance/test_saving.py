"""What a save leaves as it was, what it writes down, and what it refuses."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

import manifest
from manifest.errors import ArchitectureError, InputError
from manifest.schema.report import Severity
from manifest.storage.sidecars import Sidecars
from manifest.storage.transaction import read_manifest


def test_save_leaves_modes_generators_threads_and_flags_as_they_were(digits_model: Any, tmp_path: Path) -> None:
    digits_model.train()
    digits_model.visual.ln_post.eval()
    modes = [child.training for child in digits_model.modules()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    settings = (
        torch.get_num_threads(),
        torch.backends.mkldnn.enabled,
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )
    manifest.save(digits_model, tmp_path / "x.pt")
    assert [child.training for child in digits_model.modules()] == modes
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert settings == (
        torch.get_num_threads(),
        torch.backends.mkldnn.enabled,
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


@pytest.mark.parametrize(("mode", "recorded"), [(True, "train"), (False, "eval")])
def test_mode_of_the_saved_model_is_on_record(mode: bool, recorded: str, digits_model: Any, tmp_path: Path) -> None:
    digits_model.train(mode)
    assert manifest.save(digits_model, tmp_path / "x.pt", golden=False).architecture.mode == recorded


def test_golden_outputs_are_the_same_whatever_mode_the_model_is_in(digits_model: Any, tmp_path: Path) -> None:
    one = manifest.save(digits_model.train(), tmp_path / "a.pt").golden[0]
    other = manifest.save(digits_model.eval(), tmp_path / "b.pt").golden[0]
    assert one.outputs == other.outputs


def test_wrapped_model_is_saved_without_its_wrapper(digits_model: Any, tmp_path: Path) -> None:
    plain = manifest.save(digits_model, tmp_path / "a.pt", golden=False)
    wrapped = manifest.save(nn.DataParallel(digits_model), tmp_path / "b.pt", golden=False)
    assert wrapped.weights == plain.weights


@pytest.mark.parametrize("precision", ["fp16", "bf16", "pure_bf16"])
def test_model_of_low_precision_keeps_its_types_and_answers_in_float32(
    precision: str, digits: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model(digits.MODEL, precision=precision)
    recorded = manifest.save(model, tmp_path / "x.safetensors")
    loaded = manifest.load(tmp_path / "x.safetensors")
    assert recorded.architecture.precision == precision
    assert recorded.golden[0].precision == "fp32"
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: value.dtype for name, value in state.items()} == {
        name: value.dtype for name, value in model.state_dict().items()
    }


def test_two_saves_under_one_source_date_are_the_same_bytes(
    digits_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    contents = []
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        manifest.save(digits_model, place / "x.pt")
        contents.append(((place / "x.pt").read_bytes(), Sidecars(place / "x.pt").manifest.read_bytes()))
    assert contents[0] == contents[1]
    assert json.loads(contents[0][1])["created"] == "2023-11-14T22:13:20Z"


def test_manifest_holds_no_path_user_or_host(digits_model: Any, tmp_path: Path) -> None:
    import getpass
    import socket

    manifest.save(digits_model, tmp_path / "x.pt")
    content = json.loads(Sidecars(tmp_path / "x.pt").manifest.read_text())
    del content["weights"]["kinship"]["numbers"]  # base64, in which any short name may be found
    text = json.dumps(content)
    for secret in (str(tmp_path), str(Path.home()) + "/", socket.gethostname(), f'"{getpass.getuser()}"'):
        assert secret not in text


def test_extras_go_into_the_checkpoint_and_onto_the_record(digits_model: Any, tmp_path: Path) -> None:
    extras = {"epoch": 3, "optimizer": torch.optim.SGD(digits_model.parameters(), 0.1).state_dict()}
    recorded = manifest.save(digits_model, tmp_path / "x.pt", extras=extras, golden=False)
    assert recorded.checkpoint.extras == ["epoch", "optimizer"]
    assert torch.load(tmp_path / "x.pt", weights_only=True)["epoch"] == 3


def test_extras_that_safetensors_cannot_hold_are_refused(digits_model: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'epoch' is a int"):
        manifest.save(digits_model, tmp_path / "x.safetensors", extras={"epoch": 3})
    assert list(tmp_path.iterdir()) == []


def test_save_over_a_checkpoint_keeps_its_permissions(digits_model: Any, tmp_path: Path) -> None:
    for suffix in ("pt", "safetensors"):
        path = tmp_path / f"x.{suffix}"
        manifest.save(digits_model, path, golden=False)
        path.chmod(0o640)
        manifest.save(digits_model, path, golden=False)
        assert path.stat().st_mode & 0o777 == 0o640


def test_module_of_no_known_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match=r"torch\.nn\.modules\.linear\.Linear is of no known family"):
        manifest.save(nn.Linear(2, 2), tmp_path / "x.pt")


def test_activation_swapped_in_the_live_model_is_recorded_as_it_is(digits_model: Any, tmp_path: Path) -> None:
    """Whoever changes both towers by hand has another architecture, and it is that one which is written down."""
    for tower in (digits_model.visual, digits_model):
        for block in tower.transformer.resblocks:
            block.mlp.gelu = nn.GELU()
    recorded = manifest.save(digits_model, tmp_path / "x.pt").architecture
    assert recorded.config["quick_gelu"] is False
    assert recorded.activations == {"visual": {"GELU": 4}, "text": {"GELU": 2}}


def test_architecture_that_no_config_describes_is_refused_and_nothing_written(
    digits_model: Any, tmp_path: Path
) -> None:
    digits_model.visual.transformer.resblocks[1].mlp.gelu = nn.ReLU()
    with pytest.raises(ArchitectureError, match=r"resblocks\.1\.mlp\.gelu: ReLU\(.*\) → QuickGELU"):
        manifest.save(digits_model, tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_code_changed_behind_the_modules_is_found_by_the_outputs(digits_model: Any, tmp_path: Path) -> None:
    tower = type(digits_model.visual)
    forward = {"forward": lambda self, image: 2 * tower.forward(self, image)}
    digits_model.visual.__class__ = type(tower.__name__, (tower,), forward)
    with pytest.raises(ArchitectureError, match="rebuilt model gives other image_features"):
        manifest.save(digits_model, tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_model_with_weights_that_are_not_numbers_is_refused(digits_model: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        digits_model.visual.proj[0, 0] = float("nan")
    with pytest.raises(ArchitectureError, match="NaN or infinity"):
        manifest.save(digits_model, tmp_path / "x.pt")


def test_loaded_model_trains_and_saves_over_its_own_file(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    first = manifest.save(digits_model, path)
    before = path.read_bytes()
    model: Any = manifest.load(path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, tokens = torch.randn(2, 3, 32, 32), open_clip.get_tokenizer(digits.MODEL)(digits.PROMPTS[:2])
    loss = (model.encode_image(images) @ model.encode_text(tokens).T).square().mean()
    loss.backward()
    optimizer.step()
    assert path.read_bytes() == before
    second = manifest.save(model, path)
    assert second.weights.digest != first.weights.digest
    assert [(parent.name, parent.weights) for parent in second.provenance.parents] == [
        (path.name, first.weights.digest)
    ]
    assert manifest.verify(path).exit_code == 0


def test_load_transforms_are_those_that_were_saved(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "x.pt", golden=False)
    preprocess, tokenizer = manifest.load_transforms(tmp_path / "x.pt")
    _, _, images, _ = digits.digits()
    assert torch.equal(preprocess(images[0]), digits.preprocessing(digits_model)(images[0]))
    assert torch.equal(tokenizer(digits.PROMPTS), open_clip.get_tokenizer(digits.MODEL)(digits.PROMPTS))


@pytest.mark.parametrize("verify", ["full", "fast", "none"])
def test_load_rebuilds_exactly_however_much_is_verified(verify: Any, digits_model: Any, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "x.pt")
    loaded: Any = manifest.load(tmp_path / "x.pt", verify=verify)
    assert torch.equal(loaded.visual.proj, digits_model.visual.proj)
    assert torch.equal(loaded.attn_mask, digits_model.attn_mask)
    assert read_manifest(tmp_path / "x.pt").architecture.activations["visual"] == {"QuickGELU": 4}


class _Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.fspath(self.file),)


def test_checkpoint_with_code_beside_its_weights_fails_verify_and_loads_without_it(
    digits_model: Any, tmp_path: Path
) -> None:
    path, sprung = tmp_path / "x.pt", tmp_path / "sprung"
    manifest.save(digits_model, path, extras={"callback": _Trap(sprung)})
    report = manifest.verify(path, fast=True)
    assert [item.rule for item in report.findings() if item.severity is Severity.ERROR] == ["F010"]
    loaded = manifest.load(path)
    assert not sprung.exists()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in digits_model.state_dict().items())
