"""Small faces as real files, and a small trainer of them."""

from pathlib import Path

import pytest

from tests.trainers.small_trainer import make_faces, make_trainer
from trainers.trainer import CandidateTrainer


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder)
    return folder


@pytest.fixture(scope="module")
def trainer(faces: Path) -> CandidateTrainer:
    return make_trainer(faces)
