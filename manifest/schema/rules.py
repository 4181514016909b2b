"""Findings, reports, and the catalogue of rules.

A rule has one stable code and one page of explanation; a finding is one place where a rule was broken; a report is the
ladder of checks as it was climbed. How they are shown is the business of `manifest.rendering`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from manifest.schema.report import Finding, Severity


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a checkpoint.

    Attributes:
        code: Letter of `LETTERS` and a number; stable for ever.
        name: The same in words, kebab-case.
        severity: What it counts as unless the finding or a policy says otherwise.
        why: Why it matters.
        cure: What to do.
    """

    code: str
    name: str
    severity: Severity
    why: str
    cure: str


def finding(
    code: str,
    message: str,
    *,
    where: str | None = None,
    severity: Severity | None = None,
    remedy: str | None = None,
    **evidence: Any,
) -> Finding:
    """A finding under a rule of the catalogue, with the rule's severity and cure unless others are given."""
    rule = RULES[code]
    return Finding(
        rule=code,
        name=rule.name,
        severity=severity or rule.severity,
        message=message,
        where=where,
        evidence=evidence,
        remedy=remedy or rule.cure,
    )


def nearest_rules(text: str) -> list[str]:
    """Codes of the rules that somebody may have meant, best first, by what is like their codes or their names."""
    asked = text.strip()
    by_name = {rule.name: code for code, rule in RULES.items()}
    codes = difflib.get_close_matches(asked.upper(), RULES, n=len(RULES), cutoff=0.5)
    codes.sort(key=lambda code: code[0] != asked[:1].upper())  # a wrong number is likelier than a wrong letter
    names = difflib.get_close_matches(asked.lower(), by_name, n=3, cutoff=0.5)
    return list(dict.fromkeys([*codes, *(by_name[name] for name in names)]))[:3]


