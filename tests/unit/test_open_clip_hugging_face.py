"""open_clip models whose text tower comes from Hugging Face: the tower's config travels with the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

import manifest
from manifest.errors import ArchitectureError
from manifest.families.equivalence import first_difference
from manifest.families.open_clip.adapter import FAMILY
from manifest.families.protocol import Creation
from manifest.schema.document import Architecture

transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = {"vocab_size": 99, "max_position_embeddings": 20, "bos_token_id": 97, "eos_token_id": 98}
MT5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 99}
TOWERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "roberta": ("RobertaConfig", {**SMALL, **WORDS}, {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}),
    "xlm": (
        "XLMRobertaConfig",
        {**SMALL, **WORDS},
        {"hf_proj_type": "linear", "hf_pooler_type": "cls_last_hidden_state_pooler"},
    ),
    "bert": ("BertConfig", {**SMALL, **WORDS}, {"hf_proj_type": "linear", "hf_pooler_type": "cls_pooler"}),
    "mt5": ("MT5Config", MT5, {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}),
}
VISION = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}

Make = Callable[[str], tuple[str, Path]]

pytestmark = pytest.mark.usefixtures("offline", "alone")


@pytest.fixture
def register(tmp_path: Path) -> Any:
    """Registers a small model with a text tower of some kind; gives its name and the tower's directory."""
    registered = open_clip.factory._MODEL_CONFIGS.copy()

    def call(kind: str) -> tuple[str, Path]:
        class_name, config, text = TOWERS[kind]
        tower = tmp_path / "towers" / f"tiny-{kind}"
        getattr(transformers, class_name)(**config).save_pretrained(tower)
        cfg = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": {"hf_model_name": str(tower), **text}}
        (tmp_path / f"small-{kind}.json").write_text(json.dumps(cfg))
        open_clip.add_model_config(tmp_path / f"small-{kind}.json")
        return f"small-{kind}", tower

    yield call
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(registered)


def made(name: str) -> Any:
    torch.manual_seed(0)
    return manifest.create_model(name, pretrained_hf=False)


def through_json(architecture: Architecture) -> Architecture:
    return Architecture.model_validate(json.loads(architecture.model_dump_json(by_alias=True)))


@pytest.mark.parametrize("kind", TOWERS)
def test_saved_model_is_loaded_where_the_towers_directory_is_not(kind: str, register: Make, tmp_path: Path) -> None:
    name, tower = register(kind)
    model = made(name)
    recorded = manifest.save(model, tmp_path / "a.pt")
    shutil.rmtree(tower)
    open_clip.factory._MODEL_CONFIGS.pop(name)
    report = manifest.verify(tmp_path / "a.pt")
    loaded: Any = manifest.load(tmp_path / "a.pt", verify="fast")
    assert report.exit_code == 0
    assert next(rung for rung in report.rungs if rung.name == "golden").reason.startswith("exact")
    assert str(tmp_path) not in recorded.model_dump_json()
    assert recorded.architecture.config["text_cfg"]["hf_model_name"] == f"tiny-{kind}"
    assert recorded.golden[0].probe == "photos-and-tokens/2"
    assert first_difference(loaded, model) is None
    assert manifest.save(loaded, tmp_path / "b.pt", golden=False).weights.digest == recorded.weights.digest


@pytest.mark.parametrize("kind", TOWERS)
def test_bare_module_shows_the_config_of_its_text_tower(kind: str, register: Make) -> None:
    name, tower = register(kind)
    model = open_clip.create_model(name, pretrained_hf=False)
    shutil.rmtree(tower)
    captured = FAMILY.capture(model, None).architecture
    assert first_difference(FAMILY.build(through_json(captured)), model) is None
    assert captured.config["text_cfg"]["hf_config"]["vocab_size"] == 99


def test_every_tensor_has_a_role(register: Make) -> None:
    model = made(register("roberta")[0])
    roles = FAMILY.roles(FAMILY.capture(model, None).architecture, model.state_dict())
    assert roles["text.transformer.embeddings.word_embeddings.weight"] == "text_tower"
    assert roles["text.proj.0.weight"] == "text_projection"


def test_tower_that_is_nowhere_on_this_machine_is_not_fetched() -> None:
    with pytest.raises(ArchitectureError, match=r"config of the text tower 'roberta-base' is not on this machine"):
        FAMILY.describe(Creation("roberta-ViT-B-32"))


def test_record_without_the_towers_config_or_with_a_made_up_one_is_refused(register: Make) -> None:
    sound = FAMILY.describe(Creation(register("bert")[0])).architecture
    text = sound.config["text_cfg"]
    for inner, words in (
        (None, "does not hold its config"),
        ({"model_type": "no-such"}, "does not hold its config, or one of a kind"),
        ({**text["hf_config"], "num_hidden_layers": 10**6}, "gives num_hidden_layers as 1000000, expected at most"),
        ({**text["hf_config"], "attn_implementation": "a/kernel"}, "expected one of eager"),
    ):
        config = {**sound.config, "text_cfg": {**text, "hf_config": inner}}
        with pytest.raises(ArchitectureError, match=words):
            FAMILY.build(sound.model_copy(update={"config": config}))
