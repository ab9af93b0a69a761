"""The built-in faces: files of the right formats, disjoint people, the same bits each time, safe to make at once."""

import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from trainers.data.builtin import CACHE_VARIABLE, BuiltinFaces, FaceSetSpec, ensure_builtin_faces
from trainers.data.datum import decode_datum
from trainers.data.face_curves import head_shape
from trainers.data.face_photo import photograph
from trainers.data.face_shape import EXPRESSIONS, project
from trainers.data.face_traits import Picture, draw_identity, draw_picture
from trainers.data.lmdb_source import LmdbSource
from trainers.data.verification_set import verification_sets

SMALL = FaceSetSpec(
    num_train_people=3, num_train_pictures=4, num_pair_people=6, num_pair_pictures=4, num_folds=2, num_same=9
)
FILES = {"train.lmdb", "train.txt", "reward.lmdb", "reward_pairs.txt", "test.lmdb", "test_pairs.txt"}
FILES |= {"reward_labels.txt", "test_labels.txt"}

# Run as a process of its own: makes the small set, prints a line after each person.
MAKER = f"""
import sys
from pathlib import Path
from trainers.data.builtin import FaceSetSpec, ensure_builtin_faces
def progress(done, total):
    print(done, total, flush=True)
    if len(sys.argv) > 2 and done >= int(sys.argv[2]):
        sys.stdin.read()
print("asking", flush=True)
ensure_builtin_faces(Path(sys.argv[1]), spec={SMALL!r}, progress=progress)
print("ready", flush=True)
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> BuiltinFaces:
    return ensure_builtin_faces(tmp_path_factory.mktemp("cache"), spec=SMALL)


def start_maker(cache: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(cache), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    assert line in iter(process.stdout.readline, "")


def pair_lines(faces: BuiltinFaces, name: str) -> list[tuple[str, str, int]]:
    lines = [line.split(" ") for line in (faces.folder / f"{name}_pairs.txt").read_text().splitlines()]
    return [(left, right, int(same)) for left, right, same in lines]


def person(key: str) -> str:
    return key.split("/")[1]


def contents(folder: Path) -> dict[str, object]:
    """All that the files say. Not their bytes: LMDB leaves whatever was in memory in the unused ends of its pages."""
    found: dict[str, object] = {}
    for file in folder.iterdir():
        if file.suffix == ".lmdb":
            keys = list(LmdbSource(file).keys())
            found[file.name] = dict(zip(keys, LmdbSource(file).get_many(keys), strict=True))
        else:
            found[file.name] = file.read_text()
    return found


def test_files_are_there_and_parse(faces: BuiltinFaces) -> None:
    assert {file.name for file in faces.folder.iterdir()} == FILES
    lines = [line.split(" ") for line in (faces.folder / "train.txt").read_text().splitlines()]
    labels = [int(label) for _, label in lines]
    assert Counter(labels) == dict.fromkeys(range(3), 4)
    source = LmdbSource(faces.folder / "train.lmdb")
    assert sorted(source.keys()) == sorted(key for key, _ in lines)
    for (_, label), value in zip(lines, source.get_many(key for key, _ in lines), strict=True):
        datum = decode_datum(value)
        assert datum.encoded
        assert datum.label == int(label)
        image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert image.shape == (64, 64, 3)
        assert image.std() > 5


def test_pairs_name_pictures_of_their_lmdb_and_say_who_is_who(faces: BuiltinFaces) -> None:
    for name in ("reward", "test"):
        source = LmdbSource(faces.folder / f"{name}.lmdb")
        for left, right, same in pair_lines(faces, name):
            assert left in source
            assert right in source
            assert left != right
            assert (person(left) == person(right)) == bool(same)


def test_no_person_is_in_two_sets(faces: BuiltinFaces) -> None:
    people = [
        {person(key) for key in sorted(LmdbSource(faces.folder / f"{n}.lmdb").keys())}
        for n in ("train", "reward", "test")
    ]
    assert [len(group) for group in people] == [3, 6, 6]
    assert len(set.union(*people)) == 15


def test_folds_are_balanced_and_share_nobody(faces: BuiltinFaces) -> None:
    for name in ("reward", "test"):
        pairs = pair_lines(faces, name)
        assert len(pairs) == 2 * 2 * SMALL.num_same
        assert len({(left, right) for left, right, _ in pairs}) == len(pairs)
        folds = [pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]]
        for fold in folds:
            assert [same for *_, same in fold] == [1] * SMALL.num_same + [0] * SMALL.num_same
        first, second = ({person(key) for *keys, _ in fold for key in keys} for fold in folds)
        assert not first & second


def test_people_look_like_themselves_but_not_too_much(tmp_path: Path) -> None:
    """The nearest other picture by inner-face pixels is the same person far more often than by chance, not always."""
    spec = FaceSetSpec(
        num_train_people=20, num_train_pictures=8, num_pair_people=4, num_pair_pictures=4, num_folds=2, num_same=4
    )
    source = LmdbSource(ensure_builtin_faces(tmp_path, spec=spec).folder / "train.lmdb")
    files = [decode_datum(value).data for value in source.get_many(sorted(source.keys()))]
    assert len(set(files)) == len(files)
    images = [np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)) for file in files]
    inner = [cv2.resize(image[8:54, 16:48], (8, 12), interpolation=cv2.INTER_AREA) for image in images]
    pixels = np.stack(inner).reshape(len(files), -1).astype(float)
    pixels -= pixels.mean(1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    similarity = pixels @ pixels.T - 2 * np.eye(len(pixels))
    right = np.mean(similarity.argmax(1) // 8 == np.arange(len(pixels)) // 8)
    assert 0.15 < right < 0.75, right  # chance is 7 / 159


def test_data_config_names_the_files(faces: BuiltinFaces) -> None:
    config = faces.data_config()
    named = [
        *config.train,
        *config.train_list,
        *(file for part in (config.reward, config.test) for file in (*part.lmdb, *part.pairs, *part.labels)),
    ]
    assert {Path(file) for file in named} == {faces.folder / name for name in FILES}
    assert config.reward.num_folds == SMALL.num_folds


def test_made_again_bit_for_bit(faces: BuiltinFaces, tmp_path: Path) -> None:
    again = ensure_builtin_faces(tmp_path, spec=SMALL)
    assert again.folder != faces.folder
    assert contents(again.folder) == contents(faces.folder)


def test_a_person_does_not_depend_on_how_many_there_are(faces: BuiltinFaces, tmp_path: Path) -> None:
    fewer = ensure_builtin_faces(tmp_path, spec=FaceSetSpec(
        num_train_people=2, num_train_pictures=2, num_pair_people=4, num_pair_pictures=2, num_folds=2, num_same=2
    ))  # fmt: skip
    assert fewer.folder.name != faces.folder.name
    key = "train/0001/01.jpg"
    assert LmdbSource(fewer.folder / "train.lmdb").get(key) == LmdbSource(faces.folder / "train.lmdb").get(key)


def test_made_once_with_progress(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = ensure_builtin_faces(tmp_path, spec=SMALL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4 * k, 60) for k in range(1, 16)]
    stamp = (first.folder / "train.lmdb").stat().st_mtime_ns
    assert ensure_builtin_faces(tmp_path, spec=SMALL, progress=lambda *_: pytest.fail("drawn twice")) == first
    assert (first.folder / "train.lmdb").stat().st_mtime_ns == stamp


def test_a_set_with_a_file_missing_is_made_again(faces: BuiltinFaces, tmp_path: Path) -> None:
    folder = ensure_builtin_faces(tmp_path, spec=SMALL).folder
    (folder / "test_pairs.txt").unlink()
    ensure_builtin_faces(tmp_path, spec=SMALL)
    assert contents(folder) == contents(faces.folder)


def test_two_processes_at_once_draw_one_set(faces: BuiltinFaces, tmp_path: Path) -> None:
    drawing = start_maker(tmp_path, "4")  # stops inside, holding the lock, until its standard input ends
    wait_for(drawing, "4 60\n")
    waiting = start_maker(tmp_path)
    wait_for(waiting, "asking\n")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.3)
    assert not (tmp_path / faces.folder.name).exists()
    out, error = drawing.communicate("", timeout=60)
    assert out.endswith("ready\n"), error
    out, error = waiting.communicate(timeout=60)
    assert out == "ready\n", error  # no progress: it drew nothing
    assert contents(tmp_path / faces.folder.name) == contents(faces.folder)


def test_killed_half_way_then_made_again(faces: BuiltinFaces, tmp_path: Path) -> None:
    drawing = start_maker(tmp_path, "24")  # stops in the middle of the reward pictures
    wait_for(drawing, "24 60\n")
    os.kill(drawing.pid, signal.SIGKILL)
    drawing.communicate()
    left = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert len(left) == 1
    assert ".making-" in left[0]
    again = ensure_builtin_faces(tmp_path, spec=SMALL)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [again.folder.name]
    assert contents(again.folder) == contents(faces.folder)


def test_an_error_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_builtin_faces(tmp_path, spec=SMALL, progress=fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_cache_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"cache folder that can be written.*file.*{CACHE_VARIABLE}") as caught:
        ensure_builtin_faces(tmp_path / "file" / "cache", spec=SMALL)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n{MAKER}"
    command = [sys.executable, "-c", limited, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("search_space.errors.UserError: the built-in faces need a cache folder")
    assert "LMDB" in last
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_environment_names_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "elsewhere"))
    assert ensure_builtin_faces(spec=SMALL).folder.parent == tmp_path / "elsewhere"


def test_the_default_set_has_the_promised_size() -> None:
    spec = FaceSetSpec()
    assert spec.num_train_people >= 300
    assert spec.num_train_pictures == 20
    assert 2 * spec.num_folds * spec.num_same == 6000
    assert spec.num_pair_people % spec.num_folds == 0
    assert spec.num_pair_people * spec.num_pair_pictures <= 1500  # what each validation has to embed


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.sampled_from((32, 64, 112)))
def test_any_person_can_be_drawn_in_any_circumstances(seed: int, side: int) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    identity, picture = draw_identity(rng), draw_picture(rng)
    image = photograph(head_shape(identity), identity, picture, side, rng)
    assert image.shape == (side, side, 3)
    assert image.dtype == np.uint8
    assert image.std() > 2


def posed(**changes: object) -> Picture:
    """A picture straight from the front, but for `changes`."""
    rng = np.random.Generator(np.random.Philox(1))
    frontal: dict[str, object] = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "shift": (0.0, 0.0), "zoom": 1.0}
    still = {"expression": np.zeros(len(EXPRESSIONS))}
    return replace(draw_picture(rng), **{**frontal, **still, **changes})  # type: ignore[arg-type]


def test_a_head_from_the_front_is_symmetric_and_a_turn_moves_nose_against_ears() -> None:
    shape = head_shape(draw_identity(np.random.Generator(np.random.Philox(2))))
    front, turned = project(shape, posed(), 64), project(shape, posed(yaw=0.4), 64)
    left, right = front[shape.parts["brow-1"]], front[shape.parts["brow1"]]
    np.testing.assert_allclose(left, (64, 0) + right * (-1, 1), atol=1e-9)
    nose, ear = shape.parts["ridge"].start + 4, shape.parts["ear1"].start
    assert turned[nose, 0] > front[nose, 0] + 1
    assert turned[ear, 0] < front[ear, 0] - 1


def test_expressions_move_what_they_name() -> None:
    shape = head_shape(draw_identity(np.random.Generator(np.random.Philox(2))))
    front = project(shape, posed(), 64)
    for name, part, down in (
        ("smile", "lip_top", -1),
        ("open", "lip_low", 1),
        ("lift", "brow1", -1),
        ("close", "lid1", 1),
    ):
        moved = project(shape, posed(expression=np.eye(len(EXPRESSIONS))[EXPRESSIONS.index(name)]), 64)
        change = (moved - front)[shape.parts[part], 1] * down
        assert change.max() > 0.4, name
        assert np.abs(moved - front)[shape.parts["ear1"]].max() == 0


@pytest.mark.parametrize("name", ["reward", "test"])
def test_labels_tell_the_people_of_the_pairs_apart(faces: BuiltinFaces, name: str) -> None:
    config = faces.data_config()
    [one] = verification_sets({"reward": config.reward, "test": config.test}[name], "", 32)  # refuses contradictions
    assert one.labelled is not None
    assert (one.labelled.num_identities, len(one.labelled)) == (SMALL.num_pair_people, 6 * SMALL.num_pair_pictures)
    assert len(one.keys) == len(one.labelled)


def test_a_set_from_before_there_were_labels_is_given_them_and_not_drawn_again(tmp_path: Path) -> None:
    faces = ensure_builtin_faces(tmp_path, spec=SMALL)
    before = contents(faces.folder)
    for name in ("reward", "test"):
        (faces.folder / f"{name}_labels.txt").unlink()
    drawn: list[tuple[int, int]] = []
    ensure_builtin_faces(tmp_path, spec=SMALL, progress=lambda done, total: drawn.append((done, total)))
    assert not drawn
    assert contents(faces.folder) == before
