"""The final model on its test pictures: the curve that its stored scores lie on, and pairs found by looking at all."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lfs.config import SearchConfig
from lfs.data_digest import data_digest
from lfs.options import checked
from lfs.report_faces import NUM_HARDEST, Faces, look_at_faces
from lfs.report_run import Run, RunReader
from lfs.run_store import RunStore
from lfs.serial import SerialRun
from search_space.errors import UserError
from trainers.data.lmdb_source import LmdbSource, write_lmdb
from trainers.data.verification_set import VerificationSet


def quiet(*_: Any) -> None:
    """Shows nothing."""


@pytest.fixture(scope="module")
def run(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two generations of two candidates, a few steps each, and the test."""
    folder = tmp_path_factory.mktemp("run") / "run"
    data = recipe["data"] | {
        part: {name: [path] for name, path in recipe["data"][part].items()} for part in ("reward", "test")
    }
    trainer = recipe["trainer"] | {"generation_length": 8}
    values = recipe | {"data": data, "trainer": trainer, "generations": 2, "population_size": 2}
    config = checked(SearchConfig, values, "")
    store = RunStore(str(folder))
    store.create(config, data_digest(config.data))
    SerialRun(store).run(quiet)
    return RunReader(store.uri).read()


@pytest.fixture(scope="module")
def faces(run: Run) -> Faces:
    return look_at_faces(run, quiet)


def test_the_stored_scores_lie_on_the_curve(run: Run, faces: Faces) -> None:
    [(name, curve)] = faces.curves.items()
    assert name.endswith(", listed pairs")
    assert run.result
    stored = {n: v for n, v in run.result["test"].items() if n.startswith("tar@far=") and not n.endswith("_se")}
    assert stored
    for metric, tar in stored.items():
        far = float(metric.partition("=")[2])
        assert curve.tars[curve.fars <= far + 1e-12].max() == pytest.approx(tar)


def test_the_hardest_pairs_are_those_of_a_plain_search(run: Run, faces: Faces) -> None:
    one = VerificationSet(run.config.data.test, 0, "", run.config.data.input_size)
    for same in (True, False):
        found = [pair for pair in faces.hardest if pair.same == same]
        assert len(found) == NUM_HARDEST
        cosines = [pair.cosine for pair in found]
        assert cosines == sorted(cosines, reverse=not same)
        [curve] = faces.curves.values()
        beyond = curve.tars if same else curve.fars  # share of its kind above each threshold
        count = curve.num_genuine if same else curve.num_impostor
        at = int(np.searchsorted(-curve.thresholds, -cosines[-1]))
        rank = round((1 - beyond[at]) * count) - 1 if same else round(beyond[at] * count)  # itself is not above itself
        assert rank < NUM_HARDEST, "others are harder"
        for pair in found:
            for key, picture in zip(pair.keys, pair.pictures, strict=True):
                data = base64.b64decode(picture.removeprefix("data:image/jpeg;base64,"))
                shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                [stored] = one.pictures.read(np.array([one.keys.index(key)]))
                assert shown.shape == stored.shape
                assert np.abs(shown.astype(int) - stored).mean() < 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"result": None}, "for the final model alone, which is not there yet"),
        ({"result": {"generation": 7, "test": {}}}, "has generations 1 to 2, got @8"),
    ],
)
def test_what_cannot_be_looked_at(run: Run, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        look_at_faces(replace(run, **change), quiet)


def test_pictures_of_others_are_not_shown(run: Run, tmp_path: Path) -> None:
    """A run from elsewhere that names files of this machine shows nothing of them, even where it guessed the keys."""
    [mine] = run.config.data.test.lmdb
    keys = VerificationSet(run.config.data.test, 0, "", run.config.data.input_size).keys
    pictures = list(LmdbSource(mine).get_many(keys))
    write_lmdb(tmp_path / "private.lmdb", zip(keys, pictures[1:] + pictures[:1], strict=True))
    test = replace(run.config.data.test, lmdb=(str(tmp_path / "private.lmdb"),))
    other = replace(run, config=replace(run.config, data=replace(run.config.data, test=test)))
    with pytest.raises(UserError, match=r"the data is not what .* was started with: .*private.lmdb differs"):
        look_at_faces(other, quiet)


def test_without_a_record_of_the_data_nothing_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunStore, "load_digest", lambda self: None)
    with pytest.raises(UserError, match="does not record what its test sets were"):
        look_at_faces(run, quiet)


def test_deleted_weights_are_named(run: Run) -> None:
    place = Path(run.store.path) / "generations/000001/winner.safetensors"
    data = place.read_bytes()
    place.unlink()
    try:
        with pytest.raises(UserError, match="the weights of generation 2 were deleted"):
            look_at_faces(run, quiet)
    finally:
        place.write_bytes(data)
