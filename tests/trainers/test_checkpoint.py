import json
import os
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from search_space.errors import UserError
from trainers import whole_file
from trainers.checkpoint import from_bytes, load_checkpoint, save_checkpoint, to_bytes, to_parts

WEIGHTS = {
    "backbone.conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "backbone.bn.num_batches_tracked": np.array(7),
    "head.weight": np.linspace(-1, 1, 6, dtype=np.float16).reshape(3, 2).T,
}
METADATA = {"generation": 3, "reward": 0.1 + 0.2, "margins": [0.1, 0.35], "space": {"name": "local"}, "note": "é\n"}

arrays = st.sampled_from(
    [
        np.float32,
        np.float64,
        np.float16,
        np.int64,
        np.int32,
        np.int16,
        np.int8,
        np.uint64,
        np.uint32,
        np.uint16,
        np.uint8,
        np.bool_,
    ]
).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.text("abc._", min_size=1), arrays, max_size=4),
    st.dictionaries(st.text(), json_values, max_size=4),
)
def test_bytes_round_trip_exactly(tensors, metadata):
    loaded, description = from_bytes(to_bytes(tensors, metadata))

    assert description == metadata
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), arrays, max_size=6),
    st.dictionaries(st.text(), json_values, max_size=4),
)
def test_the_bytes_are_those_of_the_library(tensors, metadata):
    tensors.pop("__metadata__", None)
    description = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    assert to_bytes(tensors, metadata) == save(ordered, metadata={"json": description})


def test_the_memory_of_weights_is_not_copied():
    array = np.arange(6, dtype=np.float32)
    assert np.shares_memory(np.asarray(to_parts({"w": array}, {})[1]), array)


def test_equal_content_gives_equal_bytes_in_any_order_of_keys_and_memory():
    backwards = {name: np.array(WEIGHTS[name], order="F") for name in reversed(WEIGHTS)}
    assert to_bytes(backwards, dict(reversed(METADATA.items()))) == to_bytes(WEIGHTS, METADATA)


def test_other_metadata_gives_other_bytes():
    assert to_bytes(WEIGHTS, METADATA) != to_bytes(WEIGHTS, METADATA | {"generation": 4})


def test_metadata_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_bytes(WEIGHTS, {"reward": float("nan")})


def test_file_round_trip_replaces_the_old_one(tmp_path: Path):
    path = tmp_path / "winner.safetensors"
    save_checkpoint(path, {"old": np.zeros(3)}, {})
    save_checkpoint(path, WEIGHTS, METADATA)

    loaded, description = load_checkpoint(path)

    assert description == METADATA
    assert loaded.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["winner.safetensors"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, fails):
    path = tmp_path / "winner.safetensors"
    save_checkpoint(path, WEIGHTS, METADATA)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, fails, full)
    with pytest.raises(UserError, match=r"winner\.safetensors: cannot write .*No space left on device"):
        save_checkpoint(path, {}, {})

    assert load_checkpoint(path)[1] == METADATA
    assert os.listdir(tmp_path) == ["winner.safetensors"]


def test_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch):
    calls: list[str] = []
    real = {"fsync": os.fsync, "replace": os.replace}
    for name, function in real.items():
        monkeypatch.setattr(
            whole_file.os, name, lambda *args, name=name, function=function: (calls.append(name), function(*args))
        )

    save_checkpoint(tmp_path / "winner.safetensors", WEIGHTS, METADATA)

    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:5], id="cut in the length"),
        pytest.param(lambda data: data[:60], id="cut in the header"),
        pytest.param(lambda data: data[:-1], id="cut in the tensors"),
        pytest.param(lambda data: data + b"x", id="too long"),
        pytest.param(lambda data: b"\xff" * len(data), id="garbage"),
        pytest.param(lambda data: (2).to_bytes(8, "little") + b"{}", id="another program's"),
    ],
)
def test_damaged_file_is_refused_by_name(tmp_path: Path, damage):
    path = tmp_path / "winner.safetensors"
    path.write_bytes(damage(to_bytes(WEIGHTS, METADATA)))
    with pytest.raises(UserError, match=r"^\S*winner\.safetensors: expected a checkpoint .* got \d+ bytes") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_missing_file_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UserError, match=r"winner\.safetensors: cannot read .*No such file"):
        load_checkpoint(tmp_path / "winner.safetensors")


def test_missing_folder_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone/winner\.safetensors: cannot write .*No such file"):
        save_checkpoint(tmp_path / "gone" / "winner.safetensors", WEIGHTS, METADATA)
