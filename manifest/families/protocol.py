"""What a family is asked, and what it answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from manifest.errors import InputError
from manifest.families.callable.script import own_name
from manifest.families.json_arguments import as_data, modules_named
from manifest.probes.inputs import Inputs, Preprocessing, Probe
from manifest.schema.document import Architecture, Operators, Preprocess, Reading
from manifest.weights.shape_diff import ShapeDiff


@dataclass(frozen=True)
class Creation:
    """How a model was made: remembered on the module by `manifest.create_model` and `manifest.load`.

    Attributes:
        name: The name it was asked for by.
        arguments: The builder's other arguments.
        pretrained: Tag or path of the weights it started from.
        parents: Checkpoints with manifests it started from: file name and weights digest.
        architecture: What it was built from, when that is known already.
        family: Which family made it, where only the call can tell.
        conversions: What was done to those weights to make them fit.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    parents: tuple[tuple[str, str | None], ...] = ()
    architecture: Architecture | None = None
    family: str | None = None
    conversions: tuple[str, ...] = ()

    def __deepcopy__(self, memo: object) -> Creation:
        """Itself: the copy of a model was made as the model was."""
        return self

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        """As an empty dict: a pickled model must not need this package to be loaded."""
        return dict, ()

    @cached_property
    def runs(self) -> list[str]:
        """Modules of the user's own whose code made it, for a factory of the family `callable`."""
        if self.family != "callable":
            return []
        home = self.name.partition(":")[0]
        if self.architecture is not None:
            return [home, *modules_named(self.architecture.config)]
        try:
            return [home, *modules_named(as_data(self.arguments, "arguments", own=partial(own_name, self.name)))]
        except InputError:  # they cannot be written down, and whoever tries to is told so
            return [home]


@dataclass(frozen=True)
class Variant:
    """A way in which the same weights are often run wrongly.

    It is another architecture, or the same one whose inputs, module or outputs are altered.

    Attributes:
        name: What is varied, for example `activation`.
        here: How it is in the model itself, in a word or two.
        there: How it is in the variant.
        cure: Code that makes it as it is in the variant.
        back: Code that makes it as it is in the model itself.
        architecture: The other architecture, where the library's own config can say it.
        preprocess: How photographs are prepared, where no record can say it.
        prepare: Alters what is asked.
        alter: Alters a module in place that is built for it alone.
        undo: Alters a module that is run as in the variant, in place, so that it is as the model itself; None where
            that is no matter of modules.
        conclude: Alters what is answered.
        fitted: The variant with a number that is to be found, as a scale of logits.
        state: Where other weights are in the same checkpoint.
        concerns: The only kind of inputs that it has to do with; None for all.
        native_mode: Whether the altered module is asked in its own mode, instead of in eval mode.
        parts: Those that it is made of, where it is several at once.
        approximate: Whether it moves outputs by more than arithmetic even where it is the cause, as low precision does.
        alone: Whether it is tried last and together with no other, since it takes long.
    """

    name: str
    here: str
    there: str
    cure: str
    back: str
    architecture: Architecture | None = None
    preprocess: Preprocessing | None = None
    prepare: Callable[[Inputs], Inputs] | None = None
    alter: Callable[[nn.Module], None] | None = None
    undo: Callable[[nn.Module], None] | None = None
    conclude: Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    fitted: Callable[[float], Variant] | None = None
    state: tuple[str, ...] | None = None
    concerns: str | None = None
    native_mode: bool = False
    parts: tuple[Variant, ...] = ()
    approximate: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Difference:
    """One way in which a model asked for is not the one recorded.

    Attributes:
        rule: Code of the rule it breaks.
        message: What is asked for and what is recorded.
        cure: The argument that makes them agree.
        conversion: What the library would do to the weights to bridge it.
    """

    rule: str
    message: str
    cure: str
    conversion: str | None = None

    @property
    def of_live_model(self) -> str:
        """The message in the words for a model that is made; `message` is for a call that has not been made yet."""
        return self.message.replace(" would be ", " is ").replace(" would ", " ")


@dataclass(frozen=True)
class Conversion:
    """What a library would do to weights, unasked, to make them fit.

    Attributes:
        kind: `position_embedding`, `logit_bias` or `head`.
        words: Which tensor, from what to what.
    """

    kind: str
    words: str


@dataclass(frozen=True)
class Captured:
    """An architecture, and the module that proved it.

    Attributes:
        architecture: What goes on record.
        module: What building it gives: parameters on the meta device, buffers for real.
    """

    architecture: Architecture
    module: nn.Module


