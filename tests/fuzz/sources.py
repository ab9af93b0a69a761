"""What imports and evaluations read: sets in the forms of others, their pickles, embeddings, lists of numbers.

A case of several files is one after the other, each behind its length in eight bytes.
"""

import json
import random
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from lfs.embedding_file import open_embeddings
from search_space.errors import UserError
from tests.fuzz import shapes
from tests.fuzz.mutate import NUMBERS, Case, mutated_bytes
from tests.lfs.evaluation_files import by_key
from tests.trainers import bin_files
from tests.trainers.importers.sources import MAGIC, header, jpeg, record, tar_member, with_header
from trainers.data.align import read_landmarks
from trainers.data.eval_bin import read_eval_bin, stored
from trainers.data.importers.identity_file import read_identities
from trainers.data.importers.plan import Choice, plan_import
from trainers.data.importers.recordio import RecordSource
from trainers.data.importers.source import Source, no_progress
from trainers.data.importers.tables import TableSource
from trainers.data.importers.webdataset import WebDatasetSource
from trainers.data.template_lists import read_template_pairs, read_templates

PICTURES = tuple(jpeg(seed, 16) for seed in range(3))


def packed(*files: bytes) -> Case:
    """Several files as one case."""
    return b"".join(struct.pack("<Q", len(file)) + file for file in files)


def unpacked(case: Case, count: int) -> list[bytes]:
    """The files of a case, as many as are there: the last gets the rest, others may be empty."""
    files, at = [], 0
    for _ in range(count):
        size = int.from_bytes(case[at : at + 8], "little")
        files.append(case[at + 8 : at + 8 + size])
        at = min(len(case), at + 8 + size)
    return files


def mutated_files(case: Case, rng: random.Random, mutations: Sequence[Callable[[Case, random.Random], Case]]) -> Case:
    """One of several files spoiled."""
    files = unpacked(case, len(mutations))
    chosen = rng.randrange(len(files))
    files[chosen] = mutations[chosen](files[chosen], rng)
    return packed(*files)


def read_pictures(source: Source) -> int:
    """As an import reads them."""
    plan = plan_import(source.scan(no_progress), Choice())
    count = 0
    for shard in range(len(plan.starts) - 1):
        batch = plan.batch(shard)
        for row, data in enumerate(source.read(batch)):
            assert isinstance(data, bytes | UserError)
            assert "\n" not in source.place(batch, row)
            count += 1
    return count


# ---- RecordIO

RECORD_TOKENS = (MAGIC, MAGIC + b"\xff\xff\xff\x1f", b"\x00\x00\x80\x7f", b"\xff\xff\xff\xff", b"\t", b"\n", b"9" * 18)
RECORD_MUTATIONS = (partial(mutated_bytes, tokens=RECORD_TOKENS),) * 3


def record_case(records: Sequence[tuple[int, bytes]], properties: bytes = b"") -> Case:
    """rec, idx, property."""
    lines, data = b"", b""
    for number, framed in records:
        lines += b"%d\t%d\n" % (number, len(data))
        data += framed
    return packed(data, lines, properties)


