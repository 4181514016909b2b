"""What torch puts into a pickle, and the allow-list of constructors that are understood.

Tensors and storages are stand-ins that know where their values are, never the values. The allow-list holds everything
that `torch.load(weights_only=True)` allows (`torch/_weights_only_unpickler.py`), and plain builtins and numpy scalars,
which run nobody's code. Each constructor takes the arguments that torch writes for it, and gives what torch would
(`torch/_utils.py`, `torch/_tensor.py`); other arguments are refused.

This file is long because the allow-list must be seen whole: everything that a pickle may construct, each with the check
of its arguments, is here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeGuard

from manifest.checkpoint.gathering import can_conjugate, can_negate
from manifest.checkpoint.pickles.pickle_vm import MOST_PICKLE_BYTES
from manifest.checkpoint.pickles.stand_ins import (
    ByIdentity,
    Class,
    Constructor,
    Counted,
    Global,
    Members,
    Opaque,
    Ordered,
    Stateless,
    as_key,
    inexact,
    malformed,
    over_limit,
)
from manifest.checkpoint.tensors import (
    ITEM_SIZES,
    MOST_DIMENSIONS,
    MOST_TENSORS,
    SCRIPTED_STORAGE_CLASSES,
    STORAGE_CLASSES,
)
from manifest.escaping import printable


@dataclass(frozen=True, slots=True)
class PickledStorage:
    """A storage, by what its persistent id says.

    Attributes:
        key: The name that its record has in the container.
        dtype: The type of its elements; None for bytes without a type, whose tensors bring their own.
        nbytes: How long it claims to be.
        itemsize: Bytes of one of the elements that its length is counted in.
        start: Byte of its record that it begins at: torch once had storages that were views of others.
    """

    key: str
    dtype: str | None
    nbytes: int
    itemsize: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class PickledTensor(ByIdentity):
    """A view of a storage; shape, stride and offset (of its first element) are in elements."""

    storage: PickledStorage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PickledComposite(ByIdentity):
    """A tensor that is stored as several: `layout`, `parts` and `facts` as in `tensors.CompositeTensor`."""

    layout: str
    dtype: str
    shape: tuple[int, ...]
    parts: dict[str, PickledTensor]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """One of torch's memory layouts, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class UnlistedTensor(ByIdentity):
    """A tensor whose values are not plainly those of a storage.

    Attributes:
        kind: What it is, in words: "a quantized tensor".
    """

    kind: str


@dataclass(frozen=True, slots=True)
class OldTensor(UnlistedTensor, Stateless):
    """A tensor in torch's oldest form: a class that is called, and a state with the storage."""


_MOST_KEY_CHARACTERS = 1_000
_PACKAGED_OBJECTS = ("reduce_package", "reduce_deploy")


