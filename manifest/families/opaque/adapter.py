"""The opaque family: a model that nobody knows how to rebuild, recorded by what it shows.

Its modules, operators, weights and outputs are on record as those of any other model, and the reason. It is loaded by
whoever builds it, who holds what he has built against the record by `manifest.compare`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from manifest.errors import ArchitectureError, NotRebuildableError
from manifest.escaping import printable
from manifest.families.adapter import Adapter, Draft, precision_of
from manifest.families.equivalence import tables_of
from manifest.families.protocol import Captured, Creation
from manifest.fingerprints.structure import on_meta
from manifest.neutral_process import neutral_process
from manifest.schema.document import Architecture

_WHY = "why"
_MIXED = "as_built"


class Opaque(Adapter):
    """Adapter for modules whose making is not known, or cannot be written down."""

    name = "opaque"
    builder = "none"

    def recognises(self, module: nn.Module) -> bool:
        del module  # whatever another family does not know
        return False

    def resolve(self, creation: Creation) -> Draft:
        raise NotRebuildableError(f"{creation.name!r} is of no library; name its family, or `package.module:name`.")

    def construct(self, draft: Draft) -> nn.Module:
        raise NotRebuildableError(
            f"How to build this {draft.class_name} is not on record: {draft.config.get(_WHY)} "
            "Build it yourself, load its weights, and hold it against the record: `manifest.compare(model, CKPT)`."
        )

    def create(self, creation: Creation) -> nn.Module:
        return self.construct(self.resolve(creation))

    def capture(self, module: nn.Module, creation: Creation | None) -> Captured:
        del creation
        return self.capture_as_shown(module, "Whoever saved it asked for no more, by family='opaque'.")

    @neutral_process()
    def capture_as_shown(self, module: nn.Module, why: str) -> Captured:
        """What a live module shows, and a copy of it without weights.

        Args:
            module: The module.
            why: The reason why it is not captured otherwise, as a sentence.
        """
        copied = on_meta(module)
        for name, table in tables_of(module):
            path, _, own = name.rpartition(".")
            copied.get_submodule(path)._buffers[own] = table.detach().cpu().clone()
        draft = Draft(None, type(module).__name__, {_WHY: printable(why, 1000)}, {}, _precision(module))
        return self._captured(draft, copied, module, None)

    def build(self, architecture: Architecture) -> Any:
        return self.construct(self.draft_of(architecture))


FAMILY = Opaque()


def _precision(module: nn.Module) -> str:
    try:
        return precision_of(module)
    except ArchitectureError:
        return _MIXED
