"""A pickle machine that never imports or calls anything.

It runs the opcodes of protocols 0 to 5 over plain containers. A global becomes a `Global`, which is only a name; what a
call of one gives is asked of a table of constructors, and is an `Opaque` for every name that is not in it. It knows no
torch: persistent ids are the caller's. The opcodes are those of CPython's `Lib/pickle.py` and `pickletools.py`, and do
what torch's own unpickler (`torch/_weights_only_unpickler.py`) does where it knows them; what is not done exactly so is
refused.

This file is long because all opcodes of six protocols work on one stack, one memo and one budget of memory: they are
the methods of one machine, and one table names the method of each.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from manifest.checkpoint.pickles.stand_ins import (
    Class,
    Constructor,
    Counted,
    Global,
    Members,
    OddKey,
    Opaque,
    Ordered,
    Stateless,
    as_key,
    inexact,
    kind_name,
    malformed,
    over_limit,
)
from manifest.errors import CheckpointError
from manifest.escaping import printable, writable

if TYPE_CHECKING:
    from manifest.checkpoint.pickles.uses import Uses

# The largest pickle of a published checkpoint has under 5 MB, and objects of some 35 MB come of it.
MOST_PICKLE_BYTES = 32 << 20
MOST_OPCODES = 6_000_000
MOST_MEMORY = 128 << 20
MOST_NESTED = 100_000
MOST_MEMO = 2_000_000
MOST_INTEGER_BYTES = 255
MOST_NAME_CHARACTERS = 1_000
MOST_NUMBER_CHARACTERS = 1_000
MOST_GLOBALS = 50_000


@dataclass(frozen=True)
class Interpreted:
    """What a pickle amounts to.

    Attributes:
        root: The object, of Python's scalars, strings, lists, tuples and dictionaries, and of stand-ins.
        globals: Every global that a real unpickler would import, in order of appearance, then those that are used as no
            library saves them, with `named_globals.ODDLY` behind them.
        refused_opcodes: Opcodes in it, by their names, that `torch.load(weights_only=True)` does not accept.
        end: Offset of the byte after the pickle, from the start of the bytes.
    """

    root: Any
    globals: tuple[str, ...]
    refused_opcodes: tuple[str, ...]
    end: int


def interpret(
    pickle: bytes,
    constructors: Mapping[str, Constructor | Class],
    persistent: Callable[[Any], Any],
    *,
    start: int = 0,
    limit: int = MOST_PICKLE_BYTES,
) -> Interpreted:
    """Run a pickle inertly.

    Args:
        pickle: Its bytes; more may follow.
        constructors: What is understood, by `module.name`.
        persistent: Gives the stand-in for a persistent id.
        start: Where it begins in them.
        limit: How many bytes it may have.

    Raises:
        CheckpointError: `F002` when a real unpickler would stumble, `F003` when over a limit.
    """
    from manifest.checkpoint.pickles.uses import Uses

    machine = _Machine(pickle, constructors, persistent, start, limit, Uses())
    try:
        root = machine.run()
    except (IndexError, struct.error):
        if machine.position >= machine.end:
            raise machine.cut_short("more was") from None
        raise malformed(
            f"the pickle is cut short or takes more off its stack than it put there, at byte {machine.position:,}"
        ) from None
    except (ValueError, OverflowError) as error:
        raise malformed(
            f"the pickle has a bad value before byte {machine.position:,} ({printable(str(error))})"
        ) from None
    return Interpreted(root, machine.named(), tuple(machine.refused_opcodes), machine.position)


# What Python 2 called these modules; pickles of protocol 2 and below still do.
_PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_SLOT = 8  # bytes of a place in a list
_OBJECT = 80  # bytes of an empty list, dictionary or tuple, or of a stand-in, with its place
_FIRST_ENTRY = 170  # bytes that an empty dictionary grows by
_ENTRY = 60  # bytes of each entry, on average
_LONG_TEXT = 1_000  # characters; shorter ones count as one object
_NOTHING = object()  # a place of the memo that nothing was put into
_GETATTR = "builtins.getattr"
_MEMBER = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)
_MOST_MEMBER = 100  # characters


class _Machine:
    """The stack, the memo and one method for each opcode."""

    def __init__(
        self,
        pickle: bytes,
        constructors: Mapping[str, Constructor | Class],
        persistent: Callable[[Any], Any],
        start: int,
        limit: int,
        uses: Uses,
    ) -> None:
        self.uses = uses
        self.pickle = pickle
        self.position = start
        self.end = min(start + limit, len(pickle))
        self.constructors = constructors
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        self.remembered = 0
        self.memory = 0
        self.globals: dict[str, Global] = {}
        self.members: dict[str, None] = {}
        self.getattr_pushed = 0
        self.getattr_of_members = 0
        self.refused_opcodes: dict[str, None] = {}

    def run(self) -> Any:
        pickle, handlers = self.pickle, _HANDLERS
        for _ in range(MOST_OPCODES):
            opcode = pickle[self.position]
            self.position += 1
            if opcode == _STOP:
                return self.stop()
            handler = handlers[opcode]
            if handler is None:
                raise malformed(f"the pickle has the unknown opcode {bytes([opcode])!r} at byte {self.position - 1:,}")
            handler(self)
        raise over_limit(f"the pickle has more than {MOST_OPCODES:,} opcodes")

    def stop(self) -> Any:
        root = self.stack.pop()
        if self.stack or self.marks:
            raise malformed("the pickle stops with objects left on its stack")
        return root

    # Reading arguments

    def take(self, count: int) -> bytes:
        start = self.position
        end = start + count
        if end > self.end:
            raise self.cut_short(f"{count:,} bytes were")
        self.position = end
        return self.pickle[start:end]

    def cut_short(self, expected: str) -> CheckpointError:
        if self.end < len(self.pickle):
            return over_limit(f"the pickle goes on after byte {self.end:,}, the last that it may have")
        return malformed(f"the pickle is cut short: {expected} expected at byte {self.position:,}")

    def natural(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def line(self) -> bytes:
        end = self.pickle.find(b"\n", self.position, self.end)
        if end < 0:
            raise self.cut_short("a line was")
        line = self.pickle[self.position : end]
        self.position = end + 1
        return line

    def digits(self) -> bytes:
        """A line that is a number."""
        line = self.line()
        if len(line) > MOST_NUMBER_CHARACTERS:
            raise over_limit(
                f"the pickle has a number of {len(line):,} characters, over the limit of {MOST_NUMBER_CHARACTERS:,}"
            )
        return line

    # The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_again(self, value: Any) -> None:
        """Push what has been pushed before, and may be a global."""
        self.getattr_pushed += value is self.globals.get(_GETATTR, _NOTHING)
        self.stack.append(value)

    def push_container(self, value: Any) -> None:
        self.charge(_OBJECT)
        self.stack.append(value)

    def push_opaque(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.charge(_OBJECT)
        self.push_container(Opaque(name, arguments))

    def push_text(self, value: str | bytes) -> None:
        # The text itself, of one to four bytes a character; a million short ones are counted too.
        self.charge(_OBJECT if len(value) < _LONG_TEXT else value.__sizeof__())
        self.stack.append(value)

    def charge(self, nbytes: int) -> None:
        self.memory += nbytes
        if self.memory > MOST_MEMORY:
            raise over_limit(
                f"the pickle makes objects of more than {MOST_MEMORY >> 20} MiB, some four times those of the largest "
                "that was ever published"
            )

    def mark(self) -> None:
        if len(self.marks) == MOST_NESTED:
            raise over_limit(f"the pickle nests more than {MOST_NESTED:,} levels deep")
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def pop(self) -> None:
        # As CPython does: POP right after MARK takes the mark.
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def pop_mark(self) -> None:
        self.since_mark()

    def duplicate(self) -> None:
        self.push_again(self.stack[-1])

    # The memo

    def remember(self, index: int) -> None:
        # A list, as in CPython: in a dictionary, numbers can be chosen such that each look-up goes through all others.
        memo = self.memo
        if index >= len(memo):
            if index >= MOST_MEMO:
                raise over_limit(f"the pickle remembers an object as number {index:,}, over the limit of {MOST_MEMO:,}")
            self.charge(_SLOT * (index + 1 - len(memo)))
            memo += [_NOTHING] * (index + 1 - len(memo))
        elif index < 0:
            raise malformed(f"the pickle remembers an object as number {index}")
        self.remembered += memo[index] is _NOTHING
        memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if not 0 <= index < len(self.memo) or self.memo[index] is _NOTHING:
            raise malformed(f"the pickle refers to object {index:,} before it exists, at byte {self.position:,}")
        self.push_again(self.memo[index])

    # Text arguments of protocol 0

    def text_integer(self) -> None:
        line = self.digits()
        self.push(line == b"01" if line in (b"00", b"01") else int(line, 0))

    def text_long(self) -> None:
        self.push(int(self.digits().rstrip(b"L"), 0))

    def text_string(self) -> None:
        line = self.line()
        if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
            raise malformed(f"the pickle has a string without quotes before byte {self.position:,}")
        self.push_text(_python_2_string(codecs.escape_decode(line[1:-1])[0]))

    def text_unicode(self) -> None:
        self.push_text(self.line().decode("raw-unicode-escape"))

    def long(self, size: int) -> None:
        if size > MOST_INTEGER_BYTES:
            raise over_limit(f"the pickle has an integer of {size:,} bytes, over the limit of {MOST_INTEGER_BYTES}")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    # Containers

    def append(self) -> None:
        item = self.stack.pop()
        self.extend([item])

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        self.uses.appended(target)
        if type(target) is list:
            self.charge(_SLOT * len(items) + (0 if target else 4 * _SLOT))
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise malformed(f"the pickle appends to a {kind_name(target)} before byte {self.position:,}")

    def add_items(self) -> None:
        items = self.since_mark()
        target = self.stack[-1]
        self.uses.appended(target)
        if isinstance(target, Members):
            self.charge(_SLOT * len(items))
            target += items
        elif not isinstance(target, Opaque):
            raise malformed(f"the pickle adds members to a {kind_name(target)} before byte {self.position:,}")

    def set_item(self) -> None:
        value = self.stack.pop()
        self.set_items([self.stack.pop(), value])

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise malformed(f"the pickle sets a key without a value before byte {self.position:,}")
        if isinstance(target, Opaque):
            self.uses.set_on(target, items[::2])
            if target.entries is None:
                self.charge(_OBJECT)
                target.entries = {}
            target = target.entries
        if not isinstance(target, dict):
            raise malformed(f"the pickle sets keys of a {kind_name(target)} before byte {self.position:,}")
        if items:
            self.charge(len(items) // 2 * _ENTRY + (0 if target else _FIRST_ENTRY))
        for index in range(0, len(items), 2):
            key = as_key(items[index])
            if type(key) is OddKey:
                self.charge(2 * _OBJECT + len(key.text))
            target[key] = items[index + 1]

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.charge(_SLOT * count)
        self.push_container(items)

    def tuple_of_mark(self) -> None:
        items = tuple(self.since_mark())
        self.charge(_SLOT * len(items))
        self.push_container(items)

    def list_of_mark(self) -> None:
        items = self.since_mark()
        self.charge(_SLOT * len(items))
        self.push_container(items)

    def frozen_set_of_mark(self) -> None:
        items = Members(self.since_mark())
        self.charge(_SLOT * len(items))
        self.push_container(items)

    def dict_of_mark(self) -> None:
        items = self.since_mark()
        self.push_container({})
        self.set_items(items)

    # Globals and calls

    def find_global(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise malformed(f"the pickle names a global by other things than strings before byte {self.position:,}")
        if len(module) + len(name) > MOST_NAME_CHARACTERS:
            raise over_limit(f"the pickle names a global in more than {MOST_NAME_CHARACTERS:,} characters")
        full_name = writable(f"{_PYTHON_2_MODULES.get(module, module)}.{name}")
        found = self.globals.get(full_name)
        if found is None:
            self.charge_name(full_name)
            found = self.globals[full_name] = Global(full_name)
        return found

    def charge_name(self, name: str) -> None:
        if len(self.globals) + len(self.members) >= MOST_GLOBALS:
            raise over_limit(f"the pickle names more than {MOST_GLOBALS:,} globals")
        self.charge(_FIRST_ENTRY + 2 * len(name))

    def text_global(self) -> None:
        module = self.line().decode()
        self.push_again(self.find_global(module, self.line().decode()))

    def stack_global(self) -> None:
        name = self.stack.pop()
        self.push_again(self.find_global(self.stack.pop(), name))

    def extension(self, size: int) -> None:
        # What the number means is up to the registry of whoever loads the file.
        self.push(self.find_global("copyreg", f"extension_{self.natural(size)}"))

    def call(
        self,
        function: Any,
        arguments: Any,
        *,
        new: bool = False,
        met: Callable[[Any, tuple[Any, ...]], None] | None = None,
    ) -> None:
        """What calling a function gives; or, where it is `new`, the `__new__` of a class.

        Args:
            function: What is called.
            arguments: What it is called with.
            new: Whether its `__new__` alone is called.
            met: What is told of this use; that of a call when None.
        """
        if not isinstance(arguments, tuple):
            # Only a tuple is ever written here; a list would work in some readers.
            if not isinstance(arguments, Opaque):
                raise malformed(
                    f"the pickle calls with a {kind_name(arguments)} of arguments before byte {self.position:,}"
                )
            arguments = (arguments,)
        if isinstance(function, Global | Opaque):
            (met or self.uses.called)(function, arguments)
        if isinstance(function, Global):
            if function.name == _GETATTR:
                self.note_member(arguments)
            constructor = self.constructors.get(function.name)
            if constructor is None:
                self.push_opaque(function.name, arguments)
                return
            # A constructor may go through its arguments, and two bytes of pickle can pass the same long list again.
            self.charge(_SLOT * len(arguments))
            for argument in arguments:
                if isinstance(argument, list | tuple | dict):
                    self.charge(_ENTRY * len(argument))
                elif isinstance(argument, str | bytes):
                    self.charge(len(argument))
            if isinstance(constructor, Class):
                constructor = constructor.new if new else constructor.call
            elif new:
                raise malformed(f"the pickle makes an object of '{printable(function.name)}', which is no class")
            self.push_container(constructor(arguments))
        elif isinstance(function, Opaque):
            self.push_opaque(function.name, arguments)
        else:
            raise malformed(f"the pickle calls a {kind_name(function)} before byte {self.position:,}")

    def note_member(self, arguments: tuple[Any, ...]) -> None:
        """Tell `getattr(Class, "MEMBER")`, as Python 3.11.0 to 3.11.3 writes members of enumerations, from others."""
        match arguments:
            case (Global(name=owner), str(member)) if len(member) <= _MOST_MEMBER and _MEMBER.fullmatch(member):
                self.getattr_of_members += 1
                name = f"{owner}.{member}"
                if name not in self.members:
                    self.charge_name(name)
                    self.members[name] = None

    def named(self) -> tuple[str, ...]:
        """Every global, with members of enumerations by their own names where that is all that `getattr` was for."""
        if self.getattr_pushed != self.getattr_of_members:
            return (*self.globals, *self.uses.odd)
        return tuple(name for name in {**self.globals, **self.members, **self.uses.odd} if name != _GETATTR)

    def reduce(self) -> None:
        arguments = self.stack.pop()
        self.call(self.stack.pop(), arguments)

    def new_object(self) -> None:
        arguments = self.stack.pop()
        self.call(self.stack.pop(), arguments, new=True, met=self.uses.made)

    def new_object_with_keywords(self) -> None:
        keywords = self.stack.pop()
        arguments = self.stack.pop()
        made = self.stack.pop()
        if keywords != {} and isinstance(made, Global) and made.name in self.constructors:
            raise inexact(f"the pickle makes a '{made.name}' with keywords")
        self.call(made, arguments, new=True, met=lambda made, given: self.uses.made(made, given, keywords))

    def instance(self) -> None:
        module = self.line().decode()
        function = self.find_global(module, self.line().decode())
        self.getattr_pushed += function.name == _GETATTR  # as good as pushed
        self.instantiate(function, tuple(self.since_mark()))

    def object_of_mark(self) -> None:
        items = self.since_mark()
        self.instantiate(items[0], tuple(items[1:]))

    def instantiate(self, function: Any, arguments: tuple[Any, ...]) -> None:
        # Without arguments, CPython makes an object as of the old classes, by `__new__` alone.
        self.call(function, arguments, met=None if arguments else self.uses.made)

    def build(self) -> None:
        # State is attributes; whatever they are, they run nothing here. Those of a module hold its weights.
        state = self.stack.pop()
        target = self.stack[-1]
        self.uses.built(target, state)
        if isinstance(target, Global):
            # On a class or function itself it would change what every later caller of it gets.
            raise malformed(f"the pickle changes '{printable(target.name)}' itself")
        if isinstance(target, Opaque):
            if target.state is not None:
                raise inexact(f"the pickle sets the state of a '{target.name}' twice")
            target.state = self.attributes(state)
        elif isinstance(target, Ordered | Counted):
            kind = OrderedDict if isinstance(target, Ordered) else Counter
            names = state if type(state) is dict else (None,)
            if not all(isinstance(name, str) and not hasattr(kind, name) for name in names):
                raise inexact(f"the pickle sets attributes of a {kind.__name__} that may change what is in it")
        elif not isinstance(target, Stateless):
            raise inexact(f"the pickle sets the state of a {kind_name(target)}")

    def attributes(self, state: Any) -> Any:
        """A state as an object takes it: it copies the dictionary, and goes on without what is put there later."""
        if type(state) is not dict:
            return state
        self.charge(_OBJECT + _ENTRY * len(state))
        return dict(state)

    def persistent_id(self) -> None:
        self.push_container(self.persistent(self.stack.pop()))

    def no_out_of_band(self) -> NoReturn:
        raise malformed("the pickle expects a buffer from outside the file")

    def protocol(self) -> None:
        version = self.take(1)[0]
        if version > 5:
            raise malformed(f"the pickle has the unknown protocol {version}")

    def text_persistent_id(self) -> NoReturn:
        raise malformed("the pickle has a persistent id of protocol 0, which torch.save never writes")

    def frame(self) -> None:
        length = self.natural(8)
        if length > self.end - self.position:
            if self.end < len(self.pickle):
                raise self.cut_short("more was")
            raise malformed(f"the pickle has a frame of {length:,} bytes, more than it has left")


_STOP = ord(".")


def _python_2_string(octets: bytes) -> str:
    """A string of Python 2, in the encoding that torch takes it for; where it is not in that, torch refuses it."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _unpacked(form: str) -> Callable[[_Machine], None]:
    reader = struct.Struct(form)

    def handle(machine: _Machine) -> None:
        position = machine.position
        machine.stack.append(reader.unpack_from(machine.pickle, position)[0])
        machine.position = position + reader.size

    return handle


