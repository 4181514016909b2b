"""Another process, where models are run wrongly, or rightly on other arithmetic: `python answering.py QUESTION.json`.

Faults are injected by means of their own, and not by those of the hypotheses that are to find them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as transforms

import manifest

sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures" / "digits_clip"))
import evaluate

FUSED = "_scaled_dot_product_flash_attention_for_cpu"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Activation(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def activated(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
            block.mlp.gelu = Activation(function)

    return change


def rounded(dtype: torch.dtype) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype).float()

    return change


def autocast(model: Any) -> None:
    for name in ("encode_image", "encode_text"):
        plain = getattr(model, name)

        def under(*args: Any, plain: Any = plain, **kwargs: Any) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return plain(*args, **kwargs).float()

        setattr(model, name, under)


def tf32(model: Any) -> None:
    """Factors of products rounded to eleven significant bits."""

    class Cut(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if str(func).split(".")[1] in ("mm", "addmm", "bmm", "convolution", FUSED):
                args = [self.cut(each) for each in args]
            return func(*args, **(kwargs or {}))

        @staticmethod
        def cut(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or value.ndim < 2:
                return value
            mantissa, exponent = torch.frexp(value)
            return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)

    for name in ("encode_image", "encode_text"):
        plain = getattr(model, name)

        def under(*args: Any, plain: Any = plain, **kwargs: Any) -> torch.Tensor:
            with Cut():
                return plain(*args, **kwargs)

        setattr(model, name, under)


def epsilon(value: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = value

    return change


def twice_the_heads(model: Any) -> None:
    for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
        block.attn.num_heads *= 2
        block.attn.head_dim //= 2


def averaged(model: Any) -> None:
    model.visual.pool_type = "avg"


def normalised(model: Any) -> None:
    for name in ("encode_image", "encode_text"):
        plain = getattr(model, name)
        setattr(model, name, lambda x, plain=plain, **_: functional.normalize(plain(x), dim=-1))


def scale_as_it_is(model: Any) -> None:
    model.logit_scale.data = model.logit_scale.data.log()


def fresh_text(model: Any) -> None:
    """The text tower of a model of the same kind that was never trained."""
    torch.manual_seed(1)
    fresh: Any = open_clip.create_model("ViT-B-32" if model.transformer.width == 512 else evaluate.MODEL)
    for name in ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"):
        setattr(model, name, getattr(fresh, name))


def zeroed_column(model: Any) -> None:
    model.visual.proj.data[:, 3] = 0


def swapped_columns(model: Any) -> None:
    model.visual.proj.data[:, [3, 4]] = model.visual.proj.data[:, [4, 3]]


def one_weight(model: Any) -> None:
    model.visual.transformer.resblocks[1].mlp.c_fc.weight.data[2, 3] += 1e-2


def preparing(side: int, **changed: Any) -> Callable[[Image.Image], torch.Tensor]:
    """OpenAI's preprocessing, or what is made of it."""
    settings = {
        "larger": 1.0,
        "mode": "bicubic",
        "squash": False,
        "order": "RGB",
        "factor": 1.0,
        "mean": MEAN,
        "std": STD,
        **changed,
    }
    resized = round(side * settings["larger"])

    def prepare(image: Image.Image) -> torch.Tensor:
        mode = transforms.InterpolationMode(settings["mode"])
        size = [side, side] if settings["squash"] else resized
        image = transforms.center_crop(transforms.resize(image.convert("RGB"), size, mode), side)
        pixels = transforms.to_tensor(image) * settings["factor"]
        if settings["order"] == "BGR":
            pixels = pixels[[2, 1, 0]]
        return transforms.normalize(pixels, settings["mean"], settings["std"])

    return prepare


