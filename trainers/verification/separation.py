"""d': how far apart the scores of genuine and impostor pairs are, in units of their spread."""

import numpy as np

from trainers.verification.pairs import Floats, Ints, SortedPairs

SMALLEST_VARIANCE = 1e-12
"""Less than this counts as this, so that scores without any spread have a finite d' too."""


def d_prime_rows(pairs: SortedPairs, genuine: Ints, impostor: Ints) -> Floats:
    """[rows] difference of the mean scores over the root of the mean of their variances.

    Source: Daugman 2000, Biometric decision landscapes.
    """
    high, low = pairs.scores[pairs.same], pairs.scores[~pairs.same]
    means, variances = [], []
    for scores, weights in ((high, genuine), (low, impostor)):
        mean = weights @ scores / scores.size
        means.append(mean)
        centre = scores.mean()  # near each row's mean, so that little is lost in the difference
        variances.append(weights @ (scores - centre) ** 2 / scores.size - (mean - centre) ** 2)
    spread = np.maximum((variances[0] + variances[1]) / 2, SMALLEST_VARIANCE)
    result: Floats = (means[0] - means[1]) / np.sqrt(spread)
    return result
