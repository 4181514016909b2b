"""An older checkpoint, genuine with its manifest and signature, in the place of the one that is meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.errors import InputError
from manifest.storage.sidecars import Sidecars

TODAY = datetime.now(UTC).date()


def rules(checkpoint: Path, **options: Any) -> list[str]:
    return [item.rule for item in manifest.verify(checkpoint, fast=True, **options).rungs[0].findings]


def weights_of(checkpoint: Path) -> str:
    digest: str = json.loads(Sidecars(checkpoint).manifest.read_bytes())["weights"]["digest"]
    return digest


@pytest.mark.parametrize("day", [TODAY, TODAY - timedelta(days=1), str(TODAY - timedelta(days=1))])
def test_manifest_of_the_day_or_later_passes(checkpoint: Path, day: date | str) -> None:
    assert rules(checkpoint, key="alice.pub", not_before=day) == []


def test_manifest_of_the_day_before_fails(checkpoint: Path) -> None:
    assert rules(checkpoint, key="alice.pub", not_before=TODAY + timedelta(days=1)) == ["T017"]


@pytest.mark.parametrize("moment", ["", "yesterday", "9999-99-99", "0001-01-01T00:00:00+23:59"])
def test_manifest_that_says_no_moment_fails(checkpoint: Path, moment: str) -> None:
    record = json.loads(Sidecars(checkpoint).manifest.read_bytes())
    record["created"] = moment
    Sidecars(checkpoint).manifest.write_text(json.dumps(record))

    assert "T017" in rules(checkpoint, not_before="2026-01-01")


def test_expected_weights_pass_and_others_fail(checkpoint: Path) -> None:
    torch.manual_seed(7)
    manifest.save(nn.Linear(2, 2), "other.safetensors", key="alice.key", golden=False, family="opaque")

    right = rules(checkpoint, key="alice.pub", expect_weights=weights_of(checkpoint))
    wrong = rules(checkpoint, key="alice.pub", expect_weights=weights_of(Path("other.safetensors")))

    assert (right, wrong) == ([], ["T018"])


def test_expected_weights_are_read_where_nobody_vouches_for_the_manifest(checkpoint: Path) -> None:
    """A manifest that claims the digest which is expected, over other tensors."""
    torch.manual_seed(7)
    other = Path("other.safetensors")
    manifest.save(nn.Linear(2, 2), other, golden=False, family="opaque")
    expected = weights_of(checkpoint)
    genuine = json.loads(Sidecars(checkpoint).manifest.read_bytes())["weights"]
    record = json.loads(Sidecars(other).manifest.read_bytes())
    record["weights"] = genuine
    Sidecars(other).manifest.write_text(json.dumps(record))

    assert "T018" in rules(other, expect_weights=expected)
    assert "T018" not in rules(checkpoint, expect_weights=expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"not_before": "1.11.2026"}, "There is no day '1.11.2026', expected one such as 2026-11-01."),
        (
            {"expect_weights": "blake3:12"},
            "The expected weights are 'blake3:12', expected `blake3:` and 64 hexadecimal",
        ),
        ({"expect_weights": "sha256:" + "0" * 64}, "expected `blake3:` and 64 hexadecimal digits"),
    ],
)
def test_expectation_that_is_none_is_refused(checkpoint: Path, options: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as raised:
        manifest.verify(checkpoint, fast=True, **options)
    assert says in str(raised.value)


def test_command_takes_both_options(checkpoint: Path, run: Callable[..., Any]) -> None:
    words = ("verify", "--fast", checkpoint, "--key", "alice.pub")
    right = run(*words, "--not-before", TODAY, "--expect-weights", weights_of(checkpoint))
    wrong = run(*words, "--not-before", TODAY + timedelta(days=1), "--expect-weights", "blake3:" + "0" * 64)

    assert right.code == 0
    assert wrong.code == 1
    assert "T017 older-than-demanded" in wrong.out
    assert "T018 other-weights-than-expected" in wrong.out
