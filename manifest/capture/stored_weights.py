"""What of a checkpoint's bytes goes on record: its files, and its tensors with the digest of each.

All of it is read back from the file that was written. What architecture the weights are of is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future

from manifest.checkpoint import Checkpoint
from manifest.digests import weights_digest
from manifest.errors import ArchitectureError
from manifest.schema.document import File, TensorRecord, Weights


def require_listed(checkpoint: Checkpoint) -> None:
    """A manifest vouches for all weights, so all of them must have values."""
    if checkpoint.unlisted:
        name, kind = next(iter(checkpoint.unlisted.items()))
        raise ArchitectureError(f"Tensor {name!r} is {kind}, expected one with values; save it as a plain tensor.")


def files(checkpoint: Checkpoint, name: str, digests: Future[list[tuple[str, str]]]) -> list[File]:
    """The checkpoint's files; one by itself gets the name that it will have."""
    alone = len(checkpoint.files) == 1 and not checkpoint.path.is_dir()
    return [
        File(path=name if alone else file.name, size=len(file.mapping), blake3=blake3, sha256=sha256)
        for file, (blake3, sha256) in zip(checkpoint.files, digests.result(), strict=True)
    ]


def tensor_records(checkpoint: Checkpoint) -> list[TensorRecord]:
    aliases = checkpoint.aliases()
    stored_names = {name: stored for stored, name in checkpoint.view.names.items()}
    return [
        TensorRecord(
            name=name,
            shape=list(stored.shape),
            dtype=stored.dtype,
            digest=checkpoint.digest(stored),
            alias=aliases.get(name),
            stored=stored_names.get(name),
        )
        for name, stored in checkpoint.tensors.items()
    ]


def weights_record(checkpoint: Checkpoint, tensors: Sequence[TensorRecord]) -> Weights:
    stored = checkpoint.tensors
    return Weights(
        digest=weights_digest((tensor.name, tensor.digest) for tensor in tensors),
        parameters=sum(stored[tensor.name].numel for tensor in tensors if tensor.alias is None),
        dtypes=dict(sorted(Counter(tensor.dtype for tensor in tensors).items())),
        tensors=list(tensors),
    )
