"""The action `score`: models, or embeddings, through protocols, and one table at the end.

Examples:
    python -m lfs.evaluate runs/NAME --protocols lfw --data.root /path/to/faces
    python -m lfs.evaluate runs/A runs/B --protocols lfw,agedb_30 --csv scores.csv --roc figures
    python -m lfs.evaluate runs/NAME --set mine=faces.lmdb,pairs.txt,list.txt --train-list train.txt
    python -m lfs.evaluate --embeddings lfw=lfw.npy --embeddings agedb_30=agedb.parquet --protocols lfw,agedb_30
    python -m lfs.evaluate runs/NAME --protocols megaface,trillion_pairs,ijbb,ijbc --data.root /path/to/sets
    python -m lfs.evaluate runs/NAME --sets mine.yaml --protocols mf
    python -m lfs.evaluate --protocols ijbc --embeddings ijbc.parquet
    python -m lfs.evaluate --protocols megaface --embeddings megaface/probes=p.npy --embeddings d.npy

--set is for pairs in the form of LFW. For the other forms write a recipe for --sets, one entry per set:
    NAME: {protocol: megaface, lmdb: probes.lmdb, probes: probes.txt, distractors_lmdb: d.lmdb, distractors: d.txt}
        (may have probe_noise, distractor_noise: one key per line; counts: [1000, 1000000])
    NAME: {protocol: trillion_pairs, ...}                          the same without counts
    NAME: {protocol: ijbc, lmdb: faces.lmdb, templates: t.txt, pairs: p.txt}
        (`key template medium` and `template1 template2 1|0` per line)
Paths start at --data.root. configs/sets/public.yaml has the public sets.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lfs.commands import OK
from lfs.embed_workers import add_worker_flags, embed_options, workers_of
from lfs.embedding_file import EmbeddingFile, open_embeddings
from lfs.evaluation import Evaluation, ModelResult
from lfs.evaluation_sets import PUBLIC, ROOT_VARIABLE, NamedSet, chosen_sets, data_root, given_set, recipe_sets
from lfs.evaluation_table import EvaluationTable
from lfs.model_file import ModelFile, find_models
from lfs.outputs import refuse_existing
from lfs.overlap import identities, identities_of_keys, overlap_line, people_of
from lfs.terminal import printable, spreadsheet_safe
from lfs.view import View
from search_space.errors import require
from trainers.verification.roc_curve import roc_curve
from trainers.whole_file import write_bytes


def add_parser(actions: Any) -> None:
    """The flags of the action."""
    made = actions.add_parser(
        "score", help="score models on named sets (the default: the word may be left out)", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run=run)
    add = made.add_argument
    add("models", nargs="*", metavar="MODEL", help="runs (RUN, RUN@G), comparisons, exported folders; a row each")
    add("--protocols", default="", metavar="NAMES", help="sets of the recipe, comma separated: lfw,agedb_30,...")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=LMDB,PAIRS[,LABELS]",
        help="a further set of pairs; may come often",
    )
    add("--sets", default=PUBLIC, metavar="RECIPE", help=f"YAML file of named sets [{PUBLIC}, in configs/]")
    add("--data.root", dest="root", default="", metavar="DIR", help=f"where sets' paths start [${ROOT_VARIABLE} or .]")
    add(
        "--embeddings", action="append", default=[], metavar="[SET=]FILE",
        help=".npy or .parquet to take embeddings from, of one set or of all; with a model: in place of embedding",
    )  # fmt: skip
    add("--names", default="", metavar="A,B", help="names of the rows, one for each row")
    add("--train-list", default="", metavar="FILES", help="lists of the training set, to warn of people in both")
    add("--json", default="", metavar="FILE", help="write all numbers as JSON; - is standard output")
    add("--csv", default="", metavar="FILE", help="write all numbers as CSV; - is standard output")
    add("--markdown", default="", metavar="FILE", help="write the tables as Markdown")
    add("--roc", default="", metavar="DIR", help="write a ROC curve of each set as PNG and CSV")
    add("--overwrite", action="store_true", help="replace files that are there")
    add_worker_flags(made)


def run(options: argparse.Namespace) -> int:
    """Score, print, write."""
    view = View()
    root = data_root(options.root)
    sets = sets_of(options, root)
    require(bool(options.models or options.embeddings), "a MODEL or --embeddings must be given", "neither")
    outputs = outputs_of(options, [one.name for one in sets])
    refuse_existing(outputs, options.overwrite)
    evaluation = Evaluation(
        protocols=[one.protocol() for one in sets],
        embeddings=embeddings_of(options.embeddings, [one.name for one in sets]),
        options=embed_options(options),
        workers=workers_of(options),
        view=view,
    )
    models = models_of(options.models, len(evaluation.embeddings))
    evaluation.check()
    warn_of_overlaps(view, options.train_list, sets, evaluation, models)
    results = scored(evaluation, models)
    table = EvaluationTable(results=renamed(results, options.names), titles={one.name: one.title for one in sets})
    report(table, options, view)
    return OK


def sets_of(options: argparse.Namespace, root: Path) -> list[NamedSet]:
    """The sets that the flags name."""
    names = [name.strip() for name in options.protocols.split(",") if name.strip()]
    given = [given_set(text, root) for text in options.set]
    known = recipe_sets(options.sets, root) if names or not given or options.sets != PUBLIC else {}
    return chosen_sets(names, known, given)


def models_of(texts: Sequence[str], num_embeddings: int) -> list[ModelFile]:
    """The models, each of which can be loaded.

    Raises:
        UserError: one of them is none or is damaged, or embeddings are given and there are several.
    """
    models = [model for text in texts for model in find_models(text)]
    law = "--embeddings are of one model: name one with them, or none"
    require(not num_embeddings or len(models) <= 1, law, [model.source for model in models])
    for model in models if len(models) > 1 else ():
        model.load()  # the last one must not be refused after the first took hours
    return models


def embeddings_of(texts: Sequence[str], names: Sequence[str]) -> dict[str, EmbeddingFile]:
    """Embeddings by the set that they are for; "" is for all others.

    Raises:
        UserError: two for one set, or a file that cannot be used.
    """
    found: dict[str, EmbeddingFile] = {}
    for text in texts:
        before, equals, after = text.partition("=")
        name, file = (before, after) if equals and (before in names or not Path(text).exists()) else ("", text)
        require(name not in found, "--embeddings must name one file for each set", text)
        found[name] = open_embeddings(file)
    return found


def scored(evaluation: Evaluation, models: Sequence[ModelFile]) -> list[ModelResult]:
    """One result for each model; or that of embeddings without one."""
    if not models:
        return [evaluation.of_embeddings()]
    with evaluation.workers.ready(evaluation.options) as (workers, options):
        ready = replace(evaluation, workers=workers, options=options)
        return [ready.of_model(model) for model in models]


def renamed(results: Sequence[ModelResult], names: str) -> list[ModelResult]:
    """Results with the rows' names changed, and models of different places told apart."""
    sources: dict[str, set[str]] = {}
    for result in results:
        sources.setdefault(result.label, set()).add(result.source)
    labels = list(sources)
    if not names:
        return list(results)
    given = [name.strip() for name in names.split(",")]
    law = f"--names must have one distinct name for each row ({', '.join(labels)})"
    require(len(given) == len(labels) == len(set(given)) and all(given), law, names)
    new = dict(zip(labels, given, strict=True))
    return [replace(result, label=new[result.label]) for result in results]


