"""When to answer "not sure": a band of scores, by split-conformal prediction for each kind of photograph by itself."""

from __future__ import annotations

import math

import numpy as np


def band(score: np.ndarray, positive: np.ndarray, *, coverage: float = 0.95) -> tuple[float, float]:
    """(low, high): hardly a positive scores below ``low``, hardly a negative above ``high``.

    A new positive scores below ``low`` with a probability of at most 1 - ``coverage``, and so does a new negative
    above ``high``, if they are exchangeable with those given here. The probability is over the new photograph and
    those given: an average over all the bands that might have come out. It holds for any distribution of scores: a new
    score is as likely to take any of n + 1 places among n others, so it lies below the k-th lowest of them with a
    probability of at most k / (n + 1), and k is the largest for which that is small enough. Ties make it smaller.
    (Label-conditional split-conformal prediction: Vovk 2012, "Conditional validity of inductive conformal
    predictors"; Sadinle, Lei and Wasserman 2019.)

    Where ``low`` <= ``high``, a score from one to the other could be of either kind; where ``low`` > ``high``, any
    line between them keeps this promise for both kinds, and no third answer is needed.

    Of fewer than ``coverage`` / (1 - ``coverage``) photographs of a kind (19 for 0.95) even the extreme one bounds too
    little: then ``low`` is 0, or ``high`` 1, beyond which no score lies.

    Args:
        score: float [N], 0..1, of photographs the model did not learn from.
        positive: bool [N], which of them are positive.
        coverage: between 0 and 1.
    """
    score, positive = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=bool)
    lowest, highest = np.sort(score[positive]), np.sort(score[~positive])[::-1]
    below, above = _allowed(len(lowest), coverage), _allowed(len(highest), coverage)
    return float(lowest[below - 1]) if below else 0.0, float(highest[above - 1]) if above else 1.0


def _allowed(n: int, coverage: float) -> int:
    """How many places of n + 1 a new score may take outside; a hair is added where 1 - 0.9 falls short of 0.1."""
    return math.floor((1 - coverage) * (n + 1) + 1e-9)
