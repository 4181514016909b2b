"""Pickles that the machine and torch must read alike: written opcode by opcode, or changed from what torch saves.

Each is put into a file of torch's form, and read by `torch.load(weights_only=True)` and by the machine. One that both
read must hold the same keys, types, shapes, values and aliases for both; the machine may refuse more than torch does.
Run as a program, `python fuzz/differing.py SECONDS`, it tries as many as fit, and ends with 1 at the first difference.
"""

from __future__ import annotations

import io
import random
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mutating import pickled

from manifest.checkpoint import Checkpoint, CompositeTensor, StridedTensor, open_checkpoint
from manifest.checkpoint.pickles.pickle_vm import interpret
from manifest.checkpoint.pickles.stand_ins import ByIdentity, Global, Members, OddKey, Opaque
from manifest.checkpoint.pickles.torch_objects import (
    Layout,
    PickledComposite,
    PickledStorage,
    PickledTensor,
    TorchObjects,
    UnlistedTensor,
)
from manifest.errors import CheckpointError

_STORED = {key: bytes(range(start, start + 32)) for key, start in (("0", 0), ("1", 64), ("2", 128))}
_SIZES = {"FloatStorage": 4, "HalfStorage": 2, "LongStorage": 8, "ByteStorage": 1, "ComplexFloatStorage": 8}
_TYPES = ("float32", "float16", "bfloat16", "int64", "uint8", "complex64", "uint16", "float8_e5m2")
_REBUILD = "torch._utils _rebuild_"


class Different(AssertionError):
    """The machine and torch read a file differently."""


