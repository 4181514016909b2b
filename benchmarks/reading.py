"""Reading without torch: the names of many tensors, and the digests of large ones."""

from __future__ import annotations

from collections.abc import Iterator

from hashing import BLAKE3, within_b3sum
from measuring import INSIDE, MANIFEST, in_turn, run, seconds_said_by
from place import Place, gigabytes
from table import Row, faster, in_less_memory, in_memory, within


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time and memory of `open_checkpoint` and `Checkpoint.digest`."""
    for form, path in place.experts.items():
        ours, theirs = [*INSIDE, "names", path], [*INSIDE, "torch_names", path]
        what = f"names of 8,000 tensors, {form} form"
        pair = in_turn(seconds_said_by(ours), seconds_said_by(theirs), runs)
        yield faster(f"{what} / torch.load on the meta device, after imports", pair, 1)
        memory = f"{what}, peak memory of the process (RssAnon) / the same"
        yield in_less_memory(memory, run(ours, look=True), run(theirs, look=True))
    digests = [*INSIDE, "digests", place.signed]
    what = f"digests of all tensors of {gigabytes(place.signed)}"
    yield within_b3sum(f"{what}, whole process", digests, place.signed, runs)
    pair = in_turn(seconds_said_by(digests), seconds_said_by([*BLAKE3, place.signed]), runs)
    yield within(f"{what} / blake3 alone, both after imports", pair)
    converted = place.hollow.with_name("converted.safetensors")
    for what, command in (
        ("digests of all tensors", [*INSIDE, "digests", place.hollow]),
        ("manifest audit", [*MANIFEST, "audit", place.hollow, "--fail-on", "never"]),
        ("manifest convert", [*MANIFEST, "convert", place.hollow, converted]),
    ):
        what = f"{what} of {gigabytes(place.hollow)}, sparse on disk"
        yield in_memory(f"{what}, peak memory without the mapped file (RssAnon)", run(command, look=True), 300e6)
        converted.unlink(missing_ok=True)
