"""Files built from the parts of their format, in numbers and orders that no sane program writes.

Every choice is asked of a `random.Random`: Hypothesis hands in its own, and so decides, and shrinks, each of them.
"""

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

from tests.fuzz.lmdb_file import LmdbFile
from tests.fuzz.mutate import NUMBERS, VALUES, Case
from tests.fuzz.thrift import empty_page, encoded, parquet_of, varint, with_footer
from tests.trainers.data_files import encode, png_chunk, smooth_picture

Shape = Callable[[random.Random], Case]

MAX_TEXT = 200_000
COUNTS = (0, 1, 1, 1, 2, 3, 10, 100, 2000)
MANY = (1, 1, 1, 20, 20, 500, 500, 10_000, 100_000)
COLLIDING = 2**61 - 1
"""Its multiples have one hash."""


# ---- YAML


def yaml_text(rng: random.Random) -> Case:
    """Trees with long scalars, anchors, aliases, merges, tags, and keys of every kind."""
    head = "".join(f"%TAG !t{i}! x\n" for i in range(rng.choice((0, 0, 0, 1, 50, 10_000))))
    body = _yaml_value(rng, 4)
    if rng.random() < 0.7:
        body = f"data:\n  name: {body}\nseed: {_yaml_value(rng, 1)}\n"
    return (f"{head}---\n{body}" if head else body)[:MAX_TEXT].encode()


def _yaml_value(rng: random.Random, depth: int) -> str:
    prefix = rng.choice(("", "", "", "&a ", "!!int ", "!!float ", "!!timestamp ", "!!set ", "!!omap ", "!!binary "))
    kind = rng.choice((0, 1, 1, 1, 2, 3, 4, 5) if depth else (0, 1))
    if kind == 0:
        return rng.choice(("*a", "x", "1", "null", "1.5", "''", "2024-01-01"))
    if kind == 1:
        return prefix + _long_scalar(rng)
    if kind == 2:
        part = ", ".join(_yaml_value(rng, depth - 1) for _ in range(rng.choice((1, 2, 3))))
        return f"{prefix}[{f'{part}, ' * min(rng.choice(COUNTS), MAX_TEXT // len(part))}]"
    if kind == 3:
        n = rng.choice(MANY) // 10
        step = rng.choice((1, COLLIDING))
        return f"{prefix}{{{', '.join(f'{i * step}: ' for i in range(n))}}}"
    if kind == 4:
        n = rng.choice((1, 3, 60, 80))
        return rng.choice(("[" * n + "]" * n, "{a: " * n + "}" * n, "- " * n + "x", "? " * n + "x"))
    keys = [rng.choice(("a", "<<", "? b", "!!str 1", "=", "1.5", "[x]")) for _ in range(rng.choice((0, 1, 2, 5)))]
    return f"{prefix}{{{', '.join(f'{key}: {_yaml_value(rng, depth - 1)}' for key in keys)}}}"


