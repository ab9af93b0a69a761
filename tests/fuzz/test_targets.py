"""A short run of every fuzz target; the long one is `python -m benchmarks.fuzz`."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from tests.fuzz.targets import TARGETS, Target

CASES = {"run": 15, "config": 60}
settings.register_profile("fuzz", deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_files_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]

    @settings(settings.get_profile("fuzz"), max_examples=CASES.get(name, 100), derandomize=True)
    @given(st.integers(0, 2**32))
    def reads(seed: int) -> None:
        refusal = refused(target, target.case(seed), tmp_path)
        assert "\n" not in refusal
        assert len(refusal) < 2000

    reads()


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_are_read(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    accepted = [not refused(target, seed, tmp_path) for seed in target.seeds()]
    assert sum(accepted) >= len(accepted) / 2


def refused(target: Target, case: bytes, folder: Path) -> str:
    """Why a case is refused; empty: it is not."""
    try:
        target.read(case, folder)
    except UserError as error:
        return str(error)
    return ""
