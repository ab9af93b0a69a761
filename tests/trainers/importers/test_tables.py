"""Parquet files of pictures: forms of columns, groups of rows, and files that claim what they do not hold."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_space.errors import UserError
from tests.trainers.importers.sources import jpeg, pictures_of
from trainers.data.importers import plan, tables
from trainers.data.importers.convert import Conversion
from trainers.data.importers.engine import import_faces
from trainers.data.importers.source import no_progress
from trainers.data.importers.tables import TableSource
from trainers.parquet_structure import check_parquet

FILES = [jpeg(n) for n in range(7)]
LABELS = [5, 5, 2, 2, 2, 9, 5]
STRUCT = pa.array([{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(FILES)])


def write(path: Path, columns: dict[str, Any], **settings: Any) -> Path:
    """A Parquet file."""
    pq.write_table(pa.table(columns), path, **settings)
    return path


def expected(labels: list[Any]) -> dict[str, tuple[str, bytes]]:
    """By key, of one file."""
    return {f"{label}/{n:09d}": (str(label), data) for n, (label, data) in enumerate(zip(labels, FILES, strict=True))}


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ({"image": FILES, "label": LABELS}, LABELS),
        ({"id": [str(x) for x in LABELS], "other": [1] * 7, "image": STRUCT}, LABELS),
        ({"img": pa.array(FILES, pa.large_binary()), "identity": pa.array([*"xyxyxyx"])}, [*"xyxyxyx"]),
        ({"jpg": FILES, "label": pa.array(["a"] * 7).dictionary_encode()}, ["a"] * 7),
    ],
    ids=["plain", "struct", "large", "dictionary"],
)  # fmt: skip
@pytest.mark.parametrize(
    "settings", [{}, {"row_group_size": 3, "compression": "zstd"}, {"data_page_version": "2.0"}], ids=str
)
def test_columns(columns: dict[str, Any], labels: list[Any], settings: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", columns, **settings)
    assert pictures_of(TableSource([path])) == expected(labels)


def test_several_files_and_chosen_columns(tmp_path: Path) -> None:
    columns = {"image": [b"no"] * 7, "label": [0] * 7, "face": FILES, "who": LABELS}
    paths = [write(tmp_path / "a.parquet", columns), write(tmp_path / "b.parquet", {**columns, "face": FILES[::-1]})]
    found = pictures_of(TableSource(paths, "face", "who"))
    assert list(found)[7:] == [f"{label}/{n:09d}" for n, label in enumerate(LABELS, 7)]
    assert [data for _, data in found.values()] == FILES + FILES[::-1]


def test_names_of_hugging_face(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": list("abcdefghij"), "_type": "ClassLabel"}}}}
    table = pa.table({"image": STRUCT, "label": LABELS}).replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [who for who, _ in pictures_of(TableSource([tmp_path / "a.parquet"])).values()] == list("ffcccjf")


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_file_is_looked_over_and_read_once(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shards it is cut into, inside groups of rows too."""
    monkeypatch.setattr(plan, "SHARD_PICTURES", 2)
    path = write(tmp_path / "a.parquet", {"image": FILES, "label": LABELS}, row_group_size=rows)
    source = TableSource([path])
    made = plan.plan_import(source.scan(no_progress), plan.Choice())
    assert made.starts.tolist() == [0, 2, 4, 6, 7]
    tables._looked_over.cache_clear()
    count, groups = {"checks": 0}, []

    def check(*given: Any) -> int:
        count["checks"] += 1
        return check_parquet(*given)

    def batches(table: Any, column: int, group: int, real: Any = tables._Table.batches) -> Any:
        groups.append(group)
        return real(table, column, group)

    monkeypatch.setattr(tables, "check_parquet", check)
    monkeypatch.setattr(tables._Table, "batches", batches)
    found = [data for shard in range(4) for data in source.read(made.batch(shard))]
    assert found == FILES
    assert count["checks"] == 1
    assert groups == list(range(-(-7 // rows)))


def test_shards_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_PICTURES", 2)
    monkeypatch.setattr(tables, "MAX_BATCH_ROWS", 2)
    columns = {"image": FILES, "label": LABELS}
    source = TableSource([write(tmp_path / f"{n}.parquet", columns, row_group_size=5) for n in range(2)])
    made = plan.plan_import(source.scan(no_progress), plan.Choice(only=["5", "2"]))
    expected = [data for n, data in enumerate(FILES * 2) if n % 7 != 5]
    for shard in (4, 1, 3, 0, 5, 2):
        assert list(source.read(made.batch(shard))) == expected[2 * shard : 2 * shard + 2]


def test_a_file_that_changes_is_opened_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": FILES, "label": LABELS})
    source = TableSource([path])
    batch = plan.plan_import(source.scan(no_progress), plan.Choice()).batch(0)
    assert list(source.read(batch)) == FILES
    write(path, {"image": FILES[::-1], "label": LABELS, "more": LABELS})
    assert list(source.read(batch)) == FILES[::-1]
    write(path, {"image": FILES[:3], "label": LABELS[:3]})
    with pytest.raises(UserError, match="a.parquet: group 0 cannot be read: it ends before row 3"):
        list(source.read(batch))


def test_another_column_is_another_import(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"left": FILES, "right": FILES[::-1], "label": LABELS})
    prints = {
        plan.plan_import(TableSource([path], column).scan(no_progress), plan.Choice()).fingerprint("x", Conversion())
        for column in ("left", "right")
    }
    assert len(prints) == 2
    target = tmp_path / "out"
    import_faces(TableSource([path], "left"), target, Conversion(size=32), workers=1)
    with pytest.raises(UserError, match="got what another import has made"):
        import_faces(TableSource([path], "right"), target, Conversion(size=32), workers=1)


def test_cells_without_a_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": pa.array([FILES[0], None, b""]), "label": [1, 1, 1]})
    source = TableSource([path])
    batch = plan.plan_import(source.scan(no_progress), plan.Choice()).batch(0)
    good, *bad = source.read(batch)
    assert good == FILES[0]
    assert all("expected a picture of up to 67,108,864 bytes, got 0" in str(one) for one in bad)
    assert source.place(batch, 1) == f"{path}: row 1 of group 0"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"x": [1], "label": [1]},
            r"expected a column of pictures \(binary\), got x \(int64\), label .* --image-column",
        ),
        ({"image": [b"x"], "score": [0.5]}, r"expected a column of labels .* got image \(binary\), score \(double\)"),
        ({"image": [b"x"], "label": pa.array([None], pa.int64())}, "row 0 of group 0: expected a label, got none"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "expected pictures"),
    ],
)
def test_columns_that_are_wrong(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        TableSource([write(tmp_path / "a.parquet", columns)]).scan(no_progress)


def test_files_that_are_cut_off_or_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": FILES, "label": LABELS})
    data = path.read_bytes()
    for size in (0, 3, 4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="expected a Parquet file") as caught:
            TableSource([path]).scan(no_progress)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="No such file"):
        TableSource([tmp_path / "none"]).scan(no_progress)


def test_few_bytes_that_claim_many_rows(tmp_path: Path) -> None:
    pictures = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array([b"x"]))
    path = write(tmp_path / "a.parquet", {"image": pictures, "label": [1] * 200_000}, store_schema=False)
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="a table that claims 200,000 rows"):
        TableSource([path]).scan(no_progress)


def test_bytes_that_shrink_too_well(tmp_path: Path) -> None:
    pictures = [bytes(2**20) + bytes([n]) for n in range(200)]
    path = write(tmp_path / "a.parquet", {"image": pictures, "label": [1] * 200}, compression="zstd")
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="a table that claims"):
        TableSource([path]).scan(no_progress)
