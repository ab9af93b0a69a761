"""What reads files that a user can hand over: valid examples of each, ways to spoil them, and the code that reads."""

import json
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import yaml

from lfs.config import SearchConfig
from lfs.options import RECIPES, build
from lfs.untrusted import read_table
from search_space.errors import UserError
from tests.fuzz import shapes, sources
from tests.fuzz.lmdb_file import LmdbFile
from tests.fuzz.mutate import Case, Mutate, mutated_bytes, mutated_tree
from tests.fuzz.runs import mutated_run, read_run_in_part, run_of, run_seeds
from tests.fuzz.shapes import Shape
from tests.fuzz.tables import mutated_table
from tests.trainers.data_files import encode, png_chunk, smooth_picture
from trainers.checkpoint import from_bytes, to_bytes
from trainers.data.datum import encode_datum
from trainers.data.decode import decode_picture
from trainers.data.lists import read_list, read_pairs
from trainers.data.lmdb_source import LmdbSource


@dataclass(frozen=True)
class Target:
    """One reader of files."""

    name: str
    seeds: Callable[[], Sequence[Case]]
    mutate: Mutate
    shape: Shape
    read: Callable[[Case, Path], object]
    """Reads one case, in a folder of its own; must succeed or raise `UserError`."""

    def case(self, rng: random.Random) -> Case:
        """One in fifty is a valid file, three in ten are built from parts, the others are valid files spoiled."""
        chance = rng.random()
        if chance < 0.3:
            return self.shape(rng)
        base = rng.choice(self.seeds())
        return base if chance < 0.32 else self.mutate(base, rng)


def cached(make: Callable[[], Sequence[Case]]) -> Callable[[], Sequence[Case]]:
    """Made at the first call, and kept."""
    made: list[Sequence[Case]] = []

    def get() -> Sequence[Case]:
        if not made:
            made.append(make())
        return made[0]

    return get


# ---- recipes

YAML_TOKENS = (
    b"&a ", b"*a", b"<<: *a\n", b"!!int ''", b"!!float ''", b"!!bool x", b"!!timestamp x", b"!!binary x", b"!!set {a}",
    b"!!omap [a]", b"!!python/object/apply:os.system ['true']", b"!!python/name:os.system", b"? ", b"- ", b"[" * 200,
    b"{a: " * 200, b"2024-99-99", b"0x" + b"f" * 5000, b"9" * 5000, b"1:" * 300, b"---\n", b"...\n", b"\0", b"\xff",
    b"%YAML 9.9\n", b"'", b'"', b"|\n", b"\t", b"~", b".inf", b".nan", b"\xc2\x85", b"\xe2\x80\xae", b"seed: ", b": ",
    b"1:" * 50_000 + b"1", b"%TAG !a! x\n",
    b"a: &a [x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c]\n",
)  # fmt: skip


def recipe_seeds() -> Sequence[Case]:
    """The project's own recipes."""
    return [path.read_bytes() for path in sorted(RECIPES.glob("*.yaml"))]


def mutated_yaml(data: Case, rng: random.Random) -> Case:
    """By bytes, or by values."""
    if rng.random() < 0.5:
        return mutated_bytes(data, rng, YAML_TOKENS)
    return yaml.safe_dump(mutated_tree(yaml.safe_load(data), rng)).encode()


def read_recipe(data: Case, folder: Path) -> object:
    """As a command reads `--config`."""
    (folder / "recipe.yaml").write_bytes(data)
    return build(SearchConfig, str(folder / "recipe.yaml"), {})


# ---- text files

LINE_TOKENS = (
    b"\n",
    b" ",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"999999999",
    b"9999999999",
    b"-1",
    b"a b\n",
    b"1\n",
)


