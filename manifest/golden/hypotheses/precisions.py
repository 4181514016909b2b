"""Low precision: of weights, of autocast, of products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifest.families.protocol import Variant


def precisions() -> Iterator[Variant]:
    """Weights rounded or cast, computing under autocast, then products in a lower precision."""
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
