"""Fingerprints model checkpoints and holds them to account.

The names below are imported when they are first used, so that `import manifest` costs nothing and the static commands
never import torch. Each function shows an example: there, `manifest` is imported, `ckpt.pt` is a trained CLIP that
`manifest.save` wrote with the key `release.key`, and `weights.safetensors` is one without a manifest.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from manifest.version import __version__ as __version__

if TYPE_CHECKING:
    from manifest.builders.create_model import create_model as create_model
    from manifest.builders.create_model import create_model_and_transforms as create_model_and_transforms
    from manifest.checks.policy import Policy as Policy
    from manifest.determinism.switches import dataloader_generator as dataloader_generator
    from manifest.determinism.switches import deterministic as deterministic
    from manifest.determinism.switches import seed_worker as seed_worker
    from manifest.errors import ArchitectureError as ArchitectureError
    from manifest.errors import CheckpointError as CheckpointError
    from manifest.errors import CreationMismatchError as CreationMismatchError
    from manifest.errors import DocumentError as DocumentError
    from manifest.errors import GroupError as GroupError
    from manifest.errors import HubError as HubError
    from manifest.errors import IncompleteModelError as IncompleteModelError
    from manifest.errors import InputError as InputError
    from manifest.errors import KeyFileError as KeyFileError
    from manifest.errors import LibraryMissingError as LibraryMissingError
    from manifest.errors import ManifestError as ManifestError
    from manifest.errors import NewerSchemaError as NewerSchemaError
    from manifest.errors import NoManifestError as NoManifestError
    from manifest.errors import NoManifestWarning as NoManifestWarning
    from manifest.errors import NotGrantedError as NotGrantedError
    from manifest.errors import NotRebuildableError as NotRebuildableError
    from manifest.errors import NoWeightsError as NoWeightsError
    from manifest.errors import PassphraseMissingError as PassphraseMissingError
    from manifest.errors import SignatureError as SignatureError
    from manifest.errors import SourceChangedError as SourceChangedError
    from manifest.errors import StorageError as StorageError
    from manifest.errors import UnknownModelError as UnknownModelError
    from manifest.hub.downloading import pull as pull
    from manifest.hub.uploading import push as push
    from manifest.kinship.relating import add_to_index as add_to_index
    from manifest.kinship.relating import relate as relate
    from manifest.kinship.relating import relatives as relatives
    from manifest.probes.inputs import Probe as Probe
    from manifest.schema.document import Manifest as Manifest
    from manifest.schema.report import Finding as Finding
    from manifest.schema.report import Report as Report
    from manifest.schema.report import VerificationError as VerificationError
    from manifest.storage.transaction import remove_manifest as remove_manifest
    from manifest.training.recording import recording as recording
    from manifest.training.torch_save import torch_save as torch_save
    from manifest.workflows.answering import answer as answer
    from manifest.workflows.auditing import audit as audit
    from manifest.workflows.comparing import compare as compare
    from manifest.workflows.converting import convert as convert
    from manifest.workflows.creating import create as create
    from manifest.workflows.creating import describe as describe
    from manifest.workflows.diagnosing import diagnose as diagnose
    from manifest.workflows.differing import diff as diff
    from manifest.workflows.doctoring import doctor as doctor
    from manifest.workflows.lineage import lineage as lineage
    from manifest.workflows.loading import load as load
    from manifest.workflows.loading import load_transforms as load_transforms
    from manifest.workflows.repairing import repair as repair
    from manifest.workflows.resuming import load_checkpoint as load_checkpoint
    from manifest.workflows.saving import save as save
    from manifest.workflows.saving_distributed import describe_distributed as describe_distributed
    from manifest.workflows.saving_distributed import save_distributed as save_distributed
    from manifest.workflows.signing import sign as sign
    from manifest.workflows.verifying import verify as verify

_HOMES = {
    "add_to_index": "manifest.kinship.relating",
    "answer": "manifest.workflows.answering",
    "ArchitectureError": "manifest.errors",
    "audit": "manifest.workflows.auditing",
    "CheckpointError": "manifest.errors",
    "compare": "manifest.workflows.comparing",
    "convert": "manifest.workflows.converting",
    "create": "manifest.workflows.creating",
    "create_model": "manifest.builders.create_model",
    "create_model_and_transforms": "manifest.builders.create_model",
    "CreationMismatchError": "manifest.errors",
    "dataloader_generator": "manifest.determinism.switches",
    "describe": "manifest.workflows.creating",
    "describe_distributed": "manifest.workflows.saving_distributed",
    "deterministic": "manifest.determinism.switches",
    "diagnose": "manifest.workflows.diagnosing",
    "diff": "manifest.workflows.differing",
    "doctor": "manifest.workflows.doctoring",
    "DocumentError": "manifest.errors",
    "Finding": "manifest.schema.report",
    "GroupError": "manifest.errors",
    "HubError": "manifest.errors",
    "IncompleteModelError": "manifest.errors",
    "InputError": "manifest.errors",
    "KeyFileError": "manifest.errors",
    "PassphraseMissingError": "manifest.errors",
    "LibraryMissingError": "manifest.errors",
    "lineage": "manifest.workflows.lineage",
    "load": "manifest.workflows.loading",
    "load_checkpoint": "manifest.workflows.resuming",
    "load_transforms": "manifest.workflows.loading",
    "Manifest": "manifest.schema.document",
    "ManifestError": "manifest.errors",
    "NewerSchemaError": "manifest.errors",
    "NoManifestError": "manifest.errors",
    "NoManifestWarning": "manifest.errors",
    "NoWeightsError": "manifest.errors",
    "NotGrantedError": "manifest.errors",
    "NotRebuildableError": "manifest.errors",
    "Policy": "manifest.checks.policy",
    "Probe": "manifest.probes.inputs",
    "pull": "manifest.hub.downloading",
    "push": "manifest.hub.uploading",
    "recording": "manifest.training.recording",
    "relate": "manifest.kinship.relating",
    "relatives": "manifest.kinship.relating",
    "remove_manifest": "manifest.storage.transaction",
    "repair": "manifest.workflows.repairing",
    "Report": "manifest.schema.report",
    "save": "manifest.workflows.saving",
    "save_distributed": "manifest.workflows.saving_distributed",
    "seed_worker": "manifest.determinism.switches",
    "sign": "manifest.workflows.signing",
    "SignatureError": "manifest.errors",
    "SourceChangedError": "manifest.errors",
    "StorageError": "manifest.errors",
    "torch_save": "manifest.training.torch_save",
    "UnknownModelError": "manifest.errors",
    "VerificationError": "manifest.schema.report",
    "verify": "manifest.workflows.verifying",
}
"""Modules, by the public names that are in them."""

_MODULES = {
    "fleet": "manifest.fleet",
    "lightning": "manifest.training.lightning",
    "open_clip": "manifest.builders.open_clip",
    "timm": "manifest.builders.timm",
    "torchvision": "manifest.builders.torchvision",
    "transformers": "manifest.training.transformers",
}
"""Modules by their public names: those of libraries whose calls are in them, and a part of this package."""

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES and name not in _HOMES:
        raise AttributeError(f"module 'manifest' has no attribute {name!r}; it has {', '.join(__dir__())}")
    try:
        return import_module(_MODULES[name]) if name in _MODULES else getattr(import_module(_HOMES[name]), name)
    except ImportError as error:
        missing = import_module("manifest.installing").what_is_missing(error)
        if missing is None:
            raise
        # `hasattr`, `help` and `inspect.getmembers` take this for a name that is not there, and go on.
        raise AttributeError(f"manifest.{name} {missing}") from None


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext manifest`: record what a notebook saves from here on, by the variables that `manifest run` sets."""
    del shell
    settings = import_module("manifest.training.settings").RecordSettings.of({**os.environ, "MANIFEST_RECORD": "1"})
    import_module("manifest.training.recording").recording.start(**settings.keywords())


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext manifest`: stop recording, once all manifests are written."""
    del shell
    import_module("manifest.training.recording").recording.stop()


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
