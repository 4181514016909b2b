"""The open_clip family: contrastive image-text models, from a creation call or from the bare module.

open_clip keeps no config on its modules. So an architecture is proposed, from the call that was seen or from what
`open_clip_recovery` reads off the module, and then proved: it is built without weights and must have the same
structure, names, shapes and types. The order of the steps in `_resolve` is that of `open_clip.create_model` 3.3.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import factory
from open_clip.model import CLIP, CustomTextCLIP, get_cast_dtype
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

from manifest.digests import text_digest
from manifest.document import Architecture, Mode, Operators, Preprocess, Tokenizer, activation_words
from manifest.errors import ArchitectureError, InputError, UnknownModelError
from manifest.families import Creation, Difference, Variant
from manifest.families.empty_build import without_weights
from manifest.families.open_clip_recovery import recover
from manifest.golden.probe import WITHOUT_TOKENIZER, Inputs, photographs_and_prompts
from manifest.structure import first_difference, structure, structure_digest, trace

_CLASSES: dict[str, type[nn.Module]] = {
    "CLIP": CLIP,
    "CustomTextCLIP": CustomTextCLIP,
    "CoCa": open_clip.CoCa,
}
_WHERE_NOT_WHAT = frozenset({"pretrained", "device", "cache_dir", "load_weights", "jit", "require_pretrained"})
"""Arguments of `create_model` that say where weights come from or go, not what the model is."""

_TOKENIZER_ARGUMENTS = frozenset(
    {"clean", "reduction_mask", "additional_special_tokens", "strip_sep_token", "language", "tokenizer_mode"}
)
_PATHS = frozenset({"pretrained_image_path", "pretrained_text_path"})
_VISION_PROJECTIONS = ("visual.proj", "visual.attnpool.c_proj.", "visual.head.")
_TRUNK_PROJECTIONS = ("visual.trunk.head.weight", "visual.trunk.head.bias", "visual.trunk.head.fc.")
_TEXT_PROJECTIONS = ("text_projection", "text.text_projection", "text.proj")


@dataclass(frozen=True)
class _Proposal:
    """What an architecture might be, before it is proved."""

    name: str | None
    class_name: str
    config: dict[str, Any]
    precision: str
    image_size: Any = None


class OpenClip:
    """Adapter for open_clip's CLIP, CustomTextCLIP and CoCa."""

    name = "open_clip"

    def recognises(self, module: nn.Module) -> bool:
        return isinstance(module, tuple(_CLASSES.values()))

    def register(self, model_config: Path) -> None:
        if not model_config.is_file():
            raise InputError(f"There is no file {model_config}, expected a model config; check the path.")
        open_clip.add_model_config(model_config)
        if model_config.stem not in open_clip.list_models():
            raise InputError(
                f"{model_config.name} is no config of open_clip, expected a .json file with embed_dim, vision_cfg and "
                "text_cfg; correct it."
            )

    def capture(self, module: nn.Module, creation: Creation | None) -> Architecture:
        differences = []
        for proposal in _proposals(module, creation):
            built = _construct(proposal)
            difference = _difference(built, module)
            if difference is None:
                return _architecture(proposal, built, module, creation)
            differences.append(difference)
        raise ArchitectureError(
            f"This {type(module).__name__} cannot be rebuilt from its creation call or from what it shows "
            f"({differences[-1]:.200}); save it with model_name=NAME, or make it with `manifest.create_model(NAME, …)` "
            "and every change as an argument."
        )

    def describe(self, creation: Creation) -> Architecture:
        proposal = _resolve(creation)
        try:
            built = _construct(proposal)
        except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
            raise ArchitectureError(
                f"{creation.name!r} cannot be built with {_shown(creation.arguments)} ({_one_line(error)}); "
                "correct the arguments."
            ) from error
        return _architecture(proposal, built, None, creation)

    def build(self, architecture: Architecture) -> nn.Module:
        module = _construct(_proposal_of(architecture))
        open_clip.model.set_model_preprocess_cfg(module, _preprocess_cfg(architecture.preprocess))
        return module

    def activations(self, module: nn.Module) -> dict[str, dict[str, int]]:
        counts: dict[str, Counter[str]] = {}
        for path, child in module.named_modules():
            if label := _activation_label(child):
                top = path.partition(".")[0]
                counts.setdefault(top if top in {"visual", "text_decoder"} else "text", Counter())[label] += 1
        return {tower: dict(kinds) for tower, kinds in counts.items()}

    def operators(self, module: nn.Module) -> Operators:
        def forward(ghost: Any) -> None:
            dtype = next(ghost.visual.parameters()).dtype
            height, width = _pair(ghost.visual.image_size)
            ghost.encode_image(torch.empty(1, 3, height, width, dtype=dtype, device="meta"))
            ghost.encode_text(torch.zeros(1, _context_length(ghost), dtype=torch.long, device="meta"))

        return trace(module, forward).record()

    def roles(self, names: Iterable[str]) -> dict[str, str]:
        names = list(names)
        projections = _VISION_PROJECTIONS
        if not any(name.startswith(_VISION_PROJECTIONS) for name in names):
            projections = _TRUNK_PROJECTIONS
        return {name: _role(name, projections) for name in names}

    def transforms(self, architecture: Architecture) -> tuple[Any, Any]:
        cfg = open_clip.transform.PreprocessCfg(**_preprocess_cfg(architecture.preprocess))
        return open_clip.transform.image_transform_v2(cfg, is_train=False), _load_tokenizer(architecture.tokenizer)

    def inputs(self, architecture: Architecture, probe: str | None = None) -> Inputs:
        preprocess, tokenizer = self.transforms(architecture)
        if probe == WITHOUT_TOKENIZER:
            tokenizer = None
        vocabulary = architecture.config["text_cfg"].get("vocab_size", 49408)
        return photographs_and_prompts(preprocess, tokenizer, architecture.tokenizer.context_length, vocabulary)

    def outputs(self, module: nn.Module, images: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        model: Any = module
        image_features = model.encode_image(images, normalize=False)
        text_features = model.encode_text(tokens, normalize=False)
        unit_images = nn.functional.normalize(image_features, dim=-1)
        unit_texts = nn.functional.normalize(text_features, dim=-1)
        logits = model.logit_scale.exp() * unit_images @ unit_texts.T
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
        return {"image_features": image_features, "text_features": text_features, "logits": logits}

    def probabilities(self, module: nn.Module, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        model: Any = module
        logits = outputs["logits"].double()
        # A model with a bias was trained with the sigmoid loss: each pair is judged by itself.
        return logits.softmax(dim=-1) if model.logit_bias is None else logits.sigmoid()

    def variants(self, architecture: Architecture) -> Sequence[Variant]:
        quick = bool(architecture.config.get("quick_gelu"))
        config = {**architecture.config, "quick_gelu": not quick}
        if not _natively_activated(config):
            return ()
        now, then = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
        return (
            Variant(
                name="activation",
                description=f"the config builds {now}, and the weights belong to {then}",
                architecture=architecture.model_copy(update={"config": config}),
                cure=_activation_cure(architecture.name, quick=not quick),
            ),
        )

    def differences(self, asked: Architecture, recorded: Architecture) -> list[Difference]:
        return list(_differences(asked, recorded))


FAMILY = OpenClip()


def _differences(asked: Architecture, recorded: Architecture) -> Iterator[Difference]:
    if asked.activations != recorded.activations:
        cure = _activation_cure(asked.name, quick=bool(recorded.config.get("quick_gelu")))
        yield Difference(
            "A001",
            f"it would be built with {activation_words(asked.activations)}, and the weights were saved with "
            f"{activation_words(recorded.activations)}",
            cure,
        )
    for name, forced in (("image_size", "vision_cfg"), ("context_length", "text_cfg")):
        default = {"image_size": 224, "context_length": 77}[name]
        mine, yours = (a.config[forced].get(name, default) for a in (asked, recorded))
        if _normal(mine) != _normal(yours):
            yield Difference(
                "A002", f"its {name} would be {mine}, and is recorded as {yours}", f"force_{name}={yours!r}"
            )
    cfg: dict[str, Any] = {}
    for name in ("mean", "std", "interpolation", "resize_mode"):
        mine, yours = getattr(asked.preprocess, name), getattr(recorded.preprocess, name)
        if mine != yours:
            cfg[name] = tuple(yours) if isinstance(yours, list) else yours
    if cfg:
        listed = ", ".join(f"{name} {getattr(asked.preprocess, name)} instead of {cfg[name]}" for name in cfg)
        yield Difference("A006", f"its images would be preprocessed with {listed}", f"force_preprocess_cfg={cfg!r}")
    plain = asked.activations == recorded.activations and asked.structure != recorded.structure
    if plain and asked.config != recorded.config:
        parts = sorted(_flat(asked.config).items() ^ _flat(recorded.config).items(), key=str)
        names = sorted({name for name, _ in parts} - {"vision_cfg.image_size", "text_cfg.context_length"})
        if names:
            yield Difference("A002", f"its config differs in {', '.join(names[:4])}", "on_mismatch='follow'")


def _flat(config: Mapping[str, Any], path: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        flat |= (
            _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": repr(_normal(value))}
        )
    return flat


def _activation_cure(name: str | None, *, quick: bool) -> str:
    """The argument that switches the activation of open_clip's own towers."""
    if quick:
        return "force_quick_gelu=True"
    plain = (name or "").removesuffix("-quickgelu")
    return f"model_name={plain!r}" if plain != name else "force_quick_gelu=False"


def creation_signature() -> dict[str, Any]:
    """Defaults of `open_clip.create_model`'s own arguments, by name."""
    parameters = inspect.signature(factory.create_model).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def registry_entry(name: str, tag: str) -> dict[str, Any] | None:
    """open_clip's registry entry of a pretrained tag (`quick_gelu`, mean, std, …), None when it has none."""
    entry: dict[str, Any] = open_clip.get_pretrained_cfg(name.replace("/", "-"), tag)
    return entry or None


def _proposals(module: nn.Module, creation: Creation | None) -> Iterator[_Proposal]:
    if creation is not None and creation.architecture is not None:
        yield _proposal_of(creation.architecture)
    elif creation is not None:
        yield _resolve(creation)
    class_name = next(name for name, kind in _CLASSES.items() if isinstance(module, kind))
    config, precision = recover(module)
    name = _registered_name(class_name, config)
    if name is not None:
        registered = _resolve(Creation(name, {"precision": precision}))
        yield registered
        yield _Proposal(name, class_name, registered.config, precision, config["vision_cfg"].get("image_size"))
        # Where the module departs from the registry, the module is right; what it cannot show, the registry knows.
        config = {
            **registered.config,
            **config,
            "text_cfg": {**registered.config["text_cfg"], **config["text_cfg"]},
        }
    yield _Proposal(None, class_name, config, precision)


def _proposal_of(architecture: Architecture) -> _Proposal:
    return _Proposal(
        name=architecture.name,
        class_name=architecture.class_name,
        config=architecture.config,
        precision=architecture.precision,
        image_size=architecture.arguments.get("force_image_size"),
    )


def _resolve(creation: Creation) -> _Proposal:
    """What `open_clip.create_model` would construct for a call."""
    arguments = dict(creation.arguments)
    schema, identifier = factory.parse_model_name(creation.name)
    name = identifier.replace("/", "-") if schema is None else creation.name
    config = open_clip.get_model_config(name) if schema is None else factory.get_model_config(creation.name)
    if config is None:
        nearest = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(nearest)}" if nearest else "see `open_clip.list_models()`"
        raise UnknownModelError(f"open_clip has no model {creation.name!r}; {hint}?")
    config = deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if arguments.get("force_quick_gelu"):
        config["quick_gelu"] = True
    if arguments.get("force_patch_dropout") is not None:
        vision["patch_dropout"] = arguments["force_patch_dropout"]
    if arguments.get("force_image_size") is not None:
        vision["image_size"] = arguments["force_image_size"]
    if arguments.get("force_context_length") is not None:
        text["context_length"] = arguments["force_context_length"]
    own = set(creation_signature())
    config.update({key: value for key, value in arguments.items() if key not in own and key != "pretrained_hf"})
    # No builder may fetch weights: they come from the checkpoint.
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or arguments.get("force_custom_text") or "hf_model_name" in text
    class_name = "CLIP" if not custom else "CoCa" if "multimodal_cfg" in config else "CustomTextCLIP"
    if class_name != "CoCa" and arguments.get("output_dict"):
        config["output_dict"] = True
    return _Proposal(name, class_name, config, arguments.get("precision", "fp32"), arguments.get("force_image_size"))


def _construct(proposal: _Proposal) -> nn.Module:
    config = deepcopy(proposal.config)
    _require_sane(config)
    for tower in ("vision_cfg", "text_cfg"):
        if isinstance(config[tower].get("image_size"), list):  # JSON has no tuples, and open_clip asks for one
            config[tower]["image_size"] = tuple(config[tower]["image_size"])
    timm = "timm_model_name" in config["vision_cfg"]
    with without_weights():
        module = _CLASSES[proposal.class_name](**config, cast_dtype=get_cast_dtype(proposal.precision))
        factory._set_model_device_and_precision(module, None, proposal.precision, timm)
        if timm and proposal.image_size is not None:
            size = proposal.image_size
            module.visual.set_input_size(tuple(size) if isinstance(size, list) else size)  # type: ignore[operator, union-attr]
    return module


def _require_sane(config: Mapping[str, Any]) -> None:
    """Refuse sizes that no model has and that would exhaust memory or time; a manifest may come from anyone."""
    for tower, sizes in config.items():
        for name, value in sizes.items() if isinstance(sizes, dict) else [(tower, sizes)]:
            limit = _LARGEST.get(name, _LARGEST_OTHERWISE)
            numbers = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(number, int | float) and abs(number) > limit for number in numbers):
                raise ArchitectureError(
                    f"The config gives {name} as {value!r:.40}, expected at most {limit:,}; "
                    "get the manifest from a source you trust."
                )


_LARGEST = {"context_length": 1 << 13, "layers": 1 << 10, "image_size": 1 << 13, "attn_pooler_queries": 1 << 14}
_LARGEST_OTHERWISE = 1 << 21


def _difference(built: nn.Module, live: nn.Module) -> str | None:
    """The first way in which a rebuilt module is not the live one."""
    if difference := first_difference(structure(live), structure(built)):
        return difference
    mine, yours = _signature(live), _signature(built)
    for name in sorted(mine.keys() | yours.keys()):
        if mine.get(name) != yours.get(name):
            return f"{name}: {mine.get(name, 'absent')} → {yours.get(name, 'absent')}"
    return None


def _signature(module: nn.Module) -> dict[str, str]:
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        for name, tensor in module.state_dict().items()
    }


