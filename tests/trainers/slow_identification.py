"""Identification by loops over every comparison, in whole numbers and fractions."""

from fractions import Fraction

import numpy as np

from trainers.identification.units import (
    STEPS_PER_UNIT,
    unit_embeddings,
)

FARS = (0.0, 1e-6, 0.1, 0.29, 0.5, 0.9)


def slow_score(a, b):
    """The score of two unit embeddings, in whole numbers."""
    product = sum(int(x * 2**24) * int(y * 2**24) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return max(-STEPS_PER_UNIT, min(STEPS_PER_UNIT, round(Fraction(product, 2**28))))


def slow_threshold(scores, far):
    """The lowest score that no more than a share `far` of the scores is above."""
    return min(t for t in scores if Fraction(sum(s > t for s in scores), len(scores)) <= Fraction(str(far)))


def slow_report(probes, identities, distractors, counts, ranks, fars, search_fars):
    """{count: (rank rates, (threshold, rate) of comparisons, the same of searches)}"""
    units, others = unit_embeddings(np.asarray(probes)), unit_embeddings(np.asarray(distractors))
    table = [[slow_score(a, b) for b in others] for a in units]
    pairs = [
        (i, slow_score(units[i], units[j]))
        for i, who in enumerate(identities)
        for j, other in enumerate(identities)
        if i != j and who == other
    ]
    result = {}
    for count in counts:
        before = [sum(s >= mate for s in table[i][:count]) for i, mate in pairs]
        bars = [slow_threshold([s for row in table for s in row[:count]], far) for far in fars]
        tops = [max(row[:count]) for row in table]
        searches = [slow_threshold(tops, far) for far in search_fars]
        result[count] = (
            [np.mean([b < k for b in before]) for k in ranks],
            [(bar / STEPS_PER_UNIT, np.mean([mate > bar for _, mate in pairs])) for bar in bars],
            [(bar / STEPS_PER_UNIT, np.mean([mate > bar and mate > tops[i] for i, mate in pairs])) for bar in searches],
        )
    return result


def as_slow(report):
    return {
        g.num_distractors: (
            [r.rate for r in g.ranks],
            [(p.threshold, p.rate) for p in g.verification],
            [(p.threshold, p.rate) for p in g.open_set],
        )
        for g in report.galleries
    }
