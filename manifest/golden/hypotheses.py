"""What goes wrong between weights and answers whatever the library: preprocessing, tokens, activations, norms, heads,
pooling, mode, precision, and how features become probabilities.

Each hypothesis is a `Variant`: a way to run the same weights, with the code that makes it so and that undoes it.

This file is long because it is a catalogue: every hypothesis that holds for all libraries, in the order in which they
are tried, each beside the few lines that change the model or its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from manifest.families.protocol import Variant
from manifest.probes.inputs import Inputs
from manifest.schema.document import Architecture, Preprocess, Tokenizer

_NORMALISATIONS = {
    "OpenAI's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
_RESIZE_MODES = ("shortest", "longest", "squash")
_SHARES = (1.0, 0.95, 0.9, 0.875)
"""Of the resized image, how much is kept; torchvision's and timm's usual ones."""
_CONTEXTS = (77, 64, 32, 16, 8)
_EPSILONS = (1e-5, 1e-6, 1e-12, 1e-3)


class QuickGELU(nn.Module):
    """`x · sigmoid(1.702 x)`, as OpenAI's CLIP computes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "GELU": (nn.GELU, "torch.nn.GELU()"),
    "GELU tanh": (partial(nn.GELU, approximate="tanh"), "torch.nn.GELU(approximate='tanh')"),
    "QuickGELU": (QuickGELU, "open_clip.transformer.QuickGELU()"),
    "ReLU": (nn.ReLU, "torch.nn.ReLU()"),
    "SiLU": (nn.SiLU, "torch.nn.SiLU()"),
}
_ACTIVATION_CLASSES = {
    "GELU", "QuickGELU", "ReLU", "SiLU", "GELUActivation", "QuickGELUActivation", "PytorchGELUTanh", "GELUTanh",
    "GELUPytorchTanh", "SiLUActivation", "Swish", "ReLU6", "Hardswish",
}  # fmt: skip


def hypotheses(architecture: Architecture, module: nn.Module, inputs: Inputs) -> Iterator[Variant]:
    """What may be wrong with any model, the likeliest first.

    Args:
        architecture: Of the model itself.
        module: The model itself, on any device; it is looked at and not changed.
        inputs: Its probe.
    """
    yield from _activations(module, inputs)
    yield from _modes(module)
    if architecture.preprocess is not None and "images" in inputs.tensors:
        yield from _preprocessing(architecture, architecture.preprocess)
    if architecture.tokenizer is not None and "tokens" in inputs.tensors:
        yield from _tokens(architecture, architecture.tokenizer)
    yield from _precisions()
    yield from _epsilons(module)
    yield from _heads(module)
    yield from _pooling(module)
    yield from _conclusions(module)


def _activations(module: nn.Module, inputs: Inputs) -> Iterator[Variant]:
    """Every activation module replaced, in all of the model or in one of its towers."""
    found = {path: child for path, child in module.named_modules() if is_activation(child)}
    towers: dict[str, list[str]] = {"": list(found)}
    for path in found:
        towers.setdefault(path.partition(".")[0], []).append(path)
    if len(towers) == 2:
        del towers[next(name for name in towers if name)]
    for tower, paths in towers.items():
        kinds = {activation_name(found[path]) for path in paths}
        for name, (make, code) in _ACTIVATIONS.items():
            if kinds and kinds != {name}:
                here = " and ".join(sorted(kinds))
                where = f" in {tower}" if tower else ""
                yield Variant(
                    "activation",
                    here=f"{here}{where}",
                    there=f"{name}{where}",
                    cure=_replacing(tower, kinds, code),
                    back=_replacing(tower, {name}, _ACTIVATIONS.get(here, (None, here))[1]),
                    alter=partial(_replace, paths=tuple(paths), make=make),
                    concerns=_side(tower, inputs),
                )


