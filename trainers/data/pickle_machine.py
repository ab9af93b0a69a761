"""Lists, tuples, bytes, bools, ints and numpy arrays of them from a pickle, without Python's unpickler.

A pickle is a program. This is a machine of its own for the few instructions that such values need, so there is nothing
to forbid: no instruction calls anything, no name is looked up. The names that numpy's values are written with stand for
marks of ours; every other name is refused as soon as it is asked for. Nothing is copied from the file but small
values: bytes are views of it, text is never decoded, and arrays are views with a shape.

Bounds. An instruction is given no more bytes than the file has left. What takes memory of its own (a tuple, a list, an
int, an entry of the memo) is counted, and there may be so many as whole files of pictures need, in proportion to the
file (`BYTES_PER_OBJECT`); so memory stays within ten times the file, plus six megabytes.

Format: PEP 307, PEP 3154, PEP 574 and the notes in CPython's `pickletools.py`; what numpy writes is in `__reduce__` of
`ndarray`, `dtype` and `generic`, and `_frombuffer`. Protocols 2 to 5.
"""

import pickletools
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from search_space.errors import UserError, shown
from trainers.data.pickled_values import DTYPES, NAMES, Array, Dtype, Latin, Name, Text, as_bytes, kind

PROTOCOLS = range(2, 6)
MAX_MARKS = 64
"""Open at once."""

MAX_LISTS = 64
MAX_STACK = 2**17
MAX_DIMENSIONS = 4
INT_BYTES = 8
BYTES_PER_OBJECT = 32
OBJECTS = 8192
MAX_NAME = 200

NAMES_OF_CODES = {ord(known.code): known.name for known in pickletools.opcodes}
_TEXT_ENCODING = (b"latin1", b"latin-1", b"latin_1")


class _Mark:
    """Where a group of values begins on the stack."""


MARK = _Mark()


def read_pickle(data: bytes) -> Any:
    """The value that a pickle holds: lists and tuples of None, bool, int, bytes-like (`memoryview`, `Latin`), `Text`
    and `Array`; use `as_bytes` and `as_flags` on what is in them.

    Raises:
        UserError: cut off, another protocol, or it asks for anything else, which is named; with the byte.
    """
    return _Machine(data).run()


