"""Why numbers from elsewhere, off a model card or out of a paper, are not those of a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from PIL import Image

from manifest.checks.explanation import cause_words, diagnosis_evidence, recorded_model, unexplained_words
from manifest.checks.ladder import CheckResult
from manifest.checks.target import VerificationTarget, open_target, run_checks
from manifest.errors import ArchitectureError, InputError
from manifest.families.protocol import Family, Variant
from manifest.golden.diagnose import LEAST_NUMBERS
from manifest.golden.hypotheses.prompts import TEMPLATE_SETS, Tokenizer, template_set, templated
from manifest.golden.hypotheses.prompts import prompts as texts_otherwise
from manifest.golden.targets import ReadingsTarget
from manifest.grants import granted
from manifest.probes.directory import read_image
from manifest.probes.inputs import Inputs, Preprocessing, Probe, photographs
from manifest.schema.document import Architecture, Reading
from manifest.schema.report import Kind, Report, Severity
from manifest.schema.rules import finding
from manifest.storage.bounded_read import read_small

_FORM = '[{"image": "cat.png", "prompts": {"a photo of a cat": 0.93}}]'
_FORM_OF_TEMPLATES = '{"templates": ["a photo of a {}."], "readings": [{"image": "cat.png", "prompts": {"cat": 0.93}}]}'
_LONGEST_TEMPLATE = 300  # characters
_NO_TOKENIZER = (
    "The prompts cannot be asked, since the recorded tokenizer is not at hand or none is recorded; fetch it once, or "
    "compare answers (`--answers`) instead."
)
_MOST_TEXTS = 4096
"""Prompts times templates: every hypothesis about the text tower encodes all of them."""


@dataclass(frozen=True)
class Published:
    """Readings that somebody wrote down, and the images that they are of.

    Attributes:
        readings: Probabilities by image and prompt.
        images: By the names in the readings.
        resolution: Half a unit of the finest last digit.
        coarser: By image and prompt, how much more half a unit of its own last digit is, as where a 0 is left out.
        templates: Texts with `{}` where a prompt goes; none where prompts are asked as they are.
    """

    readings: Sequence[Reading]
    images: dict[str, Image.Image]
    resolution: float
    coarser: dict[tuple[str, str], float]
    templates: tuple[str, ...] = ()


def diagnose(
    checkpoint: str | os.PathLike[str], reading: str | os.PathLike[str], *, allow: Sequence[str] = ()
) -> Report:
    """Find the way to run a checkpoint's model that gives the probabilities somebody published.

    Args:
        checkpoint: The checkpoint, with its manifest.
        reading: JSON file: for each image, its file (or the name of a photograph that ships with this package) and the
            probability of each prompt, or of each of some classes, between 0 and 1. Where prompts are labels that were
            put into templates, it is an object of `readings` and of `templates`, texts with `{}` where a label goes or
            the name of a set that open_clip ships.
        allow: Modules of your own that may be imported to rebuild the model.

    Returns:
        A report whose findings say what was done otherwise than on record, with the argument that undoes it.

    Raises:
        InputError: The reading cannot be used.
        NoManifestError: There is no manifest to go by.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> readings = manifest.answer(manifest.load("ckpt.pt"), "ckpt.pt").reading
        >>> card = [{"image": each.image, "prompts": each.prompts} for each in readings]
        >>> _ = Path("card.json").write_text(json.dumps(card))
        >>> manifest.diagnose("ckpt.pt", "card.json").passed  # the card was written with the model as it is
        True
    """
    published = read_published(Path(reading))
    subject = open_target(checkpoint)
    try:
        with granted(allow):
            return run_checks(subject, [("diagnosis", lambda each: _diagnosis(each, published))], Kind.DIAGNOSE)
    finally:
        subject.close()


def read_published(path: Path) -> Published:
    """Readings out of a file.

    Raises:
        InputError: There is none, it is of another form, or an image cannot be read.
    """
    raw = read_small(path, "reading")
    try:
        # As they were written: how many digits there are says how far they can be trusted.
        content = json.loads(raw, parse_float=Decimal, parse_int=Decimal)
        asked: Any = ()
        if isinstance(content, dict):
            asked, content = content.pop("templates"), _only(content, "readings")
        values = {str(item["image"]): {str(k): Decimal(v) for k, v in item["prompts"].items()} for item in content}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidOperation):
        raise InputError(
            f"{path.name} is no reading, expected a list such as {_FORM}, or with templates {_FORM_OF_TEMPLATES}; "
            "write it so."
        ) from None
    numbers = [value for prompts in values.values() for value in prompts.values()]
    if not numbers or not all(value.is_finite() and 0 <= value <= 1 for value in numbers):
        raise InputError(f"{path.name} holds numbers that are no probabilities, expected 0 to 1; correct them.")
    if len({tuple(sorted(prompts)) for prompts in values.values()}) > 1:
        raise InputError(
            f"The images in {path.name} have different prompts, and a probability is one among those asked together; "
            "put them in files of their own."
        )
    templates = _templates(asked, path.name, len(next(iter(values.values()))))
    halves = {
        (i, p): 0.5 * 10.0 ** int(v.as_tuple().exponent) for i, prompts in values.items() for p, v in prompts.items()
    }
    finest = min(halves.values())
    coarser = {place: half - finest for place, half in halves.items() if half > finest}
    readings = [Reading(image=i, prompts={p: float(v) for p, v in prompts.items()}) for i, prompts in values.items()]
    return Published(readings, {name: _image(name, path.parent) for name in values}, finest, coarser, templates)


def _only(content: dict[str, Any], name: str) -> Any:
    if content.keys() != {name}:
        raise KeyError(name)
    return content[name]


def _templates(found: Any, source: str, prompts: int) -> tuple[str, ...]:
    """The templates of a reading: as they are given, or a set of open_clip's by its name.

    Args:
        found: As read.
        source: Name of the file.
        prompts: How many labels go into each.

    Raises:
        InputError: They are no such texts, or too many.
    """
    if found in TEMPLATE_SETS:
        return template_set(found)
    if found == ():
        return ()
    texts = found if isinstance(found, list) else []
    if not texts or not all(isinstance(each, str) and each.count("{}") == 1 for each in texts):
        raise InputError(
            f"The templates in {source} are no list of texts with one {{}} each, nor {' or '.join(TEMPLATE_SETS)}, as "
            f'"a photo of a {{}}." is one; correct them.'
        )
    if (longest := max(map(len, texts))) > _LONGEST_TEMPLATE or len(texts) * prompts > _MOST_TEXTS:
        raise InputError(
            f"The {len(texts):,} templates of up to {longest:,} characters in {source}, with {prompts:,} prompts, are "
            f"more than {_MOST_TEXTS:,} texts or {_LONGEST_TEMPLATE} characters; give fewer or shorter ones."
        )
    return tuple(texts)


def _image(name: str, folder: Path) -> Image.Image:
    shipped = photographs()
    return shipped[name] if name in shipped else read_image(folder / name)


def _diagnosis(subject: VerificationTarget, published: Published) -> CheckResult:
    original = recorded_model(subject)
    prompts = list(published.readings[0].prompts)
    probe = Probe("published", published.images, prompts)

    def question(architecture: Architecture, preprocess: Preprocessing | None = None) -> Inputs:
        tokenizer = None
        if published.templates:
            tokenizer = templated(_tokenizer(original.family, architecture), published.templates)
        inputs = original.family.inputs(architecture, None, replace(probe, preprocess=preprocess, tokenizer=tokenizer))
        if inputs is None or "images" not in inputs.tensors:
            raise ArchitectureError("A reading is of images, and this model takes none; compare outputs instead.")
        if "tokens" in inputs.names and list(inputs.names["tokens"]) != prompts:
            raise ArchitectureError(_NO_TOKENIZER)
        return inputs

    # What is read off is rounded to four digits by itself.
    target = ReadingsTarget(published.readings, max(published.resolution, 0.5e-4) * 1.01, published.coarser)
    likelier: Iterable[Variant] = ()
    if original.architecture.tokenizer is not None and target.numbers >= LEAST_NUMBERS:
        likelier = texts_otherwise(_tokenizer(original.family, original.architecture), prompts, published.templates)
    diagnosis = original.diagnose(target, question, likelier=likelier)
    if diagnosis.agrees:
        return CheckResult(f"the reading is that of the checkpoint, within {diagnosis.distance:.1e}")
    message = (
        f"The checkpoint's probabilities are up to {diagnosis.distance:.4f} from the reading, and its digits explain "
        f"{diagnosis.tolerance:.4f}."
    )
    evidence: dict[str, Any] = {"distance": diagnosis.distance, **diagnosis_evidence(diagnosis)}
    if diagnosis.cause is None:
        found = finding("G001", message + unexplained_words(diagnosis), where="reading", **evidence)
        return CheckResult("no hypothesis fits", [found])
    variant = diagnosis.cause.variant
    message += f" They come out with {cause_words(diagnosis.cause)}."
    remedy = f"To get them: {variant.cure}"
    found = finding("G001", message, where="reading", severity=Severity.ERROR, remedy=remedy, **evidence)
    return CheckResult(f"{variant.name}: {variant.there}", [found])


def _tokenizer(family: Family, architecture: Architecture) -> Tokenizer:
    if architecture.tokenizer is None or (tokenizer := family.transforms(architecture)[1]) is None:
        raise ArchitectureError(_NO_TOKENIZER)
    found: Tokenizer = tokenizer
    return found
