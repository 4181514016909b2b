"""The trust file: who may sign which checkpoints, from when until when, and how many must have signed; strict YAML.

Signatures carry no time that anybody vouches for, so a period of validity is held against the day of the check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, field_validator, model_validator

from manifest.errors import KeyFileError
from manifest.signing.identities import Identity
from manifest.signing.keys import PublicSigner, parse_public_key
from manifest.signing.trusted import Signer, Signers
from manifest.strict_yaml import Day, Part, Pattern, Words, parse_fields, parse_yaml
from manifest.validation import quoted


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("printable characters on one line are expected")
    return text


Text = Annotated[Words, AfterValidator(_printable)]
_TEXT = "tag:yaml.org,2002:str"


class TrustedSigner(Part):
    """One signer."""

    name: Text = Field(description="What reports call the signer; no other has the same name.", max_length=100)
    key: str | None = Field(
        default=None, description="The public key: PEM, on the elliptic curve P-256, P-384 or P-521."
    )
    identity: Text | None = Field(
        default=None,
        description="In place of a key, an identity that Sigstore vouches for: an e-mail address or a URI, as its "
        "certificates have it.",
    )
    issuer: Text | None = Field(default=None, description="The address of the OpenID Connect issuer of the identity.")
    instance: Text | None = Field(
        default=None,
        description="The file, beside this one, that describes the instance of Sigstore that vouches for it: its "
        "trusted_root.json or client trust configuration. Left out: the public instance.",
    )
    valid_from: Day | None = Field(default=None, description="The first day, in UTC, on which its signatures count.")
    valid_until: Day | None = Field(default=None, description="The last day, in UTC, on which its signatures count.")
    removed: Day | None = Field(
        default=None, description="The day on which the signer was removed; none of its signatures counts."
    )
    checkpoints: tuple[Pattern, ...] = Field(
        default=(),
        max_length=100,
        description="Which checkpoints it may sign, as by `pathlib.PurePath.match` on the whole path: from the right, "
        "so that heads/*.pt is in any directory heads; * stays within a name. Left out: all of them.",
    )

    @field_validator("key")
    @classmethod
    def _public(cls, key: str | None) -> str | None:
        try:
            if key is not None:
                parse_public_key(key, "the field")
        except KeyFileError as error:
            raise ValueError(str(error).rstrip(".")) from None
        return key

    @model_validator(mode="after")
    def _somebody(self) -> TrustedSigner:
        if self.key is None and self.identity is None:
            raise ValueError(f"{quoted(self.name)} has neither a key nor an identity")
        if self.key is not None and self.identity is not None:
            raise ValueError(f"{quoted(self.name)} has a key and an identity, expected one of them")
        if (self.identity is None) != (self.issuer is None):
            raise ValueError(f"{quoted(self.name)} has an identity without an issuer or an issuer without an identity")
        if self.instance is not None and self.identity is None:
            raise ValueError(f"{quoted(self.name)} has an instance of Sigstore and no identity")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> TrustedSigner:
        if self.valid_from is not None and self.valid_until is not None and self.valid_until < self.valid_from:
            raise ValueError(f"{quoted(self.name)} is valid until {self.valid_until}, before {self.valid_from}")
        return self

    def public(self, folder: Path) -> PublicSigner:
        """Its key or identity.

        Args:
            folder: Where the trust file is.
        """
        if self.key is not None:
            return parse_public_key(self.key, self.name)
        assert self.identity is not None and self.issuer is not None
        return Identity(self.identity, self.issuer, folder / self.instance if self.instance else None)


class TrustFile(Part):
    """Whose signatures count, and how many a checkpoint needs."""

    schema_version: Literal["trust/v1"] = Field(alias="schema")
    threshold: int = Field(
        default=1, ge=1, le=100, strict=True, description="How many of the signers must have signed a checkpoint."
    )
    signers: tuple[TrustedSigner, ...] = Field(default=(), max_length=100, description="The signers.")

    @model_validator(mode="after")
    def _consistent(self) -> TrustFile:
        for values in ([each.name for each in self.signers], [each.public(Path()).hint for each in self.signers]):
            value, times = next(iter(Counter(values).most_common(1)), ("", 0))
            if times > 1:
                signer = self.signers[values.index(value)]
                what = "name" if value == signer.name else f"{'key' if signer.key else 'identity'} of"
                raise ValueError(f"the {what} {quoted(signer.name)} is there twice, expected once")
        return self

    def signers_from(self, source: Path) -> Signers:
        """The signers, with their keys read."""
        return Signers(
            tuple(
                Signer(
                    public=each.public(source.parent),
                    name=each.name,
                    valid_from=each.valid_from,
                    valid_until=each.valid_until,
                    removed=each.removed,
                    checkpoints=each.checkpoints,
                )
                for each in self.signers
            ),
            self.threshold,
            source,
        )


def parse_trust(data: bytes, what: str) -> TrustFile:
    """A trust file out of its bytes.

    Args:
        data: The bytes.
        what: How a message calls it.

    Raises:
        InputError: It is none; the message names the field.
    """
    return parse_yaml(data, TrustFile, what)


def to_yaml(content: Mapping[str, Any], what: str) -> bytes:
    """A trust file as it is written: fields that are left out are not there, a key stands in lines of its own.

    Args:
        content: Its fields.
        what: How a message calls it.

    Raises:
        InputError: With these fields it is none.
    """
    written = _written(content)
    trust = _written(parse_fields(written, TrustFile, what).model_dump(by_alias=True, exclude_defaults=True))
    head = {"schema": "trust/v1", "threshold": trust.pop("threshold", 1)}
    return yaml.dump(head | trust, Dumper=_InBlocks, sort_keys=False, allow_unicode=True, width=100).encode()


def _written(value: Any) -> Any:
    """Fields as YAML has them: lists, and nothing that is left out."""
    if isinstance(value, Mapping):
        return {name: _written(each) for name, each in value.items() if each is not None and each != ()}
    return [_written(each) for each in value] if isinstance(value, tuple) else value


class _InBlocks(yaml.SafeDumper):
    """YAML with texts of several lines as blocks."""


_InBlocks.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(_TEXT, text, style="|" if "\n" in text else None)
)