class TorchObjects:
    """The constructors for one pickle, and the tensors and storages that they have made.

    Args:
        legacy: Whether the file is of the form before torch 1.6, whose persistent ids say more.
        packaged: Whether it is of torch.package, whose storages have numbers for keys and which has other objects too.

    Attributes:
        constructors: For `inert_pickle.interpret`.
        tensors: Every tensor rebuilt so far.
    """

    def __init__(self, *, legacy: bool = False, packaged: bool = False) -> None:
        self.legacy = legacy
        self.packaged = packaged
        self.tensors: list[PickledTensor] = []
        self._storages: dict[PickledStorage, PickledStorage] = {}
        self._views: dict[str, tuple[str, Any]] = {}
        self.constructors: dict[str, Constructor | Class] = {
            **_INERT_CONSTRUCTORS,
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor_v2,
            "torch._utils._rebuild_tensor_v3": self._rebuild_tensor_v3,
            "torch._tensor._rebuild_from_type_v2": self._rebuild_from_type,
            "torch._utils._rebuild_sparse_tensor": _rebuild_sparse,
            "torch._utils._rebuild_qtensor": self._rebuild_quantized,
        }

    def storages(self) -> Iterable[PickledStorage]:
        """Every storage referred to so far; one key may come with several types."""
        return self._storages.keys()

    def persistent(self, identifier: Any) -> Any:
        """What torch's persistent id stands for.

        It is `('storage', class, key, device, elements)`, in the legacy form with `None` or `(key, offset, elements)`
        of a view behind it, and there also `('module', class, file, source)`, which stands for the class.
        """
        if not isinstance(identifier, tuple) or not identifier:
            raise malformed("the pickle has a persistent id that is not of a storage")
        if self.legacy and len(identifier) == 4 and identifier[0] == "module" and isinstance(identifier[1], Global):
            return identifier[1]
        if self.packaged and isinstance(identifier[0], str) and identifier[0] in _PACKAGED_OBJECTS:
            return Opaque(f"torch.package.{identifier[0]}")
        if len(identifier) != (6 if self.legacy else 5) or identifier[0] != "storage":
            raise malformed("the pickle has a persistent id that is not of a storage")
        _, storage_class, key, location, elements = identifier[:5]
        if self.packaged and is_natural(key):
            key = str(key)
        if not isinstance(key, str) or len(key) > _MOST_KEY_CHARACTERS or not is_natural(elements):
            raise malformed("the pickle has a storage without a short name or a length")
        if not isinstance(location, str) or location == "meta":
            raise inexact(f"the pickle has storage '{printable(key)}' on no device that keeps values")
        dtype, itemsize = _storage_type(storage_class)
        storage = PickledStorage(key, dtype, elements * itemsize, itemsize)
        storage = self._storages.setdefault(storage, storage)
        if len(identifier) == 5 or identifier[5] is None:
            return storage
        view = _view(storage, identifier[5])
        self._name_view(storage, identifier[5])
        return view

    def _name_view(self, storage: PickledStorage, view: tuple[Any, int, int]) -> None:
        """Note what a view is called: torch looks it up by that, among the storages, and takes what it finds."""
        name = view[0]
        if not isinstance(name, str) or len(name) > _MOST_KEY_CHARACTERS:
            raise malformed(f"the pickle has a view of storage '{printable(storage.key)}' without a short name")
        if self._views.setdefault(name, (storage.key, view[1:])) != (storage.key, view[1:]):
            raise inexact(f"the pickle gives two views of storages the name '{printable(name)}'")

    def check_storages(self) -> None:
        """Check that each name is of one storage, since torch takes the first that it meets by it.

        Raises:
            CheckpointError: `F002` when a storage has two types or lengths, or the name of a view.
        """
        by_key: dict[str, PickledStorage] = {}
        for storage in self._storages:
            # Of empty ones torch keeps none.
            if storage.nbytes and by_key.setdefault(storage.key, storage) is not storage:
                raise malformed(f"the pickle gives storage '{printable(storage.key)}' two types or lengths")
        for storage in self._storages:
            if storage.key in self._views:
                raise malformed(f"the pickle gives a storage and a view the name '{printable(storage.key)}'")

    def _rebuild_tensor(self, arguments: tuple[Any, ...]) -> Any:
        _check_count("_rebuild_tensor", arguments, 4, 4)
        return self._tensor(arguments, None, None)

    def _rebuild_tensor_v2(self, arguments: tuple[Any, ...]) -> Any:
        _check_count("_rebuild_tensor_v2", arguments, 6, 7)
        tensor = self._tensor(arguments, None, _at(arguments, 6))
        _check_gradients(tensor, arguments[4], arguments[5])
        return tensor

    def _rebuild_tensor_v3(self, arguments: tuple[Any, ...]) -> Any:
        _check_count("_rebuild_tensor_v3", arguments, 7, 8)
        if arguments[6] is None:
            raise malformed("the pickle has a tensor without an element type")
        tensor = self._tensor(arguments, arguments[6], _at(arguments, 7))
        _check_gradients(tensor, arguments[4], arguments[5])
        return tensor

    def _rebuild_from_type(self, arguments: tuple[Any, ...]) -> Any:
        """A tensor with attributes or of a subclass: `(function, class, arguments, state)`."""
        _check_count("_rebuild_from_type_v2", arguments, 4, 4)
        function, made, inner, state = arguments
        if not isinstance(function, Global) or not isinstance(made, Global) or not isinstance(inner, tuple):
            raise malformed("the pickle has a tensor subclass without a function that rebuilds it")
        _check_attributes(state)
        constructor = self.constructors.get(function.name)
        if isinstance(constructor, Class):
            raise inexact(f"the pickle rebuilds a tensor by '{function.name}'")
        if constructor is None or not function.name.startswith("torch._utils._rebuild_"):
            return UnlistedTensor("a tensor that an unknown function rebuilds")
        return constructor(inner)

    def _rebuild_quantized(self, arguments: tuple[Any, ...]) -> Any:
        """`(storage, offset, shape, strides, quantizer, …)`: integers, and what turns them into numbers."""
        _check_count("_rebuild_qtensor", arguments, 7, 7)
        _check_gradients(None, arguments[5], arguments[6])
        storage, quantizer = arguments[0], arguments[4]
        dtype = storage.dtype if isinstance(storage, PickledStorage) else None
        scheme = _at(quantizer, 0) if isinstance(quantizer, tuple) else None
        if dtype not in _INTEGERS_OF or not isinstance(scheme, Global):
            return UnlistedTensor("a quantized tensor of a packed or unknown kind")
        integers = self._tensor((replace(storage, dtype=_INTEGERS_OF[dtype]), *arguments[1:4]), None, None)
        parts: dict[str, PickledTensor] = {"integers": integers}
        facts: dict[str, str] = {}
        roles = _QUANTIZERS.get(scheme.name, ())
        for role, value in zip(roles, quantizer[1:], strict=False):
            if isinstance(value, PickledTensor):
                parts[role] = value
            elif type(value) in (int, float):
                facts[role] = repr(value)
        if not roles or len(quantizer) != 1 + len(roles) or len(parts) + len(facts) != 1 + len(roles):
            return UnlistedTensor("a quantized tensor of a packed or unknown kind")
        return PickledComposite(scheme.name.removeprefix("torch."), dtype, integers.shape, parts, facts)

    def _tensor(self, arguments: tuple[Any, ...], element_type: Any, metadata: Any) -> Any:
        if len(arguments) < 4 or not isinstance(arguments[0], PickledStorage):
            raise malformed(
                "the pickle rebuilds a tensor from other things than a storage, an offset, a shape and strides"
            )
        storage, offset, shape, stride = arguments[:4]
        if not is_natural(offset) or not _are_naturals(shape) or not _are_naturals(stride):
            raise malformed(
                "the pickle has a tensor whose offset, shape and strides are not natural numbers below 2^63, "
                f"of at most {MOST_DIMENSIONS} dimensions"
            )
        if len(shape) != len(stride):
            raise malformed(f"the pickle has a tensor of {len(shape)} dimensions with {len(stride)} strides")
        dtype = _tensor_type(storage, element_type)
        if dtype not in ITEM_SIZES:
            return UnlistedTensor(f"a tensor of {printable(dtype)}")
        conjugated, negated = _bits(metadata)
        if (conjugated and not can_conjugate(dtype)) or (negated and not can_negate(dtype)):
            return UnlistedTensor(f"a tensor of {dtype} with torch's conj or neg bit")
        tensor = PickledTensor(storage, dtype, offset, tuple(shape), tuple(stride), conjugated, negated)
        self.tensors.append(tensor)
        if len(self.tensors) > MOST_TENSORS:
            raise over_limit(f"the pickle has more than {MOST_TENSORS:,} tensors")
        return tensor


