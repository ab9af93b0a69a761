"""The action `embed`: embeddings of a list of pictures, in the order of the list.

The output is made in shards of a fixed number of rows, which stay when the work is interrupted: the same command goes
on where it stopped. The bytes are the same whoever made the shards, and however many.

    X.npy      [n, dim], with X.keys.txt (`key label` per line) and X.model.json beside it
    X.parquet  columns key, label, embedding; the model is in the table's metadata

There are labels if the list has them. Of a named set, the pictures are those that `score` embeds.

Examples:
    python -m lfs.evaluate embed runs/NAME --lmdb faces.lmdb --list faces.txt --out faces.npy
    python -m lfs.evaluate embed runs/NAME --lmdb faces.lmdb --list faces.txt --out faces.parquet --num-workers 8
    python -m lfs.evaluate embed runs/NAME --protocols megaface/distractors --data.root /path/to/sets --out d.npy
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lfs.commands import OK
from lfs.data_digest import lmdb_digest
from lfs.embed_workers import Workers, add_worker_flags, embed_options, number, workers_of
from lfs.embedding_shards import DTYPES, SHARD_ROWS, Plan, ShardStore, bad_file, refuse_outputs
from lfs.evaluate_score import sets_of
from lfs.evaluation_sets import PUBLIC, ROOT_VARIABLE, data_root
from lfs.model_file import ModelFile, find_models
from lfs.terminal import printable
from lfs.view import View
from search_space.errors import UserError, require
from trainers.data.lists import Integers, Keys, line_of_row, read_keys_and_labels, refuse_repeated
from trainers.data.lmdb_source import LmdbSource
from trainers.embedder import BackboneModel, EmbedOptions


def add_parser(actions: Any) -> None:
    """The flags of the action."""
    made = actions.add_parser(
        "embed", help="write the embeddings of a list of pictures", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run=run)
    add = made.add_argument
    add("model", metavar="MODEL", help="a run (RUN, RUN@G) or an exported folder")
    add("--lmdb", default="", metavar="LMDB", help="LMDB with the pictures")
    add("--list", default="", metavar="FILE", help="list file, `key label` or `key` per line")
    add("--protocols", default="", metavar="NAME", help="instead: a named set, or one of its parts (megaface/probes)")
    add("--set", action="append", default=[], metavar="NAME=LMDB,PAIRS[,LABELS]", help="a further set for --protocols")
    add("--sets", default=PUBLIC, metavar="RECIPE", help=f"YAML file of named sets [{PUBLIC}, in configs/]")
    add("--data.root", dest="root", default="", metavar="DIR", help=f"where sets' paths start [${ROOT_VARIABLE} or .]")
    add("--out", required=True, metavar="FILE", help="X.npy or X.parquet")
    add("--dtype", choices=DTYPES, default="float32", help="of the numbers that are written [float32]")
    add("--shard-rows", default=str(SHARD_ROWS), metavar="N", help=f"rows of a shard [{SHARD_ROWS}]")
    add("--overwrite", action="store_true", help="replace an output that is there, and shards of other settings")
    add_worker_flags(made)


def run(options: argparse.Namespace) -> int:
    """Embed what is missing, put the shards together."""
    out, view = Path(options.out).expanduser(), View()
    require(out.suffix in (".npy", ".parquet"), "--out must be a .npy or .parquet file", options.out)
    refuse_outputs(out, options.overwrite)
    found = one_model(options.model)
    model = found.load()
    plan, how = plan_of(options, found, model, out), embed_options(options)
    with going_on(), workers_of(options).ready(how) as (workers, how):
        device = str(how.device).partition(":")[0]  # another one makes other last bits
        plan = replace(plan, made_by=plan.made_by | {"flip": how.flip, "device": device})
        skipped = embed_all(
            ShardStore(plan, overwrite=options.overwrite, skip_bad=how.skip_bad), model, workers, how, view
        )
    if skipped:
        where = printable(str(bad_file(out)))
        view.warn(f"{len(skipped):,} pictures do not decode and are left out; they are listed in {where}")
    view.say(f"{len(plan.keys) - len(skipped):,} x {plan.dim} {plan.dtype} in {printable(str(out))}")
    return OK


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """Says with a Ctrl-C in this block that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on from the last shard") from None


