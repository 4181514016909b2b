"""Wherever an open_clip model comes from, it is recorded so that it can be rebuilt without going there again."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import manifest
from manifest.errors import CheckpointError, CreationMismatchError, InputError
from manifest.storage.transaction import read_manifest
from tests.warm import warm_run

CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A directory as `open_clip.push_to_hf_hub` fills one: config and weights, here moved off their first values."""
    place = tmp_path / "server" / "somebody" / "tiny-clip"
    place.mkdir(parents=True)
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    torch.manual_seed(3)
    state = open_clip.model.CLIP(**json.loads(json.dumps(CONFIG))).state_dict()
    moved = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in state.items()}
    save_file(moved, place / "open_clip_model.safetensors")
    return place


def test_model_of_a_local_directory_is_rebuilt_when_the_directory_is_gone(published: Path, tmp_path: Path) -> None:
    model: Any = manifest.create_model(f"local-dir:{published}")
    expected = model.eval().encode_image(torch.ones(1, 3, 32, 32))
    shutil.rmtree(published)
    record = manifest.save(model, tmp_path / "x.pt").architecture
    assert (record.name, record.config) == ("local-dir:tiny-clip", CONFIG)
    assert (record.preprocess.mean, record.preprocess.interpolation) == ([0.5] * 3, "bilinear")
    assert str(tmp_path) not in (tmp_path / "x.pt.manifest.json").read_text()
    assert manifest.verify(tmp_path / "x.pt").passed
    loaded: Any = manifest.load(tmp_path / "x.pt")
    assert torch.equal(loaded.encode_image(torch.ones(1, 3, 32, 32)), expected)


class _Hub(SimpleHTTPRequestHandler):
    """Files of `ORG/REPOSITORY/resolve/REVISION/FILE`, with the headers by which the hub's client knows them."""

    def translate_path(self, path: str) -> str:
        parts = path.partition("?")[0].strip("/").split("/")
        return super().translate_path("/".join([*parts[:2], *parts[4:]]))

    def end_headers(self) -> None:
        self.send_header("ETag", f'"{hashlib.sha1(self.path.encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def hub(published: Path) -> Iterator[str]:
    handler = partial(_Hub, directory=str(published.parent.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_model_of_a_hub_is_rebuilt_without_the_hub(hub: str, tmp_path: Path) -> None:
    script = (
        "import manifest, os\n"
        "model = manifest.create_model('hf-hub:somebody/tiny-clip')\n"
        "manifest.save(model, 'x.pt')\n"
    )
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache"), "PATH": "", "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, env=environment, check=True)
    shutil.rmtree(tmp_path / "cache")
    record = read_manifest(tmp_path / "x.pt").architecture
    assert (record.name, record.config) == ("hf-hub:somebody/tiny-clip", CONFIG)
    assert record.preprocess is not None
    assert record.preprocess.interpolation == "bilinear"
    assert manifest.verify(tmp_path / "x.pt").passed


def test_model_of_a_config_of_ones_own_is_rebuilt_where_the_config_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "my-own-clip.json").write_text(json.dumps(CONFIG))
    script = (
        "import manifest, open_clip\n"
        "open_clip.add_model_config('my-own-clip.json')\n"
        "manifest.save(manifest.create_model('my-own-clip'), 'x.pt')\n"
    )
    done = warm_run(["-c", script], tmp_path)
    assert done.returncode == 0, done
    assert "my-own-clip" not in open_clip.list_models()
    assert manifest.verify(tmp_path / "x.pt").passed


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "pure_fp16", "pure_bf16", "amp", "amp_bf16"])
def test_model_of_every_precision_is_loaded_as_it_was(precision: str, digits: Any, tmp_path: Path) -> None:
    model: Any = manifest.create_model(digits.MODEL, precision=precision)
    manifest.save(model, tmp_path / "x.pt", golden=False)
    loaded: Any = manifest.load(tmp_path / "x.pt", verify="none")
    expected = {name: (tensor.dtype, tensor) for name, tensor in model.state_dict().items()}
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == expected[name][0]
        assert torch.equal(tensor, expected[name][1])
    assert loaded.attn_mask.dtype == model.attn_mask.dtype
    assert type(loaded.ln_final) is type(model.ln_final)


@pytest.mark.parametrize(
    "arguments",
    [
        {"force_quick_gelu": True},
        {"force_custom_text": True},
        {"force_patch_dropout": 0.5},
        {"force_image_size": (64, 32)},
        {"force_context_length": 16},
        {"force_preprocess_cfg": {"mean": (0.1, 0.2, 0.3), "resize_mode": "squash"}},
        {"output_dict": True, "force_custom_text": True},
        {"init_logit_bias": -10.0},
        {"init_logit_scale": 2.0, "nonscalar_logit_scale": True},
        {"quick_gelu": True, "embed_dim": 48},
        {"vision_cfg": open_clip.CLIPVisionCfg(image_size=(32, 64), layers=1, width=64, patch_size=16)},
    ],
    ids=lambda arguments: "+".join(arguments),
)
@pytest.mark.parametrize("known", [pytest.param("call", marks=pytest.mark.whole), "bare module"])
def test_arguments_of_the_call_are_in_the_model_that_is_rebuilt(
    arguments: dict[str, Any], known: str, digits: Any, tmp_path: Path
) -> None:
    make = manifest.create_model if known == "call" else open_clip.create_model
    model: Any = make(digits.MODEL, **arguments)
    manifest.save(model, tmp_path / "x.pt", golden=False)
    loaded: Any = manifest.load(tmp_path / "x.pt")
    images = torch.randn(2, 3, *model.visual.image_size)
    model.eval()
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(images), model.encode_image(images))
    assert type(loaded) is type(model)
    assert loaded.visual.image_size == model.visual.image_size
    assert loaded.visual.preprocess_cfg == model.visual.preprocess_cfg


def test_towers_from_files_of_their_own_are_taken(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    torch.save(digits_model.visual.state_dict(), tmp_path / "image.pt")
    torch.save(digits_model.state_dict(), tmp_path / "text.pt")
    model: Any = manifest.create_model(
        digits.MODEL,
        pretrained_image_path=str(tmp_path / "image.pt"),
        pretrained_text_path=str(tmp_path / "text.pt"),
    )
    record = manifest.save(model, tmp_path / "x.pt", golden=False).architecture
    assert torch.equal(model.visual.conv1.weight, digits_model.visual.conv1.weight)
    assert record.arguments == {"pretrained_image_path": "image.pt", "pretrained_text_path": "text.pt"}
    assert manifest.verify(tmp_path / "x.pt", fast=True).passed


def test_file_that_is_not_the_tower_it_is_given_for_is_refused(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    trunk = {f"trunk.{name}": tensor for name, tensor in digits_model.visual.state_dict().items()}
    torch.save(trunk, tmp_path / "image.pt")
    with pytest.raises(CreationMismatchError, match=r"image\.pt is not the vision tower of digits-clip .*missing"):
        manifest.create_model(digits.MODEL, pretrained_image_path=str(tmp_path / "image.pt"))
    with pytest.raises(InputError, match=r"There is no file .*gone\.pt"):
        manifest.create_model(digits.MODEL, pretrained_text_path=str(tmp_path / "gone.pt"))
    (tmp_path / "page.pt").write_text("<html>")
    with pytest.raises(CheckpointError, match=r"page\.pt"):
        manifest.create_model(digits.MODEL, pretrained_text_path=str(tmp_path / "page.pt"))
