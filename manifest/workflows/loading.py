"""Loading: verify, rebuild the exact model, give it the mapped weights, and only then compare what it says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from torch import nn

from manifest.checks.rebuild import Rebuilder
from manifest.checks.target import VerificationTarget, open_target, run_checks
from manifest.errors import ArchitectureError
from manifest.families import family, remember
from manifest.families.protocol import Creation
from manifest.grants import granted
from manifest.neutral_process import neutral_process
from manifest.progress import Follower, followed
from manifest.schema.report import Severity, VerificationError
from manifest.schema.vocabulary import Status, role_words
from manifest.signing import Trusted
from manifest.storage.described import other_size
from manifest.storage.sidecars import described_checkpoint
from manifest.storage.transaction import read_manifest
from manifest.storage.trust_files import Trust, trusted_signers
from manifest.warning import warn
from manifest.workflows.verifying import static_rungs

Verify = Literal["full", "fast", "none"]


class Transforms(NamedTuple):
    """What turns photographs and prompts into a model's inputs."""

    preprocess: Any
    tokenizer: Any


@followed
def load(
    path: str | os.PathLike[str],
    *,
    key: Trusted = None,
    trust: Trust = None,
    verify: Verify = "full",
    device: str = "cpu",
    allow: Sequence[str] = (),
    state: str | None = None,
    progress: Follower = None,
) -> nn.Module:
    """The exact model that was saved, in eval mode.

    Its tensors are views of a private mapping of the file: nothing is unpickled, and training may write to them.

    Args:
        path: The checkpoint; its manifest and signature lie beside it.
        key: Public key of the signer that is trusted.
        trust: A trust file, which says whose signatures count; without it and without `key`, one that is found, as
            `manifest.verify` finds it.
        verify: `full` climbs the whole ladder, asking the model the first sample of its probe, and the others where
            that answer differs; `fast` checks trust, integrity, format and completeness; `none` checks
            nothing and still rebuilds exactly.
        device: Where the model goes once it is verified.
        allow: Modules of your own that may be imported to rebuild it, `["mypkg"]` for `mypkg` and all inside it, and
            scripts, `["src/train.py"]`, of which only what the model needs is run.
        state: Which model of several, by the keys that lead to its weights joined with dots: `state_dict_ema`.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.

    Returns:
        The model, of the class, the element types and the tied weights that were saved.

    Raises:
        VerificationError: The checkpoint does not keep its manifest's promise; the report says how.
        NoManifestError: There is no manifest to go by.
        InputError: The manifest describes no such model.

    Example:
        >>> import torch
        >>> model = manifest.load("ckpt.pt", key="release.pub")
        >>> model.encode_image(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """
    del progress  # `followed` takes it
    _, model = rebuilt(path, key=key, trust=trust, verify=verify, allow=allow, state=state)
    with neutral_process():
        return model.to(device)


def rebuilt(
    path: str | os.PathLike[str],
    *,
    key: Trusted,
    trust: Trust,
    verify: Verify,
    allow: Sequence[str],
    state: str | None = None,
) -> tuple[VerificationTarget, nn.Module]:
    """The model of `load`, still on the CPU, and the open checkpoint that was verified; the arguments are those."""
    if verify not in ("full", "fast", "none"):
        raise ArchitectureError(f"verify is {verify!r}, expected 'full', 'fast' or 'none'.")
    subject, rebuilder = open_target(path), Rebuilder(brief=True)
    if state is not None:
        subject = subject.meaning(state)
    with granted(allow):
        if verify != "none":
            # Nothing here unpickles the file.
            rungs = static_rungs(trusted_signers(key, trust), code=Severity.WARNING) + (
                rebuilder.rungs() if verify == "full" else []
            )
            report = run_checks(subject, rungs)
            if not report.passed:
                raise VerificationError.of(report)
        model = rebuilder.model(subject)
    _warn_of_absent(subject)
    remember(model, _creation(subject))
    return subject, model


def load_transforms(path: str | os.PathLike[str]) -> Transforms:
    """The preprocessing and the tokenizer that a checkpoint was saved with.

    Returns:
        `preprocess`, which takes a PIL image of any size to float32 of shape (3, height, width), and `tokenizer`, which
        takes a list of prompts to int64 of shape (prompts, context length). Either is None where the model has none.

    Raises:
        ArchitectureError: The tokenizer's vocabulary is not at hand; the message says how to get it.

    Example:
        >>> from PIL import Image
        >>> preprocess, tokenizer = manifest.load_transforms("ckpt.pt")
        >>> preprocess(Image.new("RGB", (640, 480))).shape
        torch.Size([3, 32, 32])
        >>> tokenizer(["a photo of a cat", "a photo of a dog"]).shape
        torch.Size([2, 8])
    """
    architecture = read_manifest(described_checkpoint(path)).architecture
    preprocess, tokenizer = family(architecture.family).transforms(architecture)
    if tokenizer is None and architecture.tokenizer is not None:
        name = architecture.tokenizer.name or architecture.tokenizer.class_name
        raise ArchitectureError(
            f"The tokenizer {name!r} is not on this machine; install `transformers` and fetch it once with "
            f"`open_clip.get_tokenizer({architecture.name!r})`."
        )
    return Transforms(preprocess, tokenizer)


def _warn_of_absent(subject: VerificationTarget) -> None:
    absent = [role_words(part.role) for part in subject.manifest.components if part.status is Status.ABSENT]
    if absent:
        warn(f"{subject.path.name} is partial by design: its {', '.join(absent)} is absent and filled with zeros.")


def _creation(subject: VerificationTarget) -> Creation:
    """So that a model that is loaded, trained on and saved again names its parent."""
    manifest = subject.manifest
    architecture = manifest.architecture
    # Of a file of another size, which `verify="none"` loads as well, nobody knows what its weights are.
    digest = manifest.weights.digest if other_size(subject.path, manifest) is None else None
    return Creation(
        name=architecture.name or architecture.class_name,
        arguments=architecture.arguments,
        pretrained=manifest.provenance.pretrained,
        parents=((subject.path.name, digest),),
        architecture=architecture,
        family=architecture.family,
    )
