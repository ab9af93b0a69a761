"""Small sources, written byte by byte from the definition of each format."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.trainers.data_files import encode, smooth_picture
from trainers.data.datum import Datum, decode_datum
from trainers.data.importers.source import Catalogue, Source, no_progress
from trainers.data.lists import read_list
from trainers.data.lmdb_source import LmdbSource

SIZE = 32
MAGIC = bytes([0x0A, 0x23, 0xD7, 0xCE])


def jpeg(seed: int, size: int = SIZE, channels: int = 3) -> bytes:
    """A JPEG of a picture that no other seed gives."""
    return encode(smooth_picture(seed, size, channels))


def png(seed: int, size: int = SIZE, channels: int = 3) -> bytes:
    """The same as PNG."""
    return encode(smooth_picture(seed, size, channels), ".png")


def record(data: bytes, flag: int = 0) -> bytes:
    """One RecordIO frame: magic, 3 bits of flag over 29 of length, data, zeros to a multiple of 4."""
    return MAGIC + struct.pack("<I", flag << 29 | len(data)) + data + bytes(-len(data) % 4)


def header(label: float | Sequence[float], number: int = 0) -> bytes:
    """MXNet's IRHeader: how many labels follow (0: the float is it), float, two uint64."""
    if isinstance(label, float | int):
        return struct.pack("<IfQQ", 0, label, number, 0)
    return struct.pack("<IfQQ", len(label), 0.0, number, 0) + b"".join(struct.pack("<f", x) for x in label)


def write_records(folder: Path, records: Sequence[tuple[int, bytes]], properties: str | None = None) -> Path:
    """`train.rec` and `train.idx` of (number, framed record); the `.rec`."""
    folder.mkdir(parents=True, exist_ok=True)
    data, lines = b"", ""
    for number, framed in records:
        lines += f"{number}\t{len(data)}\n"
        data += framed
    (folder / "train.rec").write_bytes(data)
    (folder / "train.idx").write_text(lines)
    if properties is not None:
        (folder / "property").write_text(properties)
    return folder / "train.rec"


def with_header(pictures: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The layout with a header record, of (label, file) sorted by label."""
    first = len(pictures) + 1
    labels = sorted({label for label, _ in pictures})
    numbers = {label: [n for n, (own, _) in enumerate(pictures, 1) if own == label] for label in labels}
    last = first + len(labels)
    records = [(0, record(header([first, last])))]
    records += [(n, record(header(float(label), n) + data)) for n, (label, data) in enumerate(pictures, 1)]
    for number, label in enumerate(labels, first):
        own = numbers[label]
        records.append((number, record(header([own[0], own[-1] + 1], number))))
    return records


def tar_member(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    """One ustar member: a header of 512 bytes with octal numbers and its own sum, data, zeros to a multiple of 512."""
    head = bytearray(512)
    for at, text in (
        (0, name.encode()), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"),
        (124, b"%011o\0" % len(data)),
        (136, b"00000000000\0"), (148, b" " * 8), (156, kind), (257, b"ustar\x0000"),
    ):  # fmt: skip
        head[at : at + len(text)] = text
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data + bytes(-len(data) % 512)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar file, ended by two blocks of zeros."""
    path.write_bytes(b"".join(tar_member(name, data) for name, data in members) + bytes(1024))
    return path


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    """Files by path."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pictures_of(source: Source) -> dict[str, tuple[str, bytes]]:
    """(identity, file) by key, through the source's own methods."""
    from trainers.data.importers.plan import Choice, plan_import

    catalogue = source.scan(no_progress)
    plan = plan_import(catalogue, Choice())
    found = {}
    for shard in range(len(plan.starts) - 1):
        batch = plan.batch(shard)
        for row, (key, data) in enumerate(zip(batch.keys, source.read(batch), strict=True)):
            assert isinstance(data, bytes), data
            found[key] = owner(catalogue, int(plan.rows[plan.starts[shard] + row])), data
    return found


def owner(catalogue: Catalogue, row: int) -> str:
    """Whom a picture of a catalogue shows."""
    return catalogue.identities[catalogue.owners[row]]


def imported(target: Path) -> dict[str, tuple[int, Datum]]:
    """(label in the list, Datum) by key of an imported set."""
    keys, labels = read_list(target / "labels.txt")
    source = LmdbSource(target / "faces.lmdb")
    assert len(source) == len(keys)
    return {key: (label, decode_datum(source.get(key))) for key, label in zip(keys, labels.tolist(), strict=True)}