def _architecture(
    proposal: _Proposal, built: nn.Module, live: nn.Module | None, creation: Creation | None
) -> Architecture:
    preprocess = _preprocess(proposal, built, live, creation)
    return Architecture.model_validate(
        {
            "family": FAMILY.name,
            "name": proposal.name,
            "class": proposal.class_name,
            "builder": "open_clip.create_model",
            "arguments": _recorded_arguments(proposal, creation),
            "config": _as_data(proposal.config, "config"),
            "activations": FAMILY.activations(built),
            "preprocess": preprocess,
            "tokenizer": _tokenizer(proposal, built),
            "precision": proposal.precision,
            "mode": Mode.UNKNOWN if live is None else _mode(live),
            "structure": structure_digest(structure(built)),
            "operators": FAMILY.operators(built),
        }
    )


def operators(module: nn.Module) -> Any:
    """The operator fingerprint of encoding one image and one prompt."""

    def forward(ghost: Any) -> None:
        dtype = next(ghost.visual.parameters()).dtype
        height, width = _pair(ghost.visual.image_size)
        ghost.encode_image(torch.empty(1, 3, height, width, dtype=dtype, device="meta"))
        ghost.encode_text(torch.zeros(1, _context_length(ghost), dtype=torch.long, device="meta"))

    return trace(module, forward).record()