def record_seeds() -> Sequence[Case]:
    """With a header, without one, with a record in parts."""
    plain = [(n, record(header(float(n // 2)) + data)) for n, data in enumerate(PICTURES)]
    parts = [record(header(1.0) + b"x", 1), record(b"middle", 2), record(b"end", 3)]
    return [
        record_case(with_header([(0, PICTURES[0]), (0, PICTURES[1]), (4, PICTURES[2])]), b"2,16,16\n"),
        record_case(plain, b"3,16,16"),
        record_case([*plain, (3, b"".join(parts))]),
    ]


def records(rng: random.Random) -> Case:
    """Frames of any flags, labels and lengths; lines that point anywhere."""
    made, at = [], 0
    for number in range(rng.choice((0, 1, 2, 20, 300))):
        label = rng.choice((0.0, 1.0, [3.0, 5.0], [2.0, 2.0], float("nan"), float("inf"), 1e30, -1.0, [1.0] * 300))
        frame = record(header(label) + rng.choice((b"", b"x", PICTURES[0])), rng.choice((0, 0, 0, 1, 2, 3, 7)))
        if rng.random() < 0.1:
            frame = MAGIC + struct.pack("<I", rng.choice(NUMBERS) % 2**32) + frame[8:]
        made.append((number, at, frame))
        at += len(frame)
    data = b"".join(frame for _, _, frame in made)
    lines = [b"%d\t%d" % (n, at if rng.random() < 0.9 else rng.choice((*NUMBERS, 10**18))) for n, at, _ in made]
    return packed(data, b"\n".join(lines), rng.choice((b"", b"2,16,16", b"9" * 5000, b"\xff")))


def read_records(case: Case, folder: Path) -> object:
    """As `import` reads a folder of insightface's."""
    for name, data in zip(("train.rec", "train.idx", "property"), unpacked(case, 3), strict=True):
        (folder / name).unlink(missing_ok=True)
        if data or name != "property":
            (folder / name).write_bytes(data)
    return read_pictures(RecordSource(folder))


# ---- .bin

BIN_TOKENS = (
    b"c__builtin__\neval\n", b"cos\nsystem\n", b"R", b"i__main__\nX\n", b"\x93", b"\x8c\x02os", b"(" * 200, b"]" * 200,
    b"\x85" * 200, b"2" * 100, b"\x8e" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"\x8a\xff", b"\x95" + b"\xff" * 8, b"e",
    b"t", b"b", b"s", b"u", b"q\x00", b"h\x00", b"j\xff\xff\xff\xff", b"r\xff\xff\xff\x7f", b".", b"\x80\x09",
)  # fmt: skip


def bin_seeds() -> Sequence[Case]:
    """The kinds of values that programs of either Python write."""
    files = [PICTURES[0], PICTURES[1], PICTURES[0], PICTURES[2]]
    same, kinds = [True, False], (bin_files.bytes3, bin_files.string2, bin_files.latin2)
    made = [bin_files.bin_file([kind(file) for file in files], same) for kind in kinds]
    return [*made, bin_files.bin_file([bin_files.array(file, [len(file)]) for file in files], same)]


def pickle_of(rng: random.Random) -> Case:
    """Instructions in any order, repeated; a few of them with arguments that claim anything."""
    picture = PICTURES[0]
    parts = (
        bin_files.bytes3(picture), bin_files.string2(picture), bin_files.array(picture, [len(picture)]),
        bin_files.array(picture, [rng.choice((0, -1, 1, 2**31 - 1)), 5]), bin_files.latin2(b"abc"), bin_files.text("x"),
        bin_files.flags([True, False]), bin_files.dtype("u1"), b"(", b"]", b")", b"}", b"K\x01", b"N", b"\x88", b"\x89",
        b"\x85", b"\x86", b"\x87", b"t", b"e", b"a", b"b", b"R", b"0", b"1", b"2", b"q\x00", b"h\x00", b"\x94",
    )  # fmt: skip
    body = b"".join(
        rng.choice((*parts, *BIN_TOKENS)) * rng.choice((1, 1, 1, 2, 50)) for _ in range(rng.choice((3, 9, 40)))
    )
    if rng.random() < 0.5:
        body = (
            bin_files.listed([rng.choice(parts[:5])] * rng.choice((0, 2, 4, 100))) + body[:20] + bin_files.flags([True])
        )
    return bin_files.pickled(body[: shapes.MAX_TEXT] + rng.choice((b"", b"\x86")), rng.choice((2, 3, 4, 5, 0, 9)))


def mutated_bin(case: Case, rng: random.Random) -> Case:
    """By bytes and instructions."""
    return mutated_bytes(case, rng, BIN_TOKENS)


def read_bin(case: Case, folder: Path) -> object:
    """As `bin` reads it."""
    (folder / "faces.bin").write_bytes(case)
    held = read_eval_bin(folder / "faces.bin")
    bad: list[tuple[int, str]] = []
    items = list(stored(held, 16, lambda number, fault: bad.append((number, fault))))
    assert len(items) + len(bad) == len(held.keys)
    return items


# ---- embeddings


def npy_case(head: bytes, data: bytes, keys: bytes, facts: bytes = b"") -> Case:
    """X.npy, X.keys.txt, X.model.json."""
    length = len(head).to_bytes(2, "little")
    return packed(b"\x93NUMPY\x01\x00" + length + head + data, keys, facts)


def npy_head(kind: str = "<f4", order: str = "False", shape: str = "(3, 2)") -> bytes:
    """The header of an array."""
    return f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


def npy_seeds() -> Sequence[Case]:
    """Three embeddings, with and without labels and a description."""
    facts = json.dumps({"sha256": "ab", "flip": True}).encode()
    return [
        npy_case(npy_head(), bytes(24), b"a\nb\nc\n"),
        npy_case(npy_head("<f2"), bytes(12), b"a 0\nb 0\nc 1\n", facts),
    ]


def npy(rng: random.Random) -> Case:
    """Types, shapes and keys that do not go together."""
    kind = rng.choice(("<f4", "<f4", ">f8", "<f2", "|O", "<i4", "<f16", "<c8", "|S9", "|V99999999", "x" * 5000))
    number = rng.choice((*map(str, NUMBERS), "3", "-1", "10**9", "None", "(1,)", "9" * 5000))
    shape = rng.choice(("(3, 2)", f"({number}, 2)", f"(3, {number})", "()", "(6,)", "(3, 1, 2)", "[3, 2]", "(" * 300))
    size = rng.choice((24, 24, 12, 48, 0, 23))
    keys = rng.choice((b"a\nb\nc\n", b"a\nb\na\n", b"a 0\nb 1\nc\n", b"", b"\xff\n" * 3, b"k" * 5000 + b"\nb\nc"))
    facts = rng.choice((b"", b"{}", b"[]", b"[" * 5000, b'{"sha256": 5, "flip": "x"}', b"\xff"))
    return npy_case(npy_head(kind, rng.choice(("False", "False", "True", "7")), shape), bytes(size), keys, facts)


NPY_TOKENS = (b"<f8", b"|O", b"(3, 2)", b"True", b"\x93NUMPY\x02\x00", b"(" * 200, b"9" * 300, b"__import__('os')")
NPY_MUTATIONS = (
    partial(mutated_bytes, tokens=NPY_TOKENS), partial(mutated_bytes, tokens=(b"\n", b" ", b"a\n")),
    partial(mutated_bytes, tokens=(b"{", b"[" * 200, b"NaN")),
)  # fmt: skip


def read_npy(case: Case, folder: Path) -> object:
    """Its rows, and two of them by key."""
    for name, data in zip(("e.npy", "e.keys.txt", "e.model.json"), unpacked(case, 3), strict=True):
        (folder / name).unlink(missing_ok=True)
        if data or name != "e.model.json":
            (folder / name).write_bytes(data)
    return _read_embeddings(folder / "e.npy")


def _read_embeddings(path: Path) -> object:
    file = open_embeddings(path)
    assert sum(len(part) for part in file.chunks(2)) == len(file) == len(list(file.names()))
    return by_key(file, ["a", "b"])


def embedding_table_seeds() -> Sequence[Case]:
    """Lists of any and of one length."""
    made = []
    for kind, codec in ((pa.list_(pa.float32()), "snappy"), (pa.list_(pa.float64(), 2), "none")):
        rows = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], kind)
        table = pa.table({"key": ["a", "b", "c"], "embedding": rows}).replace_schema_metadata({"lfs": '{"flip": true}'})
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink, compression=codec)
        made.append(sink.getvalue().to_pybytes())
    return made


def read_embedding_table(case: Case, folder: Path) -> object:
    """As `--embeddings`."""
    (folder / "e.parquet").write_bytes(case)
    return _read_embeddings(folder / "e.parquet")


# ---- Parquet and WebDataset as sources


def face_table_seeds() -> Sequence[Case]:
    """Binary pictures, and Hugging Face's structs with named labels."""
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["Ann", "Bo"]}}}})}
    structs = pa.array([{"bytes": data, "path": None} for data in PICTURES])
    tables = (
        pa.table({"image": pa.array(PICTURES, pa.binary()), "label": [0, 0, 1]}),
        pa.table({"image": structs, "label": [0, 1, 1]}).replace_schema_metadata(metadata),
    )
    made = []
    for table in tables:
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink, row_group_size=2)
        made.append(sink.getvalue().to_pybytes())
    return made


