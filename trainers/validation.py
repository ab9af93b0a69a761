"""How good a model is on the verification sets of one purpose: pictures embedded once, then any metrics of them."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from search_space.errors import UserError
from trainers.config import DataConfig, PairsConfig, RewardConfig
from trainers.data.verification_set import VerificationSet, verification_sets
from trainers.metrics import Metric, can_give, parse_mean, possible_metrics
from trainers.ranks import Ranks
from trainers.verification import AllPairsMetrics, Score, cosine_scores, evaluate_metric, verification_report

BATCH = 128
ALONE = Ranks.alone()

Forward = Callable[[Tensor], Tensor]
"""[n, size, size, 3] uint8 BGR -> [n, dim] float32 embeddings, not normalised."""

Embeddings = npt.NDArray[np.float32]
"""[keys, dim] of one set; NaN where a picture was not needed."""


class EmbeddingsNotFiniteError(Exception):
    """The model is broken: it diverged."""


class Validation:
    """The sets of one purpose, and what is measured on them. Files are read when this is made, and never again.

    Args:
        purpose: `reward` or `test`, the part of the data's configuration.
        reward: the metrics; with `reward` its metric must be one that the data can give, with `test` its test metrics.
    Raises:
        UserError: data that is missing or cannot be used, or that cannot give the metrics.
    """

    def __init__(self, purpose: str, data: DataConfig, reward: RewardConfig) -> None:
        self.purpose, self.reward = purpose, reward
        self.config = sets_of(data, purpose)
        for metric in named_metrics(purpose, reward):
            require_data(metric, purpose, self.config)
        self.sets = verification_sets(self.config, data.root, data.input_size, data.cache_bytes)
        for metric in named_metrics(purpose, reward):
            require_comparisons(metric, self.sets)
        self._all_pairs: dict[str, AllPairsMetrics] = {}

    @property
    def test_metrics(self) -> list[Metric]:
        """Metrics of the final model that these sets can give."""
        metrics = map(Metric.parse, self.reward.test_metrics or possible_metrics(self.config))
        return [m for m in metrics if can_give(m, self.config) and false_accepts(m, self.sets) >= 1]

    @property
    def recorded_metrics(self) -> list[Metric]:
        """Metrics of every candidate beside its reward."""
        named = [Metric.parse(name) for name in self.reward.record]
        return named or [m for m in self.test_metrics if not m.all_pairs]

    def metrics(self, names: Sequence[str]) -> list[Metric]:
        """Distinct metrics that some names, which may stand for means, are made of.

        Raises:
            UserError: no such metric, or one that these sets cannot give.
        """
        metrics = list(dict.fromkeys(metric for name in names for metric in parse_mean(name)))
        for metric in metrics:
            require_data(metric, self.purpose, self.config)
            require_comparisons(metric, self.sets)
        return metrics

    @torch.inference_mode()
    def embed(self, forward: Forward, metrics: Sequence[Metric], ranks: Ranks = ALONE) -> list[Embeddings]:
        """Embeddings of the pictures that some metrics need, each distinct picture of a set once.

        Args:
            ranks: each embeds its share of the pictures; only rank 0 has the embeddings then.
        Raises:
            EmbeddingsNotFiniteError: one of them is not finite; in every rank.
        """
        listed, labelled = any(not m.all_pairs for m in metrics), any(m.all_pairs for m in metrics)
        shares, result = [], []
        for one in self.sets:
            rows = one.rows(listed=listed, labelled=labelled)
            parts = [forward(images) for images in one.images(BATCH, rows[ranks.share(len(rows))])]
            share = torch.cat(parts).cpu().numpy() if parts else np.empty((0, 0), np.float32)
            shares.append((rows, share))
        if not all(ranks.gather_objects(all(np.isfinite(share).all() for _, share in shares))):
            raise EmbeddingsNotFiniteError
        for one, (rows, share) in zip(self.sets, shares, strict=True):
            found = ranks.stack(share)
            embeddings = np.full((len(one.keys), found.shape[1]), np.nan, np.float32)
            if len(found):
                embeddings[rows] = found
            result.append(embeddings)
        return result

    def scores(self, embeddings: Sequence[Embeddings], metrics: Sequence[Metric]) -> list[Score]:
        """Each metric: its mean over the sets, and that of its replicates."""
        by_set = [self._scores(one, vectors, metrics) for one, vectors in zip(self.sets, embeddings, strict=True)]
        return [_mean(scores) for scores in zip(*by_set, strict=True)]

    def named_scores(self, embeddings: Sequence[Embeddings], names: Sequence[str]) -> dict[str, Score]:
        """Scores by the name of a metric, or of a mean of metrics: `A+B`."""
        metrics = self.metrics(names)
        found = dict(zip(metrics, self.scores(embeddings, metrics), strict=True))
        return {name: _mean([found[metric] for metric in parse_mean(name)]) for name in names}

    def report(self, embeddings: Sequence[Embeddings], metrics: Sequence[Metric]) -> dict[str, float]:
        """Metrics for the record, `NAME` and `NAME_se` each, see `verification_report`.

        Several sets: `SET/NAME` of each, and `NAME` is the mean over the sets, its error that of independent sets; but
        `threshold` of each alone.
        """
        listed, everywhere = ([m for m in metrics if m.all_pairs == wanted] for wanted in (False, True))
        reports: dict[str, dict[str, float]] = {}
        for one, vectors in zip(self.sets, embeddings, strict=True):
            report: dict[str, float] = {}
            if listed and one.listed:
                pairs, cosines = one.listed, self._cosines(one, vectors)
                names = [str(metric) for metric in listed]
                report |= verification_report(cosines, pairs.same, pairs.fold, names, self.reward.num_bootstrap)
            for metric, score in zip(everywhere, self._scores(one, vectors, everywhere), strict=True):
                report |= {str(metric): score.value, f"{metric}_se": score.standard_error}
            reports[one.name] = report
        if len(reports) == 1:
            return next(iter(reports.values()))
        each = {f"{name}/{key}": value for name, report in reports.items() for key, value in report.items()}
        return _mean_report(list(reports.values())) | each

    def report_names(self, metrics: Sequence[Metric]) -> list[str]:
        """Keys of `report`, whatever the embeddings."""
        reports: dict[str, list[str]] = {}
        for one in self.sets:
            given = [m for m in metrics if m.all_pairs or one.listed]
            names = [name for metric in given for name in (str(metric), f"{metric}_se")]
            threshold = any(m.kind == "accuracy" and not m.all_pairs for m in given)
            reports[one.name] = [*names, *["threshold"] * threshold]
        if len(reports) == 1:
            return next(iter(reports.values()))
        means = [name for name in next(iter(reports.values())) if name != "threshold"]
        return means + [f"{one}/{name}" for one, names in reports.items() for name in names]

    def _scores(self, one: VerificationSet, vectors: Embeddings, metrics: Sequence[Metric]) -> list[Score]:
        """Metrics of one set, in their order."""
        everywhere = [m for m in metrics if m.all_pairs]
        found: dict[Metric, Score] = {}
        if everywhere and one.labelled:
            found |= zip(everywhere, self._on_all(one).evaluate(vectors[one.labelled.rows], everywhere), strict=True)
        if len(everywhere) < len(metrics) and (pairs := one.listed):
            cosines = self._cosines(one, vectors)
            for metric in set(metrics) - set(everywhere):
                scores = evaluate_metric(str(metric), cosines, pairs.same, pairs.fold, self.reward.num_bootstrap)
                found[metric] = scores
        return [found[metric] for metric in metrics]

    def _cosines(self, one: VerificationSet, vectors: Embeddings) -> npt.NDArray[np.float64]:
        assert one.listed
        num = int(max(one.listed.left.max(), one.listed.right.max())) + 1  # the pictures of listed pairs come first
        return cosine_scores(vectors[:num], one.listed.left, one.listed.right)

    def _on_all(self, one: VerificationSet) -> AllPairsMetrics:
        if one.name not in self._all_pairs:
            assert one.labelled
            made = AllPairsMetrics(one.labelled.labels, self.reward.num_bootstrap, self.config.max_impostors)
            self._all_pairs[one.name] = made
        return self._all_pairs[one.name]


def sets_of(data: DataConfig, purpose: str) -> PairsConfig:
    """The configured sets of a purpose.

    Raises:
        UserError: there are none.
    """
    config = {"reward": data.reward, "test": data.test}[purpose]
    if not config.lmdb or not (config.pairs or config.labels):
        raise UserError(
            f"{purpose} sets need LMDBs (data.{purpose}.lmdb) and pairs files or label lists for them "
            f"(data.{purpose}.pairs, data.{purpose}.labels), got {config.lmdb}, {config.pairs} and {config.labels}"
        )
    return config


def named_metrics(purpose: str, reward: RewardConfig) -> list[Metric]:
    """Metrics that the configuration names for a purpose, which its sets must be able to give."""
    if purpose == "reward":
        return [*parse_mean(reward.metric), *map(Metric.parse, reward.record)]
    return [Metric.parse(name) for name in reward.test_metrics]


def require_data(metric: Metric, purpose: str, config: PairsConfig) -> None:
    """Raise `UserError` unless the files that a metric needs are configured."""
    if not can_give(metric, config):
        field, files = ("labels", "label lists") if metric.all_pairs else ("pairs", "pairs files")
        raise UserError(
            f"metric {metric} on the {purpose} sets needs {files}, got none: name them in data.{purpose}.{field}"
        )


def false_accepts(metric: Metric, sets: Sequence[VerificationSet]) -> float:
    """False accepts on all pairs that TAR at a FAR allows in the smallest set; infinite for what has no FAR."""
    counts = [one.labelled.num_impostor for one in sets if one.labelled]
    return metric.far * min(counts) if metric.all_pairs and metric.far and counts else np.inf


def require_comparisons(metric: Metric, sets: Sequence[VerificationSet]) -> None:
    """Raise `UserError` if a FAR is too low to be seen on all pairs."""
    expected = false_accepts(metric, sets)
    if expected < 1:
        raise UserError(
            f"metric {metric} needs at least {1 / (metric.far or 1):,.0f} impostor pairs in every set, got "
            f"{expected / (metric.far or 1):,.0f}: take a higher far or more people"
        )


def _mean(scores: Sequence[Score]) -> Score:
    """The mean over sets or metrics, whose resamples have the same number."""
    if len(scores) == 1:
        return scores[0]
    replicates = np.mean([score.replicates for score in scores], axis=0)
    return Score(float(np.mean([s.value for s in scores])), float(np.std(replicates, ddof=1)), replicates)


def _mean_report(reports: Sequence[dict[str, float]]) -> dict[str, float]:
    means: dict[str, float] = {}
    for key in reports[0]:
        values = np.array([report[key] for report in reports])
        if key.endswith("_se"):
            means[key] = float(np.sqrt((values**2).sum()) / len(values))
        elif key != "threshold":
            means[key] = float(values.mean())
    return means