class Writer:
    """Writes opcodes; each method gives those that leave one value on the stack.

    Args:
        chance: Where all choices come from.
        legacy: Whether persistent ids are those of the older form.
    """

    def __init__(self, chance: random.Random, *, legacy: bool) -> None:
        self.chance = chance
        self.legacy = legacy
        self.remembered = 0
        self.odd = chance.random() < 0.7

    def seldom(self, part: float = 0.08) -> bool:
        return self.odd and self.chance.random() < part

    def text(self, value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    def named(self, name: str) -> bytes:
        module, _, attribute = name.rpartition(" ")
        return f"c{module}\n{attribute}\n".encode()

    def number(self, value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def numbers(self, values: list[int]) -> bytes:
        inside = b"".join(map(self.number, values))
        return b"](" + inside + b"e" if self.seldom() else b"(" + inside + b"t"

    def call(self, name: str, *arguments: bytes) -> bytes:
        inside = list(arguments)
        if self.seldom(0.02) and inside:
            inside.pop()
        if self.seldom(0.02):
            inside.append(self.small())
        return self.named(name) + b"(" + b"".join(inside) + b"t" + (b"\x81" if self.seldom(0.04) else b"R")

    def small(self) -> bytes:
        encoded = self.named("_codecs encode") + b"(" + self.text("é") + self.text("latin1") + b"tR"
        return self.chance.choice(
            (
                *(b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f", self.number(self.chance.randint(-2, 3)), encoded),
                *(b"G" + struct.pack(">d", self.chance.choice((0.0, 1.0, 2.5, 5000.0))), self.number(5000)),
                *(self.text(self.chance.choice("abcw")), self.named("torch float32"), b"U\x01a", b"U\x02\xc3\xa9"),
                b"\x8a\x02\x88\x13",
            )
        )

    def key(self) -> bytes:
        if self.seldom(0.1):
            return self.small() if self.chance.random() < 0.7 else self.small() + self.small() + b"\x86"
        return self.text(self.chance.choice(("a", "b", "w", "x")))

    def storage(self) -> bytes:
        key = self.chance.choice("012")
        kind = {"0": "FloatStorage", "1": "HalfStorage", "2": "LongStorage"}[key]
        if self.seldom(0.05):
            kind = self.chance.choice(tuple(_SIZES))
        count = 32 // _SIZES[kind] if not self.seldom(0.02) else self.chance.randint(0, 40)
        module = "torch.storage UntypedStorage" if self.seldom(0.03) else f"torch {kind}"
        place = self.chance.choice(("meta", "cuda:0", "")) if self.seldom(0.02) else "cpu"
        identifier = self.text("storage") + self.named(module) + self.text(key) + self.text(place) + self.number(count)
        if self.legacy:
            view = self.text(self.chance.choice(("v", "u", "1"))) + self.number(self.chance.randint(0, 2))
            identifier += b"(" + view + self.number(2) + b"t" if self.seldom(0.2) else b"N"
        return b"(" + identifier + b"tQ"

    def hooks(self) -> bytes:
        return b"N" if self.seldom() else self.named("collections OrderedDict") + b")R"

    def flag(self) -> bytes:
        return self.small() if self.seldom(0.03) else self.chance.choice((b"\x89", b"\x89", b"\x88"))

    def tensor(self) -> bytes:
        shape = self.chance.choice(([], [2], [1, 2], [2, 2], [0], [3], [2, 1, 1]))
        stride, step = [], 1
        for size in reversed(shape):
            stride.insert(0, step)
            step *= max(size, 1)
        if self.seldom(0.2):
            stride = [self.chance.randint(-1, 2) for _ in shape]
        offset = self.chance.choice((0, 0, 1, 2, -1, 40)) if self.odd else 0
        begun = (self.storage(), self.number(offset), self.numbers(shape), self.numbers(stride))
        match self.chance.randrange(5):
            case 0:
                return self.call(_REBUILD + "tensor", *begun)
            case 1:
                wide = self.named("torch " + self.chance.choice(_TYPES)) if not self.seldom(0.05) else b"N"
                return self.call(_REBUILD + "tensor_v3", *begun, self.flag(), self.hooks(), wide)
            case _:
                bits = b"}(" + self.text(self.chance.choice(("conj", "neg"))) + b"\x88u"
                more = (bits,) if self.seldom(0.05) else ()
                return self.call(_REBUILD + "tensor_v2", *begun, self.flag(), self.hooks(), *more)

    def state(self) -> bytes:
        value = self.tensor() if self.chance.random() < 0.5 else self.small()
        name = self.chance.choice(("data", "grad", "note", "real", "_metadata", "keys", "requires_grad"))
        table = b"}(" + self.text(name) + value + b"u"
        view = b"(" + self.storage() + self.number(0) + self.numbers([2]) + self.numbers([1]) + b"t"
        whole = b"(" + self.tensor() + b"N\x89\x89" + self.hooks() + b"t"
        return self.chance.choice((b"}", b"N", table, b"N" + table + b"\x86", table + b"N\x86", view, whole))

    def held(self, depth: int) -> bytes:
        """A tensor, as it is or in a call that gives one."""
        match self.chance.randrange(9):
            case 0:
                return self.call(_REBUILD + "parameter", self.tensor(), self.flag(), self.hooks())
            case 1:
                state = self.state() if self.odd else b"}"
                return self.call(_REBUILD + "parameter_with_state", self.tensor(), self.flag(), self.hooks(), state)
            case 2:
                kind = self.chance.choice(("torch Tensor", "torch.nn.parameter Parameter"))
                inside = b"(" + self.storage() + self.number(0) + self.numbers([2]) + self.numbers([1])
                inside += self.flag() + self.hooks() + b"t"
                state = self.state() if self.odd else b"}"
                function = self.named(_REBUILD + "tensor_v2")
                return self.call("torch._tensor _rebuild_from_type_v2", function, self.named(kind), inside, state)
            case 3 if self.odd:
                return self.call("torch.nn.parameter Parameter", self.value(depth + 1))
            case _:
                return self.tensor()

    def pairs(self, depth: int) -> bytes:
        written = (self.key() + self.value(depth + 1) for _ in range(self.chance.randint(0, 3)))
        return b"(" + b"".join(written) + b"u"

    def table(self, depth: int) -> bytes:
        kind = self.chance.choice(("collections OrderedDict", "collections OrderedDict", "collections Counter"))
        inner = b"}" + self.pairs(depth)
        listed = b"](" + b"".join(self.key() + self.value(depth + 1) + b"\x86" for _ in range(2)) + b"e"
        match self.chance.randrange(6):
            case 0:
                return self.call(kind)
            case 1 if self.odd:
                return self.call(kind, self.kept(inner))
            case 2 if self.odd:
                return self.call(kind, listed)
            case 3 if self.odd:
                return self.named(kind) + self.kept(inner) + b"\x85\x81"
            case _:
                return b"}"

    def kept(self, value: bytes) -> bytes:
        """The same value, remembered for later."""
        if self.remembered > 200:
            return value
        self.remembered += 1
        return value + b"q" + bytes([self.remembered])

    def value(self, depth: int = 0) -> bytes:
        choice = self.chance.random()
        if self.remembered and choice < 0.12:
            return b"h" + bytes([self.chance.randint(1, self.remembered)]) + self.after(depth)
        if depth > 4 or choice < 0.25:
            return self.small()
        if choice < 0.7:
            return self.kept(self.held(depth)) + (self.after(depth) if self.seldom() else b"")
        if choice < 0.9:
            return self.kept(self.table(depth)) + self.pairs(depth) + self.after(depth)
        if choice < 0.95:
            inside = b"".join(self.value(depth + 1) for _ in range(self.chance.randint(0, 2)))
            return self.kept(b"](" + inside + b"e") + self.after(depth)
        return self.call(self.chance.choice(("torch Size", "builtins set", "builtins bytearray")), self.small())

    def after(self, depth: int) -> bytes:
        """What is done to a value that is there already."""
        if not self.seldom(0.25):
            return b""
        match self.chance.randrange(4):
            case 0:
                return self.state() + b"b"
            case 1:
                return self.pairs(depth + 1)
            case 2:
                return self.value(depth + 1) + b"a"
            case _:
                return self.key() + self.value(depth + 1) + b"s"

    def whole(self) -> bytes:
        return b"\x80\x02" + self.kept(b"}") + self.pairs(0) + self.pairs(0) + self.after(0) + b"."


def wrap(pickle: bytes, stored: dict[str, bytes], sizes: dict[str, int], *, legacy: bool) -> bytes:
    """A file of torch's zip form around a pickle, or of its older one."""
    if not legacy:
        file = io.BytesIO()
        records = {"data.pkl": pickle, "version": b"3\n"} | {f"data/{key}": data for key, data in stored.items()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in records.items():
                archive.writestr(zipfile.ZipInfo(f"made/{name}"), data)
        return file.getvalue()
    keys = b"".join(b"X\1\0\0\0" + key.encode() for key in stored)
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    tail = b"".join(struct.pack("<q", len(data) // sizes[key]) + data for key, data in stored.items())
    return head + pickle + b"\x80\x02](" + keys + b"e." + tail


def _used(pickle: bytes, *, legacy: bool) -> dict[str, int]:
    """The storages that a pickle refers to, and the bytes of one element of each; none where it cannot be read."""
    objects = TorchObjects(legacy=legacy)
    try:
        interpret(pickle, objects.constructors, objects.persistent)
    except CheckpointError:
        return {}
    return {storage.key: storage.itemsize for storage in objects.storages() if storage.key in _STORED}


def compare(pickle: bytes, folder: Path, stored: dict[str, bytes] | None = None, *, legacy: bool = False) -> str:
    """Read a pickle both ways.

    Returns:
        What became of it: `refused` by the machine, `torch refuses`, or `same`.

    Raises:
        Different: What the two read is not the same.
    """
    used = _used(pickle, legacy=legacy)
    stored = {key: _STORED[key] for key in used} if stored is None else stored
    objects = TorchObjects(legacy=legacy)
    path = folder / "made.pt"
    path.write_bytes(wrap(pickle, stored, used, legacy=legacy))
    try:
        root = interpret(pickle, objects.constructors, objects.persistent).root
        objects.check_storages()
    except CheckpointError:
        return "refused"
    try:
        opened: Checkpoint | None = open_checkpoint(path)
    except CheckpointError as error:
        opened = None
        if error.rule != "F001":  # it may hold no weights, and still is to be the same
            return "refused"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            live = torch.load(path, weights_only=True)
    except Exception:
        return "torch refuses"
    _Comparison(stored).same(root, live, "object")
    if opened is not None:
        with opened:
            _same_weights(opened, live)
    return "same"


class _Comparison:
    """One object by the machine and by torch, part by part; which of its parts are one is compared too."""

    def __init__(self, stored: dict[str, bytes]) -> None:
        self.stored = stored
        self.live_of: dict[int, Any] = {}
        self.inert_of: dict[int, Any] = {}

    def same(self, inert: Any, live: Any, where: str) -> None:
        if isinstance(inert, UnlistedTensor | Opaque | PickledStorage | Layout | Global | PickledComposite):
            if isinstance(live, torch.Tensor) != isinstance(inert, UnlistedTensor | PickledComposite):
                raise Different(f"{where}: {inert} and {type(live)}")
            return
        if isinstance(inert, PickledTensor):
            self.same_tensor(inert, live, where)
        elif isinstance(inert, dict | list):
            expected = dict if isinstance(inert, dict) else set if isinstance(inert, Members) else list
            if not isinstance(live, expected):
                raise Different(f"{where}: {type(inert)} and {type(live)}")
            if id(inert) in self.live_of or id(live) in self.inert_of:
                if self.live_of.get(id(inert)) is not live or self.inert_of.get(id(live)) is not inert:
                    raise Different(f"{where}: what is one for one of them is two for the other")
                return
            self.live_of[id(inert)], self.inert_of[id(live)] = live, inert
            if expected is dict:
                self.same_keys(inert, live, where)
            elif expected is list:
                self.same_items(inert, live, where)
        elif isinstance(inert, tuple):
            self.same_items(inert, live, where)
        elif type(inert) is not type(live) or repr(inert) != repr(live):  # by text, since NaN is not itself
            raise Different(f"{where}: {inert!r} and {live!r}")

    def same_keys(self, inert: Any, live: Any, where: str) -> None:
        if len(inert) != len(live):
            raise Different(f"{where}: {list(inert)} and {list(live)}")
        for (key, value), (name, item) in zip(inert.items(), live.items(), strict=True):
            shown = key.value if isinstance(key, OddKey) else key
            if isinstance(shown, ByIdentity | Opaque):
                self.same(shown, name, f"{where}, a key")
            elif not isinstance(shown, Global) and shown != name and not isinstance(shown, tuple):
                raise Different(f"{where}: the key {shown!r} and {name!r}")
            self.same(value, item, f"{where}[{name!r}]")

    def same_items(self, inert: Any, live: Any, where: str) -> None:
        if not isinstance(live, list | tuple) or len(inert) != len(live):
            raise Different(f"{where}: {inert!r} and {live!r}")
        for index, pair in enumerate(zip(inert, live, strict=True)):
            self.same(*pair, f"{where}[{index}]")

    def same_tensor(self, inert: PickledTensor, live: Any, where: str) -> None:
        if not isinstance(live, torch.Tensor) or live.device.type != "cpu":
            raise Different(f"{where}: a tensor and {type(live)}")
        found = (inert.dtype, inert.shape, inert.conjugated, inert.negated)
        if found != (str(live.dtype)[6:], tuple(live.shape), live.is_conj(), live.is_neg()):
            raise Different(f"{where}: {found} and {live.dtype}, {tuple(live.shape)}")
        data = torch.frombuffer(bytearray(self.stored.get(inert.storage.key) or b"\0"), dtype=torch.uint8)
        begin = inert.storage.start
        mine = torch.empty(0, dtype=live.dtype)
        if live.numel():
            mine = data[begin:].clone().view(torch.uint8)[: inert.storage.nbytes].clone().view(live.dtype)
            mine = mine.as_strided(inert.shape, inert.stride, inert.offset)
            if _octets(mine) != _octets(live.detach().resolve_conj().resolve_neg()) and not (
                inert.conjugated or inert.negated
            ):
                raise Different(f"{where}: other values")


def _octets(tensor: torch.Tensor) -> bytes:
    plain = tensor.clone(memory_format=torch.contiguous_format)
    return bytes(plain.untyped_storage())[: plain.numel() * plain.element_size()]


def _same_weights(checkpoint: Checkpoint, live: Any) -> None:
    """Compare the weights that are listed, with their values and their aliases, with those in torch's object."""
    for candidate in checkpoint.candidates:
        opened = checkpoint.select(candidate.path)
        state = live
        for key in opened.state_path:
            state = state[int(key)] if isinstance(state, list | tuple) else state.get(key)
            if state is None:
                return  # the key is no text
        if isinstance(state, torch.Tensor):
            state = {"tensor": state}
        elif isinstance(state, list | tuple):
            state = {str(index): item for index, item in enumerate(state)}
        named = {key[len(opened.prefix) :]: item for key, item in state.items() if isinstance(item, torch.Tensor)}
        if set(named) != {*opened.tensors, *opened.unlisted}:
            raise Different(f"the names {sorted(named)} and {sorted(opened.tensors)}")
        for name, tensor in opened.tensors.items():
            if isinstance(tensor, CompositeTensor) or not tensor.numel:
                continue
            if bytes(opened.values(tensor)) != _octets(named[name].detach().resolve_conj().resolve_neg()):
                raise Different(f"the values of {name}")
        tied = opened.aliases()
        strided = [name for name, each in opened.tensors.items() if isinstance(each, StridedTensor) and each.numel]
        first: dict[tuple[Any, ...], str] = {}
        for name in strided:
            each = named[name]
            place = (each.data_ptr(), each.shape, each.stride(), each.dtype, each.is_conj(), each.is_neg())
            place = (*place, each.untyped_storage().data_ptr(), each.untyped_storage().nbytes())
            if first.setdefault(place, name) != tied.get(name, name):
                raise Different(f"what {name} is tied to")


def saved(chance: random.Random) -> tuple[bytes, dict[str, bytes]]:
    """The pickle and the storages of something that torch saves."""
    weight = torch.arange(6.0).view(2, 3)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    noted = torch.nn.Parameter(weight)
    noted.note = "x"  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    made = chance.choice(
        (
            {"a": weight, "b": weight.t(), "c": weight[0], "n": torch.nn.Parameter(weight), "p": noted},
            {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "k": {1: 2, 2.5: "x"}},
            {"s": weight.to_sparse(), "h": weight.half(), "z": weight + 1j, "u": weight.to(torch.uint16), "w": weight},
        )
    )
    file = io.BytesIO()
    torch.save(made, file)
    with zipfile.ZipFile(file) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        stored = {name[5:]: archive.read(f"archive/{name}") for name in names if name.startswith("data/")}
        return archive.read("archive/data.pkl"), stored


def attempt(chance: random.Random, folder: Path) -> str:
    """Make one pickle and compare; see `compare`."""
    if chance.random() < 0.3:
        pickle, stored = saved(chance)
        if chance.random() < 0.9:
            pickle = pickled(pickle, random.Random(chance.randrange(1 << 32)))
        return compare(pickle, folder, stored)
    legacy = chance.random() < 0.25
    return compare(Writer(chance, legacy=legacy).whole(), folder, legacy=legacy)


def main() -> int:
    seconds, start = (
        float(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().getrandbits(48),
    )
    torch.set_num_threads(1)
    counts: dict[str, int] = {}
    ends = time.monotonic() + seconds
    with TemporaryDirectory() as folder:
        seed = start
        while time.monotonic() < ends:
            try:
                became = attempt(random.Random(seed), Path(folder))
            except Different as difference:
                print(f"seed {seed}: {difference}")
                return 1
            counts[became] = counts.get(became, 0) + 1
            seed += 1
    print(f"{sum(counts.values()):,} pickles from seed {start}, no difference: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
