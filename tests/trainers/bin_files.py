"""insightface's `.bin` files byte by byte, as the definition of pickle has them, for tests."""

import struct
from collections.abc import Sequence


def bytes3(data: bytes) -> bytes:
    """Bytes of protocol 3 and on: SHORT_BINBYTES or BINBYTES."""
    return b"C" + bytes([len(data)]) + data if len(data) < 256 else b"B" + struct.pack("<I", len(data)) + data


def string2(data: bytes) -> bytes:
    """A text of Python 2: SHORT_BINSTRING or BINSTRING."""
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def text(data: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(data.encode())) + data.encode()


def latin2(data: bytes) -> bytes:
    """Bytes that Python 3 writes in protocol 2: _codecs.encode(text, 'latin1')."""
    return b"c_codecs\nencode\n" + text(data.decode("latin-1")) + text("latin1") + b"\x86R"


def dtype(code: str, module: str = "numpy") -> bytes:
    """numpy.dtype(code, False, True) and its state."""
    state = b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return f"c{module}\ndtype\n".encode() + text(code) + b"\x89\x88\x87R" + state


def array(data: bytes, shape: Sequence[int], code: str = "u1", core: str = "numpy.core") -> bytes:
    """An array by _reconstruct and its state."""
    made = f"c{core}.multiarray\n_reconstruct\ncnumpy\nndarray\n".encode() + b"K\x00\x85" + bytes3(b"b") + b"\x87R"
    sizes = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in shape) + b"t"
    return made + b"(K\x01" + sizes + dtype(code) + b"\x89" + bytes3(data) + b"tb"


def flags(same: Sequence[bool]) -> bytes:
    """A list of NEWTRUE and NEWFALSE."""
    return b"](" + b"".join(b"\x88" if flag else b"\x89" for flag in same) + b"e"


def listed(values: Sequence[bytes]) -> bytes:
    """A list, MARK to APPENDS."""
    return b"](" + b"".join(values) + b"e"


def bin_file(pictures: Sequence[bytes], same: Sequence[bool], protocol: int = 3) -> bytes:
    """A whole file: (pictures, flags), a tuple of two; pictures as instructions."""
    return pickled(listed(pictures) + flags(same) + b"\x86", protocol)


def pickled(instructions: bytes, protocol: int = 3) -> bytes:
    """PROTO, instructions, STOP."""
    return b"\x80" + bytes([protocol]) + instructions + b"."
