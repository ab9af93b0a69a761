"""The run that is kept as the golden one of a format: `python -m tests.lfs.golden_run FOLDER` makes it anew.

Made once, by the first version that wrote the format, and never again. `expected.json` is what its next generation
came to.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from lfs.config import SearchConfig
from lfs.messages import GenerationRecord
from lfs.run_store import RunStore
from lfs.serial import SerialRun
from search_space.config import PolicyConfig
from tests.lfs.faces import TINY
from trainers.config import DataConfig, RewardConfig, TrainerConfig
from trainers.data.builtin import ensure_builtin_faces

DONE = 2


def golden_config(data: DataConfig) -> SearchConfig:
    """Two generations of three candidates, a few steps each. A continuous reward and ranked advantages: other CPUs
    round otherwise, which must not move the policy.
    """
    trainer = TrainerConfig(
        backbone="small", embedding_dim=8, batch_size=16, generation_length=3, generation_unit="steps", lr=0.01,
        inherit_momentum=False,
    )  # fmt: skip
    return SearchConfig(
        name="golden", generations=DONE, population_size=3, seed=5, data=replace(data, input_size=24), trainer=trainer,
        reward=RewardConfig(metric="d_prime", num_bootstrap=20), policy=PolicyConfig(advantage="rank"),
    )  # fmt: skip


def finish(store: RunStore) -> dict[str, Any]:
    """Go on to the end; the last generation's policy and rewards."""
    SerialRun(store).run(lambda status: None)
    last = store.committed()[-1]
    state, _ = store.load_state(last)
    rewards = store.load_candidates(last)["reward"].tolist()
    return {"generation": last, "policy": state.policy.to_dict(), "rewards": rewards}


def coarsen(store: RunStore, generation: int) -> None:
    """Round a generation's weights to few bits, so that the run packs into a small file."""
    state, summary = store.load_state(generation)
    rows = store.load_candidates(generation).to_dict("records")
    weights = {name: coarse(array) for name, array in store.load_weights(generation).items()}
    record = GenerationRecord(generation=generation, winner=summary["winner"], rows=rows, summary=summary, state=state)
    (Path(store.path) / "generations" / f"{generation:06d}" / "COMMIT").unlink()
    store.commit(record, weights)


def coarse(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Floats with four bits of mantissa."""
    if array.dtype != np.float32:
        return array
    kept = (np.ascontiguousarray(array).view(np.uint32) + 0x40000) & 0xFFF80000
    return kept.astype(np.uint32).view(np.float32).reshape(array.shape)


def make(folder: Path) -> None:
    """Make the run, and what its next generation comes to."""
    with TemporaryDirectory() as work:
        data = ensure_builtin_faces(Path(work), spec=TINY).data_config()
        store = RunStore(str(folder / "run"))
        store.create(golden_config(data))
        finish(store)
        for generation in store.committed():
            coarsen(store, generation)
        shutil.copytree(folder / "run", Path(work) / "longer")
        longer = RunStore(str(Path(work) / "longer"))
        longer.write_config(replace(longer.load_config(), generations=DONE + 1))
        (folder / "expected.json").write_text(json.dumps(finish(longer), indent=1) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
