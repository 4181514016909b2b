"""Reading the call of `timm.create_model` off a live module.

timm's own notes on the module come first. Where they are not the whole truth (another head, other activations or rates
put in by hand; notes that an older timm did not take) the module built by them is held against the live one, and what
differs is read off that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from manifest.errors import ArchitectureError
from manifest.families.adapter import Draft, precision_of, width_of
from manifest.families.meta_build import without_weights
from manifest.families.timm.naming import cfg_of, shortest
from manifest.families.timm.resolving import departures, draft

_NOT_ARGUMENTS = frozenset({"pretrained_model_args", "model_name"})
_OF_INPUT_SIZE = frozenset({"img_size", "window_size", "window_ratio", "patch_size", "always_partition"})
"""Arguments that timm notes when the input size of a model is set."""
_NOT_OF_FEATURES = frozenset({"num_classes", "classifier", "global_pool"})
"""Entries that timm takes out of the `pretrained_cfg` of a model that gives features only."""


def recover(module: nn.Module, construct: Callable[[Draft], nn.Module]) -> Iterator[Draft]:
    """Drafts of a module of timm, the likeliest first.

    Args:
        module: The live module.
        construct: Builds the module of a draft.

    Raises:
        ArchitectureError: It does not say which registered architecture it is.
    """
    cfg: Mapping[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    architecture = cfg.get("architecture")
    if not architecture:
        raise ArchitectureError(
            f"This {type(module).__name__} does not say which of timm's models it is "
            "(`model.pretrained_cfg['architecture']` is missing); save it with model_name=NAME."
        )
    name = shortest(str(architecture), str(cfg.get("tag") or ""))
    overlay = departures(name, {key: value for key, value in cfg.items() if key in (cfg_of(name) or cfg)})
    noted = {key: value for key, value in _notes(module).items() if key not in _NOT_ARGUMENTS}
    if noted.get("features_only"):
        overlay = {key: value for key, value in overlay.items() if key not in _NOT_OF_FEATURES}
    first = draft(name, noted, overlay, precision_of(module), asked=False)
    yield first
    seen = dict(_seen(module, first, construct))
    classes = _classes_of_head(module)
    kept = {} if classes in (None, 0, getattr(module, "num_classes", None)) else {"num_classes": module.num_classes}
    if kept:
        seen["num_classes"] = classes
    if seen:
        yield draft(name, {**noted, **seen}, overlay, first.precision, asked=False, afterwards=kept)
    if (size := noted.get("img_size", seen.get("img_size"))) is not None:
        before = {key: value for key, value in {**noted, **seen}.items() if key not in _OF_INPUT_SIZE}
        yield draft(name, before, overlay, first.precision, asked=False, afterwards={"img_size": size, **kept})


def _classes_of_head(module: nn.Module) -> int | None:
    """How many classes the head has by its shape, which is not what the module says where it was put in by hand."""
    classifier: Any = module.pretrained_cfg.get("classifier") or ()  # type: ignore[operator, union-attr]
    for path in (classifier,) if isinstance(classifier, str) else classifier:
        if (width := width_of(dict(module.named_modules()).get(path))) is not None:
            return width
    return None


def _notes(module: nn.Module) -> dict[str, Any]:
    return dict(getattr(module, "_model_args", None) or {})


def _seen(module: nn.Module, first: Draft, construct: Callable[[Draft], nn.Module]) -> Iterator[tuple[str, Any]]:
    """Arguments whose effect shows on the live module and not on the one that its notes lead to."""
    with without_weights():
        built = construct(first)
    for name in ("num_classes", "in_chans"):
        now = getattr(module, name, None)
        if isinstance(now, int) and now != getattr(built, name, None):
            yield name, now
    if (pool := _pool(module)) is not None and pool != _pool(built):
        yield "global_pool", pool
    if (size := _image_size(module)) is not None and size != _image_size(built):
        yield "img_size", size
    mine, yours = dict(module.named_modules()), dict(built.named_modules())
    common = [(mine[path], yours[path]) for path in mine if path in yours]
    for argument, is_kind in (("act_layer", _is_activation), ("norm_layer", _is_norm)):
        pairs = [(type(one), type(other)) for one, other in common if is_kind(one) and is_kind(other)]
        put_in = {one for one, other in pairs if one is not other}
        taken_out = {other for one, other in pairs if one is not other}
        if len(put_in) == 1 and not taken_out & {one for one, _ in pairs}:
            yield argument, put_in.pop()
    for argument, kind, rate in (("drop_path_rate", "DropPath", "drop_prob"), ("drop_rate", "Dropout", "p")):
        now, then = _greatest(mine, kind, rate), _greatest(yours, kind, rate)
        if now != then:
            yield argument, now


def _pool(module: nn.Module) -> str | None:
    head = getattr(module, "head", None)
    for holder in (getattr(head, "global_pool", None), getattr(module, "global_pool", None)):
        kind = getattr(holder, "pool_type", holder)
        if isinstance(kind, str):
            return kind
    return None


def _image_size(module: nn.Module) -> tuple[int, int] | None:
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return (int(size[0]), int(size[1])) if isinstance(size, tuple | list) and len(size) == 2 else None


def _is_activation(module: nn.Module) -> bool:
    home = type(module).__module__
    return home.startswith(("torch.nn.modules.activation", "timm.layers.activations"))


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _greatest(modules: Mapping[str, nn.Module], kind: str, rate: str) -> float:
    rates = (getattr(module, rate, 0.0) for module in modules.values() if type(module).__name__ == kind)
    # In float32, as rates that rise from block to block are computed.
    return round(max((float(value or 0.0) for value in rates), default=0.0), 6)