def read_face_table(case: Case, folder: Path) -> object:
    """As `import`."""
    (folder / "faces.parquet").write_bytes(case)
    return read_pictures(TableSource([folder / "faces.parquet"]))


TAR_TOKENS = (
    b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"ustar\x0000", b"ustar  \0", b"././@LongLink",
    b"30 path=" + b"x" * 21 + b"\n", b"99 size=9\n", b"x" * 512, bytes(1024), b".cls", b".json",
)  # fmt: skip


def tar_seeds() -> Sequence[Case]:
    """Samples with labels by themselves, and in JSON."""
    first = [
        (f"{n:03d}.{kind}", data)
        for n, picture in enumerate(PICTURES)
        for kind, data in (("jpg", picture), ("cls", b"7"))
    ]
    second = [("a/1.jpg", PICTURES[0]), ("a/1.json", b'{"label": "Ann"}'), ("README", b"x")]
    return [b"".join(tar_member(*member) for member in members) + bytes(1024) for members in (first, second)]


def mutated_tar(case: Case, rng: random.Random) -> Case:
    """By bytes, most of them in a head, whose sum is made right again."""
    if rng.random() < 0.2:
        return mutated_bytes(case, rng, TAR_TOKENS)
    changed = bytearray(case)
    start = rng.randrange(len(case) // 512) * 512
    head = bytearray(mutated_bytes(case[start : start + 512], rng, TAR_TOKENS)[:512].ljust(512, b"\0"))
    changed[start : start + 512] = summed(head)
    return bytes(changed)


def summed(head: bytearray) -> bytes:
    """A head with its own sum in it."""
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def tar(rng: random.Random) -> Case:
    """Members of any kind and size, extended heads that say anything."""
    made = b""
    for n in range(rng.choice((1, 2, 5, 60))):
        name = rng.choice(
            (f"{n}.jpg", f"{n}.cls", f"{n}.json", "1.jpg", "", "../x.jpg", "/x.jpg", "a" * 99, "x", "\n.jpg")
        )
        data = rng.choice((b"", b"7", PICTURES[0], b"[" * 3000, b'{"label": null}', b"\xff" * 40, b"1" * 9000))
        kind = rng.choice((b"0", b"0", b"0", b"0", b"x", b"g", b"L", b"K", b"S", b"1", b"2", b"5", b"\0", b"7"))
        if kind in b"xg":
            data = rng.choice((
                b"20 path=a/%03d.jpg\n" % n, b"99999999 path=x\n", b"12 size=-1\n",
                b"30 GNU.sparse.size=999999999999\n", b"11 path=\n" * 500, b"=\n", b"0 x=y\n", b"13 size=1e9\n",
                b"25 hdrcharset=BINARY\n",
            ))  # fmt: skip
        member = bytearray(tar_member(name, data, kind))
        if rng.random() < 0.3:
            field, size = rng.choice(((124, 12), (136, 12), (100, 8), (257, 8)))
            value = rng.choice((b"\x80" + b"\xff" * 11, b"77777777777\0", b"xyz", b"\xff" * 12, b"-1\0"))
            member[field : field + size] = value[:size].ljust(size, b"\0")
            member[:512] = summed(member[:512])
        made += bytes(member)
    return made[: 2 * shapes.MAX_TEXT] + bytes(rng.choice((1024, 512, 0)))


def read_tar(case: Case, folder: Path) -> object:
    """As `import`."""
    (folder / "faces.tar").write_bytes(case)
    return read_pictures(WebDatasetSource([folder / "faces.tar"]))


# ---- lines


def identity_seeds() -> Sequence[Case]:
    """Ids as published, and as an import writes them."""
    return [b"0000045\n0000099\n0000100", b"0 Ann Lee\n1 Bo\n", b"m.01\r\nm.02\r\n"]


def read_identity_list(case: Case, folder: Path) -> object:
    """As `--identities`."""
    (folder / "ids.txt").write_bytes(case)
    return read_identities(folder / "ids.txt")


def landmark_seeds() -> Sequence[Case]:
    """Two faces; keys with and without blanks in them."""
    numbers = b"38.2 51.6 73.5 51.5 56.0 71.7 41.5 92.3 70.7 92.2"
    return [b"1.jpg " + numbers + b"\na b/2.jpg\t" + numbers + b"\n", b"x " + numbers]


def landmark_lines(rng: random.Random) -> Case:
    """Keys and numbers that are none."""
    words = (b"1.5", b"1", b"-3", b"nan", b"inf", b"1e400", b"0x1", b"1_0", b"\xc2\xb2", b"9" * 5000, b"x", b"1e5")
    lines = []
    for n in range(rng.choice((1, 2, 50))):
        some = [
            rng.choice(words[:3] if rng.random() < 0.9 else words) for _ in range(rng.choice((10, 10, 10, 9, 11, 0)))
        ]
        lines.append(b" ".join((rng.choice((b"%d.jpg" % n, b"a", b"\xff", b"x" * 5000, b"a b")), *some)))
    return rng.choice((b"\n", b"\r\n", b"\r")).join(lines)[: shapes.MAX_TEXT]


def read_landmark_list(case: Case, folder: Path) -> object:
    """As `--landmarks`."""
    (folder / "points.txt").write_bytes(case)
    return read_landmarks(folder / "points.txt")


def template_seeds() -> Sequence[Case]:
    """Pictures of templates, and pairs of them."""
    return [b"1.jpg 7 3\n2.jpg 7 4\n1.jpg 8 0\n", b"7 8 1\n8 9 0\n7 9 0\n"]


def read_template_lists(case: Case, folder: Path) -> object:
    """As templates, else as pairs of them."""
    (folder / "t.txt").write_bytes(case)
    try:
        listed = read_templates(folder / "t.txt")
        assert len(listed.rows) == len(listed.media)
        assert listed.rows.max() < len(list(listed.keys))
    except UserError:
        return read_template_pairs(folder / "t.txt")
    return np.unique(listed.templates)