def _text(size: int) -> Callable[[_Machine], None]:
    def handle(machine: _Machine) -> None:
        machine.push_text(machine.take(machine.natural(size)).decode("utf-8", "surrogatepass"))

    return handle


def _python_2_text(size: int) -> Callable[[_Machine], None]:
    def handle(machine: _Machine) -> None:
        machine.push_text(_python_2_string(machine.take(machine.natural(size))))

    return handle


def _octets(size: int) -> Callable[[_Machine], None]:
    def handle(machine: _Machine) -> None:
        machine.push_text(machine.take(machine.natural(size)))

    return handle


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


_BY_OPCODE: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"1": _Machine.pop_mark,
    b"2": _Machine.duplicate,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"J": _unpacked("<i"),
    b"K": _unpacked("<B"),
    b"M": _unpacked("<H"),
    b"G": _unpacked(">d"),
    b"I": _Machine.text_integer,
    b"L": _Machine.text_long,
    b"F": lambda machine: machine.push(float(machine.digits())),
    b"\x8a": lambda machine: machine.long(machine.natural(1)),
    b"\x8b": lambda machine: machine.long(machine.natural(4)),
    b"S": _Machine.text_string,
    b"T": _python_2_text(4),
    b"U": _python_2_text(1),
    b"V": _Machine.text_unicode,
    b"X": _text(4),
    b"\x8c": _text(1),
    b"\x8d": _text(8),
    b"B": _octets(4),
    b"C": _octets(1),
    b"\x8e": _octets(8),
    b"\x96": _octets(8),
    b"\x97": _Machine.no_out_of_band,
    b"\x98": _Machine.no_out_of_band,
    b"]": lambda machine: machine.push_container([]),
    b"}": lambda machine: machine.push_container({}),
    b"\x8f": lambda machine: machine.push_container(Members()),
    b")": _constant(()),
    b"l": _Machine.list_of_mark,
    b"d": _Machine.dict_of_mark,
    b"t": _Machine.tuple_of_mark,
    b"\x91": _Machine.frozen_set_of_mark,
    b"\x85": lambda machine: machine.tuple_of(1),
    b"\x86": lambda machine: machine.tuple_of(2),
    b"\x87": lambda machine: machine.tuple_of(3),
    b"a": _Machine.append,
    b"e": lambda machine: machine.extend(machine.since_mark()),
    b"\x90": _Machine.add_items,
    b"s": _Machine.set_item,
    b"u": lambda machine: machine.set_items(machine.since_mark()),
    b"p": lambda machine: machine.remember(int(machine.digits())),
    b"q": lambda machine: machine.remember(machine.natural(1)),
    b"r": lambda machine: machine.remember(machine.natural(4)),
    b"\x94": lambda machine: machine.remember(machine.remembered),
    b"g": lambda machine: machine.recall(int(machine.digits())),
    b"h": lambda machine: machine.recall(machine.natural(1)),
    b"j": lambda machine: machine.recall(machine.natural(4)),
    b"c": _Machine.text_global,
    b"\x93": _Machine.stack_global,
    b"\x82": lambda machine: machine.extension(1),
    b"\x83": lambda machine: machine.extension(2),
    b"\x84": lambda machine: machine.extension(4),
    b"R": _Machine.reduce,
    b"\x81": _Machine.new_object,
    b"\x92": _Machine.new_object_with_keywords,
    b"i": _Machine.instance,
    b"o": _Machine.object_of_mark,
    b"b": _Machine.build,
    b"P": _Machine.text_persistent_id,
    b"Q": _Machine.persistent_id,
}