def embed_all(
    store: ShardStore, model: BackboneModel, workers: Workers, how: EmbedOptions, view: View
) -> list[tuple[str, str]]:
    """What is missing, and all of it put together; (key, reason) of the pictures that were skipped."""
    plan = store.plan
    with store.held():
        missing = store.missing()
        if there := plan.num_shards - len(missing):
            view.say(f"{there} of {plan.num_shards} shards are there already")
        done = len(plan.keys) - sum(plan.rows_of(number) for number in missing)
        with view.progress("embedding") as progress:
            progress(done, len(plan.keys))
            for result in workers.embed(model, missing, plan.shard, how):
                store.put(result)
                done += plan.rows_of(result.number)
                progress(done, len(plan.keys))
        with view.waiting("writing the output"):
            return store.put_together()


def one_model(text: str) -> ModelFile:
    """The one model that an argument names.

    Raises:
        UserError: it names several.
    """
    models = find_models(text)
    if len(models) > 1:
        raise UserError(f"{text} is a comparison of {len(models)} models; name one of them: {models[0].source}")
    return models[0]


def plan_of(options: argparse.Namespace, found: ModelFile, model: BackboneModel, out: Path) -> Plan:
    """What is to be done.

    Raises:
        UserError: a list that cannot be used, names a key twice, or one that the LMDB does not have.
    """
    lmdb, keys, labels, where = named_set(options) if options.protocols else listed(options)
    LmdbSource(lmdb).refuse_missing(keys, where)
    rows = number(options.shard_rows, "--shard-rows", int, 10**7)
    require(rows >= 1, "--shard-rows must be at least 1", rows)
    made_by = {
        "source": found.source, "sha256": model.digest, "backbone": found.network.backbone,
        "embedding_dim": found.network.embedding_dim, "input_size": found.network.input_size,
    }  # fmt: skip
    return Plan(
        out=out, lmdb=lmdb, keys=keys, labels=labels, dim=found.network.embedding_dim, dtype=options.dtype,
        made_by=made_by, pictures=lmdb_digest(lmdb, [keys]), shard_rows=rows,
    )  # fmt: skip


Listed = tuple[Path, Keys, Integers | None, Callable[[int], str]]
"""LMDB, keys in it, their labels if there are any, and what names the picture of a row."""


def listed(options: argparse.Namespace) -> Listed:
    """The pictures of a list file.

    Raises:
        UserError: it cannot be used, or names a key twice.
    """
    require(bool(options.list and options.lmdb), "--lmdb and --list, or --protocols, must name the pictures", "neither")
    path = Path(options.list).expanduser()
    keys, labels = read_keys_and_labels(path)
    refuse_repeated(path, keys)
    return Path(options.lmdb).expanduser(), keys, labels, lambda row: f"line {line_of_row(path, row)} of {path}"


def named_set(options: argparse.Namespace) -> Listed:
    """The pictures that a protocol needs.

    Raises:
        UserError: there is no such set, it cannot be used, or has several parts none of which is named.
    """
    require(not options.list and not options.lmdb, "--protocols must be given without --lmdb and --list", "both")
    name = options.protocols.partition("/")[0]
    sets = sets_of(argparse.Namespace(protocols=name, set=options.set, sets=options.sets), data_root(options.root))
    parts = [(protocol, part) for protocol in [one.protocol() for one in sets] for part in protocol.needs()]
    chosen = [(protocol, part) for protocol, part in parts if options.protocols in (part.name, name)]
    law = f"--protocols must name one of {', '.join(part.name for _, part in parts)}"
    require(len(chosen) == 1, law, options.protocols)
    [(protocol, part)] = chosen
    keys = part.keys if isinstance(part.keys, Keys) else Keys.of(part.keys)
    return part.lmdb, keys, None, partial(protocol.where, part.name)
