"""Static reading of checkpoints: names, types, shapes and byte ranges of their tensors.

Nothing here imports torch, unpickles, or runs anything out of a file. A container is one file of this package and one
entry in the table of `opening`.
"""

from manifest.checkpoint.opening import Checkpoint, open_address, open_checkpoint, require_undamaged
from manifest.checkpoint.tensors import CompositeTensor, StoredTensor, StridedTensor
from manifest.checkpoint.views import View

__all__ = [
    "Checkpoint",
    "CompositeTensor",
    "StoredTensor",
    "StridedTensor",
    "View",
    "open_address",
    "open_checkpoint",
    "require_undamaged",
]
