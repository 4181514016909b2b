"""Asking a checkpoint's model its probe in a fresh process: `python -m manifest.golden.subprocess_run`, JSON on stdin.

What only the start of a process decides is varied so: the hash seed, the instruction set.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from manifest.checkpoint import View, open_checkpoint
from manifest.errors import ArchitectureError
from manifest.families import family
from manifest.families.protocol import Creation
from manifest.golden.precision import in_float32
from manifest.golden.run import Outputs, run_probe
from manifest.grants import granted, granted_now
from manifest.probes.inputs import VARIABLE
from manifest.schema.document import Architecture

_log = logging.getLogger(__name__)

_START = """
from manifest.collecting import collect_seldom
collect_seldom()
from manifest.golden.subprocess_run import serve
serve()
"""
_SECONDS = 900
INSTRUCTION_SETS = {
    "instructions": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
"""By the part of the floor, variables by which torch and oneDNN leave out what the processor has."""
_CHECKPOINT, _CREATION = "checkpoint", "creation"


def outputs_of_checkpoint(
    path: Path, view: View, architecture: Architecture, threads: int, variables: Mapping[str, str]
) -> Outputs:
    """What the model of a checkpoint says to its family's probe in a process with other environment variables.

    Raises:
        ArchitectureError: It fails there.
    """
    question = {
        "kind": _CHECKPOINT,
        "path": str(path),
        "view": asdict(view),
        "architecture": architecture.model_dump(mode="json", by_alias=True),
        "threads": threads,
    }
    return _ask(question, variables)


def outputs_of_creation(creation: Creation, seed: int, threads: int, variables: Mapping[str, str]) -> Outputs:
    """What a model that is made anew, after seeding torch, says to its family's probe in another process.

    Raises:
        ArchitectureError: It fails there.
    """
    question = {
        "kind": _CREATION,
        "family": creation.family,
        "name": creation.name,
        "arguments": dict(creation.arguments),
        "seed": seed,
        "threads": threads,
    }
    return _ask(question, variables)


def _ask(question: Mapping[str, Any], variables: Mapping[str, str]) -> Outputs:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="manifest-") as folder:
        output = Path(folder) / "outputs.safetensors"
        done = subprocess.run(
            [sys.executable, "-c", _START],
            input=json.dumps({**question, "allow": granted_now(), "output": str(output)}),
            env=environment_of_child(variables),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode or not output.is_file():
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ArchitectureError(
                f"The model cannot be asked in a fresh process ({last:.200}); see whether it loads."
            )
        _log.debug("ran the probe in a process with %s in %.2f s", dict(variables), time.perf_counter() - started)
        outputs: Outputs = load_file(output)
        return outputs


def environment_of_child(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that works for this one: it finds the same modules, and is not recorded.

    Args:
        variables: What is otherwise in it.
    """
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return {**os.environ, "PYTHONPATH": paths, "MANIFEST_RECORD": "0", **variables}


def answer(question: Mapping[str, Any]) -> Outputs:
    """The other end: what the model of a question says."""
    if question["kind"] == _CHECKPOINT:
        architecture = Architecture.model_validate(question["architecture"])
        adapter = family(architecture.family)
        view = question["view"]
        stored = open_checkpoint(question["path"]).select(View(tuple(view["path"]), view["within"], view["names"]))
        module = in_float32(adapter, architecture, stored)
    else:
        adapter = family(question["family"])
        creation = Creation(question["name"], question["arguments"], family=adapter.name)
        with granted(creation.runs):
            architecture = adapter.describe(creation).architecture
            torch.manual_seed(question["seed"])
            module = adapter.create(creation)
    inputs = adapter.inputs(architecture)
    if inputs is None:
        raise ArchitectureError("The family has no probe for this model.")
    answers = run_probe(adapter, architecture, module, inputs, threads=question["threads"])
    return {name: tensor for name, tensor in answers.outputs.items() if not name.startswith(VARIABLE)}


def serve() -> None:
    """Answer the question that standard input holds, into the file that it names."""
    asked = json.load(sys.stdin)
    with granted(asked["allow"]):
        save_file(answer(asked), asked["output"])
