"""What a manifest says of its model, held against what its own architecture shows when it is rebuilt.

A save writes down what the rebuilt module shows, so all of it can be found again: names, counts, tokenizer, classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from manifest.checks.target import VerificationTarget
from manifest.escaping import printable
from manifest.families.adapter import Adapter, frozen
from manifest.families.protocol import Family
from manifest.fingerprints.module_tree import outline, structure_digest
from manifest.fingerprints.structure import structure
from manifest.schema.document import Architecture, Component
from manifest.schema.report import ComponentVerdict, Finding, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import Training, prefixes, role_words


def misdescriptions(
    subject: VerificationTarget, adapter: Family, module: nn.Module, moved: Sequence[str]
) -> list[Finding]:
    """Where the record is not of the rebuilt model.

    Args:
        subject: The checkpoint.
        adapter: The model's family.
        module: The model, as its recorded architecture builds it.
        moved: Libraries of other versions here, which may describe the same model otherwise.
    """
    architecture = subject.manifest.architecture
    roles = adapter.roles(architecture, module.state_dict())
    sentences = [
        (where, text, Severity.WARNING if moved else Severity.ERROR)
        for where, text in _of_architecture(architecture, adapter, module)
    ]
    sentences += [(w, text, Severity.ERROR) for w, text in _of_components(subject.manifest.components, roles)]
    sentences += _of_training(subject.manifest.components, subject.components)
    return [
        finding("A007", f"{printable(text[0].upper() + text[1:], 400)}.", where=where, severity=severity)
        for where, text, severity in sentences
    ]


def _of_architecture(recorded: Architecture, adapter: Family, module: nn.Module) -> Iterator[tuple[str, str]]:
    parts = structure(module)
    if recorded.modules and structure_digest(parts) == recorded.structure and recorded.modules != outline(parts):
        yield "architecture.modules", "the modules are not listed as the rebuilt model lists them"
    if recorded.frozen is not None and sorted(recorded.frozen) != sorted(frozen(module)):
        yield "architecture.frozen", "the parameters that are said to take no gradient are not some of the model's"
    if not isinstance(adapter, Adapter):
        return
    draft = adapter.draft_of(recorded)
    if recorded.builder != adapter.builder:
        yield "architecture.builder", f"the builder is {recorded.builder!r}, expected {adapter.builder!r}"
    if recorded.class_name != type(module).__name__:
        yield "architecture.class", f"the model is a {type(module).__name__}, not a {recorded.class_name}"
    tokenizer = adapter.tokenizer_of(draft, module)
    then, now = recorded.tokenizer, tokenizer
    for known in ("digest", "vocabulary"):  # one may have had no vocabulary at hand, or be of an earlier version
        if then is not None and now is not None and None in (getattr(then, known), getattr(now, known)):
            then, now = (each.model_copy(update={known: None}) for each in (then, now))
    if then != now:
        yield "architecture.tokenizer", "the tokenizer is not the one that the architecture has"


def _of_components(recorded: Sequence[Component], roles: dict[str, str]) -> Iterator[tuple[str, str]]:
    parts = {part.role: part for part in recorded}
    known = list(dict.fromkeys(roles.values()))
    if parts.keys() == {*known} and list(parts) != known:
        yield "components", f"the components are in another order than the architecture's, {', '.join(known)}"
    for role in known:
        names = [name for name in roles if roles[name] == role]
        part = parts.pop(role, None)
        if part is None:
            yield role, f"the architecture has a {role_words(role)}, and the manifest lists none"
        elif part.expected != len(names):
            yield (
                role,
                f"the {role_words(role)} of the architecture has {len(names)} tensors, "
                f"and the manifest expects {part.expected}",
            )
        elif part.prefixes != prefixes(names, [name for name in roles if roles[name] != role]):
            yield role, f"the names of the {role_words(role)} begin otherwise than the manifest says"
        elif not {*part.missing} <= {*names}:
            yield role, f"the manifest says that the {role_words(role)} lacks what it does not have"
    for role in parts:
        yield role, f"the manifest lists a {role_words(role)}, and the architecture has none"


def _of_training(
    recorded: Sequence[Component], found: Sequence[ComponentVerdict]
) -> Iterator[tuple[str, str, Severity]]:
    """What numbers show, another version may read more or less of; a record that says nothing claims nothing."""
    verdicts = {part.role: part.training for part in found}
    for part in recorded:
        now = verdicts.get(part.role, part.training)
        if now is not part.training and part.training is not Training.UNKNOWN:
            claimed, shown = part.training.words, now.words
            text = f"the manifest calls the {role_words(part.role)} {claimed}, and its numbers show it as {shown}"
            # An earlier version called trained what has barely moved, and the numbers themselves are a finding then.
            weak = now in {Training.UNKNOWN, Training.BARELY}
            yield part.role, text, Severity.WARNING if weak else Severity.ERROR
