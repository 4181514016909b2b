"""What adapters have in common: an architecture is drafted, from a call or from what a module shows, and proved.

A draft is proved by building it without weights: it must have the same modules, hyper-parameters, names, shapes, types
and tables as the live module. A family of its own fills in what its library does differently.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from manifest.errors import ArchitectureError, InputError, ManifestError, one_line
from manifest.families.equivalence import first_difference
from manifest.families.json_arguments import from_data
from manifest.families.meta_build import without_weights
from manifest.families.protocol import Captured, Conversion, Creation, Difference, Variant
from manifest.fingerprints.module_tree import changes, grouped, outline, structure_digest, unfold
from manifest.fingerprints.structure import structure, trace_operators
from manifest.neutral_process import neutral_process
from manifest.probes.flatten import flatten
from manifest.probes.inputs import Inputs, Probe, tensors_given
from manifest.probes.shapes import SHAPES, drawn
from manifest.schema.document import Architecture, Operators, Preprocess, Reading, Tokenizer
from manifest.schema.vocabulary import Mode, activation_words, component_tensors, prefixes
from manifest.weights.shape_diff import ShapeDiff

_log = logging.getLogger(__name__)

PRECISIONS = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Draft:
    """What an architecture might be, before it is proved.

    Attributes:
        name: Name in the library's registry, if it has one.
        class_name: Class of the module; that of what is built when empty.
        config: What it is constructed with, as JSON gives it back.
        arguments: The creation call's own arguments, for a person.
        precision: The library's name of its element types.
    """

    name: str | None
    class_name: str
    config: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"


class Adapter(ABC):
    """A `Family` of which a library's own adapter says the rest: `recognises`, `resolve`, `construct`, `role`."""

    name: ClassVar[str]
    builder: ClassVar[str]
    float32: ClassVar[frozenset[str]] = frozenset({"fp32"})
    rows: ClassVar[Mapping[str, str]] = {}
    pairs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def recognises(self, module: nn.Module) -> bool:
        """Whether this family made the module."""

    @abstractmethod
    def resolve(self, creation: Creation) -> Draft:
        """What the library would construct for a call.

        Raises:
            UnknownModelError: No such model.
        """

    @abstractmethod
    def construct(self, draft: Draft) -> nn.Module:
        """The module of a draft; called where parameters have no values and nothing random is drawn."""

    @abstractmethod
    def create(self, creation: Creation) -> nn.Module:
        """The library's own builder, weights and all."""

    def arguments_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, out of their record as JSON."""
        return dict(from_data(dict(record)))

    def recover(self, module: nn.Module) -> Iterator[Draft]:
        """Drafts from what a module shows, the likeliest first."""
        del module
        yield from ()

    def roles(self, architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
        """The component role of each tensor name; the whole model is its backbone unless a family knows better."""
        del architecture
        return dict.fromkeys(names, "backbone")

    def origin(self, creation: Creation) -> tuple[str | None, list[str]]:
        """What weights a model started from, without directories; few libraries know the classes they tell apart."""
        return Path(creation.pretrained).name if creation.pretrained else None, []

    def tower(self, path: str) -> str:
        """Under which heading an activation module is counted."""
        del path
        return "model"

    def forward(self, ghost: nn.Module) -> None:
        """One small question, on the meta device, by which the operators are traced.

        Raises:
            NotImplementedError: None can be asked without values.
        """
        raise NotImplementedError

    def preprocess_of(
        self, draft: Draft, built: nn.Module, live: nn.Module | None, creation: Creation | None
    ) -> Preprocess | None:
        """How images are prepared, where that belongs to the model: as recorded, or as the call says."""
        del draft, built, live
        if creation is None:
            return None
        return self.preprocess_asked(creation) if creation.architecture is None else creation.architecture.preprocess

    def preprocess_asked(self, creation: Creation) -> Preprocess | None:
        """The preprocessing that a call names, for a model that does not carry its own."""
        del creation
        return None

    def tokenizer_of(self, draft: Draft, built: nn.Module) -> Tokenizer | None:
        """How texts are prepared, where that belongs to the model."""
        del draft, built
        return None

    def register(self, model_config: Path) -> None:
        raise InputError(
            f"{self.name} takes no model configs of one's own, so {model_config} is not read; leave it out."
        )

    @neutral_process()
    def capture(self, module: nn.Module, creation: Creation | None) -> Captured:
        departures = []
        for draft in self._drafts(module, creation):
            try:
                built = self._build(draft)
                departure = first_difference(built, module)
            except Exception as error:  # what was read off a module may be beyond what its library can build
                departure = f"{type(error).__name__}: {one_line(error)}"
            if departure is None:
                return self._captured(draft, built, module, creation)
            departures.append(departure)
        why = f" ({departures[-1]:.300})" if departures else ""
        raise ArchitectureError(
            f"This {type(module).__name__} cannot be rebuilt from its creation call or from what it shows{why}; "
            "save it with model_name=NAME, or make it with `manifest.create_model(NAME, …)` "
            "and every change as an argument."
        )

    @neutral_process()
    def describe(self, creation: Creation) -> Captured:
        try:
            draft = self.resolve(creation)
            return self._captured(draft, self._build(draft), None, creation)
        except ManifestError:
            raise
        except Exception as error:  # the library may raise anything over a name or an argument that someone made up
            shown = ", ".join(f"{key}={value!r}" for key, value in creation.arguments.items()) or "no arguments"
            raise ArchitectureError(
                f"{creation.name!r} cannot be built with {shown} ({one_line(error)}); "
                "correct the name or the arguments."
            ) from error

    @neutral_process()
    def build(self, architecture: Architecture) -> nn.Module:
        return self.settle(self._build(self.draft_of(architecture)), architecture)

    def settle(self, module: nn.Module, architecture: Architecture) -> nn.Module:
        """Give a module that was built what its library sets afterwards, and freeze its parameters as recorded."""
        if architecture.frozen is not None:
            parameters = dict(module.named_parameters(remove_duplicate=False))
            frozen = set(component_tensors(architecture.frozen, parameters))
            for name, parameter in parameters.items():
                parameter.requires_grad_(name not in frozen and parameter.is_floating_point())
        return module

    def draft_of(self, architecture: Architecture) -> Draft:
        """A recorded architecture as a draft."""
        return Draft(
            name=architecture.name,
            class_name=architecture.class_name,
            config=architecture.config,
            arguments=architecture.arguments,
            precision=architecture.precision,
        )

    def activations(self, module: nn.Module) -> dict[str, dict[str, int]]:
        counts: dict[str, Counter[str]] = {}
        for path, child in module.named_modules():
            if label := _activation_label(child):
                counts.setdefault(self.tower(path), Counter())[label] += 1
        return {tower: dict(kinds) for tower, kinds in counts.items()}

    def operators(self, module: nn.Module) -> Operators | None:
        try:
            return trace_operators(module, self.forward).record()
        except NotImplementedError:  # also what torch raises where an operator needs values
            return None

    def transforms(self, architecture: Architecture) -> tuple[Any, Any]:
        del architecture
        return None, None

    def inputs(
        self, architecture: Architecture, probe: str | None = None, material: Probe | None = None
    ) -> Inputs | None:
        """Tensors that were given or are told by their shapes; without these, there is no probe for any model."""
        del architecture
        if probe is not None and probe.startswith(SHAPES):
            return drawn(probe)
        return tensors_given(material) if material is not None and material.tensors else None

    def outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Whatever the module answers to its inputs by name."""
        return flatten(module(**inputs.tensors))

    def readings(
        self, architecture: Architecture, module: nn.Module, inputs: Inputs, outputs: Mapping[str, torch.Tensor]
    ) -> list[Reading]:
        del architecture, module, inputs, outputs
        return []

    def shared_outputs(self, module: nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
        del module, inputs
        return {}

    def converts(self, creation: Creation) -> bool:
        del creation
        return True

    def carried_preprocess(self, module: nn.Module) -> Preprocess | None:
        del module
        return None

    def probe_preprocess(self, architecture: Architecture) -> Preprocess | None:
        return architecture.preprocess

    def variants(self, architecture: Architecture) -> Sequence[Variant]:
        del architecture
        return ()

    def stored_names(self, module: nn.Module) -> Mapping[str, str]:
        del module
        return {}

    def differences(self, asked: Architecture, recorded: Architecture) -> list[Difference]:
        found = []
        if asked.activations != recorded.activations:
            found.append(
                Difference(
                    "A001",
                    f"it would be built with {activation_words(asked.activations)}, and the weights were saved with "
                    f"{activation_words(recorded.activations)}",
                    "on_mismatch='follow'",
                )
            )
        elif asked.structure != recorded.structure:
            where = grouped(changes(unfold(recorded.modules), unfold(asked.modules)))
            found.append(Difference("A002", f"its structure would differ ({where:.300})", "on_mismatch='follow'"))
        if asked.preprocess != recorded.preprocess:
            found.append(Difference("A006", "its images would be preprocessed otherwise", "on_mismatch='follow'"))
        return found

    def weights_file(self, creation: Creation) -> Path | None:
        del creation
        return None

    def conversions(self, architecture: Architecture, misfit: ShapeDiff) -> list[Conversion]:
        del architecture, misfit
        return []

    def _drafts(self, module: nn.Module, creation: Creation | None) -> Iterator[Draft]:
        if creation is not None:
            yield self.draft_of(creation.architecture) if creation.architecture else self.resolve(creation)
        yield from self.recover(module)

    def _build(self, draft: Draft) -> nn.Module:
        started = time.perf_counter()
        with without_weights():
            built = self.construct(draft)
        _log.debug("built %s %s in %.2f s", self.name, draft.name or draft.class_name, time.perf_counter() - started)
        return built

    def _captured(self, draft: Draft, built: nn.Module, live: nn.Module | None, creation: Creation | None) -> Captured:
        parts = structure(built)
        architecture = Architecture.model_validate(
            {
                "family": self.name,
                "name": draft.name,
                "class": draft.class_name or type(built).__name__,
                "builder": self.builder,
                "arguments": draft.arguments,
                "config": draft.config,
                "activations": self.activations(built),
                "preprocess": self.preprocess_of(draft, built, live, creation),
                "tokenizer": self.tokenizer_of(draft, built),
                "precision": draft.precision,
                "frozen": frozen(built if live is None else live),
                "mode": Mode.UNKNOWN if live is None else mode_of(live),
                "structure": structure_digest(parts),
                "modules": outline(parts),
                "operators": self.operators(built),
            }
        )
        return Captured(architecture, self.settle(built, architecture))


def precision_of(module: nn.Module) -> str:
    """The one element type of a module's floating-point parameters.

    Raises:
        ArchitectureError: They are of several types.
    """
    found = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()} or {torch.float32}
    names = [name for name, dtype in PRECISIONS.items() if found == {dtype}]
    if not names:
        shown = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise ArchitectureError(
            f"The parameters of this {type(module).__name__} are of the types {shown}, expected one of "
            f"{', '.join(PRECISIONS)} throughout; convert the model with `model.to(dtype)`."
        )
    return names[0]


