"""Operators that need not give the same result twice, as PyTorch documents them.

Source: the documentation of `torch.use_deterministic_algorithms` in torch 2.14, by the names of ATen's operators. Those
that draw random numbers are told by torch itself, by the tag `nondeterministic_seeded`.
"""

from __future__ import annotations

DETERMINISTIC_WHEN_ASKED = {
    "aten.convolution": "on CUDA, where cuDNN chooses the algorithm",
    "aten.cudnn_convolution": "on CUDA, where cuDNN chooses the algorithm",
    "aten.cumsum": "on CUDA, of floating-point numbers",
    "aten.gather": "on CUDA, with gradients",
    "aten.index_add": "on CUDA",
    "aten.index_copy": "on CPU and CUDA",
    "aten.index_put": "with repeated indices",
    "aten.index_select": "on CUDA, with gradients",
    "aten.embedding": "on CUDA, with gradients",
    "aten.put": "when values are accumulated",
    "aten.repeat_interleave": "on CUDA, with gradients",
    "aten.scatter": "on CUDA",
    "aten.scatter_add": "on CUDA",
    "aten.scatter_reduce": "on CUDA, for sums and means",
    "aten.replication_pad2d": "on CUDA, with gradients",
    "aten.max_pool3d_with_indices": "on CUDA, with gradients",
}
"""Operators that `torch.use_deterministic_algorithms(True)` makes deterministic, and when they are not."""

NEVER_DETERMINISTIC = {
    "aten._adaptive_avg_pool2d": "on CUDA, with gradients",
    "aten._adaptive_avg_pool3d": "on CUDA, with gradients",
    "aten.adaptive_max_pool2d": "on CUDA, with gradients",
    "aten.avg_pool3d": "on CUDA, with gradients",
    "aten.bincount": "on CUDA, with weights",
    "aten.grid_sampler_2d": "on CUDA",
    "aten.grid_sampler_3d": "on CUDA",
    "aten.histc": "on CUDA",
    "aten.max_unpool2d": "everywhere",
    "aten.max_unpool3d": "everywhere",
    "aten.median": "on CUDA, where indices are returned",
    "aten.nll_loss2d_forward": "on CUDA",
    "aten.reflection_pad1d": "on CUDA, with gradients",
    "aten.reflection_pad2d": "on CUDA, with gradients",
    "aten.reflection_pad3d": "on CUDA, with gradients",
    "aten.upsample_bicubic2d": "on CUDA, with gradients",
    "aten.upsample_bilinear2d": "on CUDA, with gradients",
    "aten.upsample_linear1d": "on CUDA, with gradients",
    "aten.upsample_trilinear3d": "on CUDA, with gradients",
}
"""Operators that raise under `torch.use_deterministic_algorithms(True)`, and when."""


def when_not_deterministic(operator: str) -> tuple[str, bool] | None:
    """When an operator is documented not to be deterministic, and whether it can be made so; None where it is.

    Args:
        operator: As in a trace: `aten.cumsum.default`.
    """
    name = ".".join(operator.split(".")[:2])
    if name in DETERMINISTIC_WHEN_ASKED:
        return DETERMINISTIC_WHEN_ASKED[name], True
    if name in NEVER_DETERMINISTIC:
        return NEVER_DETERMINISTIC[name], False
    return None