def shortened(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Prompts cut to so many tokens, the last of which ends the text, and padded again."""
    rows = []
    for row in tokens.tolist():
        words = [token for token in row if token]
        kept = words if len(words) <= length else [*words[: length - 1], words[-1]]
        rows.append(kept + [0] * (len(row) - len(kept)))
    return torch.tensor(rows)


def untouched(model: Any) -> None:
    """No fault."""


MODEL_FAULTS: dict[str, Callable[[Any], None]] = {
    "quick gelu": activated(lambda x: x * torch.sigmoid(1.702 * x)),
    "gelu": activated(functional.gelu),
    "gelu tanh": activated(lambda x: functional.gelu(x, approximate="tanh")),
    "relu": activated(functional.relu),
    "silu": activated(functional.silu),
    "bf16 rounded": rounded(torch.bfloat16),
    "fp16 rounded": rounded(torch.float16),
    "bf16 autocast": autocast,
    "tf32": tf32,
    "eps 1e-3": epsilon(1e-3),
    "heads": twice_the_heads,
    "pooling": averaged,
    "normalised": normalised,
    "logit scale": scale_as_it_is,
    "fresh text tower": fresh_text,
    "zeroed column": zeroed_column,
    "swapped columns": swapped_columns,
    "one weight": one_weight,
}
IMAGE_FAULTS: dict[str, dict[str, Any]] = {
    "mean and std": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "not normalised": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    "interpolation": {"mode": "bilinear"},
    "squashed": {"squash": True},
    "size": {"larger": 8 / 7},
    "channel order": {"order": "BGR"},
    "not over 255": {"factor": 255.0},
}
TOKEN_FAULTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "short context": lambda tokens: shortened(tokens, 8),
    "no start token": lambda tokens: torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1),
}


@lru_cache
def tokenizer_of(name: str, length: int) -> Any:
    """Reading its vocabulary takes longer than asking the model."""
    return open_clip.get_tokenizer(name, context_length=length)


def answers(checkpoint: Path, name: str, fault: str) -> Any:
    """What a model with a fault says."""
    model: Any = manifest.load(checkpoint, verify="none")
    preprocess = preparing(open_clip_size(model), **IMAGE_FAULTS.get(fault, {}))
    tokenizer = tokenizer_of(name, model.context_length)
    change = TOKEN_FAULTS.get(fault, lambda tokens: tokens)
    MODEL_FAULTS.get(fault, untouched)(model)
    return manifest.answer(model, checkpoint, preprocess=preprocess, tokenizer=lambda texts: change(tokenizer(texts)))


def open_clip_size(model: Any) -> int:
    size = model.visual.image_size
    return int(size[0] if isinstance(size, tuple) else size)


@contextmanager
def arithmetic(model: Any, threads: int, onednn: bool, batch: int | None) -> Iterator[None]:
    """Other threads and kernels, and batches of another size."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.backends.mkldnn.enabled = onednn
    plain = {name: getattr(model, name) for name in ("encode_image", "encode_text")}
    if batch is not None:
        for name, call in plain.items():
            setattr(
                model,
                name,
                lambda x, normalize=False, call=call: torch.cat([call(part, normalize) for part in x.split(batch)]),
            )
    try:
        yield
    finally:
        for name, call in plain.items():
            setattr(model, name, call)
        torch.backends.mkldnn.enabled = True
        torch.set_num_threads(before)


def faultless(checkpoint: Path, counts: list[int], batches: list[int | None]) -> Iterator[tuple[str, Any]]:
    """What the model says on other arithmetic."""
    model: Any = manifest.load(checkpoint, verify="none")
    for threads in counts:
        for onednn in (True, False):
            for batch in batches:
                with arithmetic(model, threads, onednn, batch):
                    yield f"threads {threads}, oneDNN {onednn}, batch {batch}", manifest.answer(model, checkpoint)


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    evaluate.register_model()
    torch.set_num_threads(asked.get("threads", 1))
    checkpoint = Path(asked["checkpoint"])
    if "faults" in asked:
        found = {fault: answers(checkpoint, asked["name"], fault) for fault in asked["faults"]}
    else:
        found = dict(faultless(checkpoint, asked["arithmetic"]["threads"], asked["arithmetic"]["batches"]))
    written = {name: each.model_dump(mode="json") for name, each in found.items()}
    Path(asked["output"]).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