def activations(module: nn.Module) -> dict[str, dict[str, int]]:
    """Activation modules by tower: class name (with GELU's approximation) and how many."""
    counts: dict[str, dict[str, int]] = {}
    for path, child in module.named_modules():
        label = _activation_label(child)
        if label is not None:
            tower = (
                "visual" if path.startswith("visual.") else "decoder" if path.startswith("text_decoder.") else "text"
            )
            of_tower = counts.setdefault(tower, {})
            of_tower[label] = of_tower.get(label, 0) + 1
    return counts


def _activation_label(module: nn.Module) -> str | None:
    kind = type(module)
    home = kind.__module__
    known = home in {"torch.nn.modules.activation", "transformers.activations"} or home.startswith(
        "timm.layers.activations"
    )
    if kind.__name__ != "QuickGELU" and (not known or isinstance(module, nn.MultiheadAttention)):
        return None
    approximate = getattr(module, "approximate", "none")
    return kind.__name__ if approximate == "none" else f"{kind.__name__}({approximate})"


def _recorded_arguments(proposal: _Proposal, creation: Creation | None) -> dict[str, Any]:
    """The arguments of the call that are not defaults and say what the model is, without directories."""
    recorded: dict[str, Any] = {}
    defaults = creation_signature()
    for key, value in (creation.arguments if creation else {}).items():
        if key in _WHERE_NOT_WHAT or (key in defaults and value == defaults[key]):
            continue
        recorded[key] = Path(value).name if key in _PATHS else _as_data(value, key)
    if proposal.image_size is not None:
        recorded["force_image_size"] = _as_data(proposal.image_size, "force_image_size")
    return recorded


