"""Fingerprints model checkpoints and holds them to account.

The names below are imported when they are first used, so that `import manifest` costs nothing and the static commands
never import torch. Each function shows an example: there, `manifest` is imported, `ckpt.pt` is a trained CLIP that
`manifest.save` wrote with the key `release.key`, and `weights.safetensors` is one without a manifest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from manifest.version import __version__ as __version__

if TYPE_CHECKING:
    from manifest.builders.create_model import create_model as create_model
    from manifest.builders.create_model import create_model_and_transforms as create_model_and_transforms
    from manifest.determinism.switches import dataloader_generator as dataloader_generator
    from manifest.determinism.switches import deterministic as deterministic
    from manifest.determinism.switches import seed_worker as seed_worker
    from manifest.probes.inputs import Probe as Probe
    from manifest.training.interception import recording as recording
    from manifest.training.torch_save import torch_save as torch_save
    from manifest.workflows.auditing import audit as audit
    from manifest.workflows.comparing import answer as answer
    from manifest.workflows.comparing import compare as compare
    from manifest.workflows.creating import create as create
    from manifest.workflows.diagnosing import diagnose as diagnose
    from manifest.workflows.differing import diff as diff
    from manifest.workflows.doctoring import doctor as doctor
    from manifest.workflows.loading import load as load
    from manifest.workflows.loading import load_transforms as load_transforms
    from manifest.workflows.resuming import load_checkpoint as load_checkpoint
    from manifest.workflows.saving import save as save
    from manifest.workflows.saving_distributed import describe_distributed as describe_distributed
    from manifest.workflows.saving_distributed import save_distributed as save_distributed
    from manifest.workflows.verifying import verify as verify

_HOMES = {
    "Probe": "manifest.probes.inputs",
    "answer": "manifest.workflows.comparing",
    "audit": "manifest.workflows.auditing",
    "compare": "manifest.workflows.comparing",
    "create_model": "manifest.builders.create_model",
    "create_model_and_transforms": "manifest.builders.create_model",
    "create": "manifest.workflows.creating",
    "dataloader_generator": "manifest.determinism.switches",
    "describe_distributed": "manifest.workflows.saving_distributed",
    "deterministic": "manifest.determinism.switches",
    "diagnose": "manifest.workflows.diagnosing",
    "diff": "manifest.workflows.differing",
    "doctor": "manifest.workflows.doctoring",
    "load": "manifest.workflows.loading",
    "load_checkpoint": "manifest.workflows.resuming",
    "load_transforms": "manifest.workflows.loading",
    "recording": "manifest.training.interception",
    "save": "manifest.workflows.saving",
    "save_distributed": "manifest.workflows.saving_distributed",
    "seed_worker": "manifest.determinism.switches",
    "torch_save": "manifest.training.torch_save",
    "verify": "manifest.workflows.verifying",
}

_LIBRARIES = {
    "lightning": "manifest.training.lightning",
    "timm": "manifest.builders.timm",
    "torchvision": "manifest.builders.torchvision",
    "transformers": "manifest.training.transformers",
}
"""Modules, by the names of the libraries whose calls are in them."""

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LIBRARIES:
        return import_module(_LIBRARIES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'manifest' has no attribute {name!r}; it has {', '.join(__dir__())}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_LIBRARIES])