def is_natural(value: Any) -> TypeGuard[int]:
    """Whether it is an integer that a size or an offset can be."""
    return type(value) is int and 0 <= value < 2**63


def _are_naturals(values: Any) -> bool:
    return isinstance(values, tuple | list) and len(values) <= MOST_DIMENSIONS and all(map(is_natural, values))


def _at(arguments: tuple[Any, ...], index: int) -> Any:
    return arguments[index] if index < len(arguments) else None


def _storage_type(storage_class: Any) -> tuple[str | None, int]:
    """The element type of a storage class and its size; untyped storages count bytes."""
    name = storage_class.name if isinstance(storage_class, Global) else ""
    if name == "torch.storage.UntypedStorage":
        return None, 1
    module, _, short = name.rpartition(".")
    if module in ("torch", "torch.cuda") and short in STORAGE_CLASSES:
        dtype = STORAGE_CLASSES[short]
        return dtype, ITEM_SIZES[dtype]
    if module == "torch" and short in SCRIPTED_STORAGE_CLASSES:
        dtype = SCRIPTED_STORAGE_CLASSES[short]
        return dtype, ITEM_SIZES[dtype]
    if module == "torch" and short in _QUANTIZED_STORAGES:
        return _QUANTIZED_STORAGES[short]
    raise malformed(f"the pickle has a storage of the unknown class '{printable(name)}'")


