"""A manifest may hold anything: whatever a field says, checking and loading end in a report or in one sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.errors import ArchitectureError, ManifestError
from manifest.storage.sidecars import Sidecars
from tests.sampling import sampled

ODD: tuple[Any, ...] = (None, -1, 2**70, 1.5, "", "x\x1b[31m\n", [], {}, [None], {"a": 1})
FIELDS = (
    "architecture.family",
    "architecture.class",
    "architecture.config",
    "architecture.config.vision_cfg",
    "architecture.config.vision_cfg.layers",
    "architecture.config.vision_cfg.patch_size",
    "architecture.config.text_cfg",
    "architecture.config.text_cfg.heads",
    "architecture.config.text_cfg.vocab_size",
    "architecture.precision",
    "architecture.arguments",
    "architecture.preprocess.size",
    "architecture.preprocess.mean",
    "architecture.preprocess.interpolation",
    "architecture.preprocess.resize_mode",
    "architecture.tokenizer.class",
    "architecture.tokenizer.arguments",
    "architecture.tokenizer.context_length",
    "components",
    "golden.0.probe",
    "golden.0.threads",
    "golden.0.outputs",
    "golden.0.outputs.logits.shape",
    "golden.0.outputs.logits.sketch",
    "golden.0.reading",
    "weights.tensors",
    "checkpoint.files",
    "environment.flags",
)


@pytest.fixture(scope="module")
def saved(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made_up") / "ckpt.safetensors"
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path)
    return path


@pytest.fixture
def recorded(saved: Path) -> Any:
    """The manifest as JSON; put back afterwards."""
    before = Sidecars(saved).manifest.read_bytes()
    yield json.loads(before)
    Sidecars(saved).manifest.write_bytes(before)


def write(path: Path, recorded: Any, field: str, value: Any) -> None:
    """The manifest with one field replaced; numbers in a field's path are places in lists."""
    content = copy.deepcopy(recorded)
    *way, last = [int(part) if part.isdigit() else part for part in field.split(".")]
    part = content
    for step in way:
        part = part[step]
    part[last] = value
    Sidecars(path).manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("field", sampled(FIELDS, 2))
def test_made_up_field_ends_in_a_report_or_a_sentence(field: str, saved: Path, recorded: Any) -> None:
    for value in ODD:
        write(saved, recorded, field, value)
        for use in (manifest.verify, manifest.load_transforms, lambda path: manifest.load(path, verify="none")):
            try:
                use(saved)
            except ManifestError as error:
                assert str(error)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("interpolation", "sharp", "The recorded preprocessing is none that open_clip has"),
        ("size", [10**9, 10**9], "The recorded preprocessing is none that open_clip has"),
        ("size", [], "The recorded preprocessing is none that open_clip has"),
    ],
)
def test_preprocessing_that_open_clip_lacks_is_one_sentence(
    field: str, value: Any, words: str, saved: Path, recorded: Any
) -> None:
    write(saved, recorded, f"architecture.preprocess.{field}", value)
    with pytest.raises(ArchitectureError, match=words):
        manifest.load_transforms(saved)
    assert manifest.verify(saved).exit_code == 1


def test_context_longer_than_any_is_refused_before_memory_is_spent(saved: Path, recorded: Any) -> None:
    write(saved, recorded, "architecture.tokenizer.context_length", 10**12)
    with pytest.raises(ArchitectureError, match="expected at most 8,192"):
        manifest.load_transforms(saved)
    assert manifest.verify(saved).exit_code == 1
