"""The action `embed`: embeddings of a list of pictures, in the order of the list.

The output is made in shards of a fixed number of rows, which stay when the work is interrupted: the same command goes
on where it stopped. The bytes are the same whoever made the shards, and however many.

    X.npy      [n, dim], with X.keys.txt (`key label` per line) and X.model.json beside it
    X.parquet  columns key, label, embedding; the model is in the table's metadata

Examples:
    python -m lfs.evaluate embed runs/NAME --lmdb faces.lmdb --list faces.txt --out faces.npy
    python -m lfs.evaluate embed runs/NAME --lmdb faces.lmdb --list faces.txt --out faces.parquet --num-workers 8
"""

import argparse
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from lfs.commands import OK
from lfs.data_digest import lmdb_digest
from lfs.embed_workers import add_worker_flags, embed_options, number, workers_of
from lfs.embedding_shards import DTYPES, SHARD_ROWS, Plan, ShardStore, outputs_of
from lfs.model_file import ModelFile, find_models
from lfs.outputs import refuse_existing
from lfs.terminal import printable
from lfs.view import View
from search_space.errors import UserError, require
from trainers.data.lists import Integers, Keys, line_of_row, read_list, refuse_repeated
from trainers.data.lmdb_source import LmdbSource
from trainers.embedder import BackboneModel


def add_parser(actions: Any) -> None:
    """The flags of the action."""
    made = actions.add_parser(
        "embed", help="write the embeddings of a list of pictures", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run=run)
    add = made.add_argument
    add("model", metavar="MODEL", help="a run (RUN, RUN@G) or an exported folder")
    add("--lmdb", required=True, metavar="LMDB", help="LMDB with the pictures")
    add("--list", required=True, metavar="FILE", help="list file, `key label` per line")
    add("--out", required=True, metavar="FILE", help="X.npy or X.parquet")
    add("--dtype", choices=DTYPES, default="float32", help="of the numbers that are written [float32]")
    add("--shard-rows", default=str(SHARD_ROWS), metavar="N", help=f"rows of a shard [{SHARD_ROWS}]")
    add("--overwrite", action="store_true", help="replace an output that is there, and shards of other settings")
    add_worker_flags(made)


def run(options: argparse.Namespace) -> int:
    """Embed what is missing, put the shards together."""
    out, view = Path(options.out).expanduser(), View()
    require(out.suffix in (".npy", ".parquet"), "--out must be a .npy or .parquet file", options.out)
    refuse_existing([out], options.overwrite)
    refuse_existing([path for path in outputs_of(out)[1:] if path.is_dir()], overwrite=True)
    found = one_model(options.model)
    model = found.load()
    how = embed_options(options)
    plan = plan_of(options, found, model, out, flip=how.flip)
    store = ShardStore(plan, overwrite=options.overwrite)
    with store.held():
        missing = store.missing()
        done = plan.num_shards - len(missing)
        if done:
            view.say(f"{done} of {plan.num_shards} shards are there already")
        progress = view.progress(f"embedding {len(plan.keys):,} pictures")
        for result in workers_of(options).embed(model, missing, plan.shard, how):
            store.put(result)
            done += 1
            progress(done, plan.num_shards)
        skipped = store.put_together()
    if skipped:
        listed = printable(str(out.with_suffix(".bad.txt")))
        view.warn(f"{len(skipped):,} pictures do not decode and are left out; they are listed in {listed}")
    view.say(f"{len(plan.keys) - len(skipped):,} x {plan.dim} {plan.dtype} in {printable(str(out))}")
    return OK


def one_model(text: str) -> ModelFile:
    """The one model that an argument names.

    Raises:
        UserError: it names several.
    """
    models = find_models(text)
    if len(models) > 1:
        raise UserError(f"{text} is a comparison of {len(models)} models; name one of them: {models[0].source}")
    return models[0]


def plan_of(options: argparse.Namespace, found: ModelFile, model: BackboneModel, out: Path, *, flip: bool) -> Plan:
    """What is to be done.

    Raises:
        UserError: a list that cannot be used, names a key twice, or one that the LMDB does not have.
    """
    path, lmdb = Path(options.list).expanduser(), Path(options.lmdb).expanduser()
    keys, labels = read_list(path, gaps=True)
    refuse_repeated(path, keys)
    LmdbSource(lmdb).refuse_missing(keys, lambda row: f"line {line_of_row(path, row)} of {path}")
    rows = number(options.shard_rows, "--shard-rows", int, 10**7)
    require(rows >= 1, "--shard-rows must be at least 1", rows)
    made_by = {
        "source": found.source, "sha256": model.digest, "backbone": found.network.backbone,
        "embedding_dim": found.network.embedding_dim, "input_size": found.network.input_size, "flip": flip,
    }  # fmt: skip
    pictures = {"list_sha256": digest_of(keys, labels), "lmdb": lmdb_digest(lmdb, [keys])}
    return Plan(
        out=out, lmdb=lmdb, keys=keys, labels=labels, dim=found.network.embedding_dim, dtype=options.dtype,
        made_by=made_by, pictures=pictures, shard_rows=rows,
    )  # fmt: skip


def digest_of(keys: Keys, labels: Integers) -> str:
    """SHA-256 of a list, whatever its white space."""
    found = sha256()
    for start in range(0, len(keys), SHARD_ROWS):
        part = np.arange(start, min(start + SHARD_ROWS, len(keys)))
        pairs = zip(keys.take(part), labels[part].tolist(), strict=True)
        found.update("".join(f"{key} {label}\n" for key, label in pairs).encode())
    return found.hexdigest()