def _view(storage: PickledStorage, view: Any) -> PickledStorage:
    """The part of a storage that `(key, offset, elements)` is."""
    if not isinstance(view, tuple) or len(view) != 3 or not is_natural(view[1]) or not is_natural(view[2]):
        raise malformed(f"the pickle has a view of storage '{printable(storage.key)}' without an offset and a length")
    start, nbytes = view[1] * storage.itemsize, view[2] * storage.itemsize
    if start + nbytes > storage.nbytes:
        raise malformed(f"the pickle has a view that reaches out of storage '{printable(storage.key)}'")
    return replace(storage, nbytes=nbytes, start=start)


def _tensor_type(storage: PickledStorage, element_type: Any) -> str:
    if element_type is None:
        if storage.dtype is None:
            raise malformed(f"the pickle has a tensor without an element type, in storage '{printable(storage.key)}'")
        return storage.dtype
    name = element_type.name if isinstance(element_type, Global) else ""
    if name not in _DTYPES:
        raise malformed(f"the pickle has a tensor of the unknown element type '{printable(name)}'")
    return name.removeprefix("torch.")


def _bits(metadata: Any) -> tuple[bool, bool]:
    """torch's conj and neg bits, from the dictionary that it adds to a tensor."""
    if metadata is None:
        return False, False
    bits = metadata if isinstance(metadata, dict) and len(metadata) <= 2 else {"": None}
    if bits.keys() - {"conj", "neg"} or not all(isinstance(bit, bool) for bit in bits.values()):
        raise malformed("the pickle has a tensor with metadata other than torch's conj and neg bits")
    return bits.get("conj") is True, bits.get("neg") is True


def _check_count(function: str, arguments: tuple[Any, ...], least: int, most: int) -> None:
    if not least <= len(arguments) <= most:
        raise malformed(
            f"the pickle calls {function} with {len(arguments)} arguments, where it takes {least}"
            + (f" or {most}" if most > least else "")
        )


def _check_gradients(tensor: Any, requires_grad: Any, hooks: Any) -> None:
    """Check the two arguments that say nothing about values: whether gradients are wanted, and what they would call."""
    if not isinstance(requires_grad, bool):
        raise malformed("the pickle has a tensor that neither requires gradients nor does not")
    if requires_grad and isinstance(tensor, PickledTensor) and not _can_have_gradients(tensor.dtype):
        raise malformed(f"the pickle has a tensor of {tensor.dtype} that requires gradients")
    if hooks is not None and (not isinstance(hooks, dict) or hooks):
        raise inexact("the pickle has a tensor with hooks")


def _can_have_gradients(dtype: str) -> bool:
    return "float" in dtype or "complex" in dtype


def _check_attributes(state: Any) -> None:
    """Check that what is set on a tensor changes nothing of it: plain values, and not under the name of what it has."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in parts:
        if part is None:
            continue
        names = part if isinstance(part, dict) and len(part) <= _MOST_ATTRIBUTES else (None,)
        if not all(isinstance(name, str) and name.isidentifier() and name not in SETTABLE for name in names) or any(
            name.startswith("__") or not _is_plain(value) for name, value in part.items()
        ):
            raise inexact("the pickle sets attributes of a tensor that may change what it is")


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list) and len(value) <= MOST_DIMENSIONS:
        return all(item is None or isinstance(item, _PLAIN) for item in value)
    return value is None or isinstance(value, _PLAIN)


def _parameter(arguments: tuple[Any, ...]) -> Any:
    """`Parameter(data, requires_grad)`: it has its data's values, and is another object."""
    if not arguments:
        raise malformed("the pickle has a parameter without data")
    _check_count("Parameter", arguments, 1, 2)
    data, requires_grad = arguments[0], _at(arguments, 1)
    if not isinstance(data, PickledTensor | PickledComposite | UnlistedTensor):
        raise malformed("the pickle has a parameter of something else than a tensor")
    _check_gradients(data, False if requires_grad is None else requires_grad, None)
    return replace(data)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Any:
    if not arguments:
        raise malformed("the pickle has a parameter without data")
    _check_count("_rebuild_parameter", arguments, 3, 3)
    _check_gradients(arguments[0], arguments[1], arguments[2])
    return _parameter(arguments[:2])