def warn_of_overlaps(
    view: View, train_lists: str, sets: Sequence[NamedSet], evaluation: Evaluation, models: Sequence[ModelFile]
) -> None:
    """A line for each set whose people were trained on, by the lists that are named, or that the models know.

    Raises:
        UserError: a list that is named cannot be read.
    """
    named = [name for name in train_lists.split(",") if name]
    known = [] if named else sorted({file for model in models for file in model.train_lists if Path(file).is_file()})
    for file in named or known:
        trained = (people_of if named else identities)(Path(file).expanduser())
        for one, protocol in zip(sets, evaluation.protocols, strict=True):
            keys = {key for picture_set in protocol.needs() if picture_set.tested for key in picture_set.keys}
            tested = identities(Path(one.who), keys) if one.who else identities_of_keys(keys)
            if line := overlap_line(one.name, tested, file, trained):
                view.warn(line)


def outputs_of(options: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    """Every file that is going to be written.

    Raises:
        UserError: a folder for ROC curves that is a file.
    """
    files = [Path(name).expanduser() for name in (options.json, options.csv, options.markdown) if name not in ("", "-")]
    if options.roc:
        folder = Path(options.roc).expanduser()
        require(not folder.exists() or folder.is_dir(), "--roc must name a folder", options.roc)
        files += [folder / f"{name}.{suffix}" for name in names for suffix in ("png", "csv")]
    return files


def report(table: EvaluationTable, options: argparse.Namespace, view: View) -> None:
    """Print the table, write the files."""
    texts = {
        "json": lambda: json.dumps(finite(table.as_dict()), indent=1, sort_keys=True, allow_nan=False) + "\n",
        "csv": lambda: spreadsheet_safe(table.as_frame()).to_csv(index=False, lineterminator="\n"),
        "markdown": table.as_markdown,
    }
    if "-" not in (options.json, options.csv, options.markdown):
        view.say("")
        table.as_text(view.console)
    for name, text in texts.items():
        file = getattr(options, name)
        if file == "-":
            sys.stdout.write(text())
        elif file:
            write_bytes(Path(file).expanduser(), text().encode())
    if options.roc:
        write_curves(table, Path(options.roc).expanduser())
    written = [name for name in (options.json, options.csv, options.markdown, options.roc) if name not in ("", "-")]
    if written and "-" not in (options.json, options.csv, options.markdown):
        view.say(f"files        {printable(', '.join(written))}")


def finite(value: Any) -> Any:
    """Numbers that JSON cannot hold become null."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_curves(table: EvaluationTable, folder: Path) -> None:
    """A figure and a CSV file for each set, with a curve for each model."""
    from lfs.roc_plot import roc_csv, roc_png  # matplotlib takes a second

    for name, title in table.titles.items():
        curves = {}
        for result in table.results:
            if pairs := result.results[name].scored:
                label = result.label if result.label not in curves else result.source
                curves[label] = roc_curve(*pairs)
        if curves:
            write_bytes(folder / f"{name}.png", roc_png(curves, title))
            write_bytes(folder / f"{name}.csv", roc_csv(curves))