def _as_data(value: Any, name: str) -> Any:
    """A value as JSON would give it back."""
    try:
        return json.loads(json.dumps(value, default=_dataclass_or_fail))
    except (TypeError, ValueError):
        raise InputError(
            f"Argument {name!r} is {value!r:.80}, which is no JSON value and cannot be recorded; "
            "use numbers, strings, lists and dicts."
        ) from None


def _dataclass_or_fail(value: Any) -> Any:
    from dataclasses import asdict, is_dataclass

    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError


def _preprocess(proposal: _Proposal, built: nn.Module, live: nn.Module | None, creation: Creation | None) -> Preprocess:
    if live is not None:
        cfg = getattr(live.visual, "preprocess_cfg", None)
        if not isinstance(cfg, Mapping):
            raise ArchitectureError(
                "The model does not say how its images are preprocessed (`model.visual.preprocess_cfg` is missing); "
                "set it with `open_clip.model.set_model_preprocess_cfg(model, {…})`."
            )
        return _preprocess_record(cfg)
    arguments = creation.arguments if creation else {}
    cfg = open_clip.transform.merge_preprocess_dict(open_clip.transform.PreprocessCfg(), {})
    if creation is not None and creation.pretrained and proposal.name and ":" not in proposal.name:
        tag = registry_entry(proposal.name, creation.pretrained)
        cfg = open_clip.transform.merge_preprocess_dict(cfg, tag or {})
    elif creation is not None and ":" in creation.name:
        cfg = open_clip.transform.merge_preprocess_dict(cfg, _schema_preprocess(creation.name))
    cfg["size"] = getattr(built.visual, "image_size", cfg["size"])
    overrides = arguments.get("force_preprocess_cfg") or {}
    return _preprocess_record(open_clip.transform.merge_preprocess_dict(cfg, overrides))


