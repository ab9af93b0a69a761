"""A short run of every fuzz target; the long one is `python -m benchmarks.fuzz`."""

import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import PEAK_BYTES, case_cpu_s, memory, reset_peak
from search_space.errors import UserError
from tests.fuzz.shapes import png, zeros
from tests.fuzz.targets import TARGETS, Target

CASES = {"run": 15, "config": 60}
settings.register_profile("fuzz", deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_files_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]

    @settings(settings.get_profile("fuzz"), max_examples=CASES.get(name, 100), derandomize=True)
    @given(st.randoms(use_true_random=False))
    def reads(rng: random.Random) -> None:
        refusal = refused(target, target.case(rng), tmp_path)
        assert "\n" not in refusal
        assert len(refusal) < 2000

    reads()


@pytest.mark.parametrize("name", TARGETS)
def test_files_built_from_parts_are_read_or_refused_in_bounded_time(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]

    @settings(settings.get_profile("fuzz"), max_examples=CASES.get(name, 100), derandomize=True)
    @given(st.randoms(use_true_random=False))
    def reads(rng: random.Random) -> None:
        case = target.shape(rng)
        began = time.process_time()
        assert "\n" not in refused(target, case, tmp_path)
        assert time.process_time() - began < case_cpu_s(case)

    reads()


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_are_read(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    accepted = [not refused(target, seed, tmp_path) for seed in target.seeds()]
    assert sum(accepted) >= len(accepted) / 2


@pytest.mark.parametrize(
    ("name", "traps"),
    [
        ("config", ("a number of more than", "keys that are no texts", "%TAG directives", "nested too deep")),
        ("table", ("inside another one", "values nested too deep", "values of 0 bytes", "that claims")),
        ("picture", ("have more pixels", "chunks b'eXIf'", "more than 64 scans", "pixels, got a header that claims")),
        ("datum", ("no such message", "with none", "channels x height x width")),
    ],
)
def test_what_is_built_from_parts_falls_into_the_known_traps(name: str, traps: tuple[str, ...], tmp_path: Path) -> None:
    cases = (TARGETS[name].shape(random.Random(seed)) for seed in range(1000))
    left = set(traps)
    for case in cases:
        said = refused(TARGETS[name], case, tmp_path)
        if not (left := {trap for trap in left if trap not in said}):
            break
    assert not left


def test_pictures_are_built_with_texts_that_stand_for_much_memory() -> None:
    pictures = (png(random.Random(seed)) for seed in range(300))
    assert any(picture.count(b"zTXt") * 7_900_000 > PEAK_BYTES and zeros(7_900_000) in picture for picture in pictures)


def test_memory_at_most_and_time_of_a_small_case() -> None:
    reset_peak()
    before = memory("VmRSS")
    assert np.ones(2**26, np.uint8).nbytes == 2**26
    assert memory("VmHWM") - before > 2**25 > memory("VmRSS") - before
    assert case_cpu_s(bytes(1000)) < case_cpu_s(bytes(10**6))


def refused(target: Target, case: bytes, folder: Path) -> str:
    """Why a case is refused; empty: it is not."""
    try:
        target.read(case, folder)
    except UserError as error:
        return str(error)
    return ""