class _Machine:
    """Runs the instructions of one pickle."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.start = memoryview(data), 0, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.num_marks = self.num_lists = 0
        self.objects_left = OBJECTS + len(data) // BYTES_PER_OBJECT

    def run(self) -> Any:
        if bytes(self.data[:1]) != b"\x80":
            self.refuse("expected a pickle of protocol 2 to 5, got another file, or an older protocol")
        while True:
            self.start = self.position
            code = self.take(1)[0]
            if code == STOP:
                return self.end()
            action = ACTIONS.get(code)
            if action is None:
                known = NAMES_OF_CODES.get(code)
                self.refuse_values(f"got the instruction {known}" if known else f"got the byte 0x{code:02x}")
            action(self)
            if len(self.stack) > MAX_STACK:
                self.refuse("more values at once than any file of pictures has")

    def end(self) -> Any:
        if self.position != len(self.data):
            self.refuse(f"expected the end of the file, got {len(self.data) - self.position:,} more bytes")
        value = self.pop()
        if self.stack:
            self.refuse("damaged: values are left over")
        return value

    def refuse(self, what: str) -> NoReturn:
        raise UserError(f"byte {self.start:,}: {what}")

    def refuse_values(self, found: str) -> NoReturn:
        self.refuse(f"expected nothing but lists, tuples, bytes, bools, ints and numpy arrays of them, {found}")

    def spend(self) -> None:
        """Count something that takes memory which the file does not hold."""
        self.objects_left -= 1
        if self.objects_left < 0:
            self.refuse("more small values than a file of pictures of this size has")

    def take(self, size: int) -> memoryview:
        """The next bytes."""
        end = self.position + size
        if end > len(self.data):
            self.refuse(f"truncated: {size:,} bytes are to follow, {len(self.data) - self.position:,} do")
        part = self.data[self.position : end]
        self.position = end
        return part

    def number(self, form: str) -> int:
        """The next number, in the form that `struct` calls so."""
        [value] = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def line(self) -> str:
        """The next line, without its end."""
        window = bytes(self.data[self.position : self.position + MAX_NAME + 1])
        size = window.find(b"\n")
        if size < 0:
            self.refuse("expected a name that ends with its line")
        self.take(size + 1)
        return window[:size].decode("latin-1")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            self.refuse("damaged: a value is missing")
        return self.stack.pop()

    def several(self, count: int) -> list[Any]:
        """Take the last values off the stack."""
        return [self.pop() for _ in range(count)][::-1]

    def drop(self) -> None:
        self.pop()

    def drop_since_mark(self) -> None:
        self.since_mark()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def mark(self) -> None:
        self.num_marks += 1
        if self.num_marks > MAX_MARKS:
            self.refuse("nested deeper than any file of pictures")
        self.stack.append(MARK)

    def since_mark(self) -> list[Any]:
        """Take the values off the stack that came since the last mark, and the mark."""
        if not self.num_marks:
            self.refuse("damaged: a mark is missing")
        self.num_marks -= 1
        place = len(self.stack) - 1
        while self.stack[place] is not MARK:
            place -= 1
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def put(self, key: int) -> None:
        self.spend()
        self.memo[key] = self.top()

    def get(self, key: int) -> None:
        if key not in self.memo:
            self.refuse(f"damaged: refers to value {key}, which is not there")
        self.push(self.memo[key])

    def new_list(self, values: list[Any]) -> None:
        self.num_lists += 1
        if self.num_lists > MAX_LISTS:
            self.refuse("more lists than any file of pictures has")
        self.push(values)

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            self.refuse(f"damaged: adds to a {kind(target)}")
        target.extend(values)

    def new_tuple(self, values: list[Any]) -> None:
        self.spend()
        self.push(tuple(values))

    def view(self, form: str) -> memoryview:
        """Bytes behind their number, which `struct` calls `form`."""
        self.spend()
        return self.take(max(0, self.number(form)))

    def integer(self, value: int) -> None:
        if not -6 < value < 257:  # CPython has these already
            self.spend()
        self.push(value)

    def long(self, size: int) -> None:
        if not 0 <= size <= INT_BYTES:
            self.refuse_values(f"got an int of {size:,} bytes")
        self.integer(int.from_bytes(self.take(size), "little", signed=True))

    def protocol(self) -> None:
        version = self.number("<B")
        if self.start or version not in PROTOCOLS:
            self.refuse(f"expected a pickle of protocol 2 to 5, got {version}")

    def frame(self) -> None:
        size = self.number("<Q")
        if size > len(self.data) - self.position:
            self.refuse(f"truncated: {size:,} bytes are to follow, {len(self.data) - self.position:,} do")

    def global_name(self) -> None:
        self.ask(f"{self.line()}.{self.line()}")

    def instance(self) -> None:
        self.refuse_values(f"it asks for {shown(f'{self.line()}.{self.line()}')[1:-1]}")

    def stack_global(self) -> None:
        name, module = self.word(self.pop()), self.word(self.pop())
        self.ask(f"{module}.{name}")

    def word(self, value: Any) -> str:
        """A short text or bytes value as text."""
        data = value.data if isinstance(value, Text) else value
        if not isinstance(data, memoryview) or len(data) > MAX_NAME:
            self.refuse(f"expected a name, got {kind(value)}")
        return bytes(data).decode("latin-1")

    def ask(self, name: str) -> None:
        meaning = NAMES.get(name)
        if meaning is None:
            self.refuse_values(f"it asks for {shown(name)[1:-1]}")
        self.push(meaning)

    def reduce(self) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Name):
            self.refuse_values(f"it calls a {kind(called)}")
        if not isinstance(arguments, tuple):
            self.refuse("damaged: a call without its arguments")
        self.spend()
        self.push(self.made(called, arguments))

    def made(self, called: Name, arguments: tuple[Any, ...]) -> Any:
        """What stands for a call, whose arguments must be those that numpy or Python writes."""
        made: Any = None
        match called, arguments:
            case Name.ENCODE, (Text() as text, encoding) if self.word(encoding).encode() in _TEXT_ENCODING:
                made = Latin(text)
            case Name.DTYPE, (code, _, _):
                made = self.dtype(self.word(code))
            case Name.RECONSTRUCT, (Name.ARRAY, tuple(), _):
                made = Array()
            case Name.FROM_BUFFER, (data, Dtype() as dtype, tuple() as shape, _):
                made = self.filled(Array(), shape, dtype, data)
            case Name.SCALAR, (Dtype() as dtype, data):
                made = self.scalar(dtype, data)
            case _:
                self.refuse_values(f"it calls {called.name.lower()} with {kind(arguments)}")
        return made

    def dtype(self, code: str) -> Dtype:
        code = code.lstrip("|<>=")
        if code not in DTYPES:
            self.refuse_values(f"got a numpy array of type {shown(code)[1:-1]}")
        return Dtype(code)

    def filled(self, array: Array, shape: tuple[Any, ...], dtype: Dtype, data: Any) -> Array:
        sizes_are_sane = all(type(size) is int and size >= 0 for size in shape)
        if len(shape) > MAX_DIMENSIONS or not sizes_are_sane or not isinstance(data, memoryview | Latin):
            self.refuse_values(f"got a numpy array of {kind(data)} of shape {shown(shape)}")
        array.shape, array.dtype, array.data = shape, dtype, data
        return array

    def scalar(self, dtype: Dtype, data: Any) -> int | bool:
        found = as_bytes(data)
        form = dtype.order + DTYPES[dtype.code]
        if found is None or len(found) != struct.calcsize(form):
            self.refuse_values(f"got a numpy scalar of {kind(data)}")
        [value] = struct.unpack(form, found)
        return bool(value) if dtype.code == "b1" else int(value)

    def build(self) -> None:
        state, target = self.pop(), self.top()
        match target, state:
            case Array(), (_, tuple() as shape, Dtype() as dtype, _, data):
                self.filled(target, shape, dtype, data)
            case Dtype(), (_, order, None, None, None, *_) if self.word(order) in ("|", "<", ">", "="):
                target.order = ">" if self.word(order) == ">" else "<"
            case _:
                self.refuse_values(f"it sets the state of a {kind(target)}")


STOP = ord(".")
ACTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.integer(m.number("<i")),
    ord("K"): lambda m: m.integer(m.number("<B")),
    ord("M"): lambda m: m.integer(m.number("<H")),
    0x8A: lambda m: m.long(m.number("<B")),
    0x8B: lambda m: m.long(m.number("<i")),
    ord("T"): lambda m: m.push(m.view("<i")),
    ord("U"): lambda m: m.push(m.view("<B")),
    ord("B"): lambda m: m.push(m.view("<I")),
    ord("C"): lambda m: m.push(m.view("<B")),
    0x8E: lambda m: m.push(m.view("<Q")),
    0x96: lambda m: m.push(m.view("<Q")),
    ord("X"): lambda m: m.push(Text(m.view("<I"))),
    0x8C: lambda m: m.push(Text(m.view("<B"))),
    0x8D: lambda m: m.push(Text(m.view("<Q"))),
    ord("("): _Machine.mark,
    ord("0"): lambda m: m.drop(),
    ord("1"): lambda m: m.drop_since_mark(),
    ord("2"): lambda m: m.push(m.top()),
    ord("]"): lambda m: m.new_list([]),
    ord("l"): lambda m: m.new_list(m.since_mark()),
    ord("a"): lambda m: m.extend([m.pop()]),
    ord("e"): lambda m: m.extend(m.since_mark()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.new_tuple(m.since_mark()),
    0x85: lambda m: m.new_tuple(m.several(1)),
    0x86: lambda m: m.new_tuple(m.several(2)),
    0x87: lambda m: m.new_tuple(m.several(3)),
    ord("q"): lambda m: m.put(m.number("<B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number("<B")),
    ord("j"): lambda m: m.get(m.number("<I")),
    ord("c"): _Machine.global_name,
    ord("i"): _Machine.instance,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
}
"""The instructions by their code."""
