"""Embeddings read from files made byte by byte, and files that are not what they say."""

import os
import struct

import numpy as np
import pytest

from search_space.errors import UserError
from trainers.identification import ArrayDistractors, NpyDistractors, megaface


def npy(header, body, version=1):
    """A .npy file by the definition of its format."""
    text = header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + b"\n" + body


def header(dtype="<f4", fortran="False", shape="(3, 2)"):
    return f"{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}, }}"


BODY = struct.pack("<6f", 1, 2, 3, 4, 5, 6)


def read(path, rows):
    return [chunk.tolist() for chunk in NpyDistractors(path).chunks(rows)]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_are_read_in_parts(tmp_path, version):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(header(), BODY, version))
    assert (len(NpyDistractors(path)), NpyDistractors(path).dim) == (3, 2)
    assert read(path, 2) == [[[1, 2], [3, 4]], [[5, 6]]]
    assert read(path, 3) == read(path, 100) == [[[1, 2], [3, 4], [5, 6]]]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_what_numpy_writes_is_read(tmp_path, dtype):
    array = np.random.default_rng(0).normal(size=(50, 7)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    chunks = [chunk.copy() for chunk in NpyDistractors(tmp_path / "a.npy").chunks(8)]
    assert (np.concatenate(chunks) == array).all()


def test_a_file_gives_the_results_of_its_array(tmp_path):
    rng = np.random.default_rng(1)
    probes, others = rng.normal(size=(6, 9)), rng.normal(size=(5000, 9)).astype(np.float32)
    np.save(tmp_path / "a.npy", others)
    keep, people = rng.random(5000) < 0.9, [0, 0, 1, 1, 2, 2]
    from_file = megaface(probes, people, NpyDistractors(tmp_path / "a.npy"), keep_distractors=keep)
    assert from_file == megaface(probes, people, ArrayDistractors(others), keep_distractors=keep)
    mapped = ArrayDistractors(np.load(tmp_path / "a.npy", mmap_mode="r"))
    assert from_file == megaface(probes, people, mapped, keep_distractors=keep)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a .npy file, got"),
        (b"PK\x03\x04" + bytes(100), "expected a .npy file, got"),
        (npy(header(), BODY)[:20], "expected a .npy file, got"),
        (npy("{'descr': __import__('os')}", BODY), "expected a .npy file, got"),
        (npy("(" * 5000, BODY), "expected a .npy file, got 'a header of many brackets'"),
        (b"\x93NUMPY\x01\x3c" + npy(header(), BODY)[8:], "expected a .npy file, got 'version 01.3c'"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(99), "got 'a header of 2,147,483,647 bytes'"),
        (npy(header(shape="(" * 300), BODY), "expected a .npy file, got 'a header of many brackets'"),
        (npy(" " * 60000, BODY), "expected a .npy file, got"),
        (npy(header(), BODY)[:-1], r"expected \d+ bytes for \[3, 2\] float32, got \d+"),
        (npy(header(), BODY) + b"x", r"expected \d+ bytes for \[3, 2\] float32, got \d+"),
        (npy(header(shape="(10**9, 2)"), BODY), "expected a .npy file, got"),
        (npy(header(shape="(10000000000000000000, 512)"), BODY), r"expected 20,480,\S+ bytes"),
        (npy(header(shape="(-3, -2)"), BODY), r"got \[-3, -2\] float32"),
        (npy(header(shape="(3, 0)"), b""), r"got \[3, 0\] float32"),
        (
            npy(header(shape="(6,)"), BODY),
            r"expected \[n, d\] float16, float32 or float64 in C order, got \[6\]",
        ),
        (npy(header(fortran="True"), BODY), r"got \[3, 2\] float32 in Fortran order"),
        (npy(header(dtype="|O"), BODY), r"got \[3, 2\] object in C order"),
        (npy(header(dtype="<i4"), BODY), r"got \[3, 2\] int32 in C order"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused_in_one_line(tmp_path, data, message):
    path = tmp_path / "bad.npy"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        NpyDistractors(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        with pytest.raises(UserError, match="cannot be read: "):
            NpyDistractors(path)


def test_a_file_that_becomes_shorter_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(header(), BODY))
    source = NpyDistractors(path)
    path.write_bytes(npy(header(), BODY)[:-1])
    with pytest.raises(UserError, match="expected 3 rows, got less: it has been cut short"):
        list(source.chunks(2))
    path.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        list(source.chunks(2))
