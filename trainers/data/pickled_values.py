"""Values of a pickle that are read without being made: what `pickle_machine` puts in their place.

Nothing is copied from the file: bytes are views of it, text is not decoded, arrays are views with a shape.
"""

import enum
import math
import struct
from typing import Any


class Name(enum.Enum):
    """What the accepted names stand for."""

    RECONSTRUCT = enum.auto()
    FROM_BUFFER = enum.auto()
    SCALAR = enum.auto()
    ARRAY = enum.auto()
    DTYPE = enum.auto()
    ENCODE = enum.auto()


NAMES = {
    f"{module}.{name}": meaning
    for modules, name, meaning in (
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct", Name.RECONSTRUCT),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "scalar", Name.SCALAR),
        (("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer", Name.FROM_BUFFER),
        (("numpy",), "ndarray", Name.ARRAY),
        (("numpy",), "dtype", Name.DTYPE),
        (("_codecs",), "encode", Name.ENCODE),
    )
    for module in modules
}
DTYPES = {"b1": "?", "u1": "B", "i1": "b", "i4": "i", "i8": "q", "u4": "I", "u8": "Q"}
"""Types of arrays and scalars, and what `struct` calls them."""


class Text:
    """Unicode text of the pickle, as UTF-8."""

    __slots__ = ("data",)

    def __init__(self, data: memoryview) -> None:
        self.data = data


class Latin:
    """Bytes that were written as text, each as the character of its number, as Python 3 does in protocol 2."""

    __slots__ = ("text",)

    def __init__(self, text: Text) -> None:
        self.text = text


class Dtype:
    """A type of numpy's."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"


class Array:
    """An array of numpy's; empty until it is built. Its order in memory is not kept: one side is all that is used."""

    __slots__ = ("data", "dtype", "shape")

    def __init__(self) -> None:
        self.data: Any = memoryview(b"")
        self.dtype: Dtype | None = None
        self.shape: tuple[int, ...] = (0,)


def as_bytes(value: Any) -> memoryview | bytes | None:
    """The bytes of a value: bytes in either form, or a uint8 array of one column or row; None if it is neither."""
    if isinstance(value, memoryview):
        return value
    if isinstance(value, Latin):
        return _from_latin(value)
    if isinstance(value, Array) and value.dtype and value.dtype.code == "u1":
        return _array_bytes(value) if sum(size != 1 for size in value.shape) <= 1 else None
    return None


def as_flags(value: Any) -> list[bool] | None:
    """The bools of a list, a tuple or an array of bools or of the numbers 0 and 1; None if it is none."""
    if isinstance(value, Array):
        if len(value.shape) != 1 or value.dtype is None:
            return None
        data = _array_bytes(value)
        form = f"{value.dtype.order}{value.shape[0]}{DTYPES[value.dtype.code]}"
        value = None if data is None else list(struct.unpack(form, data))
    if not isinstance(value, list | tuple) or not all(isinstance(v, bool | int) and v in (0, 1) for v in value):
        return None
    return [bool(item) for item in value]


def _array_bytes(array: Array) -> memoryview | bytes | None:
    """The bytes of an array, if there are as many as its shape says."""
    data = as_bytes(array.data)
    size = math.prod(array.shape) * (struct.calcsize("<" + DTYPES[array.dtype.code]) if array.dtype else 0)
    return data if data is not None and len(data) == size else None


def _from_latin(value: Latin) -> bytes | None:
    try:
        return str(value.text.data, "utf-8").encode("latin-1")
    except UnicodeError:
        return None


def kind(value: Any) -> str:
    """What a value is, for a message."""
    names = {memoryview: "bytes", Latin: "bytes", Text: "text", Dtype: "numpy type", Array: "numpy array"}
    return names.get(type(value), type(value).__name__)
