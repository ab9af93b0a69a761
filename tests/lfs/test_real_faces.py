"""Real faces through the real commands: all of LFW, where `LFS_FACES` names a folder that has it.

The folder has `lfw/lfw.lmdb` (Datums, keys as in LFW's archive), `lfw/lfw_labels.txt` (`key label` lines) and
`lfw/pairs_official.txt` (LFW's own pairs of view 2).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lfs.model_file import save_model
from tests.lfs.evaluation_files import small_model
from trainers.data.lists import read_pairs

FACES = os.environ.get("LFS_FACES", "")
PICTURES, PEOPLE = 13_233, 5_749


def command(folder: Path, *arguments: object) -> str:
    """What a command prints."""
    argv = [sys.executable, "-m", *map(str, arguments)]
    ended = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    print(f"$ {' '.join(argv[1:])}\n{ended.stdout}")
    return ended.stdout


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not FACES, reason="LFS_FACES names no folder with real faces")
def test_lfw_from_import_to_numbers(tmp_path: Path) -> None:
    lfw = Path(FACES).resolve() / "lfw"
    said = command(tmp_path, "lfs.data", "import", lfw / "lfw.lmdb", "--list", lfw / "lfw_labels.txt", "lfw")
    assert f"{PICTURES:,} pictures of {PEOPLE:,} identities" in said
    assert f"{PICTURES:,} copied unchanged, 0 decoded and encoded" in said
    said = command(tmp_path, "lfs.data", "inspect", "lfw", "--sheet", "sheets/lfw.png")
    assert f"{PICTURES:>12,}  112 x 112 JPEG\n" in said
    assert f"{PICTURES:,} pictures of {PEOPLE:,} identities, 1 to 530 of each, 2.3 on average" in said
    assert f"{PICTURES:,} records, 0 bad, 0 doubtful, 0 of the list missing" in command(
        tmp_path, "lfs.data", "verify", "lfw"
    )
    official = ("lfw", lfw / "pairs_official.txt", "lfw/pairs.txt", "--lmdb", "lfw/faces.lmdb")
    assert "6,000 pairs, 10 folds of 300 genuine and 300 impostor" in command(tmp_path, "lfs.data", *official)
    said = command(tmp_path, "lfs.data", "pairs", "lfw", "own.txt", "--apart-from", "lfw/identities.txt")
    assert f"warning: {PEOPLE:,} of {PEOPLE:,} people of lfw are in lfw/identities.txt too" in said
    own = read_pairs(tmp_path / "own.txt", 10)
    sides = zip(own.left, own.right, own.same.tolist(), strict=True)
    assert all((left.split("/")[0] == right.split("/")[0]) == same for left, right, same in sides)
    save_model(tmp_path / "model", small_model(dim=128), {"run": "none: it is untrained"})
    sets = ("--protocols", "lfw,own", "--data.root", ".", "--set", "own=lfw/faces.lmdb,own.txt")
    command(tmp_path, "lfs.evaluate", "model", *sets, "--json", "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())["models"][0]["sets"]
    for name in ("lfw", "own"):
        assert found[name]["counts"]["pairs"] == 6_000
        assert found[name]["measures"]["accuracy"]["value"] > 0.6  # of the untrained network; a coin's is 0.5 +- 0.0065
