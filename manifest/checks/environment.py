"""The rung *environment*: the libraries and settings that were recorded, beside those that are here."""

from __future__ import annotations

import torch

from manifest.checks.ladder import CheckResult
from manifest.checks.target import VerificationTarget
from manifest.fingerprints import environment
from manifest.schema.rules import finding


def environment_rung(subject: VerificationTarget) -> CheckResult:
    """Which libraries and flags differ from save time?"""
    recorded = subject.manifest.environment
    findings = [
        finding(
            "E001",
            f"{name} is {here or 'not installed'} here and was {then} at save time.",
            where=name,
        )
        for name, (then, here) in environment.library_differences(recorded.libraries).items()
    ]
    now = environment.flags(torch)
    if moved := {
        name: (recorded.flags[name], now[name])
        for name in now
        if name in recorded.flags and name not in _PINNED_FLAGS and recorded.flags[name] != now[name]
    }:
        words = ", ".join(f"{name} was {then} and is {here}" for name, (then, here) in moved.items())
        findings.append(finding("E002", f"Numerics flags differ: {words}.", flags=list(moved)))
    many = "s" if len(findings) > 1 else ""
    reason = f"{len(findings)} difference{many} from save time" if findings else "the same libraries and flags"
    return CheckResult(reason, findings)


_PINNED_FLAGS = frozenset({"num_threads", "seed"})
"""Set as recorded for golden outputs, or without effect on them, and so they explain nothing."""


_BUILDING_LIBRARIES = frozenset({"torch", "torchvision", "open_clip_torch", "timm", "transformers"})


_INPUT_LIBRARIES = frozenset({"torch", "torchvision", "pillow", "open_clip_torch", "ftfy", "transformers"})
