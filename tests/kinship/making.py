"""Models that are trained, and checkpoints of a known relation, made as people make them: by optimizers, torch's own
averages, casts, pruning, peft, timm's interpolation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import open_clip
import peft
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import BertConfig, BertForSequenceClassification

from manifest.kinship.answers import Relation

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Kit:
    """A kind of model that can be trained.

    Attributes:
        make: A model from a seed.
        loss: Of a model on the batch of a number.
        part: How the names of one part of it begin.
        adapted: Names of modules that get adapters.
        units: For each layer of hidden units: tensors whose first dimension they are, and one whose second they are.
    """

    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, int], torch.Tensor]
    part: str
    adapted: list[str]
    units: list[tuple[list[str], str]]


def _images(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    labels = torch.randint(10, (16,), generator=generator)
    return torch.randn(16, 3, size, size, generator=generator) + labels[:, None, None, None] / 5, labels


def _loss_of_clip(model: nn.Module, number: int) -> torch.Tensor:
    images, labels = _images(number, 32)
    texts = (labels[:, None] * 7 + torch.arange(16)[None] * 3) % 512
    seen, said, scale = model(images, texts)[:3]
    logits, targets = scale * seen @ said.T, torch.arange(len(labels))
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def _loss_of_images(model: nn.Module, number: int) -> torch.Tensor:
    images, labels = _images(number, 32)
    return cross_entropy(model(images), labels)


def _loss_of_texts(model: nn.Module, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    texts = torch.randint(200, (16, 12), generator=generator)
    loss = model(input_ids=texts, labels=texts[:, 0] % 10).loss
    assert isinstance(loss, torch.Tensor)
    return loss


def _clip() -> nn.Module:
    vision = {"image_size": 32, "layers": 3, "width": 128, "patch_size": 8, "head_width": 32}
    text = {"context_length": 16, "vocab_size": 512, "width": 96, "heads": 3, "layers": 3}
    return open_clip.CLIP(64, vision, text)


def _bert() -> nn.Module:
    config = BertConfig(
        vocab_size=200,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=384,
        num_labels=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def _of_layers(names: list[str], last: str, layers: int) -> list[tuple[list[str], str]]:
    return [([name.format(layer) for name in names], last.format(layer)) for layer in range(layers)]


KITS: dict[str, Kit] = {
    "clip": Kit(
        _clip,
        _loss_of_clip,
        part="visual.",
        adapted=["c_fc", "c_proj"],
        units=_of_layers(
            [f"transformer.resblocks.{{}}.mlp.c_fc.{each}" for each in ("weight", "bias")],
            "transformer.resblocks.{}.mlp.c_proj.weight",
            3,
        ),
    ),
    "vit": Kit(
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, num_classes=10),
        _loss_of_images,
        part="blocks.0.",
        adapted=["qkv", "fc1"],
        units=_of_layers([f"blocks.{{}}.mlp.fc1.{each}" for each in ("weight", "bias")], "blocks.{}.mlp.fc2.weight", 3),
    ),
    "resnet": Kit(
        lambda: timm.create_model("resnet10t", num_classes=10),
        _loss_of_images,
        part="layer1.",
        adapted=["0.conv1", "0.conv2"],
        units=_of_layers(
            [
                "layer{}.0.conv1.weight",
                *(f"layer{{}}.0.bn1.{each}" for each in ("weight", "bias", "running_mean", "running_var")),
            ],
            "layer{}.0.conv2.weight",
            5,
        )[1:],
    ),
    "bert": Kit(
        _bert,
        _loss_of_texts,
        part="bert.encoder.layer.0.",
        adapted=["query", "value"],
        units=_of_layers(
            [f"bert.encoder.layer.{{}}.intermediate.dense.{each}" for each in ("weight", "bias")],
            "bert.encoder.layer.{}.output.dense.weight",
            3,
        ),
    ),
}


class Lab:
    """Models of one kind, trained as they are asked for.

    Args:
        kit: The kind.
    """

    def __init__(self, kit: Kit) -> None:
        self.kit = kit

    def fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.kit.make()

    def train(
        self,
        model: nn.Module,
        *,
        first: int,
        steps: int = 12,
        rate: float = 3e-4,
        by: type[torch.optim.Optimizer] = torch.optim.AdamW,
        after: Callable[[nn.Module], object] = lambda _: None,
    ) -> nn.Module:
        """The model after some more steps of an optimizer; what is frozen stays."""
        optimizer = by([each for each in model.parameters() if each.requires_grad], lr=rate)  # type: ignore[call-arg]
        model.train()
        for step in range(steps):
            optimizer.zero_grad()
            self.kit.loss(model, first + step).backward()
            optimizer.step()
            after(model)
        return model.eval()

    @cached_property
    def base(self) -> nn.Module:
        return self.train(self.fresh(0), first=0, steps=30, rate=1e-3)

    @cached_property
    def tuned(self) -> list[nn.Module]:
        """Four that were trained on from the base, each on other data."""
        return [self.train(copy.deepcopy(self.base), first=100 * number) for number in range(1, 5)]

    @cached_property
    def stranger(self) -> nn.Module:
        """One from another seed, trained on the same data."""
        return self.train(self.fresh(1), first=0, steps=30, rate=1e-3)


@dataclass(frozen=True)
class Recipe:
    """How checkpoints of a known relation are made.

    Attributes:
        make: The weights that are asked about, and what they are compared with.
        told: The relation of the first two that manifests tell.
        with_files: The same when the files are at hand, where it is another.
        mix: Coefficients of the first as a mix of the others; None where it is none.
        names: Kits that it is for.
    """

    make: Callable[[Lab], list[State]]
    told: Relation
    with_files: Relation | None = None
    mix: tuple[float, ...] | None = None
    names: tuple[str, ...] = tuple(KITS)


def _weights(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def combined(states: list[State], coefficients: Mapping[int, float] | tuple[float, ...]) -> State:
    """Weights times coefficients; whole numbers are those of the first."""
    by_place = dict(enumerate(coefficients)) if isinstance(coefficients, tuple) else dict(coefficients)
    return {
        name: sum(weight * states[place][name].double() for place, weight in by_place.items()).to(value.dtype)  # type: ignore[union-attr]
        if value.is_floating_point()
        else value.clone()
        for name, value in states[0].items()
    }


def _cast(state: State, *types: torch.dtype) -> State:
    for kind in types:
        state = {name: each.to(kind) if each.is_floating_point() else each for name, each in state.items()}
    return state


def _mix(*coefficients: float, base: bool = False) -> Callable[[Lab], list[State]]:
    """A mix of as many that were trained on, the base being the first of them if that is asked."""

    def make(lab: Lab) -> list[State]:
        models = ([lab.base] if base else []) + lab.tuned
        sources = [_weights(each) for each in models[: len(coefficients)]]
        return [combined(sources, coefficients), *sources]

    return make


def _trained_on(**how: object) -> Callable[[Lab], list[State]]:
    def make(lab: Lab) -> list[State]:
        return [_weights(lab.train(copy.deepcopy(lab.base), first=700, **how)), _weights(lab.base)]  # type: ignore[arg-type]

    return make


def _partly_frozen(lab: Lab) -> list[State]:
    model = copy.deepcopy(lab.base)
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.startswith(lab.kit.part))
    return [_weights(lab.train(model, first=700)), _weights(lab.base)]


def _swa(lab: Lab) -> list[State]:
    model = copy.deepcopy(lab.base)
    average = AveragedModel(model)
    epochs = []
    for epoch in range(3):
        lab.train(model, first=800 + 10 * epoch, steps=10)
        average.update_parameters(model)
        epochs.append(_weights(model))
    return [_weights(average.module), *epochs]


def _ema(lab: Lab) -> list[State]:
    model = copy.deepcopy(lab.base)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    lab.train(model, first=900, after=average.update_parameters)
    return [_weights(average.module), _weights(model)]


def _on_grid_of_int8(value: torch.Tensor) -> torch.Tensor:
    """Through torch's own quantization by channel, and back."""
    rows = value.flatten(1)
    scales = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    quantized = torch.quantize_per_channel(rows, scales, torch.zeros(len(rows), dtype=torch.long), 0, torch.qint8)
    return quantized.dequantize().view_as(value)


