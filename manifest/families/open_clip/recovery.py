"""Reading an open_clip config off a live module, for models whose creation call was not seen.

Nearly everything shows: sizes in shapes, classes in types, the rest in attributes. What does not show is never guessed
here; it is either without effect once the weights are known (initial values) or left for the registry (tokenizers).
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import (
    Attention,
    CustomResidualAttentionBlock,
    LayerNormFp32,
    LayerScale,
    PatchDropout,
    QuickGELU,
    VisionTransformer,
)
from torch import nn

from manifest.errors import ArchitectureError
from manifest.families.open_clip.hugging_face import recovered

_ANY_INITIAL_VALUE = 1e-5  # what a learned parameter starts from is without effect once its weight is known


def recover(model: Any) -> tuple[dict[str, Any], str]:
    """The config and precision of a live CLIP, CustomTextCLIP or CoCa.

    Returns:
        A config as the model class takes it, and one of open_clip's names of a precision.

    Raises:
        ArchitectureError: A tower is of a kind that does not show its config.
    """
    text = getattr(model, "text", model)
    borrowed = isinstance(text, HFTextEncoder)
    config: dict[str, Any] = {
        "embed_dim": _embed_dim(model, text),
        "vision_cfg": _vision(model.visual),
        "text_cfg": recovered(text) if borrowed else _text(model, text),
        "quick_gelu": any(isinstance(child, QuickGELU) for child in (model.visual if borrowed else text).modules()),
    }
    if isinstance(model, CoCa):
        config["multimodal_cfg"] = _decoder(model.text_decoder)
        if model.pad_id != 0:
            config["pad_id"] = model.pad_id
    elif model.output_dict:
        config["output_dict"] = True
    if model.logit_bias is not None:
        config["init_logit_bias"] = 0.0
    if model.logit_scale.ndim:
        config["nonscalar_logit_scale"] = True
    return config, _precision(model)


def _embed_dim(model: Any, text: Any) -> int:
    if isinstance(text, HFTextEncoder):
        return int(text.output_dim)
    projection = text.text_projection
    if isinstance(projection, nn.Linear):
        return projection.out_features
    if projection is not None:
        return int(projection.shape[1])
    visual = model.visual
    if isinstance(visual, TimmModel):
        head = [child for child in visual.head.modules() if isinstance(child, nn.Linear)]
        return head[-1].out_features if head else int(visual.trunk.num_features)
    return int(visual.output_dim)


def _vision(visual: Any) -> dict[str, Any]:
    if isinstance(visual, TimmModel):
        return _timm(visual)
    if isinstance(visual, ModifiedResNet):
        width = visual.conv3.out_channels
        return {
            "image_size": visual.image_size,
            "layers": [len(getattr(visual, f"layer{i}")) for i in (1, 2, 3, 4)],
            "width": width,
            "head_width": width * 32 // visual.attnpool.num_heads,
        }
    if isinstance(visual, VisionTransformer):
        return _vit(visual)
    raise ArchitectureError(
        f"The vision tower is a {type(visual).__name__}, which does not show how it was configured; "
        "make the model with `manifest.create_model(NAME, …)`, which remembers."
    )


def _vit(visual: Any) -> dict[str, Any]:
    blocks = visual.transformer.resblocks
    width = visual.conv1.out_channels
    heads = blocks[0].attn.num_heads if len(blocks) else width // 64
    config: dict[str, Any] = {
        "image_size": _square(visual.image_size),
        "patch_size": _square(visual.patch_size),
        "width": width,
        "head_width": width // heads,
        "patch_dropout": visual.patch_dropout.prob if isinstance(visual.patch_dropout, PatchDropout) else 0.0,
        "no_ln_pre": isinstance(visual.ln_pre, nn.Identity),
        "final_ln_after_pool": visual.final_ln_after_pool,
        "output_tokens": visual.output_tokens,
        **_blocks(visual.transformer, visual.ln_post),
    }
    if visual.attn_pool is None:
        config["pool_type"] = visual.pool_type
    else:
        config["attentional_pool"] = visual.attn_pool_type or True
        config["attn_pooler_queries"] = visual.attn_pool.query.shape[0]
        config["attn_pooler_heads"] = visual.attn_pool.attn.num_heads
        if not visual.attn_pool_type:
            config["pool_type"] = visual.pool_type
    return config


def _timm(visual: Any) -> dict[str, Any]:
    trunk = visual.trunk
    arguments = dict(getattr(trunk, "_model_args", None) or {})
    config: dict[str, Any] = {
        "timm_model_name": _timm_name(trunk),
        "timm_model_pretrained": False,
        "image_size": _square(visual.image_size),
        "timm_drop_path": arguments.get("drop_path_rate"),
        "patch_dropout": arguments.get("patch_drop_rate") or 0.0,
    }
    head = dict(visual.head.named_children())
    if "pool" in head:
        config["timm_pool"] = "abs_attn" if type(head["pool"]).__name__ == "AttentionPool2d" else "rot_attn"
    else:
        config["timm_pool"] = getattr(trunk, "global_pool", None) or arguments.get("global_pool", "")
        if not isinstance(config["timm_pool"], str):
            config["timm_pool"] = arguments.get("global_pool", "avg")
    if "proj" in head:
        config |= {"timm_proj": "linear", "timm_proj_bias": head["proj"].bias is not None, "timm_drop": head["drop"].p}
    elif "mlp" in head:
        config |= {"timm_proj": "mlp", "timm_proj_bias": head["mlp"].fc2.bias is not None}
        config["timm_drop"] = head["mlp"].drop1.p
    else:
        config["timm_proj"] = "" if trunk.num_classes or "pool" in head else "none"
    return config


def _timm_name(trunk: Any) -> str:
    pretrained = trunk.pretrained_cfg
    name = pretrained.get("architecture") if isinstance(pretrained, dict) else pretrained.architecture
    if not name:
        raise ArchitectureError(
            "The timm trunk does not say which it is; make the model with `manifest.create_model(NAME, …)`."
        )
    return str(name)  # without `tag`, which is timm's default and not where these weights came from


def _text(model: Any, text: Any) -> dict[str, Any]:
    flat = text is model
    blocks = text.transformer.resblocks
    width = text.transformer.width
    projection = text.text_projection
    config: dict[str, Any] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": width,
        "heads": blocks[0].attn.num_heads if len(blocks) else 8,
        "pool_type": model.text_pool_type if flat else text.pool_type,
        "eos_id": model.text_eos_id if flat else text.eos_id,
        "no_causal_mask": text.attn_mask is None,
        "proj_type": "none" if projection is None else "linear",
        "proj_bias": isinstance(projection, nn.Linear) and projection.bias is not None,
        **_blocks(text.transformer, text.ln_final),
    }
    if not flat:
        config |= {"embed_cls": text.cls_emb is not None, "pad_id": text.pad_id, "output_tokens": text.output_tokens}
    return config


def _decoder(decoder: Any) -> dict[str, Any]:
    return {
        "context_length": decoder.context_length,
        "width": decoder.width,
        "heads": decoder.resblocks[0].attn.num_heads,
        "layers": decoder.layers,
        "ls_init_value": _layer_scale(decoder.resblocks[0]),
    }


def _blocks(transformer: Any, final_norm: nn.Module) -> dict[str, Any]:
    """What the blocks of a transformer show, in the words that both towers' configs share."""
    config: dict[str, Any] = {"layers": len(transformer.resblocks)}
    if not len(transformer.resblocks):
        return config
    block = transformer.resblocks[0]
    inner, outer = block.mlp.c_fc.in_features, block.mlp.c_fc.out_features
    # The constructor rounds `width * ratio` down; half a unit more is safe from that.
    config["mlp_ratio"] = outer / inner if outer % inner == 0 else (outer + 0.5) / inner
    config["ls_init_value"] = _layer_scale(block)
    if isinstance(final_norm, nn.LayerNorm) and final_norm.eps != 1e-5:
        config["norm_kwargs"] = {"eps": final_norm.eps}
    activation = block.mlp.gelu
    if isinstance(activation, nn.GELU) and activation.approximate != "none":
        config["act_kwargs"] = {"approximate": activation.approximate}
    if isinstance(block, CustomResidualAttentionBlock) and isinstance(block.attn, Attention):
        config |= {
            "block_type": "custom",
            "qk_norm": not isinstance(block.attn.ln_q, nn.Identity),
            "scaled_cosine_attn": block.attn.scaled_cosine,
            "scale_heads": block.attn.scale_heads,
            "scale_attn_inner": not isinstance(block.attn.ln_inner, nn.Identity),
            "scale_attn": not isinstance(block.ln_attn, nn.Identity),
            "scale_fc": not isinstance(block.mlp.ln, nn.Identity),
        }
    return config


def _layer_scale(block: Any) -> float | None:
    return _ANY_INITIAL_VALUE if isinstance(block.ls_1, LayerScale) else None


def _precision(model: nn.Module) -> str:
    """open_clip's name of a precision, from types: mixed ones keep their norms in float32."""
    dtypes = {parameter.dtype for parameter in model.parameters()}
    for dtype, short in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        if dtype in dtypes:
            mixed = any(isinstance(child, LayerNormFp32) for child in model.modules()) or torch.float32 in dtypes
            return short if mixed else f"pure_{short}"
    return "fp32"


def _square(size: Any) -> Any:
    """A size as configs write it: one number when both sides are equal."""
    if isinstance(size, list | tuple):
        return int(size[0]) if size[0] == size[1] else tuple(int(side) for side in size)
    return int(size)
