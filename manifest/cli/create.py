"""`manifest create`: write a manifest for a checkpoint that exists."""

from __future__ import annotations

from typing import Annotated

import typer

from manifest.cli.options import (
    PASSPHRASE_VARIABLE,
    Allow,
    Argument,
    Checkpoint,
    Floor,
    NoColor,
    NoGolden,
    NoKinship,
    Partial,
    PassphraseVariable,
    Probes,
    Quiet,
    SigningKey,
    State,
    argument_of,
    roles,
    signing_key,
)
from manifest.cli.printing import emit


def run(
    checkpoint: Checkpoint,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Name of its architecture, as in ViT-B-32-quickgelu. Left out, it is looked for among the models of "
            "the run that was recorded in this folder.",
        ),
    ] = None,
    family: Annotated[str, typer.Option("--family", help="The model library.")] = "open_clip",
    force_quick_gelu: Annotated[bool, typer.Option("--force-quick-gelu", help="Trained with QuickGELU.")] = False,
    force_image_size: Annotated[int | None, typer.Option("--force-image-size", help="Pixels.")] = None,
    force_context_length: Annotated[int | None, typer.Option("--force-context-length", help="Tokens.")] = None,
    force_custom_text: Annotated[bool, typer.Option("--force-custom-text", help="Text tower of its own.")] = False,
    precision: Annotated[str | None, typer.Option("--precision", help="Precision to rebuild it in.")] = None,
    argument: Argument = None,
    model_config: Annotated[
        str | None,
        typer.Option("--model-config", help="JSON file of a model config of your own to register first."),
    ] = None,
    pretrained: Annotated[str | None, typer.Option("--pretrained", help="Tag that the weights are known by.")] = None,
    partial: Partial = "",
    state: State = None,
    allow: Allow = None,
    key: SigningKey = None,
    passphrase_env: PassphraseVariable = PASSPHRASE_VARIABLE,
    no_golden: NoGolden = False,
    no_kinship: NoKinship = False,
    floor: Floor = "quick",
    probe: Probes = None,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Write a manifest beside a checkpoint that has none; the checkpoint itself is not touched."""
    from manifest.rendering import text
    from manifest.workflows.creating import describe

    forced = {
        "force_quick_gelu": force_quick_gelu or None,
        "force_image_size": force_image_size,
        "force_context_length": force_context_length,
        "force_custom_text": force_custom_text or None,
        "precision": precision,
        **dict(argument_of(item) for item in argument or []),
    }
    manifest = describe(
        checkpoint,
        model,
        family=family,
        arguments={name: value for name, value in forced.items() if value is not None},
        model_config=model_config,
        pretrained=pretrained,
        key=key and signing_key(key, passphrase_env),
        golden=not no_golden,
        kinship=not no_kinship,
        floor=floor,
        probes=probe or (),
        partial=roles(partial),
        state=state,
        allow=allow or (),
    )
    if not quiet:
        emit(text.show(manifest, written=True), None, color=not no_color)