def _rebuild_parameter_with_state(arguments: tuple[Any, ...]) -> Any:
    _check_count("_rebuild_parameter_with_state", arguments, 4, 4)
    _check_attributes(arguments[3])
    return _rebuild_parameter(arguments[:3])


def _rebuild_sparse(arguments: tuple[Any, ...]) -> Any:
    """`(layout, data)`: the coordinates, or two levels of them, and the values there, then the shape."""
    _check_count("_rebuild_sparse_tensor", arguments, 2, 2)
    layout, data = arguments
    name = layout.name.removeprefix("torch.") if isinstance(layout, Layout) else ""
    roles = _SPARSE_PARTS.get(name)
    if roles is None or not isinstance(data, tuple) or len(data) <= len(roles):
        return UnlistedTensor("a sparse tensor of an unknown layout")
    # Of coordinates there may be said whether they are in order.
    if len(data) > len(roles) + (2 if name == "sparse_coo" else 1):
        raise malformed(f"the pickle has a {name} tensor of {len(data)} parts")
    parts = dict(zip(roles, data, strict=False))
    shape = data[len(roles)]
    if not all(isinstance(part, PickledTensor) for part in parts.values()) or not _are_naturals(shape):
        return UnlistedTensor("a sparse tensor of other things than tensors")
    return PickledComposite(name, parts["values"].dtype, tuple(shape), parts, {})


def _layout(arguments: tuple[Any, ...]) -> Any:
    name = _at(arguments, 0)
    return Layout(name) if isinstance(name, str) else Opaque("torch.serialization._get_layout")


def _encode(arguments: tuple[Any, ...]) -> Any:
    """Bytes, as pickles before protocol 3 write them."""
    match arguments:
        case (str(text), str("latin1")):
            return text.encode("latin-1")
    raise inexact("the pickle calls _codecs.encode with other than a text and 'latin1'")


def _filled(kind: type[dict[Any, Any]], arguments: tuple[Any, ...]) -> Any:
    """A new dictionary of what is in another, or in pairs, as Python 2 gave them."""
    made = kind()
    _check_count(kind.__name__, arguments, 0, 1)
    items = arguments[0] if arguments else ()
    if isinstance(items, dict):
        made.update(items)
        return made
    if type(items) not in (list, tuple):
        raise inexact(f"the pickle makes a dictionary of a {type(items).__name__}")
    for pair in items:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise inexact("the pickle makes a dictionary of other things than pairs")
        made[as_key(pair[0])] = pair[1]
    return made


def _counted(arguments: tuple[Any, ...]) -> Any:
    """A Counter of what is in a dictionary; of anything else Python would count what there is."""
    if arguments and not isinstance(arguments[0], dict):
        raise inexact("the pickle makes a Counter of something else than a dictionary")
    return _filled(Counted, arguments)


def _sequence(kind: type[list[Any]] | type[tuple[Any, ...]], arguments: tuple[Any, ...]) -> Any:
    """A new list, tuple or set of the items of another."""
    _check_count(kind.__name__, arguments, 0, 1)
    items = arguments[0] if arguments else ()
    if not isinstance(items, list | tuple):
        return Opaque("builtins.set" if kind is Members else f"builtins.{kind.__name__}")
    return kind(items)


def _inert(name: str) -> Constructor:
    return lambda _: Opaque(name)


def _unlisted(kind: str) -> Constructor:
    return lambda _: UnlistedTensor(kind)


def _buffer(made: OldTensor | str) -> Constructor:
    """What a real unpickler would make room for, as long as a number says, without a byte of it in the file."""

    def checked(arguments: tuple[Any, ...]) -> Any:
        for count in arguments:
            if isinstance(count, int) and count > MOST_PICKLE_BYTES:
                raise over_limit(f"the pickle makes a buffer of {count:,} bytes or elements out of nothing")
        return Opaque(made) if isinstance(made, str) else made

    return checked


def _either(make: Constructor) -> Class:
    """A class that makes the same of its arguments in its `__new__` as when it is called."""
    return Class(make, make)