def _int8(lab: Lab) -> list[State]:
    base = _weights(lab.base)
    big = {name for name, each in base.items() if each.dim() >= 2 and each.numel() >= 4096 and each.shape[0] > 1}
    return [{name: _on_grid_of_int8(each) if name in big else each for name, each in base.items()}, base]


def _pruned(how: Callable[[list[tuple[nn.Module, str]]], object]) -> Callable[[Lab], list[State]]:
    def make(lab: Lab) -> list[State]:
        model = copy.deepcopy(lab.base)
        layers = [(each, "weight") for each in model.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
        how(layers)
        for layer, name in layers:
            prune.remove(layer, name)
        return [_weights(model), _weights(lab.base)]

    return make


def _each_layer(function: Callable[..., object], **how: object) -> Callable[[list[tuple[nn.Module, str]]], object]:
    return lambda layers: [function(layer, name, **how) for layer, name in layers]


def _lora(rank: int) -> Callable[[Lab], list[State]]:
    def make(lab: Lab) -> list[State]:
        torch.manual_seed(rank)
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=lab.kit.adapted)
        model = peft.get_peft_model(copy.deepcopy(lab.base), config)  # type: ignore[arg-type]
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.momentum = 0.0  # frozen, as its weights are
        merged = lab.train(model, first=500, rate=3e-3).merge_and_unload()  # type: ignore[operator]
        counters = {name: each for name, each in lab.base.state_dict().items() if not each.is_floating_point()}
        return [{**_weights(merged), **counters}, _weights(lab.base)]

    return make


