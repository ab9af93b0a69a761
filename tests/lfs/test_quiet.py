"""What goes into the driver's log, and how much."""

import logging
from pathlib import Path

import pytest

from lfs import quiet
from lfs.run_store import RunStore


def test_the_log_of_a_driver_keeps_the_last_messages_within_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "LOG_BYTES", 10_000)
    with quiet.quiet_logs(RunStore(str(tmp_path))):
        for number in range(1000):
            logging.getLogger("ray.tune").warning("message %d: %s", number, "x" * 50)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    assert "message 999:" in (tmp_path / "driver.log").read_text()
    assert "ray.tune" in (tmp_path / "driver.log.1").read_text()


def test_a_log_whose_disk_is_full_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with quiet.quiet_logs(RunStore(str(tmp_path / "run"))):  # no such folder: it cannot be opened
        logging.getLogger("lfs").warning("lost")
    assert capsys.readouterr() == ("", "")
