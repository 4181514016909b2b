"""What of a checkpoint's bytes goes on record: its files, and its tensors with the digest and the sketch of each.

All of it is read back from the file that was written. What architecture the weights are of is not known here.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future

from manifest.checkpoint import Checkpoint
from manifest.digests import weights_digest
from manifest.errors import ArchitectureError
from manifest.kinship.sketch import Sketch, digest_and_sketch
from manifest.kinship.stored import written
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


def weights_record(checkpoint: Checkpoint, *, kinship: bool) -> Weights:
    """The tensors of a checkpoint, read in one pass.

    Args:
        checkpoint: The weights.
        kinship: Whether their sketches go on record, too.
    """
    aliases = checkpoint.aliases()
    stored_names = {name: stored for stored, name in checkpoint.view.names.items()}
    sketches: dict[str, Sketch | None] = {}
    tensors = []
    for name, stored in checkpoint.tensors.items():
        if kinship and name not in aliases:
            digest, sketches[name] = digest_and_sketch(checkpoint, stored)
        else:
            digest = checkpoint.digest(stored)
        tensors.append(
            TensorRecord(
                name=name,
                shape=list(stored.shape),
                dtype=stored.dtype,
                digest=digest,
                alias=aliases.get(name),
                stored=stored_names.get(name),
            )
        )
    return Weights(
        digest=weights_digest((each.name, each.digest) for each in tensors),
        parameters=sum(checkpoint.tensors[each.name].numel for each in tensors if each.alias is None),
        dtypes=dict(sorted(Counter(each.dtype for each in tensors).items())),
        tensors=tensors,
        kinship=written(sketches),
    )