def _schema_preprocess(name: str) -> dict[str, Any]:
    schema, identifier = factory.parse_model_name(name)
    if schema == "hf-hub":
        content = factory._get_hf_config(identifier)
    else:
        content = json.loads((Path(identifier) / "open_clip_config.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content.get("preprocess_cfg", {})
    return found


def _preprocess_record(cfg: Mapping[str, Any]) -> Preprocess:
    def triple(value: Any) -> list[float]:
        return [float(v) for v in value] if isinstance(value, Sequence) else [float(value)] * 3

    return Preprocess(
        size=list(_pair(cfg["size"])),
        mode=cfg.get("mode", "RGB"),
        mean=triple(cfg["mean"]),
        std=triple(cfg["std"]),
        interpolation=cfg.get("interpolation") or "bicubic",
        resize_mode=cfg.get("resize_mode") or "shortest",
        fill_color=cfg.get("fill_color") or 0,
    )


def _preprocess_cfg(record: Preprocess) -> dict[str, Any]:
    return {
        "size": tuple(record.size),
        "mode": record.mode,
        "mean": tuple(record.mean),
        "std": tuple(record.std),
        "interpolation": record.interpolation,
        "resize_mode": record.resize_mode,
        "fill_color": record.fill_color,
    }


def _tokenizer(proposal: _Proposal, built: nn.Module) -> Tokenizer:
    """The tokenizer that `open_clip.get_tokenizer` would choose, with its vocabulary's digest when it is at hand."""
    text = proposal.config["text_cfg"]
    length = _context_length(built)
    arguments = _as_data(text.get("tokenizer_kwargs") or {}, "tokenizer_kwargs")
    if text.get("hf_tokenizer_name"):
        if text.get("tokenizer_mode"):
            arguments["tokenizer_mode"] = text["tokenizer_mode"]
        record = _tokenizer_record("HFTokenizer", text["hf_tokenizer_name"], arguments, length)
    elif "siglip" in (proposal.name or "").lower():
        lowered = (proposal.name or "").lower()
        variant = "gemma" if "siglip2" in lowered else "mc4" if "i18n" in lowered else "c4-en"
        record = _tokenizer_record("SigLipTokenizer", variant, {}, length)
    elif text.get("vocab_size", 49408) >= 49408:
        record = _tokenizer_record("SimpleTokenizer", None, arguments, length)
    else:
        # Whatever its tokenizer was, it is not one of open_clip's; golden outputs are taken on token ids instead.
        return _tokenizer_record("unknown", None, {}, length)
    tokenizer = _load_tokenizer(record)
    return record if tokenizer is None else record.model_copy(update={"digest": _vocabulary_digest(tokenizer)})


def _tokenizer_record(kind: str, name: str | None, arguments: dict[str, Any], length: int) -> Tokenizer:
    return Tokenizer.model_validate({"class": kind, "name": name, "arguments": arguments, "context_length": length})


def _load_tokenizer(record: Tokenizer) -> Any:
    """The recorded tokenizer, or None where its vocabulary would have to be fetched from a hub."""
    # By name, since a record may come from anyone and a loader's other arguments open files or run code.
    known = {name: value for name, value in record.arguments.items() if name in _TOKENIZER_ARGUMENTS}
    if record.class_name == "SimpleTokenizer":
        return SimpleTokenizer(context_length=record.context_length, **known)
    if record.class_name == "HFTokenizer":
        try:
            return open_clip.tokenizer.HFTokenizer(
                record.name, context_length=record.context_length, local_files_only=True, **known
            )
        except (ImportError, OSError, ValueError):  # transformers is not installed, or the files are not cached
            return None
    return None


def _vocabulary_digest(tokenizer: Any) -> str:
    inner = getattr(tokenizer, "tokenizer", None)
    vocabulary: dict[str, int] = inner.get_vocab() if inner is not None else tokenizer.encoder
    return text_digest(f"{index} {token}" for token, index in sorted(vocabulary.items(), key=lambda item: item[1]))


def _context_length(module: Any) -> int:
    """Token ids per prompt; a CoCa's own `context_length` is its decoder's."""
    text = getattr(module, "text", module)
    length = getattr(text, "context_length", None) or getattr(module, "context_length", None)
    return int(length or 77)


def _mode(module: nn.Module) -> Mode:
    modes = {child.training for child in module.modules()}
    return Mode.MIXED if len(modes) == 2 else Mode.TRAIN if modes == {True} else Mode.EVAL


def _natively_activated(config: Mapping[str, Any]) -> bool:
    """Whether the `quick_gelu` flag changes anything: timm and Hugging Face towers ignore it."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    native_vision = "timm_model_name" not in vision and not isinstance(vision.get("layers"), list | tuple)
    return native_vision or not text.get("hf_model_name") or "multimodal_cfg" in config


def _registered_name(class_name: str, recovered: Mapping[str, Any]) -> str | None:
    """The registered config that agrees with every recovered value, preferring names without a suffix."""
    matches = []
    for name in open_clip.list_models():
        proposal = _resolve(Creation(name))
        if proposal.class_name == class_name and _agrees(proposal.config, recovered):
            matches.append(name)
    return min(matches, key=len, default=None)


def _agrees(registered: Mapping[str, Any], recovered: Mapping[str, Any]) -> bool:
    from open_clip.coca_model import MultimodalCfg
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    if registered["embed_dim"] != recovered["embed_dim"]:
        return False
    if bool(registered.get("quick_gelu")) != bool(recovered.get("quick_gelu")):
        return False
    kinds = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg, "multimodal_cfg": MultimodalCfg}
    for part, kind in kinds.items():
        if part not in recovered:
            continue
        if part not in registered:
            return False
        full = vars(kind(**registered[part]))
        for key, value in recovered[part].items():
            # An empty pool in a config means the trunk's own, which is what the module shows.
            if key in _NOT_COMPARED or (key == "timm_pool" and not full[key]):
                continue
            if _normal(full.get(key)) != _normal(value):
                return False
    return True


_NOT_COMPARED = frozenset(
    {"timm_model_pretrained", "hf_model_pretrained", "ls_init_value", "act_kwargs", "norm_kwargs"}
)


def _normal(value: Any) -> Any:
    if isinstance(value, list | tuple):
        items = [_normal(item) for item in value]
        return items[0] if len(items) == 2 and items[0] == items[1] else items
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(float(value), 2)  # configs write 4304 / 1152 as 3.7362
    return value or None


def _role(name: str, vision_projections: tuple[str, ...]) -> str:
    if name in {"logit_scale", "logit_bias"}:
        return name
    if name.startswith("visual."):
        return "vision_projection" if name.startswith(vision_projections) else "vision_tower"
    if name.startswith("text_decoder."):
        return "text_decoder"
    return "text_projection" if name.startswith(_TEXT_PROJECTIONS) else "text_tower"


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, Sequence) else (int(size), int(size))


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