def _permuted(lab: Lab) -> list[State]:
    base = _weights(lab.base)
    state = dict(base)
    for seed, (before, after) in enumerate(lab.kit.units):
        order = torch.randperm(len(base[before[0]]), generator=torch.Generator().manual_seed(seed))
        state |= {name: state[name][order].contiguous() for name in before}
        state[after] = state[after][:, order].contiguous()
    return [state, base]


def _resized(lab: Lab) -> list[State]:
    base = _weights(lab.base)
    table = resample_abs_pos_embed(base["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
    return [{**base, "pos_embed": table.contiguous()}, base]


def _part_anew(lab: Lab) -> list[State]:
    fresh = _weights(lab.fresh(5))
    state = {name: fresh[name] if name.startswith(lab.kit.part) else each for name, each in _weights(lab.base).items()}
    return [state, _weights(lab.base)]


def _two_halves(lab: Lab) -> list[State]:
    """One part of one model, and the rest of another."""
    one, other = (_weights(each) for each in lab.tuned[:2])
    return [{name: (one if name.startswith("visual") else other)[name] for name in one}, one, other]


def _together(*makers: Callable[[Lab], State]) -> Callable[[Lab], list[State]]:
    return lambda lab: [make(lab) for make in makers]


def _base(lab: Lab) -> State:
    return _weights(lab.base)


RECIPES: dict[str, Recipe] = {
    "the same": Recipe(_together(_base, _base), Relation.IDENTICAL),
    "trained on by AdamW": Recipe(_trained_on(), Relation.SAME_START),
    "trained on by SGD": Recipe(_trained_on(by=torch.optim.SGD, rate=1e-2), Relation.SAME_START),
    "trained on by one small step": Recipe(_trained_on(steps=1, rate=1e-5), Relation.SAME_START),
    "trained on at a high rate": Recipe(_trained_on(steps=60, rate=3e-3), Relation.SAME_START),
    "trained on with a part frozen": Recipe(_partly_frozen, Relation.SAME_START),
    "two that were trained on": Recipe(
        _together(*(lambda lab, i=i: _weights(lab.tuned[i]) for i in (0, 1))), Relation.SAME_START
    ),
    "a part begun anew": Recipe(_part_anew, Relation.SAME_START),
    "EMA": Recipe(_ema, Relation.SAME_START),
    "SWA of three epochs": Recipe(_swa, Relation.SAME_START, mix=(1 / 3, 1 / 3, 1 / 3)),
    "average of two": Recipe(_mix(0.5, 0.5), Relation.SAME_START, mix=(0.5, 0.5)),
    "merge of two": Recipe(_mix(0.3, 0.7), Relation.SAME_START, mix=(0.3, 0.7)),
    "merge of three": Recipe(_mix(0.2, 0.3, 0.5), Relation.SAME_START, mix=(0.2, 0.3, 0.5)),
    "soup of four": Recipe(_mix(0.25, 0.25, 0.25, 0.25), Relation.SAME_START, mix=(0.25,) * 4),
    "task arithmetic": Recipe(_mix(-0.6, 0.8, 0.8, base=True), Relation.SAME_START, mix=(-0.6, 0.8, 0.8)),
    "merge of two in float16": Recipe(
        lambda lab: [
            _cast(state, torch.float16) if not place else state for place, state in enumerate(_mix(0.5, 0.5)(lab))
        ],
        Relation.SAME_START,
        mix=(0.5, 0.5),
    ),
    "copy in float16": Recipe(_together(lambda lab: _cast(_base(lab), torch.float16), _base), Relation.ROUNDED),
    "copy in bfloat16": Recipe(_together(lambda lab: _cast(_base(lab), torch.bfloat16), _base), Relation.ROUNDED),
    "copy through float16": Recipe(
        _together(lambda lab: _cast(_base(lab), torch.float16, torch.float32), _base), Relation.ROUNDED
    ),
    "copy through bfloat16": Recipe(
        _together(lambda lab: _cast(_base(lab), torch.bfloat16, torch.float32), _base), Relation.ROUNDED
    ),
    "copy in float64": Recipe(_together(lambda lab: _cast(_base(lab), torch.float64), _base), Relation.IDENTICAL),
    "copy through int8": Recipe(_int8, Relation.SAME_START, with_files=Relation.ROUNDED),
    "pruned by magnitude": Recipe(_pruned(_each_layer(prune.l1_unstructured, amount=0.4)), Relation.PRUNED),
    "pruned at random": Recipe(_pruned(_each_layer(prune.random_unstructured, amount=0.2)), Relation.PRUNED),
    "pruned by rows": Recipe(_pruned(_each_layer(prune.ln_structured, amount=0.25, n=2, dim=0)), Relation.PRUNED),
    "pruned globally": Recipe(
        _pruned(lambda layers: prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.5)),
        Relation.PRUNED,
    ),
    "LoRA of rank 2 merged": Recipe(_lora(2), Relation.SAME_START, with_files=Relation.LOW_RANK),
    "LoRA of rank 8 merged": Recipe(_lora(8), Relation.SAME_START, with_files=Relation.LOW_RANK),
    "units permuted": Recipe(_permuted, Relation.PERMUTED),
    "positions interpolated": Recipe(_resized, Relation.RESIZED, names=("vit",)),
    "towers of two": Recipe(_two_halves, Relation.SAME_START, names=("clip",)),
    "another seed": Recipe(_together(lambda lab: _weights(lab.stranger), _base), Relation.UNRELATED),
    "another seed, untrained": Recipe(
        _together(lambda lab: _weights(lab.fresh(7)), lambda lab: _weights(lab.fresh(8))), Relation.UNRELATED
    ),
}