def _side(tower: str, inputs: Inputs) -> str | None:
    """Which kind of inputs a tower of a model with two of them takes."""
    if not tower or not {"images", "tokens"} <= inputs.tensors.keys():
        return None
    return "images" if tower.startswith("vis") else "tokens"


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of the activations that are mistaken for one another."""
    return type(module).__name__ in _ACTIVATION_CLASSES


def activation_name(module: nn.Module) -> str:
    """The activation of a module, by one name whichever library it is of."""
    name = type(module).__name__
    tanh = getattr(module, "approximate", None) == "tanh" or "Tanh" in name
    return "GELU tanh" if tanh else name.removesuffix("Activation")


def _modes(module: nn.Module) -> Iterator[Variant]:
    """Train mode, where some module is another one in it."""
    if any(type(child).__name__.startswith(OTHER_IN_TRAINING) for child in module.modules()):
        yield Variant(
            "mode",
            here="eval mode",
            there="train mode",
            cure="model.train()",
            back="model.eval()",
            alter=_train,
            native_mode=True,
        )


def _train(module: nn.Module) -> None:
    module.train()


def _replace(module: nn.Module, paths: tuple[str, ...], make: Callable[[], nn.Module]) -> None:
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, make())


def _replacing(tower: str, kinds: set[str], code: str) -> str:
    inside = f"model.{tower}" if tower else "model"
    return f"in {inside}, put {code} in place of every {' and '.join(sorted(kinds))}"


def _preprocessing(architecture: Architecture, record: Preprocess) -> Iterator[Variant]:
    def other(what: str, here: str, there: str, **changed: Any) -> Variant:
        def code(values: Mapping[str, Any]) -> str:
            return f"force_preprocess_cfg={dict(values)!r}" if architecture.family == "open_clip" else _listed(values)

        before = {name: getattr(record, name) for name in changed}
        preprocess = record.model_copy(update=changed)
        return Variant(
            f"preprocessing: {what}",
            here,
            there,
            cure=code(changed),
            back=code(before),
            architecture=architecture.model_copy(update={"preprocess": preprocess}),
            concerns="images",
        )

    own = (tuple(record.mean), tuple(record.std))
    named = next((name for name, values in _NORMALISATIONS.items() if values == own), "its own")
    for name, (mean, std) in _NORMALISATIONS.items():
        if (mean, std) != own:
            yield other("mean and std", named, name, mean=list(mean), std=list(std))
    for name in _INTERPOLATIONS:
        if name != record.interpolation and (name, architecture.family) != ("nearest", "open_clip"):
            yield other("interpolation", record.interpolation, name, interpolation=name)
    for name in _RESIZE_MODES:
        if name != record.resize_mode and record.crop_mode is None:
            yield other("resize mode", record.resize_mode, name, resize_mode=name)
    side = record.size[0]
    now = _short_side(record)
    for share in _SHARES if now is not None else ():
        resized = round(side / share)
        here, there = f"short side resized to {now}, {side} kept", f"short side resized to {resized}, {side} kept"
        if resized == now:
            continue
        if record.crop_pct is not None:
            yield other("size", here, there, crop_pct=share)
        elif record.resize is not None:
            yield other("size", here, there, resize=[resized])
        else:
            yield replace(
                other("size", here, there, size=[resized, resized]),
                prepare=partial(_central, side=side),
                cure=f"Resize({resized}), CenterCrop({side})",
                back=f"Resize({side}), CenterCrop({side})",
            )
    yield Variant(
        "preprocessing: channel order",
        here="RGB",
        there="BGR",
        cure="images[:, [2, 1, 0]]",
        back="Image.open(path).convert('RGB')",
        prepare=partial(_on_pixels, record=record, change=_flipped),
        concerns="images",
    )
    yield Variant(
        "preprocessing: range",
        here="pixels of 0 to 1",
        there="pixels of 0 to 255",
        cure="pixels * 255",
        back="pixels / 255",
        prepare=partial(_on_pixels, record=record, change=_in_bytes),
        concerns="images",
    )


def _short_side(record: Preprocess) -> int | None:
    """What the short side is resized to before a square is cut out; None where it is done otherwise."""
    height, width = record.size
    if height != width or record.resize_mode != "shortest" or record.crop_mode not in (None, "center"):
        return None
    if record.crop_pct is not None:
        return math.floor(height / record.crop_pct)
    return height if record.resize is None else record.resize[0] if len(record.resize) == 1 else None


def _central(inputs: Inputs, side: int) -> Inputs:
    """The squares in the middle of the images."""
    images = inputs.tensors["images"]
    top, left = ((length - side) // 2 for length in images.shape[-2:])
    images = images[..., top : top + side, left : left + side]
    return Inputs(inputs.probe, {**inputs.tensors, "images": images}, inputs.names)


def _flipped(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flip(1)


def _in_bytes(pixels: torch.Tensor) -> torch.Tensor:
    return pixels * 255


def _on_pixels(inputs: Inputs, record: Preprocess, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    """The inputs whose images were changed between being read and being normalised."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (record.mean, record.std))
    images = (change(inputs.tensors["images"] * std + mean) - mean) / std
    return Inputs(inputs.probe, {**inputs.tensors, "images": images}, inputs.names)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _tokens(architecture: Architecture, record: Tokenizer) -> Iterator[Variant]:
    length = record.context_length
    for shorter in _CONTEXTS:
        if shorter < length:
            yield Variant(
                "context length",
                here=str(length),
                there=str(shorter),
                cure=f"tokenizer(texts, context_length={shorter})",
                back=f"tokenizer(texts, context_length={length})",
                prepare=partial(_cut_tokens, length=shorter),
                concerns="tokens",
            )
    if record.class_name == "SimpleTokenizer":
        now = record.arguments.get("clean", "lower")
        for clean in ("lower", "canonicalize", "whitespace"):
            if clean != now:
                arguments = {**record.arguments, "clean": clean}
                tokenizer = record.model_copy(update={"arguments": arguments})
                yield Variant(
                    "tokenizer",
                    here=f"clean={now!r}",
                    there=f"clean={clean!r}",
                    cure=f"SimpleTokenizer(clean={clean!r})",
                    back=f"SimpleTokenizer(clean={now!r})",
                    architecture=architecture.model_copy(update={"tokenizer": tokenizer}),
                    concerns="tokens",
                )
    yield Variant(
        "tokenizer",
        here="a start token first",
        there="no start token",
        cure="tokens[:, 1:]",
        back="open_clip.get_tokenizer(name)",
        prepare=_without_start,
        concerns="tokens",
    )


