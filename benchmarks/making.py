"""Makes the files to measure on, in a process of its own since that takes torch.

The weights are random: they weigh as much as trained ones.

python benchmarks/making.py model NAME PRECISION PATH [KEY]
python benchmarks/making.py common LIBRARY NAME PATH
python benchmarks/making.py bare NAME float32|float16 PATH
python benchmarks/making.py small PATH [KEY]
python benchmarks/making.py experts PATH zip|legacy
python benchmarks/making.py index CKPT COUNT PATH
"""

from __future__ import annotations

import sys

_LAYERS, _EXPERTS = 40, 64
_OF_LAYER = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{which}_proj.weight" for which in "qkvo"),
    "mlp.gate.weight",
    "mlp.gate.e_score_correction_bias",
    *(f"mlp.experts.{expert}.{which}_proj.weight" for expert in range(_EXPERTS) for which in ("gate", "up", "down")),
)


def model(name: str, precision: str, path: str, key: str | None = None) -> None:
    """A model with its manifest, signed where there is a key."""
    import manifest

    manifest.save(manifest.create_model(name, precision=precision), path, key=key, golden=False)


def common(library: str, name: str, path: str) -> None:
    """A model of any library, with golden outputs in its manifest."""
    import manifest

    manifest.save(manifest.create_model(name, family=library), path)


def small(path: str, key: str | None = None) -> None:
    """A model of 20 MB with its manifest, signed where there is a key."""
    import manifest

    manifest.save(manifest.create_model("resnet10t", family="timm"), path, key=key, golden=False)


def bare(name: str, precision: str, path: str) -> None:
    """The weights of a model alone, moved a little from where they began, as training does."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = open_clip.create_model(name).state_dict()
    kind = getattr(torch, precision)
    moved = {name: (value + 0.01 * torch.randn_like(value)).to(kind) for name, value in state.items()}
    if path.endswith(".safetensors"):
        save_file({name: value.contiguous() for name, value in moved.items()}, path)
    else:
        torch.save(moved, path)


def experts(path: str, form: str) -> None:
    """8,000 tensors with the names of a mixture of experts, small, since only their names are read."""
    import torch

    names = [f"model.layers.{layer}.{name}" for layer in range(_LAYERS) for name in _OF_LAYER]
    state = {name: torch.randn(8, 8) for name in names}
    torch.save(state, path, _use_new_zipfile_serialization=form == "zip")


def index(checkpoint: str, count: str, path: str) -> None:
    """An index of a checkpoint and of others like it, with random numbers as trained ones have them."""
    from collections.abc import Iterator
    from dataclasses import replace
    from pathlib import Path

    import numpy as np

    from manifest.kinship.index import add
    from manifest.kinship.subjects import Subject, opened

    subject, random = opened(checkpoint), np.random.default_rng(0)

    def others() -> Iterator[Subject]:
        yield replace(subject, name=Path(checkpoint).name)
        for number in range(1, int(count)):
            tensors = {}
            for name, tensor in subject.tensors.items():
                sketch = tensor.sketch
                if sketch is not None:
                    norm = sketch.norm * random.uniform(0.5, 2)
                    sketch = replace(sketch, norm=norm, numbers=norm * random.standard_normal(sketch.numbers.size))
                tensors[name] = replace(tensor, digest=f"blake3:{number:064x}", sketch=sketch)
            yield replace(subject, name=f"runs/{number}.pt", tensors=tensors, weights=f"blake3:{number:064x}")

    add(Path(path), others())
    subject.close()


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    {"model": model, "common": common, "bare": bare, "small": small, "experts": experts, "index": index}[what](
        *arguments
    )
