"""Whole run directories, spoiled by someone who also makes the checksums right, and the commands that read them.

A case is the name of one file and its new content; `/pipe`, `/folder`, `/device` and `/gone` stand in place of one.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from lfs import results, search, train
from lfs.board import continued
from lfs.commands import FAILED, OK, run_command
from lfs.generation import Search
from lfs.messages import GenerationRecord
from lfs.presence import where
from lfs.report_page import page
from lfs.report_run import RunReader
from lfs.report_sections import sections
from lfs.run_store import RunStore
from search_space.errors import UserError
from tests.fuzz import shapes
from tests.fuzz.mutate import Case, mutated_bytes, mutated_tree
from tests.lfs.fakes import config, drive

Command = Callable[[Sequence[str]], int]
SPECIAL = (b"/pipe", b"/folder", b"/device", b"/gone", b"/link")
NAMES = (
    "generations/99999999999999999999/COMMIT", "generations/²/COMMIT", "generations/2/COMMIT", "generations/-1/COMMIT",
    "generations/000009/COMMIT", "generations/000001", "events", "generations", "tune", ".lock",
)  # fmt: skip


@lru_cache(maxsize=1)
def base_files() -> dict[str, bytes]:
    """The files of a small run, three of its five generations behind it."""
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(f"{folder}/run")
        settings = config(generations=5)
        store.create(settings)
        made: list[GenerationRecord] = drive(Search(settings))
        for record in made[:3]:
            store.commit(record, {"backbone.w": np.ones((2, 2), np.float32)})
        store.write_result({"generation": 2, "test": {"accuracy": 0.5, "all:tar@far=0.01": 0.2}, "num_images": 3})
        store.record_event("start", host="here", pid=1)
        store.record_event("extend", host="here", pid=1, generations=3)
        store.write(b'{"address": "127.0.0.1:9", "host": "here", "pid": 1}', "running.json")
        root = Path(store.path)
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def run_seeds() -> Sequence[Case]:
    """Every file of the run as it is."""
    return [name.encode() + b"\0" + data for name, data in base_files().items()]


def mutated_run(case: Case, rng: random.Random) -> Case:
    """Another content of a file, or something else under its name."""
    name, _, data = case.partition(b"\0")
    if rng.random() < 0.08:
        return rng.choice((name, rng.choice(NAMES).encode())) + b"\0" + rng.choice(SPECIAL)
    if name.endswith((b".json", b"COMMIT")) and rng.random() < 0.8:
        data = json.dumps(mutated_tree(json.loads(data), rng)).encode()
    elif name.endswith(b".yaml") and rng.random() < 0.8:
        data = yaml.safe_dump(mutated_tree(yaml.safe_load(data), rng)).encode()
    elif name.endswith(b".parquet"):
        from tests.fuzz.tables import mutated_table

        data = mutated_table(data, rng)
    else:
        data = mutated_bytes(data, rng)
    return name + b"\0" + data


def run_of(rng: random.Random) -> Case:
    """A run with one file built from the parts of its format."""
    name = rng.choice([name for name in base_files() if name.endswith((".yaml", ".parquet", ".safetensors"))])
    kinds = {".yaml": shapes.yaml_text, ".parquet": shapes.table, ".safetensors": shapes.weights}
    return name.encode() + b"\0" + kinds[Path(name).suffix](rng)


def write_run(case: Case, root: Path) -> None:
    """The run with one file spoiled, and what COMMIT says of it made true."""
    name, _, data = case.partition(b"\0")
    changed = name.decode(errors="replace").replace("\0", "").strip("/") or "x"
    if ".." in changed.split("/") or len(changed) > 200:
        return
    for file, content in (base_files() | {changed: data}).items():
        path = root / file
        with contextlib.suppress(OSError):  # a file where a folder should be
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    with contextlib.suppress(OSError):
        _make_special(root / changed, data)
    if changed.startswith("generations/") and "COMMIT" not in changed and data not in SPECIAL:
        _commit(root / changed, data)


def _make_special(path: Path, kind: bytes) -> None:
    if kind not in SPECIAL:
        return
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    match kind:
        case b"/pipe":
            os.mkfifo(path)
        case b"/folder":
            path.mkdir()
        case b"/device":
            path.symlink_to("/dev/zero")
        case b"/link":
            path.symlink_to(path)


def _commit(path: Path, data: bytes) -> None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        prints = json.loads((path.parent / "COMMIT").read_bytes())
        prints[path.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (path.parent / "COMMIT").write_text(json.dumps(prints))


@contextlib.contextmanager
def quiet() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What is printed meanwhile."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


def read_run_in_part(case: Case, folder: Path) -> object:
    """As two of the commands that hang on the case alone read it: many cases say more than many commands."""
    chance = random.Random(zlib.crc32(case))
    return read_run(case, folder, chance.sample(COMMANDS, 2))


def read_run(case: Case, folder: Path, commands: Sequence[Command] = ()) -> object:
    """Every command that reads a run, up to where Ray or training would start."""
    root = folder / "run"
    shutil.rmtree(root, ignore_errors=True)
    write_run(case, root)
    faults = [fault for command in commands or COMMANDS if (fault := _one_line(command, str(root)))]
    if faults:
        raise UserError(faults[0])
    return None


def _one_line(command: Command, root: str) -> str:
    """The line with which a command refuses a run; empty: it does not. Anything else is a defect."""
    with quiet() as (out, err):
        code = run_command(command, [root])
    said = err.getvalue()
    shown = out.getvalue() + said
    assert all(c.isprintable() or c == "\n" for c in shown), f"raw characters: {shown!r}"
    if code == OK:
        assert not said, said
        return ""
    assert code == FAILED
    assert said.count("\n") == 1, said
    assert "defect" not in said, said
    return said.strip()


def _results(argv: Sequence[str]) -> int:
    return results.main(argv)


def _candidates(argv: Sequence[str]) -> int:
    return results.main([*argv, "--candidates"])


def _list_of_runs(argv: Sequence[str]) -> int:
    return results.main(["--storage", str(Path(argv[0]).parent)])


def _csv(argv: Sequence[str]) -> int:
    return results.main([*argv, "--csv", os.devnull, "--parquet", os.devnull])


def _resume(argv: Sequence[str]) -> int:
    store, _ = search.resumed(argv[0], {})
    store.load_last()
    continued(store, store.load_config())
    return OK


def _replay(argv: Sequence[str]) -> int:
    made = train.configured(argv[0], "", {})
    from lfs.generation import fixed_losses

    fixed_losses(made)
    return OK


def _where(argv: Sequence[str]) -> int:
    where(RunStore(argv[0]))
    return OK


def _report(argv: Sequence[str]) -> int:
    assert page("run", sections(RunReader(argv[0]).read(), "not looked at"), made="now")
    return OK


COMMANDS = (_results, _candidates, _list_of_runs, _csv, _resume, _replay, _where, _report)
