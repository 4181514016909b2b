"""`create_model` and `create_model_and_transforms` with the libraries' own arguments, that remember and that ask first.

The returned model knows how it was made, so that `manifest.save` can write it down. And weights that say what they are
(a path with a manifest, a pretrained tag of the registry) are held against the request before anything is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip import factory
from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2, merge_preprocess_dict
from torch import nn

from manifest import families
from manifest.capture.provenance import parent_by, parent_of
from manifest.checkpoint import open_checkpoint
from manifest.errors import CheckpointError, CreationMismatchError, InputError
from manifest.families import remember
from manifest.families.open_clip.adapter import FAMILY
from manifest.families.open_clip.inputs import registry_entry
from manifest.families.protocol import Captured, Creation, Difference, Family
from manifest.grants import granted
from manifest.identification.customisation import customisation
from manifest.neutral_process import neutral_process
from manifest.schema.document import Architecture, Manifest, Parent
from manifest.schema.name_ranges import shortened
from manifest.schema.vocabulary import role_words
from manifest.storage.described import own_manifest
from manifest.storage.sidecars import has_manifest
from manifest.warning import warn
from manifest.weights.assign import shapes_of
from manifest.weights.shape_diff import shape_diff
from manifest.workflows.loading import load

OnMismatch = Literal["raise", "follow"]

_SIGNATURE = inspect.signature(factory.create_model)


def create_model(
    model_name: str,
    *args: Any,
    family: str = "open_clip",
    on_mismatch: OnMismatch = "raise",
    convert: Sequence[str] = (),
    **kwargs: Any,
) -> nn.Module:
    """`open_clip.create_model`, or another library's builder, with a memory.

    A model that starts from weights has them as they are: neither the default element type of the process nor its
    default device changes them; the library's own arguments do, such as `precision` and `device`.

    Args:
        model_name: As the library takes it.
        *args: As open_clip takes them.
        family: Which model library, for example `timm`; its own builder is called with `**kwargs`.
        on_mismatch: What to do when the weights were saved in another architecture than the one asked for: `raise`, or
            `follow` what the weights' manifest, or the registry, says.
        convert: What the library may do to the weights to make them fit, which it does without a word if it is let:
            `position_embedding` (interpolates it), `logit_bias` (zeros, where the weights have none), `head` (begins
            another one, for other classes). It is recorded.
        **kwargs: As the library takes them.

    Returns:
        The model, in the mode in which the library returns it.

    Raises:
        CreationMismatchError: The weights say that they belong to another architecture, or would have to be converted;
            the message has the cure.
        UnknownModelError: The library has no such model.

    Example:
        >>> import torch
        >>> model = manifest.create_model("ViT-S-32-alt")
        >>> model.encode_image(torch.randn(2, 3, 224, 224)).shape
        torch.Size([2, 256])
        >>> manifest.create_model("ViT-S-32-alt", pretrained="ckpt.pt")
        Traceback (most recent call last):
        ...
        manifest.errors.CreationMismatchError: ...
    """
    if on_mismatch not in ("raise", "follow"):
        raise InputError(f"on_mismatch is {on_mismatch!r}, expected 'raise' or 'follow'.")
    if family != FAMILY.name:
        return _create(family, model_name, args, kwargs, convert, on_mismatch)
    arguments = _bind(model_name, args, kwargs)
    pretrained = arguments.pop("pretrained", None)
    creation = Creation(model_name, arguments, pretrained)
    if pretrained and ":" not in model_name:
        if Path(pretrained).is_file():
            manifest = own_manifest(pretrained, "nothing tells whether this is the architecture of its weights")
            asked = FAMILY.describe(Creation(model_name, arguments))
            if manifest is None:
                if not has_manifest(Path(pretrained)):  # otherwise it was said already what is wrong with it
                    _say_nothing_to_compare(pretrained)
            elif differences := _against_manifest(asked.architecture, manifest, convert):
                if on_mismatch == "raise":
                    raise _mismatch(creation, pretrained, "its manifest", differences)
                return load(pretrained, verify="none", device=str(arguments.get("device", "cpu"))).train()
            if arguments.get("load_weights", True):
                creation = replace(
                    creation, conversions=_conversions(FAMILY, creation, asked, Path(pretrained), convert)
                )
                creation = creation if manifest is None else _with(creation, parent_by(pretrained, manifest))
        elif (entry := registry_entry(model_name, pretrained)) is not None:
            creation = _against_registry(creation, entry, on_mismatch)
    for argument, role in (("pretrained_image_path", "vision_tower"), ("pretrained_text_path", "text_tower")):
        if arguments.get(argument):
            _require_tower(creation, Path(arguments[argument]), role)
            creation = _with_parent(creation, Path(arguments[argument]))
    model = _made(FAMILY, creation)
    if ":" in model_name:  # a directory or a hub, which need not be there when the model is saved
        creation = replace(creation, architecture=FAMILY.describe(creation).architecture)
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
        The model, the preprocessing for training, and the preprocessing for inference; each of the two takes a PIL
        image to float32 of shape (3, height, width).

    Example:
        >>> from PIL import Image
        >>> model, train, inference = manifest.create_model_and_transforms("ViT-S-32-alt")
        >>> inference(Image.new("RGB", (640, 480))).shape
        torch.Size([3, 224, 224])
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


def _create(
    family: str,
    name: str,
    args: tuple[Any, ...],
    arguments: dict[str, Any],
    convert: Sequence[str],
    on_mismatch: OnMismatch,
) -> nn.Module:
    if args:
        raise InputError(f"{len(args) + 1} positional arguments were given, expected the name alone; name the others.")
    adapter = families.family(family)
    creation = Creation(name, arguments, family=adapter.name)
    with granted(creation.runs):  # the caller names the factory, and so grants it
        weights = adapter.weights_file(creation)
        if weights is not None and weights.is_file():
            asked = adapter.describe(creation)
            manifest = own_manifest(weights, "nothing tells whether this is the architecture of its weights")
            if manifest is not None and (differences := _otherwise_built(adapter, asked, manifest)):
                if on_mismatch == "raise":
                    raise _mismatch(creation, str(weights), "its manifest", differences)
                return load(weights, verify="none").train()
            creation = replace(creation, conversions=_conversions(adapter, creation, asked, weights, convert))
            creation = creation if manifest is None else _with(creation, parent_by(weights, manifest))
        model = _made(adapter, creation)
        if ":" in name and not creation.runs:  # a directory or a hub, which need not be there when the model is saved
            creation = replace(creation, architecture=adapter.describe(creation).architecture)
    remember(model, creation)
    return model


def _made(adapter: Family, creation: Creation) -> nn.Module:
    """What the library makes of a call: as the caller's defaults have it, but for weights that it starts from.

    Those are what they are, whatever element type or device is the default.
    """
    if adapter.origin(creation)[0] is None:
        return adapter.create(creation)
    with neutral_process(arithmetic=False, generators=False):  # what they lack is drawn at random
        return adapter.create(creation)


def _otherwise_built(adapter: Family, asked: Captured, manifest: Manifest) -> list[Difference]:
    """In what the model would differ from the one that weights were saved with, where they fit both.

    Where they do not fit, the library says so, or converts them; how images are prepared is not part of its call.
    """
    if manifest.architecture.family != adapter.name:
        return []
    if shapes_of(asked.module) != {tensor.name: tuple(tensor.shape) for tensor in manifest.weights.tensors}:
        return []
    recorded = manifest.architecture
    found = [item for item in adapter.differences(asked.architecture, recorded) if item.rule in {"A001", "A002"}]
    if recorded.name is None or recorded.name == asked.architecture.name:
        return found
    return [replace(item, cure=f"model_name={recorded.name!r}") for item in found]


def _against_manifest(asked: Architecture, manifest: Manifest, convert: Sequence[str]) -> list[Difference]:
    differences = FAMILY.differences(asked, manifest.architecture)
    return [item for item in differences if item.conversion not in convert]


def _conversions(
    adapter: Family, creation: Creation, captured: Captured, weights: Path, convert: Sequence[str]
) -> tuple[str, ...]:
    """What a library would do to weights to make them fit, as far as that was asked for.

    Raises:
        CreationMismatchError: It would do more than was asked for, or would leave other parts at random beside it.
    """
    asked = captured.architecture
    expected = shapes_of(captured.module)
    try:
        with open_checkpoint(weights) as stored:
            found = stored.shapes
    except CheckpointError:  # the library reads it, or says what is wrong with it
        return ()
    misfit = shape_diff(expected, found)
    conversions = adapter.conversions(asked, misfit) if adapter.converts(creation) else []
    unasked = [item for item in conversions if item.kind not in convert]
    name = asked.name or asked.class_name
    roles = adapter.roles(asked, expected)
    other = customisation(asked.family, misfit, expected, found, roles)
    if other.whole and other.arguments and not conversions:  # the library would refuse the names, or drop them
        raise CreationMismatchError(
            f"{weights.name} holds the weights of a {name} built with {other.words()}; pass that to build the same."
        )
    if unasked:
        built = f"build the model that they are of, with {other.words()}" if other.whole else ""
        kinds = list(dict.fromkeys(item.kind for item in unasked))
        raise CreationMismatchError(
            f"{asked.family} would change the weights of {weights.name} to fit {name} "
            f"({'; '.join(item.words for item in unasked)}); allow it with convert={kinds!r}, "
            f"or {built or 'ask for the architecture that they were trained in'}."
        )
    lost = [part for part in misfit.missing if roles[part] != "head"]
    if lost and any(item.kind == "head" for item in conversions):
        raise CreationMismatchError(
            f"{weights.name} lacks more of a {name} than its head ({shortened(lost)} missing), and {asked.family} "
            "would leave that at its random initialisation without a word; name the weights of that model."
        )
    return tuple(f"{item.kind}: {item.words}" for item in conversions)


def _mismatch(creation: Creation, weights: str, source: str, differences: list[Difference]) -> CreationMismatchError:
    what = "; ".join(f"{item.message} ({item.rule})" for item in differences)
    cures = ", ".join(dict.fromkeys(item.cure for item in differences if "on_mismatch" not in item.cure))
    passed = f"pass {cures}, or " if cures else ""
    return CreationMismatchError(
        f"{creation.name} as asked for is not what {Path(weights).name} is, by {source}: {what}; "
        f"{passed}take everything from there with on_mismatch='follow'."
    )


def _require_tower(creation: Creation, weights: Path, role: str) -> None:
    """Refuse a file that is not the tower it is given for: open_clip logs that and goes on with random weights.

    Raises:
        CreationMismatchError: It is not.
        InputError: There is no such file.
        CheckpointError: It cannot be read.
    """
    asked = FAMILY.describe(Creation(creation.name, creation.arguments))
    model = asked.module
    state = shapes_of(model)
    prefix = "visual." if role == "vision_tower" else "text." if hasattr(model, "text") else ""
    parts = FAMILY.roles(asked.architecture, state)
    roles = {name.removeprefix(prefix): part for name, part in parts.items() if name.startswith(prefix)}
    expected = {name: state[prefix + name] for name, part in roles.items() if part == role}
    with open_checkpoint(weights) as stored:
        found = {name: shape for name, shape in stored.shapes.items() if name in expected}
    if problems := shape_diff(expected, found).sentences(roles):
        raise CreationMismatchError(
            f"{weights.name} is not the {role_words(role)} of {creation.name} ({'; '.join(problems)}), and "
            "open_clip would leave that at its random initialisation without a word; name the file of that tower."
        )


def _with_parent(creation: Creation, weights: Path) -> Creation:
    """The creation, with a file of weights as a parent where it is what its manifest describes."""
    parent = parent_of(weights)
    return creation if parent is None else _with(creation, parent)


def _with(creation: Creation, parent: Parent) -> Creation:
    return replace(creation, parents=(*creation.parents, (parent.name, parent.weights)))


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
        warn(
            f"open_clip's config {creation.name} uses QuickGELU and its tag {creation.pretrained!r} does not say so; "
            "the config is followed."
        )
        return creation
    if on_mismatch == "follow":
        return Creation(creation.name, {**creation.arguments, "force_quick_gelu": trained}, creation.pretrained)
    words = {True: "QuickGELU", False: "GELU"}
    cure = "force_quick_gelu=True" if trained else "force_quick_gelu=False"
    message = f"it would be built with {words[asked]}, and the weights were trained with {words[trained]}"
    raise _mismatch(creation, str(creation.pretrained), "open_clip's registry", [Difference("A001", message, cure)])


def _say_nothing_to_compare(pretrained: str) -> None:
    warn(
        f"{Path(pretrained).name} has no manifest, so nothing tells whether this is the architecture of its weights; "
        f"write one with `manifest create {Path(pretrained).name} --model NAME`."
    )