def _empty(make: Constructor, kind: type[Any]) -> Class:
    """A class whose `__new__` makes an empty object, whatever the arguments."""
    return Class(make, lambda _: kind())


SETTABLE = frozenset(
    (
        *("data", "grad", "grad_dtype", "_grad", "_grad_fn", "real", "imag", "names", "requires_grad", "volatile"),
        *("_backward_hooks", "_post_accumulate_grad_hooks"),
    )
)
"""Attributes of a tensor that setting changes the tensor by, or what others make of it."""

_MOST_ATTRIBUTES = 1_000
_PLAIN = (bool, int, float, str, bytes)

_QUANTIZED_STORAGES: dict[str, tuple[str | None, int]] = {
    "QInt8Storage": ("qint8", 1),
    "QInt32Storage": ("qint32", 4),
    "QUInt8Storage": ("quint8", 1),
    "QUInt4x2Storage": ("quint4x2", 1),
    "QUInt2x4Storage": ("quint2x4", 1),
}

_INTEGERS_OF = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
"""The integers that quantized elements are stored as."""

_QUANTIZERS = {
    "torch.per_tensor_affine": ("scale", "zero_point"),
    "torch.per_channel_affine": ("scales", "zero_points", "axis"),
    "torch.per_channel_affine_float_qparams": ("scales", "zero_points", "axis"),
}

_SPARSE_PARTS = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}

_DTYPES = frozenset(
    f"torch.{name}"
    for name in (
        *ITEM_SIZES,
        *(f"{sign}int{width}" for sign in ("", "u") for width in range(1, 8)),
        *(dtype for dtype, _ in _QUANTIZED_STORAGES.values()),
    )
)

_TENSOR_CLASSES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")

_OLD_TENSORS = (
    "torch.Tensor",
    *(
        f"{module}.{name}Tensor"
        for module in ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse")
        for name in _TENSOR_CLASSES
    ),
)

_NAMES_ONLY = (
    *sorted(_DTYPES),
    *(f"{module}.{name}" for module in ("torch", "torch.cuda") for name in STORAGE_CLASSES),
    *(f"torch.{name}" for name in _QUANTIZED_STORAGES),
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
    "torch.per_channel_affine",
    "torch.per_channel_affine_float_qparams",
    "torch.per_channel_symmetric",
    # numpy's scalars and arrays of numbers, which training scripts keep beside the weights.
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
)

_CLASSES_ONLY = (
    "torch.device",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
    *(f"builtins.{name}" for name in ("bool", "complex", "float", "int", "object", "range", "slice", "str")),
    "numpy.ndarray",
)

_INERT_CONSTRUCTORS: dict[str, Constructor | Class] = {
    **{name: _inert(name) for name in _NAMES_ONLY},
    **{name: _either(_inert(name)) for name in _CLASSES_ONLY},
    **{name: _either(_buffer(OldTensor("a tensor in torch's oldest form"))) for name in _OLD_TENSORS},
    **{name: _either(_buffer(name)) for name in ("builtins.bytearray", "builtins.bytes")},
    # Its argument says what its state may be.
    "numpy.dtype": _either(lambda arguments: Opaque("numpy.dtype", arguments)),
    "_codecs.encode": _encode,
    "builtins.dict": _empty(partial(_filled, dict), dict),
    "builtins.frozenset": _either(partial(_sequence, Members)),
    "builtins.list": _empty(partial(_sequence, list), list),
    "builtins.set": _empty(partial(_sequence, Members), Members),
    "builtins.tuple": _either(partial(_sequence, tuple)),
    "collections.Counter": _empty(_counted, Counted),
    "collections.OrderedDict": _empty(partial(_filled, Ordered), Ordered),
    "torch.OrderedDict": _empty(partial(_filled, Ordered), Ordered),
    "torch.Size": _either(partial(_sequence, tuple)),
    "torch.serialization._get_layout": _layout,
    "torch.nn.parameter.Parameter": _either(_parameter),
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter_with_state,
    "torch._utils._rebuild_nested_tensor": _unlisted("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unlisted("a meta tensor, without values"),
    "torch._utils._rebuild_wrapper_subclass": _unlisted("a tensor that wraps others"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unlisted("a tensor kept as a numpy array"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _unlisted("a tensor of another backend"),
}
