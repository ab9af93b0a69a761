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
        (`key template medium` and `template1 template2 1|0` per line; unit_pictures: false weighs pictures by length)
Paths start at --data.root. configs/sets/public.yaml has the public sets.
"""

import argparse
import json
import sys
from collections import Counter
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
from lfs.outputs import json_value, refuse_existing
from lfs.overlap import both_sides_line, identities, identities_of_keys, overlap_line, people_of
from lfs.terminal import SafeConsole, printable, spreadsheet_safe
from lfs.view import View
from search_space.errors import require
from trainers.gallery_protocols import GalleryProtocol
from trainers.protocol import EvaluationProtocol
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
    root = data_root(options.root)
    sets = sets_of(options, root)
    require(bool(options.models or options.embeddings), "a MODEL or --embeddings must be given", "neither")
    protocols = [one.protocol() for one in sets]
    refuse_existing(outputs_of(options, protocols), options.overwrite)
    view = View(SafeConsole(stderr=True, soft_wrap=True) if "-" in outputs_given(options) else None)
    evaluation = Evaluation(
        protocols=protocols,
        embeddings=embeddings_of(options.embeddings, [one.name for one in sets]),
        options=embed_options(options),
        workers=workers_of(options),
        view=view,
    )
    models = models_of(options.models, len(evaluation.embeddings))
    names = names_of(options.names, [model.label for model in models] or [evaluation.label])
    if options.roc:
        warn_of_curves(view, protocols, len(models))
    evaluation.check()
    warn_of_overlaps(view, options.train_list, sets, evaluation, models)
    results = [replace(result, label=names[result.label]) for result in scored(evaluation, models)]
    table = EvaluationTable(results=results, titles={one.name: one.title for one in sets})
    report(table, options, view)
    return OK


def sets_of(options: argparse.Namespace, root: Path) -> list[NamedSet]:
    """The sets that the flags name."""
    names = [name.strip() for name in options.protocols.split(",") if name.strip()]
    given = [given_set(text, root) for text in options.set]
    known = recipe_sets(options.sets, root) if names or not given or options.sets != PUBLIC else {}
    return chosen_sets(names, known, given)


def models_of(texts: Sequence[str], num_embeddings: int) -> list[ModelFile]:
    """The models, each of which can be loaded; no two arguments' have one label, which would make them one row.

    Raises:
        UserError: one of them is none or is damaged, or embeddings are given and there are several.
    """
    found = {text: find_models(text) for text in texts}
    owners = Counter(label for group in found.values() for label in {model.label for model in group})
    models = [
        replace(model, label=f"{model.label} ({text})") if owners[model.label] > 1 else model
        for text, group in found.items()
        for model in group
    ]
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


def names_of(names: str, labels: Sequence[str]) -> dict[str, str]:
    """The rows' names by their labels.

    Raises:
        UserError: not one for each.
    """
    rows = list(dict.fromkeys(labels))
    given = [name.strip() for name in names.split(",")] if names else rows
    law = f"--names must have one distinct name for each row ({', '.join(rows)})"
    require(len(given) == len(rows) == len(set(given)) and all(given), law, names)
    return dict(zip(rows, given, strict=True))


def warn_of_curves(view: View, protocols: Sequence[EvaluationProtocol], num_models: int) -> None:
    """A line for sets that get no curve.

    Raises:
        UserError: more models than a figure shows.
    """
    from lfs.roc_plot import MAX_CURVES  # matplotlib takes a second

    require(num_models <= MAX_CURVES, f"--roc shows up to {MAX_CURVES} models", num_models)
    if without := [one.name for one in protocols if not one.has_curve]:
        view.warn(f"--roc: {', '.join(without)} get no curve: their comparisons are too many to be held")


def warn_of_overlaps(
    view: View, train_lists: str, sets: Sequence[NamedSet], evaluation: Evaluation, models: Sequence[ModelFile]
) -> None:
    """A line for each set whose people were trained on, by the lists that are named, or that the models know; and for
    each whose distractors show people who are looked for.

    Raises:
        UserError: a list that is named cannot be read.
    """
    for protocol in evaluation.protocols:
        if isinstance(protocol, GalleryProtocol) and (line := both_sides_line(protocol)):
            view.warn(line)
    named = [name for name in train_lists.split(",") if name]
    known = [] if named else sorted({file for model in models for file in model.train_lists if Path(file).is_file()})
    for file in named or known:
        trained = (people_of if named else identities)(Path(file).expanduser())
        for one, protocol in zip(sets, evaluation.protocols, strict=True):
            keys = {key for picture_set in protocol.needs() if picture_set.tested for key in picture_set.keys}
            tested = identities(Path(one.who), keys) if one.who else identities_of_keys(keys)
            if line := overlap_line(one.name, tested, file, trained):
                view.warn(line)


def outputs_given(options: argparse.Namespace) -> list[str]:
    """The files that are asked for, as they are named; `-` is standard output."""
    return [name for name in (options.json, options.csv, options.markdown) if name]


def outputs_of(options: argparse.Namespace, protocols: Sequence[EvaluationProtocol]) -> list[Path]:
    """Every file that is going to be written.

    Raises:
        UserError: two outputs in one place, a folder for ROC curves that is a file, or nothing to draw.
    """
    given = outputs_given(options)
    files = [Path(name).expanduser() for name in given if name != "-"]
    if options.roc:
        folder, drawn = Path(options.roc).expanduser(), [one.name for one in protocols if one.has_curve]
        require(not folder.exists() or folder.is_dir(), "--roc must name a folder", options.roc)
        require(bool(drawn), "--roc needs a set of listed pairs, of faces or of templates", "none")
        files += [folder / f"{name}.{suffix}" for name in drawn for suffix in ("png", "csv")]
    distinct = given.count("-") <= 1 and len({file.resolve() for file in files}) == len(files)
    require(distinct, "--json, --csv, --markdown and --roc must write to different places", given)
    return files


def report(table: EvaluationTable, options: argparse.Namespace, view: View) -> None:
    """Print the table, write the files."""
    texts = {
        "json": lambda: json.dumps(json_value(table.as_dict()), indent=1, sort_keys=True, allow_nan=False) + "\n",
        "csv": lambda: spreadsheet_safe(table.as_frame()).to_csv(index=False, lineterminator="\n"),
        "markdown": table.as_markdown,
    }
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
    if written := [name for name in (*outputs_given(options), options.roc) if name not in ("", "-")]:
        view.say(f"files        {printable(', '.join(written))}")


def write_curves(table: EvaluationTable, folder: Path) -> None:
    """A figure and a CSV file for each set, with a curve for each model."""
    from lfs.roc_plot import roc_csv, roc_png  # matplotlib takes a second

    for name, title in table.titles.items():
        curves = {}
        for result in table.results:
            if curve := result.results[name].curve:
                curves[result.label if result.label not in curves else result.source] = curve
        if curves:
            write_bytes(folder / f"{name}.png", roc_png(curves, title))
            write_bytes(folder / f"{name}.csv", roc_csv(curves))