def list_seeds() -> Sequence[Case]:
    """Label lists with and without gaps."""
    return [b"".join(b"p%d/%d.jpg %d\n" % (i // 3, i, i // 3) for i in range(30)), b"a 999999999\nb 0\n", b"x 0"]


def read_label_list(data: Case, folder: Path) -> object:
    """As a training list, and as labels of a verification set."""
    (folder / "list.txt").write_bytes(data)
    keys, labels = read_list(folder / "list.txt", gaps=True)
    assert len(list(keys)) == len(labels) == len(keys.take(np.arange(len(keys))))
    return read_list(folder / "list.txt")


def pair_seeds() -> Sequence[Case]:
    """Pairs in ten folds and in two."""
    return [b"".join(b"a%d b%d %d\n" % (i, i, i % 2) for i in range(n)) for n in (40, 4)]


def read_pair_file(data: Case, folder: Path) -> object:
    """Two folds divide both examples."""
    (folder / "pairs.txt").write_bytes(data)
    return read_pairs(folder / "pairs.txt", 2)


def mutated_lines(data: Case, rng: random.Random) -> Case:
    """By bytes and words."""
    return mutated_bytes(data, rng, LINE_TOKENS)


# ---- pictures

PICTURE_TOKENS = (b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03", b"\xff\xda", b"\xff\xd8\xff", b"\xff\xc4", b"\xff\x00",
                  b"acTL", b"IHDR", b"IDAT", b"iCCP", b"\x7f\xff\xff\xff", b"II*\0", b"RIFF", b"GIF89a",
                  png_chunk(b"zTXt", b"k\0\0" + shapes.zeros(7_900_000)))  # fmt: skip


def picture_seeds() -> Sequence[Case]:
    """JPEG and PNG, colour and grey, several depths."""
    pictures = [smooth_picture(1, 24), smooth_picture(2, 24, 1), smooth_picture(3, 8)]
    deep = smooth_picture(4, 12).astype(np.uint16) * 257
    progressive = encode_progressive(pictures[0])
    return [*(encode(p, e) for p in pictures for e in (".jpg", ".png")), encode(deep, ".png"), progressive]  # type: ignore[arg-type]


def encode_progressive(picture: Any) -> bytes:
    """A JPEG of several scans."""
    import cv2

    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())


def mutated_picture(data: Case, rng: random.Random) -> Case:
    """By bytes; the checksums of a PNG's chunks made right again, mostly."""
    changed = mutated_bytes(data, rng, PICTURE_TOKENS)
    if not changed.startswith(b"\x89PNG\r\n\x1a\n") or rng.random() < 0.1:
        return changed
    fixed, at = bytearray(changed), 8
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed)


def read_picture(data: Case, folder: Path) -> object:
    """As the value of a record that says it is encoded."""
    return decode_picture(encode_datum(data), 16)


def datum_seeds() -> Sequence[Case]:
    """Both dialects, encoded and raw."""
    data = picture_seeds()[0]
    raw = encode_datum(bytes(3 * 8 * 9), encoded=False, shape=(3, 8, 9))
    bare = b"\x0a" + bytes([0x80 | len(data) & 0x7F, len(data) >> 7]) + data
    return [encode_datum(data, 7), raw, bare, encode_datum(bytes(64), encoded=False, shape=(1, 8, 8)), data]


def mutated_record(data: Case, rng: random.Random) -> Case:
    """By bytes."""
    return mutated_bytes(
        data, rng, (b"\x0b" * 200, b"\x32\x80\x80\x80\x80\x08", b"\x08\xff\xff\xff\xff\x0f", b"\x0a\x00")
    )


def read_record(data: Case, folder: Path) -> object:
    """As the value of a record."""
    return decode_picture(data, 16)


# ---- LMDB

LMDB_TOKENS = (b"\xff" * 8, b"\x01\x00", b"\x02\x00", b"\x04\x00", b"\x10\x00", b"\x20\x00", b"\xef\xbe\xde\xc0")


def lmdb_seeds() -> Sequence[Case]:
    """Small pages, so that every change hits something: empty, flat, deep, with large values."""
    chance = random.Random(0)
    sets = [
        {b"k%04d" % i: chance.randbytes(chance.choice((0, 5, 30, 300, 3000))) for i in range(n)}
        for n in (0, 3, 20, 200)
    ]
    return [b"".join(LmdbFile(items, size).pages) for items in sets for size in (512, 4096)]


def mutated_lmdb(data: Case, rng: random.Random) -> Case:
    """By bytes and numbers, most of them where the structure is: in the heads of pages and nodes."""
    if rng.random() < 0.2:
        return mutated_bytes(data, rng, LMDB_TOKENS)
    changed, size = bytearray(data), 512 if len(data) < 40_000 else 4096
    for _ in range(rng.choice((1, 1, 2, 3))):
        page = rng.randrange(len(data) // size) * size
        spans = [(page, 32), (page + size - 64, 64), (40, 8), (88, 64)]
        start, count = rng.choice(spans)
        part = bytes(changed[start : start + count])
        changed[start : start + count] = mutated_bytes(part, rng, LMDB_TOKENS)[:count].ljust(count, b"\0")
    return bytes(changed)


def read_lmdb(data: Case, folder: Path) -> object:
    """Its size, its keys, their values, and a key that is not there."""
    path = folder / "faces.lmdb"
    path.unlink(missing_ok=True)  # else it would be a file that is open already
    path.write_bytes(data)
    source = LmdbSource(path)
    keys = list(source.keys())
    assert "nobody" not in source
    for key in keys[:50]:
        try:
            source.get(key)
        except UserError:
            continue
    return len(source)


# ---- weights and tables


def checkpoint_seeds() -> Sequence[Case]:
    """Several types, shapes and descriptions."""
    weights = {
        "a.w": np.ones((2, 3), np.float32),
        "n": np.array(3),
        "b": np.zeros((4,), np.float16),
        "e": np.ones((0, 2)),
    }
    return [to_bytes(weights, {"generation": 3, "note": ["é", {"x": 1.5}]}), to_bytes({}, {})]


def mutated_checkpoint(data: Case, rng: random.Random) -> Case:
    """By bytes, or by values of the header."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4:
        return mutated_bytes(data, rng, (b'"BF16"', b'"F8_E4M3"', b"[" * 200, b'"U64"', b"9" * 5000))
    header = mutated_tree(json.loads(data[8 : 8 + length]), rng)
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict) and rng.random() < 0.3:
        header["__metadata__"]["json"] = json.dumps(mutated_tree({"a": [1]}, rng))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_checkpoint(data: Case, folder: Path) -> object:
    """As the weights of a winner."""
    return from_bytes(data)


def table_seeds() -> Sequence[Case]:
    """The kinds of columns that runs have, in several codecs and pages."""
    table = pa.table({
        "generation": [1, 1, 2], "reward": [0.5, None, 0.25], "loss": ['{"loss": "am"}', "x", None],
        "winner": [True, False, None],
        "action": [[0.1, 0.2], [], None], "margins": [[0.1], [0.2], [0.3]], "nothing": [None, None, None],
    })  # fmt: skip
    made = []
    for table_of, codec, dictionary in ((table, "snappy", True), (table, "none", False), (table, "zstd", True), (
        pa.table({"generation": [7] * 5000, "loss": ["same text"] * 5000}), "none", True)):  # fmt: skip
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table_of, sink, compression=codec, use_dictionary=dictionary)
        made.append(sink.getvalue().to_pybytes())
    return made


def mutated_records(data: Case, rng: random.Random) -> Case:
    """One of the three files."""
    return sources.mutated_files(data, rng, sources.RECORD_MUTATIONS)


def mutated_npy(data: Case, rng: random.Random) -> Case:
    """One of the three files."""
    return sources.mutated_files(data, rng, sources.NPY_MUTATIONS)


def read_parquet(data: Case, folder: Path) -> object:
    """As the candidates of a generation."""
    try:
        return read_table(data).to_pandas(ignore_metadata=True)
    except ValueError as error:  # the run directory adds the file's name
        raise UserError(str(error)) from error


TARGETS = {
    target.name: target
    for target in (
        Target("config", cached(recipe_seeds), mutated_yaml, shapes.yaml_text, read_recipe),
        Target("list", cached(list_seeds), mutated_lines, shapes.label_lines, read_label_list),
        Target("pairs", cached(pair_seeds), mutated_lines, shapes.pair_lines, read_pair_file),
        Target("datum", cached(datum_seeds), mutated_record, shapes.record, read_record),
        Target("picture", cached(picture_seeds), mutated_picture, shapes.picture, read_picture),
        Target("lmdb", cached(lmdb_seeds), mutated_lmdb, shapes.lmdb, read_lmdb),
        Target("checkpoint", cached(checkpoint_seeds), mutated_checkpoint, shapes.weights, read_checkpoint),
        Target("table", cached(table_seeds), mutated_table, shapes.table, read_parquet),
        Target("recordio", cached(sources.record_seeds), mutated_records, sources.records, sources.read_records),
        Target("bin", cached(sources.bin_seeds), sources.mutated_bin, sources.pickle_of, sources.read_bin),
        Target("npy", cached(sources.npy_seeds), mutated_npy, sources.npy, sources.read_npy),
        Target(
            "embeddings",
            cached(sources.embedding_table_seeds),
            mutated_table,
            shapes.table,
            sources.read_embedding_table,
        ),
        Target("faces", cached(sources.face_table_seeds), mutated_table, shapes.table, sources.read_face_table),
        Target("tar", cached(sources.tar_seeds), sources.mutated_tar, sources.tar, sources.read_tar),
        Target(
            "identities", cached(sources.identity_seeds), mutated_lines, shapes.label_lines, sources.read_identity_list
        ),
        Target(
            "landmarks",
            cached(sources.landmark_seeds),
            mutated_lines,
            sources.landmark_lines,
            sources.read_landmark_list,
        ),
        Target(
            "templates", cached(sources.template_seeds), mutated_lines, shapes.pair_lines, sources.read_template_lists
        ),
        Target("run", cached(run_seeds), mutated_run, run_of, read_run_in_part),
    )
}
