"""`create_model` and `create_model_and_transforms` with the arguments of open_clip's, that remember and that ask first.

The returned model knows how it was made, so that `manifest.save` can write it down. And weights that say what they are
(a path with a manifest, a pretrained tag of the registry) are held against the request before anything is built.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip import factory
from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2, merge_preprocess_dict
from torch import nn

from manifest.document import Manifest
from manifest.errors import CreationMismatchError, InputError
from manifest.families import Creation, Difference, remember
from manifest.families.open_clip import FAMILY
from manifest.families.open_clip_inputs import registry_entry
from manifest.sidecars import has_manifest, read_manifest
from manifest.workflows.loading import load

OnMismatch = Literal["raise", "follow"]

_SIGNATURE = inspect.signature(factory.create_model)


def create_model(model_name: str, *args: Any, on_mismatch: OnMismatch = "raise", **kwargs: Any) -> nn.Module:
    """`open_clip.create_model`, with a memory.

    Args:
        model_name: As open_clip takes it.
        *args: As open_clip takes them.
        on_mismatch: What to do when the weights were saved in another architecture than the one asked for: `raise`, or
            `follow` what the weights' manifest, or the registry, says.
        **kwargs: As open_clip takes them.

    Returns:
        The model, in training mode as open_clip returns it.

    Raises:
        CreationMismatchError: The weights say that they belong to another architecture; the message has the cure.
        UnknownModelError: open_clip has no such model.
    """
    if on_mismatch not in ("raise", "follow"):
        raise InputError(f"on_mismatch is {on_mismatch!r}, expected 'raise' or 'follow'.")
    arguments = _bind(model_name, args, kwargs)
    pretrained = arguments.pop("pretrained", None)
    creation = Creation(model_name, arguments, pretrained)
    if pretrained and ":" not in model_name:
        if Path(pretrained).is_file():
            manifest = read_manifest(Path(pretrained)) if has_manifest(Path(pretrained)) else None
            if manifest is None:
                _say_nothing_to_compare(pretrained)
            elif differences := _against_manifest(creation, manifest):
                if on_mismatch == "raise":
                    raise _mismatch(creation, pretrained, "its manifest", differences)
                return load(pretrained, verify="none", device=str(arguments.get("device", "cpu"))).train()
            else:
                creation = _with_parent(creation, pretrained, manifest)
        elif (entry := registry_entry(model_name, pretrained)) is not None:
            creation = _against_registry(creation, entry, on_mismatch)
    model: nn.Module = open_clip.create_model(model_name, pretrained, **creation.arguments)
    remember(model, creation)
    return model


def create_model_and_transforms(
    model_name: str,
    *args: Any,
    on_mismatch: OnMismatch = "raise",
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    image_interpolation: str | None = None,
    image_resize_mode: str | None = None,
    aug_cfg: dict[str, Any] | AugmentationCfg | None = None,
    **kwargs: Any,
) -> tuple[nn.Module, Any, Any]:
    """`open_clip.create_model_and_transforms`, with a memory; see `create_model`.

    Returns:
        The model, the preprocessing for training, and the preprocessing for inference.
    """
    signature = inspect.signature(factory.create_model_and_transforms)
    positional = [name for name in signature.parameters if name != "model_name"]
    if len(args) > len(positional):
        raise InputError(f"{len(args) + 1} positional arguments were given, expected at most {len(positional) + 1}.")
    kwargs |= dict(zip(positional, args, strict=False))
    overrides = {
        "mean": kwargs.pop("image_mean", image_mean),
        "std": kwargs.pop("image_std", image_std),
        "interpolation": kwargs.pop("image_interpolation", image_interpolation),
        "resize_mode": kwargs.pop("image_resize_mode", image_resize_mode),
    }
    forced = merge_preprocess_dict(kwargs.pop("force_preprocess_cfg", None) or {}, overrides)
    augmentation = kwargs.pop("aug_cfg", aug_cfg)
    model: Any = create_model(model_name, on_mismatch=on_mismatch, force_preprocess_cfg=forced or None, **kwargs)
    cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    return (
        model,
        image_transform_v2(cfg, is_train=True, aug_cfg=augmentation),
        image_transform_v2(cfg, is_train=False),
    )


def _bind(model_name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, `model_name` left out and those of the model class beside open_clip's own."""
    try:
        bound = _SIGNATURE.bind(model_name, *args, **kwargs)
    except TypeError as error:
        raise InputError(f"create_model cannot take these arguments ({error}); see `open_clip.create_model`.") from None
    arguments = dict(bound.arguments)
    arguments.pop("model_name")
    of_the_model_class = arguments.pop("model_kwargs", {})
    return {**arguments, **of_the_model_class}


def _against_manifest(creation: Creation, manifest: Manifest) -> list[Difference]:
    asked = FAMILY.describe(Creation(creation.name, creation.arguments))
    return FAMILY.differences(asked, manifest.architecture)


def _mismatch(creation: Creation, weights: str, source: str, differences: list[Difference]) -> CreationMismatchError:
    what = "; ".join(f"{item.message} ({item.rule})" for item in differences)
    cures = ", ".join(dict.fromkeys(item.cure for item in differences))
    return CreationMismatchError(
        f"{creation.name} as asked for is not what {Path(weights).name} is, by {source}: {what}; "
        f"pass {cures}, or take everything from there with on_mismatch='follow'."
    )


def _with_parent(creation: Creation, pretrained: str, manifest: Manifest) -> Creation:
    parent = (Path(pretrained).name, manifest.weights.digest)
    return Creation(creation.name, creation.arguments, creation.pretrained, (parent,))


def _against_registry(creation: Creation, entry: Mapping[str, Any], on_mismatch: OnMismatch) -> Creation:
    """The creation, corrected where that was asked for, after comparing the activation flag with the tag's."""
    config = open_clip.get_model_config(creation.name.replace("/", "-")) or {}
    asked = bool(
        creation.arguments.get("quick_gelu", creation.arguments.get("force_quick_gelu") or config.get("quick_gelu"))
    )
    trained = bool(entry.get("quick_gelu", False))
    if asked == trained:
        return creation
    if config.get("quick_gelu") and not trained:
        # Registered so by its authors: the config is what the weights were trained in, and the tag lacks the flag.
        warnings.warn(
            f"open_clip's config {creation.name} uses QuickGELU and its tag {creation.pretrained!r} does not say so; "
            "the config is followed.",
            stacklevel=4,
        )
        return creation
    if on_mismatch == "follow":
        return Creation(creation.name, {**creation.arguments, "force_quick_gelu": trained}, creation.pretrained)
    words = {True: "QuickGELU", False: "GELU"}
    cure = "force_quick_gelu=True" if trained else "force_quick_gelu=False"
    message = f"it would be built with {words[asked]}, and the weights were trained with {words[trained]}"
    raise _mismatch(creation, str(creation.pretrained), "open_clip's registry", [Difference("A001", message, cure)])


def _say_nothing_to_compare(pretrained: str) -> None:
    warnings.warn(
        f"{Path(pretrained).name} has no manifest, so nothing tells whether this is the architecture of its weights; "
        f"write one with `manifest create {Path(pretrained).name} --model NAME`.",
        stacklevel=3,
    )
