"""What a manifest says, as names and words: for a terminal, and for a model card."""

from __future__ import annotations

from manifest.rendering.lineage import training_facts
from manifest.schema.document import Manifest, Preprocess, Tokenizer
from manifest.schema.vocabulary import Status, activation_words, training_words


def facts(
    manifest: Manifest, name: str | None = None, other: str | None = None, *, written: bool = False
) -> dict[str, str]:
    """What a manifest says, without its lists of tensors and sketches; nothing of it is escaped.

    Args:
        manifest: The manifest.
        name: What the checkpoint beside it is called; as the manifest calls it when None.
        other: What shows that it is another file than the one described, if anything does.
        written: Whether the manifest was just written, of bytes that were read.
    """
    architecture, weights = manifest.architecture, manifest.weights
    files = manifest.checkpoint.files
    first = files[0].path if len(files) == 1 else None
    name = name or files[0].path
    renamed = f" (saved as {first})" if first not in (None, name) else ""
    signer = manifest.signer[:16] if manifest.signer else "nobody"
    signer += ", as the manifest says; not checked" if manifest.signer and not written else ""
    there = [(part.role, part.training) for part in manifest.components if part.status is not Status.ABSENT]
    quick = architecture.config.get("quick_gelu")
    return {
        "checkpoint": f"{name}{renamed}: {manifest.checkpoint.container}, {sum(file.size for file in files):,} bytes"
        + (f" in {len(files)} files" if len(files) > 1 else ""),
        "bytes": "those of the file" if written else other or "of this size; not read, which `manifest verify` does",
        "saved": f"{manifest.created} by {manifest.tool.name} {manifest.tool.version}, in {architecture.mode} mode",
        "signed by": signer,
        "model": f"{architecture.family} {architecture.name or '(no registered name)'} ({architecture.class_name})",
        "precision": architecture.precision,
        "activations": activation_words(architecture.activations)
        + (f"  (quick_gelu: {quick})" if quick is not None else ""),
        "arguments": ", ".join(f"{name}={value!r}" for name, value in architecture.arguments.items()) or "defaults",
        "preprocess": _preprocess_words(architecture.preprocess),
        "tokenizer": _tokenizer_words(architecture.tokenizer),
        "weights": f"{weights.parameters:,} parameters in {len(weights.tensors)} tensors "
        f"({', '.join(f'{count} {dtype}' for dtype, count in weights.dtypes.items())})",
        "training": training_words(there) or "no components",
        "digest": weights.digest,
        "started from": ", ".join(
            filter(None, [manifest.provenance.pretrained, *(parent.name for parent in manifest.provenance.parents)])
        )
        or "nothing on record",
        **training_facts(manifest.provenance),
        "libraries": ", ".join(f"{name} {version}" for name, version in manifest.environment.libraries.items()),
    }


def _preprocess_words(record: Preprocess | None) -> str:
    if record is None:
        return "none"
    size = "×".join(map(str, record.size))
    crop = f", crop {record.crop_pct:.3g}" if record.crop_pct else ""
    return (
        f"{size}, {record.resize_mode}{crop}, {record.interpolation}, "
        f"mean {_numbers(record.mean)}, std {_numbers(record.std)}"
    )


def _tokenizer_words(record: Tokenizer | None) -> str:
    if record is None:
        return "none"
    missing = "" if record.digest else ", vocabulary not at hand when saved"
    return f"{record.class_name} {record.name or ''}".strip() + f", {record.context_length} tokens{missing}"


def _numbers(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