class Family(Protocol):
    """What this package needs to know of a model library; `families.adapter.Adapter` does most of it."""

    name: ClassVar[str]
    float32: ClassVar[frozenset[str]]
    """Its names of precisions whose weights are float32."""
    rows: ClassVar[Mapping[str, str]]
    """Outputs with a row for each sample: name of the output → which of the inputs the samples are."""

    pairs: ClassVar[frozenset[str]]
    """Those of them that are of a pair of samples, the first of each kind, the second of each, and so on. The first
    versions of this package did not record them."""

    def recognises(self, module: nn.Module) -> bool:
        """Whether this family made the module."""

    def register(self, model_config: Path) -> None:
        """Make a model config of the user's own known to the library, under the name of its file.

        Raises:
            InputError: It is not a config of this library.
        """

    def create(self, creation: Creation) -> nn.Module:
        """What the library's own builder makes of a call, weights and all."""

    def arguments_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, out of their record as JSON.

        Raises:
            ArchitectureError: They name something other than a layer of a model library.
        """

    def capture(self, module: nn.Module, creation: Creation | None) -> Captured:
        """The architecture of a live module, proved by rebuilding it.

        Raises:
            ArchitectureError: Something that cannot be recovered changes outputs; the message names the argument.
        """

    def describe(self, creation: Creation) -> Captured:
        """The architecture that a creation call would build, without a live module.

        Raises:
            UnknownModelError: No such model; the message has the nearest names.
        """

    def build(self, architecture: Architecture) -> nn.Module:
        """The module of an architecture: parameters on the meta device, buffers for real."""

    def activations(self, module: nn.Module) -> dict[str, dict[str, int]]:
        """Activation modules by tower: class name (with GELU's approximation) and how many."""

    def forward(self, ghost: nn.Module) -> None:
        """One small question to a module on the meta device, by which operators are traced.

        Raises:
            NotImplementedError: None can be asked without values.
        """

    def operators(self, module: nn.Module) -> Operators | None:
        """The operator fingerprint of answering one small question; None where that needs values."""

    def roles(self, architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
        """The component role of each tensor name of an architecture."""

    def origin(self, creation: Creation) -> tuple[str | None, list[str]]:
        """What weights a model started from, as a tag or file name, and the classes that those tell apart."""

    def transforms(self, architecture: Architecture) -> tuple[Any, Any]:
        """Preprocessing (a PIL image → tensor) and tokenizer (prompts → token ids) as recorded.

        None for what the model has not, or whose vocabulary is not at hand.
        """

    def carried_preprocess(self, module: nn.Module) -> Preprocess | None:
        """The preprocessing that a live module carries, by which its users prepare images; None where it has none."""

    def probe_preprocess(self, architecture: Architecture) -> Preprocess | None:
        """How the photographs of a probe are prepared: as recorded, or plainly where nothing is on record.

        None where it has none, or prepares them as no record can say.
        """

    def inputs(
        self, architecture: Architecture, probe: str | None = None, material: Probe | None = None
    ) -> Inputs | None:
        """A probe through the recorded preprocessing and tokenizer, None where the family has none for this model.

        Args:
            architecture: Of the model that is asked.
            material: What is asked; the photographs and prompts that ship with this package when None.
            probe: Name of a recorded probe; the family's best when None. Where it cannot be made here, for want of a
                tokenizer, another one comes back, with its own name.
        """

    def outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        """What the module says to a probe, by the name of the output."""

    def shared_outputs(self, module: nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
        """What models of several libraries give alike: `image_features` and `text_features` before they are normalised,
        of shape (samples, width), and `logits`, of shape (images, prompts). Nothing for other models."""

    def readings(
        self, architecture: Architecture, module: nn.Module, inputs: Inputs, outputs: Mapping[str, torch.Tensor]
    ) -> list[Reading]:
        """What a person reads off the outputs: for each photograph, probabilities by prompt or category."""

    def variants(self, architecture: Architecture) -> Sequence[Variant]:
        """Ways to run the same weights that this library's own config can say, and that give other outputs."""

    def stored_names(self, module: nn.Module) -> Mapping[str, str]:
        """Names that the library's own writer gives to tensors instead of the module's: name in the file → name."""

    def differences(self, asked: Architecture, recorded: Architecture) -> list[Difference]:
        """In what a model asked for would differ from the recorded one, where that changes outputs."""

    def weights_file(self, creation: Creation) -> Path | None:
        """The file of weights that a call names among its arguments, if it does."""

    def converts(self, creation: Creation) -> bool:
        """Whether the library makes weights that a call names fit, where they do not; else it refuses them."""

    def conversions(self, architecture: Architecture, misfit: ShapeDiff) -> list[Conversion]:
        """What the library's own loader would do, unasked, to weights that do not fit."""
