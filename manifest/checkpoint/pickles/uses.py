"""Whether a pickle uses the names in it as libraries do that save objects.

A name that is harmless to look up may still do harm when it is called: a class opens the file that its `__init__` is
told, `list` goes through an iterator that never ends, and an object whose own attribute is called `extend` has that
called in place of a method. So each use that the pickle machine meets is held against how such objects are saved: they
are called with plain values, or made by `__new__` and given one state. Every other use is noted, as the name with
`ODDLY` behind it, and is judged as unknown. Where all uses are plain, nothing calls what a pickle only names.

This file is long because each kind of saved object has a check of its own for how it is called or what state it is
given; the tables at its end list them all, so that it is seen at once which names are judged and how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from math import prod
from typing import Any

from manifest.checkpoint.pickles import named_globals
from manifest.checkpoint.pickles.effects import Effect, Judgement
from manifest.checkpoint.pickles.named_globals import ODDLY, in_python_3
from manifest.checkpoint.pickles.stand_ins import Global, OddKey, Opaque

# A pickle may use one name a million times.
judge = lru_cache(10_000)(named_globals.judge)
class_kind = lru_cache(10_000)(named_globals.class_kind)
is_enumeration = lru_cache(10_000)(named_globals.is_enumeration)

_MOST_LOOKED_AT = 4_000_000
"""Values in arguments and states, over the whole pickle."""

_TRAPS = frozenset({"__setstate__", "__class__", "__dict__"})
"""Attributes that change what unpickling calls next."""


class Uses:
    """The uses that were met so far in one pickle.

    Attributes:
        odd: Names with `ODDLY` behind them, in order.
    """

    def __init__(self) -> None:
        self.odd: dict[str, None] = {}
        self._left = _MOST_LOOKED_AT
        self._judged: dict[str, tuple[str, Judgement]] = {}

    def called(self, function: Any, arguments: tuple[Any, ...]) -> None:
        """Meet a call by REDUCE, or of INST or OBJ."""
        name, judgement = self._of(function)
        if judgement.effect in _HARMLESS and not (
            isinstance(function, Global) and self._is_plain_call(name, arguments)
        ):
            self._note(function.name)

    def made(self, function: Any, arguments: tuple[Any, ...], keywords: Any = None) -> None:
        """Meet a class that makes an object by `__new__` alone: NEWOBJ and NEWOBJ_EX."""
        name, judgement = self._of(function)
        if judgement.effect in _HARMLESS and not (
            isinstance(function, Global) and not keywords and self._is_plain_making(name, arguments)
        ):
            self._note(function.name)

    def built(self, target: Any, state: Any) -> None:
        """Meet a state that is given to an object, before the object has it."""
        if isinstance(target, dict):
            # An ordered dictionary or a counter, with attributes beside its items.
            if not _are_attributes(state):
                self._note("collections.OrderedDict")
        elif isinstance(target, Opaque):
            name, judgement = self._of(target)
            if judgement.effect in _HARMLESS and (
                target.state is not None or not self._is_plain_state(name, target, state)
            ):
                self._note(target.name)

    def appended(self, target: Any) -> None:
        """Meet items that are added to an object by APPEND, APPENDS or ADDITEMS."""
        if isinstance(target, Opaque):
            name, judgement = self._of(target)
            if judgement.effect in _HARMLESS and name not in _LISTS:
                self._note(target.name)

    def set_on(self, target: Any, keys: Iterable[Any]) -> None:
        """Meet items that are set on an object by SETITEM or SETITEMS."""
        if isinstance(target, Opaque):
            name, judgement = self._of(target)
            if judgement.effect not in _HARMLESS or name == "collections.defaultdict":
                return
            attributes = judgement.does == _NAMESPACE or class_kind(name) == "output"
            if not (attributes and all(isinstance(key, str) and key not in _TRAPS for key in keys)):
                self._note(target.name)

    def _note(self, name: str) -> None:
        if len(self.odd) < _MOST_NOTED:
            self.odd[name + ODDLY] = None

    def _of(self, thing: Any) -> tuple[str, Judgement]:
        """The name of a global, or of the class of an object, and what it would do."""
        name = _class_of(thing) if isinstance(thing, Opaque) else thing.name
        found = self._judged.get(name)
        if found is None:
            found = self._judged[name] = (in_python_3(name), judge(name))
        return found

    def _is_plain_call(self, name: str, arguments: tuple[Any, ...]) -> bool:
        if rule := _CALLS.get(name):
            return rule(self, arguments)
        if is_enumeration(name):
            return len(arguments) == 1 and (self.is_calm(arguments) or _is_weights(name, arguments[0]))
        if class_kind(name) == "output":
            return self.is_calm(arguments)
        does = judge(name).does
        if does in _WITHOUT_LIMIT:
            return True
        if ".placement_types." in name and does == _SPREAD:
            return _scalars(self, arguments)
        if does == _TENSOR:
            last = name.rpartition(".")[2]
            return (_tensor if last.startswith("_rebuild_") else _old_tensor)(self, arguments)
        if does in _CALLED_WITH_VALUES and not name.startswith(_NUMPY_TYPES) and name not in _PYTHON_CLASSES:
            return self.is_calm(arguments)
        return not arguments and does == _NAMESPACE

    def _is_plain_making(self, name: str, arguments: tuple[Any, ...]) -> bool:
        kind = class_kind(name)
        if kind is None and judge(name).does not in _CLASSES and name not in _PYTHON_CLASSES:
            return self._is_plain_call(name, arguments)
        if kind in ("enum", "named"):
            return False
        return kind == "tuple" or not arguments or (kind is None and self.is_calm(arguments))

    def _is_plain_state(self, name: str, target: Opaque, state: Any) -> bool:
        if is_enumeration(name):
            return False  # its members are the whole process's
        if rule := _STATES.get(name):
            return rule(self, target, state)
        kind = class_kind(name)
        if kind is not None:
            return kind in _KINDS_WITH_STATES and _are_attributes(state) and _KINDS_WITH_STATES[kind](state)
        does = judge(name).does
        if name in _PYTHON_CLASSES:
            return _are_attributes(state) and self.is_calm((state,))
        if does in _CLASSES:
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            slots = isinstance(state, tuple | list) and not any(isinstance(part, dict) for part in parts)
            return slots or all(part is None or _are_attributes(part) for part in parts)
        if does in _WITH_CALM_STATES:
            return self.is_calm((state,))
        return does == _EXCEPTION and (state is None or _are_attributes(state))

    def is_calm(self, values: Iterable[Any], *, also: Callable[[str], bool] = lambda _: False) -> bool:
        """Whether values are plain through and through, so that looking at them, as Python does, calls nothing.

        Args:
            values: Arguments, or a state.
            also: Whether objects of a class may be among them besides those of Python's and numpy's values.
        """
        waiting = list(values)
        seen: set[int] = set()
        while waiting:
            value = waiting.pop()
            self._left -= 1
            if self._left < 0:
                return False
            if isinstance(value, OddKey):
                value = value.value
            if isinstance(value, Opaque):
                name, judgement = self._of(value)
                if not (_is_value(name, judgement) or is_enumeration(name) or also(name)):
                    return False
            elif isinstance(value, list | tuple | dict) and id(value) not in seen:
                seen.add(id(value))
                self._left -= len(value)
                if set(map(type, value)) <= _ATOMS:
                    waiting += value.values() if isinstance(value, dict) else ()
                else:
                    waiting += value
                    waiting += value.values() if isinstance(value, dict) else ()
        return True


_HARMLESS = (Effect.TENSORS, Effect.DATA)
_MOST_NOTED = 1_000
_ATOMS = frozenset({str, bytes, int, float, bool, type(None)})
_MOST_TEXT = 1_000


def _class_of(thing: Opaque) -> str:
    """What an object is of: the class that a function of `copyreg` was given, or what was called."""
    if thing.name in _MAKERS and thing.arguments and isinstance(thing.arguments[0], Global):
        return thing.arguments[0].name
    return thing.name


def _are_attributes(state: Any) -> bool:
    """Whether a state is a dictionary of attributes, none of which changes what unpickling calls next.

    A key that is made by a call could be any text; a number is none.
    """
    return isinstance(state, dict) and all(isinstance(key, str | int | bytes) and key not in _TRAPS for key in state)


def _is_value(name: str, judgement: Judgement) -> bool:
    """Whether it makes values of Python's, torch's or numpy's that call nothing when they are looked at."""
    inert = judgement.effect is Effect.TENSORS or judgement.does in _VALUES
    return inert and name not in _PYTHON_CLASSES and name != "builtins.range"


