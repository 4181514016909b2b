"""Whose signatures count: the signers that are trusted, when, for which checkpoints, and how many must have signed.

They are public keys or identities that somebody gives, or out of a trust file, which `trust_file` reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from manifest.signing.keys import PublicSigner


@dataclass(frozen=True)
class Signer:
    """Somebody whose signature may count.

    Attributes:
        public: The public key, or the identity.
        name: What the trust file calls it; None for one that was given.
        valid_from: The first day on which its signature counts, whenever it was made.
        valid_until: The last day.
        removed: The day on which it was removed; its signatures do not count any more.
        checkpoints: Patterns of the checkpoints that it may sign, as of `pathlib.PurePath.match`; empty for all.
    """

    public: PublicSigner
    name: str | None = None
    valid_from: date | None = None
    valid_until: date | None = None
    removed: date | None = None
    checkpoints: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """For a person: the name, and the identity or the beginning of the key's digest."""
        return self.public.title if self.name is None else f"{self.name} ({self.public.title})"

    def objection(self, checkpoint: Path, today: date) -> tuple[str, str] | None:
        """Why its signature of a checkpoint does not count, as a rule and a clause about it; None where it does.

        Args:
            checkpoint: Where it lies.
            today: The day, in UTC.
        """
        place = Path(os.path.normpath(checkpoint.absolute()))
        if self.removed is not None:
            return "T013", f"was removed on {self.removed}"
        if self.valid_from is not None and today < self.valid_from:
            return "T012", f"is valid from {self.valid_from} on, and today is {today}"
        if self.valid_until is not None and today > self.valid_until:
            return "T012", f"was valid until {self.valid_until}, and today is {today}"
        if self.checkpoints and not any(place.match(pattern) for pattern in self.checkpoints):
            return "T014", f"may sign {', '.join(self.checkpoints)}, and this is {place.name}"
        return None

    def terms(self, today: date) -> str:
        """When its signatures count, and for what, in one line."""
        if self.removed is not None:
            return f"removed on {self.removed}"
        terms = [f"from {self.valid_from}"] if self.valid_from is not None else []
        if self.valid_until is not None:
            terms.append(f"until {self.valid_until}" + " (expired)" * (today > self.valid_until))
        return ", ".join([*terms, *([f"only {' '.join(self.checkpoints)}"] if self.checkpoints else [])])


@dataclass(frozen=True)
class Signers:
    """The signers that are trusted, any of whom may have signed.

    Attributes:
        each: All of them, no key twice.
        threshold: How many of them must have signed.
        source: The trust file that says so; None where public keys were given.
    """

    each: tuple[Signer, ...]
    threshold: int = 1
    source: Path | None = None

    @classmethod
    def of_keys(cls, keys: Iterable[PublicSigner]) -> Signers:
        return cls(tuple(map(Signer, {key.hint: key for key in keys}.values())))

    @property
    def keys(self) -> tuple[PublicSigner, ...]:
        return tuple(signer.public for signer in self.each)

    def of(self, hint: str) -> Signer:
        """The signer with the key or identity of that digest."""
        return next(signer for signer in self.each if signer.public.hint == hint)
