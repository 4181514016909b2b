"""`open_clip_train.main` under torchrun without a GPU.

It names a device to DistributedDataParallel, which takes none for a CPU.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

import torch

_Parallel = torch.nn.parallel.DistributedDataParallel


class OnCpu(_Parallel):  # type: ignore[misc, valid-type]
    """The same without `device_ids`."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        del device_ids
        super().__init__(module, **kwargs)


if __name__ == "__main__":
    torch.nn.parallel.DistributedDataParallel = OnCpu  # type: ignore[misc]
    sys.argv[0] = "open_clip_train.main"
    runpy.run_module("open_clip_train.main", run_name="__main__", alter_sys=True)