def _is_text(value: Any, most: int = _MOST_TEXT) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | bytes) or _is_text(value)


def _is_encoded(value: Any) -> bool:
    """Whether it is bytes, which protocol 2 writes as text that a function encodes."""
    return isinstance(value, str | bytes) or (isinstance(value, Opaque) and value.name in _BYTES)


def _names(value: Any, *names: str) -> bool:
    return isinstance(value, Global) and in_python_3(value.name) in names


def _at(values: Any, index: int) -> Any:
    return values[index] if isinstance(values, tuple | list) and index < len(values) else None


def _is_weights(name: str, value: Any) -> bool:
    """Whether it is what an enumeration of torchvision's weights has for values."""
    return (
        name.startswith("torchvision.models.")
        and isinstance(value, Opaque)
        and _class_of(value) == "torchvision.models._api.Weights"
    )


# Calls


def _scalars(_: Uses, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) <= 3 and all(map(_is_scalar, arguments))


def _never(_: Uses, arguments: tuple[Any, ...]) -> bool:
    del arguments
    return False


def _anything(_: Uses, arguments: tuple[Any, ...]) -> bool:
    del arguments
    return True


def _elements(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of what goes through its argument, and uses what it finds as keys."""
    if not arguments:
        return True
    items, *rest = arguments
    if len(rest) > 1 or not all(map(_is_scalar, rest)) or not isinstance(items, list | tuple | dict | str | bytes):
        return False
    return uses.is_calm((items,), also=lambda name: class_kind(name) is not None)


def _pairs(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of what makes a dictionary out of another one, or of pairs; what it maps to, nobody looks at."""
    if not arguments:
        return True
    items = arguments[0]
    if len(arguments) > 1:
        return False
    if isinstance(items, dict):
        return uses.is_calm(tuple(items), also=lambda name: class_kind(name) is not None)
    return (
        isinstance(items, list | tuple)
        and all(isinstance(pair, list | tuple | str) for pair in items)
        and uses.is_calm([_at(pair, 0) for pair in items])
    )


def _array(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of an array of Python's: its class, perhaps, a letter, perhaps a number of a format, and values or bytes."""
    *kinds, values = arguments or (None,)
    plain = all(_names(kind, "array.array") or isinstance(kind, int) or _is_text(kind, 1) for kind in kinds)
    numbers = isinstance(values, list) and set(map(type, values)) <= _ATOMS
    return plain and (numbers or _is_encoded(values))


def _alias(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `list[int]`, as it is saved."""
    inner = arguments[1] if len(arguments) == 2 and isinstance(arguments[1], tuple) else arguments[1:]
    return bool(arguments) and all(isinstance(value, Global) for value in (arguments[0], *inner))


def _counted(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    return _pairs(uses, arguments) or _elements(uses, arguments)


def _mapping_with_default(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    factory = _at(arguments, 0)
    known = factory is None or isinstance(factory, Global) or (isinstance(factory, Opaque) and _is_partial(factory))
    return known and _pairs(uses, arguments[1:])


def _is_partial(thing: Opaque) -> bool:
    return thing.name == "functools.partial"


def _bound(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `partial`, which keeps what it is given."""
    function = _at(arguments, 0)
    return isinstance(function, Global) or (isinstance(function, Opaque) and _class_of(function) not in _HELD_BY_NAME)


def _encoded(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `encode`, which imports the encoding that it is told, and of `bytes` and `bytearray`, which count numbers."""
    value, encoding = _at(arguments, 0), _at(arguments, 1)
    if len(arguments) > 2 or not (value is None or isinstance(value, str | bytes) or _is_encoded(value)):
        # A list of numbers is a form of protocol 0.
        return len(arguments) == 1 and isinstance(value, list | tuple) and all(type(item) is int for item in value)
    return encoding is None or (_is_text(encoding) and encoding.lower().replace("_", "-") in _ENCODINGS)


def _rebuilt_as(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `_rebuild_from_type_v2`, which calls the function that it is given."""
    function, kind, inner = _at(arguments, 0), _at(arguments, 1), _at(arguments, 2)
    if isinstance(function, Global) and judge(function.name).effect not in _HARMLESS:
        return True  # which is said of its name
    if not isinstance(function, Global) or not isinstance(kind, Global) or not isinstance(inner, tuple):
        return False
    # Attributes of a tensor are set one by one; of a subclass, the state may be whatever that takes.
    state = _at(arguments, 3)
    parts = state if isinstance(state, tuple) else (state,)
    attributes = all(part is None or _are_attributes(part) for part in parts)
    calls = function.name.startswith(("torch._utils._rebuild_", "torch.nested._internal.nested_tensor._rebuild_njt"))
    return (
        attributes and calls and judge(function.name).effect in _HARMLESS and uses._is_plain_call(function.name, inner)
    )


def _tensor(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of functions that rebuild tensors: the classes among their arguments are called, or asked for attributes."""
    return uses.is_calm(arguments) and all(
        judge(value.name).effect in _HARMLESS for value in arguments if isinstance(value, Global)
    )


def _parameter(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of what makes parameters: of a tensor, a flag, hooks that are kept, and a state."""
    state = _at(arguments, 3)
    parts = state if isinstance(state, tuple) else (state,)
    return uses.is_calm(arguments[:2]) and all(part is None or _are_attributes(part) for part in parts)


def _old_tensor(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of the classes of tensors before they were rebuilt by functions: numbers would be a size, made out of nothing."""
    return not any(isinstance(value, int | Global | Opaque | list | dict) for value in arguments)


def _copied(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `copyreg._reconstructor`: a class, which of Python's own classes makes it, and what of."""
    made, base, state = (_at(arguments, place) for place in range(3))
    if len(arguments) != 3 or not isinstance(made, Global) or not isinstance(base, Global):
        return False
    if in_python_3(base.name) not in _BASES or not uses.is_calm((state,)):
        return False
    harmless = judge(made.name).effect not in _HARMLESS or uses._is_plain_making(in_python_3(made.name), ())
    iterates = in_python_3(base.name) in ("builtins.dict", "builtins.list", "builtins.tuple", "builtins.set")
    return harmless and (not iterates or state is None or isinstance(state, list | tuple | dict))


def _newly_made(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `copyreg.__newobj__`, and `__newobj_ex__` without keywords."""
    made = _at(arguments, 0)
    if not isinstance(made, Global):
        return False
    inner = arguments[1:]
    if len(inner) == 2 and isinstance(inner[0], tuple) and isinstance(inner[1], dict):
        inner = inner[0] if not inner[1] else (made,)
    return judge(made.name).effect not in _HARMLESS or uses._is_plain_making(in_python_3(made.name), inner)


def _pattern(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of a compiled pattern: short, and not one of those whose compilation goes through every character there is."""
    text, flags = _at(arguments, 0), _at(arguments, 1)
    return (
        _is_text(text, 500)
        and len(arguments) == 2
        and type(flags) is int
        and not flags & re.IGNORECASE
        and not re.search(r"\(\?[a-zA-Z]*i", text)
    )


def _fraction(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of a fraction: two numbers, or a text that has no exponent."""
    if len(arguments) == 2:
        return all(type(value) is int for value in arguments)
    text = _at(arguments, 0)
    return len(arguments) == 1 and _is_text(text) and bool(re.fullmatch(r"-?\d+(/\d+)?", text, re.ASCII))


def _scalar_of_numpy(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `scalar`, which gives any object back where its type is that of objects."""
    kind, value = _at(arguments, 0), _at(arguments, 1)
    del uses
    return (
        len(arguments) <= 2
        and isinstance(kind, Opaque)
        and kind.name == "numpy.dtype"
        and (value is None or _is_encoded(value))
    )


def _array_of_numpy(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `_reconstruct`, which is followed by a state."""
    made, shape, code = (_at(arguments, place) for place in range(3))
    return _names(made, *_ARRAYS) and _is_small_shape(shape) and _is_encoded(code)


def _masked_array(_: Uses, arguments: tuple[Any, ...]) -> bool:
    made, base, shape, code = (_at(arguments, place) for place in range(4))
    return _names(made, *_ARRAYS) and _names(base, *_ARRAYS) and _is_small_shape(shape) and _is_encoded(code)


def _is_small_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(type(size) is int for size in shape) and prod(shape) in (0, 1)


def _type_of_numpy(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `dtype`: a short text, or a type of numpy's, and two flags."""
    text, *flags = arguments or (None,)
    known = (_is_text(text, 30) and re.fullmatch(_TYPE_OF_NUMPY, text)) or (
        isinstance(text, Global) and text.name.startswith(("numpy.", "ml_dtypes."))
    )
    return bool(known) and len(flags) <= 2 and all(isinstance(flag, bool | int) for flag in flags)


def _buffer_of_numpy(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 4 and uses.is_calm(arguments) and not any(isinstance(value, Global) for value in arguments)


def _generator_of_numpy(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of the makers of random number generators, which call the second thing that they are given."""
    made, maker = _at(arguments, 0), _at(arguments, 1)
    named = (
        made is None
        or _is_text(made)
        or (isinstance(made, Global) and in_python_3(made.name).rpartition(".")[2] in _BIT_GENERATORS)
        or (isinstance(made, Opaque) and made.name == "numpy.random._pickle.__bit_generator_ctor")
    )
    return (
        named and len(arguments) <= 2 and (maker is None or _names(maker, "numpy.random._pickle.__bit_generator_ctor"))
    )


def _index_of_pandas(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `_new_Index`, which makes the class that it is given."""
    made, *rest = arguments or (None,)
    return isinstance(made, Global) and judge(made.name).does == _TABLE and uses.is_calm(rest)


def _one_text(_: Uses, arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 1 and _is_text(arguments[0])


def _seed(uses: Uses, arguments: tuple[Any, ...]) -> bool:
    made, *rest = arguments or (None,)
    return (
        isinstance(made, Global)
        and made.name.rpartition(".")[2] == "SeedSequence"
        and judge(made.name).effect is Effect.DATA
        and uses.is_calm(rest)
    )


def _sizes(_: Uses, arguments: tuple[Any, ...]) -> bool:
    """Of `torch.Size`: a tuple of numbers."""
    return not arguments or (
        len(arguments) == 1
        and isinstance(arguments[0], list | tuple)
        and all(isinstance(size, int) for size in arguments[0])
    )


# States


def _state_of_partial(_: Uses, __: Opaque, state: Any) -> bool:
    if not isinstance(state, tuple) or len(state) != 4:
        return False
    function, arguments, keywords, attributes = state
    return (
        isinstance(function, Global | Opaque)
        and isinstance(arguments, tuple)
        and (keywords is None or isinstance(keywords, dict))
        and (attributes is None or _are_attributes(attributes))
    )


def _state_of_type(_: Uses, target: Opaque, state: Any) -> bool:
    """Of numpy's types: nothing but their byte order, for one that says its size and whether it holds objects.

    A type that is told that it holds none, and does, takes bytes out of the file for addresses.
    """
    if not isinstance(state, tuple) or not 6 <= len(state) <= 9 or not isinstance(state[0], int):
        return False
    kind = _at(target.arguments, 0)
    objects = _is_text(kind) and kind.lstrip("<>|=")[:1] == "O"
    flags = _at(state, 7)
    sized = type(state[5]) is int and type(_at(state, 6)) in (int, type(None)) and state[5] >= -1
    flags_fit = flags == 63 if objects else flags in (None, 0, 8)
    return _is_text(state[1], 1) and state[2:5] == (None, None, None) and sized and flags_fit


def _state_of_array(uses: Uses, _: Opaque, state: Any) -> bool:
    """Of numpy's arrays: a shape that the values fill, of plain values where they are objects."""
    if not isinstance(state, tuple) or len(state) < 4:
        return False
    shape, kind, _, values = state[-4:]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        return False
    if not isinstance(kind, Opaque) or kind.name != "numpy.dtype":
        return False
    if isinstance(values, list):
        # What is in it, nobody looks at.
        return prod(shape) == len(values)
    del uses
    return _is_encoded(values)


def _calm_state(uses: Uses, _: Opaque, state: Any) -> bool:
    return uses.is_calm((state,))


def _state_of_mesh(_: Uses, __: Opaque, state: Any) -> bool:
    """Of a mesh of devices, which looks its groups up by their names."""
    names = state.get("_dim_group_names") if isinstance(state, dict) else None
    return _are_attributes(state) and (
        names is None or (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names))
    )


def _state_of_handle(_: Uses, __: Opaque, state: Any) -> bool:
    """Of the handle of a hook: the dictionary that it is in, its number, and other dictionaries."""
    return (
        isinstance(state, tuple)
        and len(state) in (2, 3)
        and (state[0] is None or isinstance(state[0], dict))
        and type(state[1]) is int
        and (len(state) < 3 or state[2] is None or all(isinstance(each, dict) for each in _listed(state[2])))
    )


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _is_module(state: dict[str, Any]) -> bool:
    """Of a module: attributes, and what it looks attributes up in is plain."""
    return all(isinstance(state.get(name, {}), dict) for name in ("_parameters", "_buffers", "_modules"))


def _is_recurrent(state: dict[str, Any]) -> bool:
    """Of a recurrent module, which names its weights layer by layer, as many as it is told."""
    layers, flat = state.get("num_layers"), state.get("_flat_weights", [])
    names = state.get("_all_weights", state.get("all_weights", []))
    return (
        _is_module(state)
        and type(layers) is int
        and 0 <= layers <= _MOST_LAYERS
        and all(isinstance(each, list) for each in (flat, names))
        and all(isinstance(each, list) for each in names)
        and all(type(state.get(name, 0)) in (int, bool) for name in ("bidirectional", "bias", "proj_size"))
    )


def _is_optimizer(state: dict[str, Any]) -> bool:
    """Of an optimizer, which calls methods of its own and of what is in its state: all of them are Python's."""
    groups, states = state.get("param_groups", []), state.get("state", {})
    if state.keys() & {"_patch_step_function", "profile_hook_step"} or not isinstance(state.get("defaults", {}), dict):
        return False
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return False
    if not all(isinstance(group.get("params", []), list) for group in groups):
        return False
    if isinstance(states, Opaque):
        states = (states.entries or {}) if states.name == "collections.defaultdict" else None
    return isinstance(states, dict) and all(
        isinstance(each, dict) and not any(isinstance(value, Opaque) for value in each.values())
        for each in states.values()
    )


def _is_any(state: dict[str, Any]) -> bool:
    del state
    return True


_MOST_LAYERS = 10_000
_KINDS_WITH_STATES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "module": _is_module,
    "recurrent": _is_recurrent,
    "optimizer": _is_optimizer,
    "object": _is_any,
    "tuple": _is_any,
}

_MAKERS = ("copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__")
_HELD_BY_NAME = ("builtins.getattr",)
_BASES = frozenset(
    f"builtins.{name}"
    for name in ("object", "dict", "list", "tuple", "set", "frozenset", "int", "float", "str", "bytes", "complex")
)
_BYTES = ("_codecs.encode", "builtins.bytes", "builtins.bytearray")
_ENCODINGS = ("latin1", "latin-1", "utf-8", "utf8", "ascii", "raw-unicode-escape")
_ARRAYS = tuple(
    f"numpy.{name}"
    for name in (
        *("ndarray", "matrix", "matrixlib.defmatrix.matrix", "recarray", "rec.recarray", "core.records.recarray"),
        *("_core.records.recarray", "ma.core.MaskedArray", "ma.MaskedArray"),
    )
)
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_TYPE_OF_NUMPY = (
    r"[<>|=]?(?:[?bBhHiIlLqQefdgFDGOSUVMmuc]\d{0,9}(?:\[\w+\])?|bool|u?int\d{1,2}|float\d{1,3}|complex\d{2,3})"
)
_LISTS = ("collections.deque", "traceback.StackSummary")

_NAMESPACE = "makes a plain namespace"
_SPREAD = "describes how a tensor is spread over machines"
_EXCEPTION = "makes an exception, without raising it"
_TABLE = "makes a table of pandas'"
_CLASSES = frozenset(
    {
        _NAMESPACE,
        "makes a setting of omegaconf's",
        "makes a setting or callback of Lightning's",
        "makes a training setting of transformers'",
        "makes a setting of accelerate's",
        "makes a setting of peft's",
        "makes a small value of torch's",
        "describes a distributed checkpoint",
        _SPREAD,
        "makes an exception that torch does not take, without raising it",
    }
)
"""Clauses of classes that are made by `__new__`, and given their attributes."""
_TENSOR = "makes a tensor"
_OLD_TENSOR = "makes a tensor in a form that weights_only no longer takes"
_VALUES = frozenset(
    {
        "makes a plain value",
        "makes a plain number",
        "makes a date or time",
        "makes an identifier",
        "makes a path, without opening it",
        "makes a numpy array or number",
        "makes a random number generator of numpy's",
        _TABLE,
    }
)
"""Clauses of what makes values that call nothing when they are looked at."""
_CALLED_WITH_VALUES = _VALUES | {
    _EXCEPTION,
    "makes a nested tensor",
    "makes plain bytes or a number",
}
_WITHOUT_LIMIT = frozenset(
    {
        "makes a list of the TorchScript program in the file",
        "is a class of the TorchScript program in the file",
    }
)
"""Clauses of what hands its argument back, or does not exist in Python."""
_NUMPY_TYPES = tuple(
    f"numpy.{name}"
    for name in (
        *("ndarray", "matrix", "rec", "ma", "dtypes", "core.rec", "_core.rec", "bool", "byte", "ubyte", "short"),
        *("ushort", "int", "uint", "long", "ulong", "float", "half", "single", "double", "str", "bytes", "unicode"),
        *("string", "void", "object", "complex", "csingle", "cdouble", "clongdouble", "datetime64", "timedelta64"),
    )
)
"""How names begin of types of numpy's that no array or number is saved as a call of."""
_WITH_CALM_STATES = frozenset(
    {
        "makes a random number generator of numpy's",
        _TABLE,
        "makes an identifier",
        "makes a plain container",
        "is a class of the TorchScript program in the file",
    }
)
_PYTHON_CLASSES = frozenset(
    {
        *("collections.ChainMap", "collections.UserDict", "collections.UserList", "collections.UserString"),
        *("string.Template", "uuid.UUID"),
    }
)
"""Classes written in Python among the plain values: they are made by `__new__`, and given their attributes."""

_CALLS: dict[str, Callable[[Uses, tuple[Any, ...]], bool]] = {
    **dict.fromkeys(
        (
            *("builtins.bool", "builtins.int", "builtins.float", "builtins.complex", "builtins.str", "builtins.object"),
            *("builtins.range", "builtins.slice", "torch.device", "torch.torch_version.TorchVersion"),
            *("torch.serialization._get_layout", "traceback.FrameSummary"),
            *("torch.nn.backends.thnn._get_thnn_function_backend", "decimal.Decimal", "_decimal.Decimal"),
            *("_pydecimal.Decimal",),
        ),
        _scalars,
    ),
    **dict.fromkeys(
        (
            *("builtins.list", "builtins.tuple", "builtins.set", "builtins.frozenset", "collections.deque"),
            "traceback.StackSummary",
        ),
        _elements,
    ),
    **dict.fromkeys(("builtins.dict", "collections.OrderedDict", "torch.OrderedDict"), _pairs),
    "collections.Counter": _counted,
    "collections.defaultdict": _mapping_with_default,
    **dict.fromkeys(("builtins.bytes", "builtins.bytearray", "_codecs.encode"), _encoded),
    "array.array": _array,
    "array._array_reconstructor": _array,
    **dict.fromkeys(("io.BytesIO", "_io.BytesIO", "io.StringIO", "_io.StringIO"), _scalars),
    "functools.partial": _bound,
    "types.GenericAlias": _alias,
    "re._compile": _pattern,
    "logging.getLogger": _one_text,
    "copyreg._reconstructor": _copied,
    "copyreg.__newobj__": _newly_made,
    "copyreg.__newobj_ex__": _newly_made,
    "fractions.Fraction": _fraction,
    "torch.Size": _sizes,
    **dict.fromkeys(("torch.Generator", "torch._C.Generator"), _tensor),
    **dict.fromkeys(("torch.nn.parameter.UninitializedParameter", "torch.nn.parameter.UninitializedBuffer"), _tensor),
    **dict.fromkeys(("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"), _rebuilt_as),
    "torch.tensor._rebuild_from_type": _rebuilt_as,
    **dict.fromkeys(
        (
            "torch.nn.parameter.Parameter",
            "torch._utils._rebuild_parameter",
            "torch._utils._rebuild_parameter_with_state",
        ),
        _parameter,
    ),
    **{
        f"numpy.{core}.{name}": rule
        for core in ("core", "_core")
        for module in ("multiarray", "_multiarray_umath")
        for name, rule in (
            (f"{module}.scalar", _scalar_of_numpy),
            (f"{module}._reconstruct", _array_of_numpy),
            ("numeric._frombuffer", _buffer_of_numpy),
        )
    },
    "numpy.ma.core._mareconstruct": _masked_array,
    "numpy.dtype": _type_of_numpy,
    "numpy.random._pickle.__randomstate_ctor": _generator_of_numpy,
    "numpy.random._pickle.__generator_ctor": _generator_of_numpy,
    "numpy.random._pickle.__bit_generator_ctor": _generator_of_numpy,
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": _seed,
    "numpy.random._bit_generator.__pyx_unpickle_SeedSequence": _seed,
    "pandas.core.indexes.base._new_Index": _index_of_pandas,
}
"""How these are called; others that make values are called with plain arguments."""

_STATES: dict[str, Callable[[Uses, Opaque, Any], bool]] = {
    "functools.partial": _state_of_partial,
    "numpy.dtype": _state_of_type,
    **{
        f"numpy.{core}.{module}._reconstruct": _state_of_array
        for core in ("core", "_core")
        for module in ("multiarray", "_multiarray_umath")
    },
    "numpy.ma.core._mareconstruct": _calm_state,
    "torch.Generator": _calm_state,
    "torch._C.Generator": _calm_state,
    "torch.distributed.device_mesh.DeviceMesh": _state_of_mesh,
    "torch.utils.hooks.RemovableHandle": _state_of_handle,
}
"""What states these are given."""