def _cut_tokens(inputs: Inputs, length: int) -> Inputs:
    """As open_clip's tokenizers cut: the last token stays the one that ends a text, and zeros follow."""
    tokens = inputs.tensors["tokens"]
    cut = torch.zeros_like(tokens)
    cut[:, :length] = tokens[:, :length]
    longer = (tokens != 0).sum(dim=1) > length
    cut[longer, length - 1] = tokens[longer].max(dim=1).values
    return Inputs(inputs.probe, {**inputs.tensors, "tokens": cut}, inputs.names)


def _without_start(inputs: Inputs) -> Inputs:
    tokens = inputs.tensors["tokens"]
    moved = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1)
    return Inputs(inputs.probe, {**inputs.tensors, "tokens": moved}, inputs.names)


def _precisions() -> Iterator[Variant]:
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        yield Variant(
            "precision",
            here="weights as recorded",
            there=f"weights rounded to {name}",
            cure=f"model.to({dtype}).float()",
            back="the weights as they were saved, never cast",
            alter=partial(_round, dtype=dtype),
        )
        yield Variant(
            "precision",
            here="fp32",
            there=f"{name} weights",
            cure=f"model.to({dtype})",
            back="model.float()",
            alter=partial(_cast, dtype=dtype),
            approximate=True,
        )
        yield Variant(
            "precision",
            here="fp32",
            there=f"{name} autocast",
            cure=f"torch.autocast('cpu', dtype={dtype})",
            back="no torch.autocast",
            alter=partial(_computing, under=partial(torch.autocast, "cpu", dtype=dtype)),
            approximate=True,
        )
    yield Variant(
        "precision",
        here="fp32",
        there="TF32 products",
        cure="torch.backends.fp32_precision = 'tf32'",
        back="torch.backends.fp32_precision = 'ieee'",
        alter=partial(_computing, under=_Tf32),
        approximate=True,
    )


def _round(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype).to(parameter.dtype)


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    module.to(dtype)


def _computing(module: nn.Module, under: Callable[[], AbstractContextManager[Any]]) -> None:
    """Every way to ask the model computes inside a context."""
    for name in ("forward", "encode_image", "encode_text"):
        plain = getattr(module, name, None)
        if plain is not None:
            setattr(module, name, partial(_inside, plain, under))


def _inside(
    call: Callable[..., Any], under: Callable[[], AbstractContextManager[Any]], *args: Any, **kwargs: Any
) -> Any:
    with under():
        return call(*args, **kwargs)