LETTERS = {
    "T": "trust",
    "I": "integrity",
    "F": "format and safety",
    "C": "completeness",
    "A": "architecture",
    "E": "environment",
    "G": "golden outputs",
    "D": "determinism",
    "P": "policy",
}
"""What a rule is about, by the letter of its code: a rung of the ladder, the doctor, or a policy's demands."""

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        Rule(
            "T001",
            "signer-unknown",
            _W,
            "A signature proves who made a checkpoint only to someone who already trusts the key.",
            "Pass the signer's public key: `manifest verify CKPT --key release.pub`.",
        ),
        Rule(
            "T002",
            "unsigned",
            _W,
            "Without a signature anyone can rewrite the weights and the manifest together.",
            "Sign it: `manifest sign CKPT --key release.key`.",
        ),
        Rule(
            "T003",
            "signature-invalid",
            _E,
            "The signature was not made by the trusted key, or what it signed has changed since.",
            "Get the checkpoint, its manifest and its signature again from their source.",
        ),
        Rule(
            "T004",
            "signature-missing",
            _E,
            "The checkpoint was signed when it was saved, or a signer is demanded, and the signature is not there.",
            "Copy the `.manifest.sig` file too, or sign the checkpoint: `manifest sign CKPT --key release.key`.",
        ),
        Rule(
            "T005",
            "signature-malformed",
            _E,
            "The signature file is not an OpenSSF Model Signing bundle, so nothing vouches for the checkpoint.",
            "Get the `.manifest.sig` file again from its source, or sign the checkpoint anew.",
        ),
        Rule(
            "T006",
            "signature-of-another",
            _E,
            "The signature is genuine but covers other bytes than the manifest and checkpoint beside it.",
            "Put back the manifest that was signed, or sign the checkpoint anew if you changed it on purpose.",
        ),
        Rule(
            "T009",
            "pending-manifest",
            _N,
            "A save was cut off between its renames, or somebody put a pending manifest there. One that was signed and "
            "describes the checkpoint always counts before it.",
            "Finish the save, or sign anew what it left: `manifest repair CKPT`.",
        ),
        Rule(
            "I001",
            "bytes-changed",
            _E,
            "The file is not the one that was saved.",
            "Get the file again from its source.",
        ),
        Rule(
            "I002",
            "tensors-changed",
            _E,
            "These weights have other values than those that were saved and checked.",
            "Get the file again; if the change was meant, save it with `manifest.save` or `manifest create`.",
        ),
        Rule(
            "I003",
            "size-differs",
            _E,
            "A file of another length was cut off while copying, or is another file.",
            "Copy the file again and compare its size.",
        ),
        Rule(
            "I004",
            "other-weights",
            _E,
            "Not one tensor has the values that the manifest records: this is another checkpoint.",
            "Put the manifest beside the checkpoint it was written for.",
        ),
        Rule(
            "F001",
            "not-a-checkpoint",
            _E,
            "The bytes are of no container that can be read.",
            "Check the file: it may be a download's error page, a pointer file, or an archive to unpack.",
        ),
        Rule(
            "F002",
            "malformed",
            _E,
            "Libraries read such a file in different ways, or crash on it.",
            "Get the file again, or write it anew with `torch.save` or safetensors.",
        ),
        Rule(
            "F003",
            "over-limit",
            _E,
            "The file asks for more than a reader should give, as a decompression bomb would.",
            "Do not load this file unless you know who made it and why it is so.",
        ),
        Rule(
            "F004",
            "unsupported-container",
            _E,
            "The container is known, but its tensors cannot be listed without running its code.",
            "Load it with what wrote it, if you trust it, and save its weights by `torch.save` or as safetensors.",
        ),
        Rule(
            "F005",
            "container-differs",
            _E,
            "The checkpoint's form is not the one that the manifest describes.",
            "Put back the file that the manifest was written for.",
        ),
        Rule(
            "F006",
            "manifest-inconsistent",
            _E,
            "Parts of the manifest contradict each other, so it was edited by hand or by a faulty tool.",
            "Write it anew: `manifest create CKPT`.",
        ),
        Rule(
            "F007",
            "file-astray",
            _E,
            "A checkpoint that names files outside of its directory could read, or vouch for, anything on the machine.",
            "Do not load it unless you know who made it.",
        ),
        Rule(
            "F008",
            "file-missing",
            _E,
            "One of the files that the checkpoint consists of is not there.",
            "Get the whole checkpoint again.",
        ),
        Rule(
            "F010",
            "unsafe-global",
            _E,
            "Loading the file by `torch.load(weights_only=False)` would call these, and run its author's code, or code"
            " that is not known to be harmless: only names that are listed in full are, used as libraries use them.",
            "Load it by `manifest.load`, which never unpickles, or `manifest convert CKPT OUT.safetensors`.",
        ),
        Rule(
            "F011",
            "refused-by-torch",
            _N,
            "torch.load(weights_only=True) refuses the file on account of these, although they run nobody's code: each"
            " is on a list of names that were looked at one by one, and is used as libraries use it.",
            "Load it by `manifest.load`, or `manifest convert CKPT OUT.safetensors`.",
        ),
        Rule(
            "F012",
            "program-inside",
            _N,
            "Loading the file by its own library runs the programs in it.",
            "Take the weights alone: `manifest convert CKPT OUT.safetensors`.",
        ),
        Rule(
            "C001",
            "component-missing",
            _E,
            "A library fills what is missing with random numbers and says so only in its log.",
            "Get a checkpoint with every tower, or declare it partial by design when you save it.",
        ),
        Rule(
            "C002",
            "component-partial",
            _E,
            "Some tensors of a component are missing and would be random after loading.",
            "Get the whole checkpoint; compare the names in `manifest show`.",
        ),
        Rule(
            "C003",
            "component-initialised",
            _E,
            "Every key is there and every number is fresh from the initialiser: this part was never trained.",
            "Find out where this component's weights were lost: a wrong path, `strict=False`, or a file of one tower.",
        ),
        Rule(
            "C005",
            "layers-fresh",
            _W,
            "Layers with the numbers of their initialisation, among trained ones, were lost or never loaded.",
            "Find out whether they were meant to be trained; get the weights that have them.",
        ),
        Rule(
            "C006",
            "not-finite",
            _E,
            "One NaN or infinity in the weights spreads to every answer that passes through it.",
            "Get the file again, or go back to a checkpoint from before the training diverged.",
        ),
        Rule(
            "C007",
            "weights-constant",
            _W,
            "A matrix of one value passes on nothing of what it is given, and training does not leave one so.",
            "See whether the layer begins closed by design; otherwise its weights were lost.",
        ),
        Rule(
            "C008",
            "layers-duplicated",
            _W,
            "Two layers do not learn the same numbers; one was copied over the other.",
            "See whether they are tied by design; otherwise get the file again.",
        ),
        Rule(
            "C009",
            "denormals",
            _N,
            "Numbers so small lose precision, and slow down processors that do not flush them to zero.",
            "See whether the weights were scaled down or cast to a type that is too short for them.",
        ),
        Rule(
            "A001",
            "activation-differs",
            _E,
            "The same weights under another activation give other answers, and nothing else complains.",
            "Build the model as the manifest records it: `manifest.load(CKPT)`.",
        ),
        Rule(
            "A002",
            "structure-differs",
            _E,
            "The model that the manifest describes is not the one whose structure it recorded.",
            "Install the library versions that the manifest names, or write the manifest anew.",
        ),
        Rule(
            "A003",
            "weights-do-not-fit",
            _E,
            "Names or shapes of the weights are not those of the architecture.",
            "Name the right architecture when you write the manifest: `manifest create CKPT --model NAME`.",
        ),
        Rule(
            "A004",
            "operators-differ",
            _W,
            "The forward pass runs other operators than at save time, so the library's own code has changed.",
            "Compare golden outputs; install the recorded library versions if they differ.",
        ),
        Rule(
            "A005",
            "cannot-build",
            _E,
            "The architecture in the manifest cannot be built here.",
            "Install the library versions that the manifest names.",
        ),
        Rule(
            "A006",
            "preprocessing-differs",
            _E,
            "The same model on other pixels gives other answers.",
            "Take the preprocessing from the manifest: `manifest.load_transforms(CKPT)`.",
        ),
        Rule(
            "A010",
            "architecture-unknown",
            _N,
            "What a file lacks can only be told where it is known what it should hold.",
            "Say what it is: `manifest audit CKPT --as LIBRARY:NAME`.",
        ),
        Rule(
            "A011",
            "architecture-not-told",
            _N,
            "Different architectures can have the same names and shapes: an activation has no weights.",
            "Say which one it is: `manifest audit CKPT --as LIBRARY:NAME/TAG`, and load it as that.",
        ),
        Rule(
            "A012",
            "claims-contradict",
            _E,
            "Weights that are loaded as what somebody says, and are something else, give other answers.",
            "Find out which of the two is right, and correct the other.",
        ),
        Rule(
            "A013",
            "tensors-differ",
            _W,
            "What an architecture has not is dropped without a word, and what has another shape begins anew.",
            "See whether it is a version of that architecture that is meant, such as one with another head.",
        ),
        Rule(
            "E001",
            "library-differs",
            _N,
            "Other versions of a library may build or compute another thing from the same description.",
            "If golden outputs differ, install the recorded versions.",
        ),
        Rule(
            "E002",
            "flags-differ",
            _N,
            "Numerics flags move results a little and can hide or cause a difference.",
            "Set the flags that the manifest records before comparing outputs.",
        ),
        Rule(
            "E003",
            "library-builds-otherwise",
            _N,
            "Another version of a library describes or computes the same model by other steps.",
            "Nothing, as long as the golden outputs agree; if they do not, install the recorded versions.",
        ),
        Rule(
            "G001",
            "outputs-differ",
            _E,
            "The rebuilt model does not say what the saved model said, beyond what arithmetic can explain.",
            "See which input, weight or setting changed; `manifest.load` rebuilds the model as it was saved.",
        ),
        Rule(
            "G002",
            "probe-inputs-differ",
            _W,
            "The probe's pixels or tokens come out otherwise here, so other outputs say nothing of the model.",
            "Install the recorded versions of torchvision and pillow.",
        ),
        Rule(
            "G003",
            "no-golden-outputs",
            _N,
            "Without golden outputs nothing shows that the rebuilt model still says the same thing.",
            "Save with `golden=True`, or run `manifest create CKPT`.",
        ),
        Rule(
            "A007",
            "model-misdescribed",
            _E,
            "What the manifest says of the model is not what its own architecture shows when it is rebuilt.",
            "Get the manifest again from its source, or write it anew: `manifest create CKPT`.",
        ),
        Rule(
            "G007",
            "cannot-tell",
            _E,
            "Arithmetic here could move the outputs as far as a wrong model would, so comparing them shows nothing.",
            "Verify on a machine like the one where it was saved, or with the recorded versions and default settings.",
        ),
        Rule(
            "G008",
            "record-implausible",
            _E,
            "These are no numbers that asking the model gives, so what is compared with them shows nothing.",
            "Get the manifest again from its source, or write it anew: `manifest create CKPT`.",
        ),
        Rule(
            "D001",
            "train-mode",
            _W,
            "Dropout, stochastic depth and batch norm compute something else while a model is trained.",
            "Call `model.eval()` before you compare; `manifest.load` returns models so.",
        ),
        Rule(
            "D002",
            "random-operators",
            _W,
            "Operators that draw random numbers give other answers every time, whatever else is the same.",
            "Call `model.eval()`, or seed every generator: `manifest.deterministic(seed=0)`.",
        ),
        Rule(
            "D003",
            "operators-not-deterministic",
            _N,
            "PyTorch documents that these may add up in another order each time, on some devices.",
            "`with manifest.deterministic():` chooses deterministic forms, and raises where there are none.",
        ),
        Rule(
            "D004",
            "switches-unset",
            _N,
            "Libraries choose the fastest kernels unless they are told to choose the same ones every time.",
            "`manifest.deterministic(seed=0)` sets what can be set in a running process.",
        ),
        Rule(
            "D005",
            "answers-move",
            _E,
            "The same model gives other answers to the same question when only this is changed.",
            "Keep it as it was, or compare within the numerics floor that the manifest records.",
        ),
        Rule(
            "G005",
            "probe-not-given",
            _N,
            "A probe of its owner's own is recorded by digests alone, so nobody else can ask it.",
            "Give it if you have it: `--probe DIR`.",
        ),
        Rule(
            "G006",
            "floor-over-bound",
            _E,
            "Arithmetic alone moves this model's answers further than the policy lets it.",
            "Find the cause with `manifest doctor CKPT`, or raise `golden.max_floor` in the policy.",
        ),
        Rule(
            "G004",
            "outputs-not-finite",
            _E,
            "A model that answers NaN or infinity on ordinary photographs is broken.",
            "Look for the diverged or corrupted tensors; do not release this checkpoint.",
        ),
        Rule(
            "P001",
            "waiver-expired",
            _W,
            "A waiver is an exception with an end; after it, what it excused counts again.",
            "Mend what was waived, or agree on another date and write it into the policy.",
        ),
        Rule(
            "P002",
            "waiver-unused",
            _N,
            "A waiver that matches nothing is forgotten, and may one day excuse something else.",
            "Remove it from the policy if what it excused is mended; otherwise correct its rule or path.",
        ),
        Rule(
            "P010",
            "component-required",
            _E,
            "The policy demands this component whole, whatever the manifest declares to be absent by design.",
            "Release a checkpoint that has it, or take the role out of `components.require` in the policy.",
        ),
        Rule(
            "P011",
            "container-forbidden",
            _E,
            "The policy keeps this form of file out, as one does with pickles, which can run code when loaded.",
            "Take the weights alone: `manifest convert CKPT OUT.safetensors`.",
        ),
        Rule(
            "P012",
            "signature-required",
            _E,
            "The policy demands a signature by a key that is trusted, and nothing vouches for this checkpoint.",
            "Pass the signer's public key, `manifest verify CKPT --key release.pub`, or sign: `manifest sign CKPT`.",
        ),
        Rule(
            "P013",
            "training-required",
            _E,
            "The policy demands trained components, and the numbers of this one do not show that it was trained.",
            "Find out where its weights were lost, or name in `components.require` the roles that must be trained.",
        ),
    )
}
"""The catalogue, by code."""
