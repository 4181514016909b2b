"""Other settings of modules, which no weight shows: mode, eps of norms, heads of attention, pooling, masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from manifest.families.protocol import Variant

OTHER_IN_TRAINING = ("Dropout", "DropPath", "StochasticDepth", "PatchDropout", "BatchNorm", "AlphaDropout")
"""How the names of modules begin that compute something else in train mode."""
_EPSILONS = (1e-5, 1e-6, 1e-12, 1e-3)
_OF_IMAGES = (("tok", "avg"), ("token", "avg"))
_OF_TEXTS = (("argmax", "last", "first", "eos"),)
_POOLS = {"pool_type": (*_OF_IMAGES, *_OF_TEXTS), "global_pool": _OF_IMAGES, "text_pool_type": _OF_TEXTS}
"""Attributes that name how a tower pools its tokens, with names of which one may stand for another."""
_END_TOKENS = ("text_eos_id", "eos_id")


def modes(module: nn.Module) -> Iterator[Variant]:
    """Train mode, where some module is another one in it."""
    if any(type(child).__name__.startswith(OTHER_IN_TRAINING) for child in module.modules()):
        yield Variant(
            "mode",
            here="eval mode",
            there="train mode",
            cure="model.train()",
            back="model.eval()",
            alter=_train,
            undo=_evaluate,
            native_mode=True,
        )


def _train(module: nn.Module) -> None:
    module.train()


def _evaluate(module: nn.Module) -> None:
    module.eval()


def norm_epsilons(module: nn.Module) -> Iterator[Variant]:
    """Another small number in every norm, where all have the same."""
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
                undo=partial(_set_epsilon, eps=now),
            )


def _epsilon(module: nn.Module) -> Any:
    eps = getattr(module, "eps", None)
    return eps if isinstance(eps, float) and "Norm" in type(module).__name__ else None


def _set_epsilon(module: nn.Module, eps: float) -> None:
    for child in module.modules():
        if _epsilon(child) is not None:
            child.eps = eps  # type: ignore[assignment]


def attention_heads(module: nn.Module) -> Iterator[Variant]:
    """Twice or half as many heads, which have the same weights."""
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
                undo=partial(_set_heads, factor=1 / factor),
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


def pooling(module: nn.Module) -> Iterator[Variant]:
    """Towers that pool their tokens by a name, which another name changes without touching a weight."""
    for path, child in module.named_modules():
        for attribute, sets in _POOLS.items():
            now = vars(child).get(attribute)
            kinds = next((kinds for kinds in sets if now in kinds), ())
            for kind in kinds:
                if kind == now:
                    continue
                if kind == "eos" and not any(hasattr(child, name) for name in _END_TOKENS):
                    continue
                where = _attribute(path, attribute)
                yield Variant(
                    "pooling",
                    here=str(now),
                    there=f"{kind} in {path}" if path else kind,
                    cure=f"{where} = {kind!r}",
                    back=f"{where} = {now!r}",
                    alter=partial(_set_attribute, path=path, name=attribute, value=kind),
                    undo=partial(_set_attribute, path=path, name=attribute, value=now),
                )


def causal_masks(module: nn.Module) -> Iterator[Variant]:
    """Text towers whose mask is gone, so that each token sees those after it."""
    for path, child in module.named_modules():
        mask = vars(child).get("_buffers", {}).get("attn_mask")
        if mask is not None:
            where = _attribute(path, "attn_mask")
            yield Variant(
                "attention mask",
                here="a causal mask",
                there="no mask",
                cure=f"{where} = None",
                back=f"{where} = model.build_causal_mask()" if not path else f"{where} as it was built",
                alter=partial(_set_attribute, path=path, name="attn_mask", value=None),
                undo=partial(_set_attribute, path=path, name="attn_mask", value=mask),
                concerns="tokens",
            )


def _attribute(path: str, name: str) -> str:
    return ".".join(filter(None, ("model", path, name)))


def _set_attribute(module: nn.Module, path: str, name: str, value: Any) -> None:
    setattr(module.get_submodule(path), name, value)
