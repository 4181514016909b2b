"""Verifying a large file, beside another verifier and beside hashing alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from hashing import BLAKE3, within_b3sum
from measuring import INSIDE, MANIFEST, in_turn, run, seconds_of, seconds_said_by
from place import Place, gigabytes
from table import Row, faster, in_memory, not_measured, within


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time and memory of `verify --fast`."""
    _, public = place.keys
    verify = [*MANIFEST, "verify", "--fast", place.signed, "--key", public]
    signature = place.signed.with_name(f"{place.signed.name}.manifest.sig")
    model_signing = [sys.executable, "-m", "model_signing", "verify", "key", place.signed.parent]
    model_signing += ["--signature", signature, "--public_key", public, "--ignore_unsigned_files"]
    title = f"verify --fast of {gigabytes(place.signed)}, whole process"
    try:
        pair = in_turn(seconds_of(verify), seconds_of(model_signing), runs)
        yield faster(f"{title} / model_signing verify", pair, 5)
    except RuntimeError as error:
        yield not_measured(f"{title} / model_signing verify", str(error).splitlines()[-1])
    yield within_b3sum(title, verify, place.signed, runs)
    hashing = [*BLAKE3, place.signed]
    pair = in_turn(seconds_said_by([*INSIDE, "hash", place.signed]), seconds_of(hashing), runs)
    yield within("its integrity check by itself / python with blake3 alone", pair)
    yield within(f"{title} / python with blake3 alone", in_turn(seconds_of(verify), seconds_of(hashing), runs), 1.3)
    many = [*MANIFEST, "verify", "--fast", *place.many]
    one = seconds_of([*BLAKE3, *place.many])
    what = f"verify --fast of {len(place.many)} files of {place.many[0].stat().st_size / 1e6:.0f} MB"
    for trust, options in (("signed by the key that is given", ["--key", public]), ("without a key", [])):
        pair = in_turn(seconds_of([*many, *options]), one, runs)
        yield within(f"{what}, {trust} / python with blake3 alone", pair, 1.2)
    yield in_memory("verify --fast, peak memory without the mapped file (RssAnon)", run(verify, look=True), 150e6)
