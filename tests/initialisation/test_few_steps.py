"""Weights after few small steps: each component that moved by under 1% is told, and none that learnt and moved by 5%.

`pytest -s --whole` prints the curve that `docs/training.md` keeps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from open_clip.model import CLIP
from sklearn.datasets import load_digits
from torch import nn
from training_models import OPTIMIZERS, TEXT, VISIONS, State, built, roles_of, told

from manifest.initialisation.untrained import UNTRAINED
from manifest.initialisation.verdict import Evidence
from manifest.schema.vocabulary import Training

KINDS = (
    "CLIP ViT", "CLIP ViT, layer scale", "CLIP ResNet", "test_vit", "test_resnet", "test_convnext", "test_efficientnet",
    "CLIPModel", "SiglipModel", "BertForSequenceClassification", "LlamaForSequenceClassification",
)  # fmt: skip
RATES = (1e-6, 1e-5, 1e-4, 1e-3)
STEPS = (0, 1, 4, 16, 64)
SAMPLE = (("CLIP ViT", "AdamW", 1e-6), ("test_resnet", "SGD", 1e-3), ("SiglipModel", "AdamW", 1e-4))
LITTLE = 0.01
"""Of the norm of a component's initial weights: what moved by less has hardly been trained."""
LEAST = 1e-5
"""What moved by less, float32 may have rounded away in every norm."""
MUCH = 0.05
"""What moved by more is never accused. Between the two, a small model can have learnt something, or not."""

CHANCE = math.log(10)
LEARNERS = ("test_resnet", "test_convnext", "CLIP ViT", "test_efficientnet")
LEARNING_RATES = {"AdamW": (1e-4, 1e-3, 1e-2), "SGD": (1e-3, 1e-2)}
LEARNT_SAMPLE = (("test_efficientnet", "AdamW", 1e-2),)
MOST_STEPS = 600


@dataclass(frozen=True)
class Case:
    """A component after some steps, by how much of its norm it moved, and what is said of it."""

    kind: str
    role: str
    optimizer: str
    rate: float
    steps: int
    moved: float
    found: Evidence


def cases(kind: str, optimizer: str, rate: float, path: Path) -> Iterator[Case]:
    model, loss = built(kind, 0)
    model.train()
    initial = {name: value.detach().clone() for name, value in model.named_parameters()}
    step = OPTIMIZERS[optimizer](model, rate)
    for count in range(max(STEPS) + 1):
        if count in STEPS:
            state = model.state_dict()
            verdicts, moved = told(state, torch.float32, path), movement(initial, state)
            yield from (
                Case(kind, role, optimizer, rate, count, moved[role], found) for role, found in verdicts.items()
            )
        step.zero_grad()
        loss(model).backward()
        step.step()


def movement(initial: State, state: State) -> dict[str, float]:
    """By role, the norm of what was added to its parameters, over that of what they were."""
    roles = roles_of(dict(state))
    added, before = Counter[str](), Counter[str]()
    for name, value in initial.items():
        added[roles[name]] += float((state[name] - value).double().square().sum())
        before[roles[name]] += float(value.double().square().sum())
    return {role: math.sqrt(added[role] / before[role]) if before[role] else 0.0 for role in before}