def cast(module: nn.Module, precision: str) -> nn.Module:
    """A module in another precision, as `model.to(dtype)` makes it.

    Raises:
        ArchitectureError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise ArchitectureError(f"There is no precision {precision!r}, expected one of {', '.join(PRECISIONS)}.")
    return module if precision == "fp32" else module.to(PRECISIONS[precision])


def width_of(layer: nn.Module | None) -> int | None:
    """Outputs of a layer, None where it does not say how many it has."""
    width = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    return width if isinstance(width, int) else None


def frozen(module: nn.Module) -> list[str]:
    """The parameters that take no gradient, by name or by what only their names begin with."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    still = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    return prefixes(still, [name for name, parameter in parameters.items() if parameter.requires_grad])


def mode_of(module: nn.Module) -> Mode:
    """Whether a module is in train mode, in eval mode, or partly in each."""
    modes = {child.training for child in module.modules()}
    return Mode.MIXED if len(modes) == 2 else Mode.TRAIN if modes == {True} else Mode.EVAL


def _activation_label(module: nn.Module) -> str | None:
    kind = type(module)
    home = kind.__module__
    known = home in {"torch.nn.modules.activation", "transformers.activations"} or home.startswith(
        "timm.layers.activations"
    )
    if kind.__name__ != "QuickGELU" and (not known or isinstance(module, nn.MultiheadAttention)):
        return None
    approximate = getattr(module, "approximate", "none")
    return kind.__name__ if approximate == "none" else f"{kind.__name__}({approximate})"