def _long_scalar(rng: random.Random) -> str:
    """Mostly one that is a number, a date or a text, however long it is."""
    head, unit, tail = rng.choice(
        (("1", ":1", ""), ("-1", ":59", ""), ("1", ":1", ".5"), ("0x", "f", ""), ("1", "_1", ""), ("9", "9", ""),
         ("1.", "0", "e+9"), ("2001-01-01", " ", "1:01:01"), ('"', "\\n", '"'), ("x", " x", ""))
    )  # fmt: skip
    if rng.random() < 0.3:
        unit, tail = rng.choice((":1", "9", "_1", "e9", "0", " x")), rng.choice(("", ".5", "x", "Z", '"'))
    return head + unit * min(rng.choice((1, 20, 500, 10_000, 99_000)), MAX_TEXT * 9 // 10 // len(unit)) + tail


# ---- lines


def label_lines(rng: random.Random) -> Case:
    """Keys and labels in any order."""
    return _lines(rng, 1)


def pair_lines(rng: random.Random) -> Case:
    """Two keys and whether they are one person."""
    return _lines(rng, 2)


def _lines(rng: random.Random, num_keys: int) -> Case:
    keys = (b"a", b"b", b"p/1.jpg", b"\xc3\xa9", b"\xff", b"x" * 5000, b"", b"a b")
    numbers = (b"0", b"1", b"1", b"2", b"999999999", b"-1", b"1.0", b"9" * 5000, b"\xc2\xb2", b"1_0")
    block = [
        rng.choice((b" ", b" ", b"\t", b"  ")).join((*(rng.choice(keys) for _ in range(num_keys)), rng.choice(numbers)))
        for _ in range(rng.choice((1, 2, 4, 10)))
    ]
    made = rng.choice((b"\n", b"\n", b"\r\n", b"\r")).join(block * rng.choice((1, 1, 2, 10, 300)))
    return made[:MAX_TEXT] + rng.choice((b"", b"\n", b"\n\n"))


# ---- pictures


@lru_cache
def zeros(count: int) -> bytes:
    """As few bytes as stand for so many."""
    return zlib.compress(bytes(count), 9)


def picture(rng: random.Random) -> Case:
    """A PNG of any chunks, or a JPEG of any segments."""
    return png(rng) if rng.random() < 0.6 else jpeg(rng)


def png(rng: random.Random) -> Case:
    """Chunks before the pixels, which may be too many or too few."""
    width, height = rng.choice(((8, 8), (1, 1), (100, 3), (4096, 4096), (2**31 - 1, 1), (0, 8)))
    colour, depth = rng.choice(((2, 8), (0, 8), (6, 16), (3, 8), (0, 1), (4, 8), (7, 3)))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, rng.choice((0, 0, 1)))
    chunks = [png_chunk(b"IHDR", head)] * rng.choice((1, 1, 1, 1, 0, 2))
    for _ in range(rng.choice((0, 1, 2, 4))):
        chunks += _png_extra(rng)
    pixels = zeros(rng.choice((1, 200, 200, 100_000, 7_900_000)))
    piece = rng.choice((1, 50, 10**6))
    chunks += [png_chunk(b"IDAT", pixels[i : i + piece]) for i in range(0, len(pixels), piece)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND")


def _png_extra(rng: random.Random) -> Sequence[bytes]:
    blob = zeros(rng.choice((10, 10_000, 7_900_000)))
    kind, content = rng.choice((
        (b"zTXt", b"%d\0\0" + blob), (b"iTXt", b"%d\0\1\0\0\0" + blob), (b"iCCP", b"%d\0\0" + blob),
        (b"tEXt", b"%d\0x"), (b"sPLT", b"%d\0\x08" + bytes(6)), (b"eXIf", tiff(rng)), (b"tRNS", bytes(6)),
        (b"PLTE", bytes(768)),
        (b"gAMA", bytes(4)), (b"bKGD", bytes(6)), (b"IDAT", b""), (b"juNk", blob), (b"JUNK", b""), (b"acTL", bytes(8)),
    ))  # fmt: skip
    return [png_chunk(kind, content.replace(b"%d", b"%d" % i, 1)) for i in range(rng.choice((1, 1, 2, 60, 80)))]


def tiff(rng: random.Random) -> bytes:
    """What a camera says of itself: many texts, which may lie in each other."""
    count, size = rng.choice((1, 6, 5000)), rng.choice((4, 1000, 60_000, 100_000))
    entries = (struct.pack("<HHII", rng.choice((0x10E, 0x112, 0x131)), rng.choice((2, 3)), size, 8) for _ in range(6))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", count) + b"".join(entries) * (count // 6)).ljust(size + 8, b"\0")


def jpeg(rng: random.Random) -> Case:
    """Segments between the first marker and the tables, scans behind the last, another size."""
    data = bytearray(encode(smooth_picture(1, 16)))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    size = rng.choice(((16, 16), (16, 16), (4096, 4096), (65535, 65535), (1, 8)))
    data[frame + 5 : frame + 9] = struct.pack(">HH", *size)
    data[frame + 1] = rng.choice((0xC0, 0xC0, 0xC1, 0xC2, 0xC3, 0xC9))
    segments = b""
    for _ in range(rng.choice((0, 1, 2))):
        content = rng.choice((b"", b"Exif\0\0" + tiff(rng), b"ICC_PROFILE\0\1\1" + bytes(900), bytes(60_000)))[:65_000]
        marker = rng.choice((0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xC4, 0xDB, 0xDD))
        segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        segments += segment * min(rng.choice((1, 1, 2, 60, 10_000)), MAX_TEXT // len(segment))
    again = bytes(data[scan:-2]) * rng.choice((0, 0, 1, 60, 70))
    return bytes(data[:2] + segments + data[2:-2] + again + b"\xff\xd9")


def record(rng: random.Random) -> Case:
    """A message of any fields in any order, of either dialect."""
    made = b""
    for _ in range(rng.choice((1, 2, 4, 8))):
        number, kind = rng.choice((1, 2, 3, 4, 4, 5, 6, 7, 9, 2**29 - 1)), rng.choice((0, 0, 2, 2, 5, 1, 3, 6))
        value = {0: varint(rng.choice((*NUMBERS, 1, 3, 8))), 1: bytes(8), 3: b"", 5: bytes(4), 6: b""}.get(kind)
        if value is None:
            content = rng.choice((b"", bytes(192), bytes(64), bytes(100_000))) if rng.random() < 0.5 else picture(rng)
            value = varint(len(content)) + content
        made += (varint(number << 3 | kind) + value) * rng.choice((1, 1, 1, 50 if len(value) < 100 else 1))
    return made


# ---- LMDB, weights, tables


def lmdb(rng: random.Random) -> Case:
    """Any number of keys and values, long and short."""
    count = rng.choice((0, 1, 2, 30, 300))
    lengths = [rng.choice((0, 1, 100, 500, 3000)) for _ in range(3)]
    items = {b"%d" % i + b"k" * rng.choice((0, 40)): bytes(lengths[i % 3]) for i in range(count)}
    return b"".join(LmdbFile(items, rng.choice((512, 4096, 16_384))).pages)


def weights(rng: random.Random) -> Case:
    """A header of tensors that fit, overlap, or claim anything."""
    header: dict[str, object] = {"__metadata__": {"json": rng.choice(("{}", "[]", "[" * 2000, '{"a":' * 70, "1"))}}
    end = 0
    for i in range(rng.choice((0, 1, 2, 5, 1000))):
        size = rng.choice((0, 4, 8, 8)) if i < 5 else 4
        start, end = (end, end + size) if i >= 5 or rng.random() < 0.8 else (0, rng.choice(NUMBERS))
        kind = rng.choice(("F32", "F32", "U8", "BF16", "F8_E4M3", "x")) if i < 5 else "F32"
        shape = [size // 4] if i >= 5 or rng.random() < 0.7 else [rng.choice(NUMBERS)] * rng.choice((0, 1, 2, 5000))
        header[f"t{i}"] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    if rng.random() < 0.2:
        header["x"] = rng.choice(VALUES)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(min(end, 10_000))


def table(rng: random.Random) -> Case:
    """Columns that lie anywhere, pages that hold nothing, and footers of nested Thrift."""
    if rng.random() < 0.5:
        return with_footer(empty_page() * rng.choice(COUNTS), thrift(rng))
    page = empty_page(rng.choice((0, 0, 0, 1, 2**31 - 1, 2**62)))
    pages = page * rng.choice((1, 3, 100, 2000))
    spans = [(4, len(pages))] * 3 + [(4, 0), (4, len(page)), (4 + len(page), len(page))]
    chunks = [rng.choice(spans) for _ in range(rng.choice((0, 1, 2, 3)))] * rng.choice((1, 1, 2, 300))
    if rng.random() < 0.2:
        chunks.append(rng.choice(((0, 4), (2**40, 4), (4, 2**40), (4, -1))))
    return parquet_of(pages, chunks, rng.choice((0, 0, 0, 1, 10**6)))


def thrift(rng: random.Random) -> bytes:
    """A struct of values nested in any way."""
    if rng.random() < 0.4:
        opened = rng.choice((b"\x19", b"\x1c", b"\x1a", b"\x1b\x01\xbb", b"\x19\x1c", b"\x19\xf9\x01"))
        return opened * rng.choice((5, 16, 17, 100, 3000)) + bytes(rng.choice((0, 10, 4000)))
    return encoded({i: _thrift_value(rng, 4) for i in range(1, rng.choice((1, 3, 6, 8)))})[1]


def _thrift_value(rng: random.Random, depth: int) -> object:
    match rng.randrange(4 if depth else 2):
        case 0:
            return rng.choice(NUMBERS) % 2**63
        case 1:
            return b"x" * rng.choice((0, 1, 100, 50_000) if depth else (0, 1, 100))
        case 2:
            return [_thrift_value(rng, depth - 1)] * rng.choice(COUNTS[: 6 + 3 * (depth < 2)])
    return {i: _thrift_value(rng, depth - 1) for i in rng.choice(((), (1,), (1, 2, 3), (1, 1000)))}