_REFUSED_BY_TORCH: dict[bytes, str] = {
    b"\x95": "FRAME",
    b"0": "POP",
    b"1": "POP_MARK",
    b"2": "DUP",
    b"I": "INT",
    b"L": "LONG",
    b"F": "FLOAT",
    b"\x8b": "LONG4",
    b"S": "STRING",
    b"T": "BINSTRING",
    b"V": "UNICODE",
    b"\x8c": "SHORT_BINUNICODE",
    b"\x8d": "BINUNICODE8",
    b"B": "BINBYTES",
    b"C": "SHORT_BINBYTES",
    b"\x8e": "BINBYTES8",
    b"\x96": "BYTEARRAY8",
    b"\x97": "NEXT_BUFFER",
    b"\x98": "READONLY_BUFFER",
    b"l": "LIST",
    b"d": "DICT",
    b"\x90": "ADDITEMS",
    b"\x91": "FROZENSET",
    b"p": "PUT",
    b"\x94": "MEMOIZE",
    b"g": "GET",
    b"\x93": "STACK_GLOBAL",
    b"\x82": "EXT1",
    b"\x83": "EXT2",
    b"\x84": "EXT4",
    b"\x92": "NEWOBJ_EX",
    b"i": "INST",
    b"o": "OBJ",
    b"P": "PERSID",
}
"""Opcodes that torch's weights-only unpickler does not know (`torch/_weights_only_unpickler.py`), by their names."""


def _noting(opcode: bytes, handler: Callable[[_Machine], None]) -> Callable[[_Machine], None]:
    """A handler that first puts its opcode down as refused; others pay nothing for it."""
    name = _REFUSED_BY_TORCH.get(opcode)
    if name is None:
        return handler

    def note(machine: _Machine) -> None:
        machine.refused_opcodes[name] = None
        handler(machine)

    return note


_HANDLERS: list[Callable[[_Machine], None] | None] = [None] * 256
for _opcode, _handler in _BY_OPCODE.items():
    _HANDLERS[_opcode[0]] = _noting(_opcode, _handler)