class _Tf32(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Products of float32 as GPUs with TF32 compute them: factors of ten explicit bits, added up in float32."""

    _PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution", "linear"})

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in self._PRODUCTS or name.startswith("_scaled_dot_product"):
            args = tuple(_ten_bits(each) for each in args)
        return func(*args, **(kwargs or {}))


def _ten_bits(value: Any) -> Any:
    """A float32 tensor rounded to TF32, to the nearest and halves away from zero, as `cvt.rna.tf32.f32` does."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or value.ndim < 2:
        return value
    return (value.contiguous().view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)


def _epsilons(module: nn.Module) -> Iterator[Variant]:
    found = {float(eps) for child in module.modules() if (eps := _epsilon(child)) is not None}
    if len(found) != 1:
        return
    (now,) = found
    for eps in _EPSILONS:
        if eps != now:
            yield Variant(
                "norm eps",
                here=f"{now:g}",
                there=f"{eps:g}",
                cure=f"norm_layer=functools.partial(torch.nn.LayerNorm, eps={eps:g})",
                back=f"norm_layer=functools.partial(torch.nn.LayerNorm, eps={now:g})",
                alter=partial(_set_epsilon, eps=eps),
            )


def _epsilon(module: nn.Module) -> Any:
    eps = getattr(module, "eps", None)
    return eps if isinstance(eps, float) and "Norm" in type(module).__name__ else None


def _set_epsilon(module: nn.Module, eps: float) -> None:
    for child in module.modules():
        if _epsilon(child) is not None:
            child.eps = eps  # type: ignore[assignment]


def _heads(module: nn.Module) -> Iterator[Variant]:
    counts = {int(getattr(child, "num_heads", 0)) for child in module.modules() if _has_heads(child)}
    for factor in (2.0, 0.5):
        if counts and all(float(count * factor).is_integer() for count in counts):
            words = ["heads of attention", "twice as many" if factor == 2 else "half as many"]
            yield Variant(
                "attention heads",
                here=" and ".join(map(str, sorted(counts))),
                there=" and ".join(str(int(count * factor)) for count in sorted(counts)),
                cure=f"{words[1]} {words[0]}, as by `head_width` or `num_heads`",
                back=f"as many {words[0]} as recorded, as by `head_width` or `num_heads`",
                alter=partial(_set_heads, factor=factor),
            )


def _has_heads(module: nn.Module) -> bool:
    heads, width = getattr(module, "num_heads", None), getattr(module, "head_dim", None)
    return isinstance(heads, int) and isinstance(width, int) and heads * width > 0


def _set_heads(module: nn.Module, factor: float) -> None:
    for child in module.modules():
        if _has_heads(child):
            changed: Any = child
            width = changed.num_heads * changed.head_dim
            changed.num_heads = int(changed.num_heads * factor)
            changed.head_dim = width // changed.num_heads
            if isinstance(getattr(changed, "scale", None), float):
                changed.scale = changed.head_dim**-0.5


OTHER_IN_TRAINING = ("Dropout", "DropPath", "StochasticDepth", "PatchDropout", "BatchNorm", "AlphaDropout")
_POOLS = {"pool_type": ("tok", "avg"), "global_pool": ("token", "avg")}


def _pooling(module: nn.Module) -> Iterator[Variant]:
    """Image towers that pool their tokens by a name, which another name changes without touching a weight."""
    for path, child in module.named_modules():
        for attribute, kinds in _POOLS.items():
            now = vars(child).get(attribute)
            for kind in kinds:
                if now in kinds and kind != now:
                    where = f"model.{path}.{attribute}".replace("..", ".")
                    yield Variant(
                        "pooling",
                        here=now,
                        there=kind,
                        cure=f"{where} = {kind!r}",
                        back=f"{where} = {now!r}",
                        alter=partial(_set_attribute, path=path, name=attribute, value=kind),
                    )


def _set_attribute(module: nn.Module, path: str, name: str, value: str) -> None:
    setattr(module.get_submodule(path), name, value)


def _conclusions(module: nn.Module) -> Iterator[Variant]:
    """How features become logits, for models that answer with both."""
    yield Variant(
        "features",
        here="as the projection gives them",
        there="normalised",
        cure="encode_image(images, normalize=True)",
        back="encode_image(images, normalize=False)",
        conclude=_normalised,
    )
    if not isinstance(getattr(module, "logit_scale", None), torch.Tensor):
        return
    for there, cure, features, scale in (
        ("not normalised before the product", "scale * image_features @ text_features.T", False, True),
        ("times logit_scale itself", "model.logit_scale * image_features @ text_features.T", True, False),
    ):
        yield Variant(
            "logits",
            here="exp(logit_scale) times the cosine",
            there=there,
            cure=cure,
            back="model.logit_scale.exp() * normalize(image_features) @ normalize(text_features).T",
            conclude=partial(_other_logits, normalise=features, exponentiate=scale),
        )


def _normalised(module: nn.Module, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    del module
    return {
        name: functional.normalize(tensor, dim=-1) if name.endswith("_features") else tensor
        for name, tensor in outputs.items()
    }


def _other_logits(
    module: Any, outputs: dict[str, torch.Tensor], normalise: bool, exponentiate: bool
) -> dict[str, torch.Tensor]:
    images, texts = outputs["image_features"], outputs["text_features"]
    if normalise:
        images, texts = functional.normalize(images, dim=-1), functional.normalize(texts, dim=-1)
    scale = module.logit_scale.exp() if exponentiate else module.logit_scale
    logits = scale * images @ texts.T
    if getattr(module, "logit_bias", None) is not None:
        logits = logits + module.logit_bias
    return {**outputs, "logits": logits}