@pytest.fixture(scope="module")
def few_steps(whole: bool, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Every component with norms, of every model after every number of steps."""
    path = tmp_path_factory.mktemp("few") / "weights.safetensors"
    chosen = product(KINDS, OPTIMIZERS, RATES) if whole else SAMPLE
    found = [case for each in chosen for case in cases(*each, path)]
    return [case for case in found if case.found.norms >= 2]


def test_components_when_they_moved_by_under_one_percent_then_are_told(few_steps: list[Case], whole: bool) -> None:
    print_curve(few_steps)
    assert len(few_steps) >= (500 if whole else 20)
    missed = [case for case in few_steps if case.moved < LITTLE and case.found.training not in UNTRAINED]
    assert missed == []


def test_components_when_their_values_changed_then_are_not_called_untouched(few_steps: list[Case]) -> None:
    untouched = [case for case in few_steps if case.found.training is Training.INITIALISED]
    assert all(case.steps == 0 or case.moved < LEAST for case in untouched)
    assert all(case in untouched for case in few_steps if case.steps == 0)


def test_components_when_barely_trained_then_the_reason_says_how_far(few_steps: list[Case]) -> None:
    barely = [case.found for case in few_steps if case.found.training is Training.BARELY]
    assert barely
    assert all("from their initial values, as far as Adam gets in" in found.reasons[-1] for found in barely)


def print_curve(found: list[Case]) -> None:
    bounds = (0.0, 1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05, 0.1, math.inf)
    words = [each.words for each in (Training.INITIALISED, Training.BARELY, Training.TRAINED, Training.UNKNOWN)]
    print(f"\n{len(found)} components with norms\n{'moved by':>16}" + "".join(f"{word:>16}" for word in words))
    counts = Counter((next(b for b in bounds if case.moved <= b), case.found.training.words) for case in found)
    for bound in bounds:
        row = "".join(f"{counts[bound, word]:16}" for word in words)
        print(f"{'up to ' + format(bound, '.2%') if bound < math.inf else 'more':>16}{row}")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_components_when_they_learnt_digits_and_moved_then_are_called_trained(whole: bool, tmp_path: Path) -> None:
    every = [(kind, name, rate) for kind in LEARNERS for name, rates in LEARNING_RATES.items() for rate in rates]
    accused, learnt = [], 0
    for kind, optimizer, rate in every if whole else LEARNT_SAMPLE:
        if (trained := learner(kind, optimizer, rate)) is None:
            continue
        learnt += 1
        state, moved = trained
        for role, found in told(state, torch.float32, tmp_path / "weights.safetensors").items():
            if found.norms >= 2:
                print(f"{kind}, {optimizer} {rate:g}: {role} moved by {moved[role]:.1%}, {found.training.words}")
                if found.training in UNTRAINED and moved[role] > MUCH:
                    accused.append((kind, optimizer, rate, role))
    assert learnt >= len(LEARNT_SAMPLE)
    assert accused == []


def learner(kind: str, optimizer: str, rate: float) -> tuple[State, dict[str, float]] | None:
    """Weights when they first know handwritten digits that they never saw: their loss there is half of chance's."""
    images, labels = digits_of(64 if kind not in VISIONS else VISIONS[kind]["image_size"])
    model, logits = reader(kind)
    initial = {name: value.detach().clone() for name, value in model.named_parameters()}
    step = OPTIMIZERS[optimizer](model, rate)
    draws = torch.Generator().manual_seed(0)
    for count in range(MOST_STEPS):
        if count % 10 == 0:
            model.eval()
            with torch.no_grad():
                unseen = float(nn.functional.cross_entropy(logits(images[1500:1700]), labels[1500:1700]))
            if unseen < CHANCE / 2:
                return dict(model.state_dict()), movement(initial, model.state_dict())
            model.train()
        chosen = torch.randint(0, 1500, (32,), generator=draws)
        step.zero_grad()
        nn.functional.cross_entropy(logits(images[chosen]), labels[chosen]).backward()
        step.step()
    return None


def digits_of(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images, dtype=torch.float32)[order, None] / 16 - 0.5
    images = nn.functional.interpolate(images, size=(side, side), mode="bilinear").expand(-1, 3, -1, -1)
    return images, torch.tensor(found.target)[order]


def reader(kind: str) -> tuple[nn.Module, Any]:
    """A fresh model, and its logits of ten digits for some images."""
    torch.manual_seed(0)
    if kind not in VISIONS:
        model: Any = timm.create_model(kind, num_classes=10)
        return model, model
    model = CLIP(embed_dim=32, vision_cfg=VISIONS[kind], text_cfg=TEXT)
    prompts = torch.zeros(10, 8, dtype=torch.long)
    prompts[:, 0], prompts[:, 1], prompts[:, 2] = 1, torch.arange(5, 15), 63

    def logits(images: torch.Tensor) -> torch.Tensor:
        image_features, text_features, scale = model(images, prompts)
        return scale * image_features @ text_features.T

    return model, logits
