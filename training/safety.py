"""Where to draw the line between harmless and dangerous, and what that line promises.

Every figure here rests on the validation photographs, on which training also chose its best epoch and the model's
temperature. Their scores are then a little better than a new photograph's, which no bound below allows for. (The
temperature alone costs nothing where there are two classes: it moves every score and the threshold alike.) The figures
of the test split, which nothing was chosen on, are free of this.
"""

from __future__ import annotations

import bisect
from decimal import ROUND_DOWN, ROUND_UP, Context

import numpy as np

from leafport import metrics
from leafport.contract import Safety
from leafport.errors import DataError
from leafport.training import conformal

_DOWN, _UP = (Context(prec=3, rounding=rounding) for rounding in (ROUND_DOWN, ROUND_UP))


def choose(
    score: np.ndarray,
    positive: np.ndarray,
    positive_labels: tuple[str, ...],
    *,
    required_recall: float = 0.95,
    confidence: float = 0.95,
    coverage: float = 0.95,
) -> Safety:
    """The largest threshold that promises, with ``confidence``, a recall of ``required_recall``, and its band.

    The recall changes only at the positives' own scores, so the threshold is one of these: that which h of all n reach,
    itself included. How many h must be depends on n alone. The recall of new positives at the h-th highest of n
    scores is distributed as Beta(h, n - h + 1), whatever the scores' distribution (Wilks 1941), and the quantile of
    that is the Clopper-Pearson lower bound of h successes in n. So the bound is missed in exactly 1 - ``confidence``
    of all draws of validation photographs, although the threshold is chosen on the same ones; ties make it safer
    (Scheffe and Tukey 1945). It remains the bound of h where, by a tie or by rounding, more than h are found.

    Where too few positives were seen for any threshold to promise so much, it is the largest that misses none, and
    ``attained`` is false: h = n has the highest bound there is short of calling everything positive.

    The threshold is rounded down to three digits: a device whose arithmetic gives that photograph a hair less must not
    miss it. The not-sure band is that of ``conformal.band``, rounded outwards and widened to hold the threshold: so
    nothing gets the negative answer that a device with two answers would call positive, and the other way round.

    Args:
        score: float [N], the positive labels' share of each validation photograph's probabilities.
        positive: bool [N], which photographs are positive.
        coverage: how much of each kind the not-sure band keeps from the wrong answer.

    Raises:
        DataError: there are no positives or no negatives.
    """
    positive = np.asarray(positive, dtype=bool)
    if not positive.any() or positive.all():
        raise DataError("A threshold can only be chosen on positive and negative photographs; one kind is missing.")
    score = np.minimum(np.asarray(score, dtype=np.float64), 1)  # As in ``Contract.positive_score``.
    descending = np.sort(score[positive])[::-1]
    count = len(descending)

    def promise(hits: int) -> float:
        return metrics.clopper_pearson_lower(hits, count, confidence)

    needed = bisect.bisect_left(range(1, count + 1), required_recall, key=promise) + 1
    attained = needed <= count
    needed = min(needed, count)
    threshold = round_down(float(descending[needed - 1]))
    figures = metrics.binary_figures(score, positive, threshold, confidence=confidence)
    assert figures.recall is not None and figures.false_alarm_rate is not None  # There are both kinds.
    low, high = conformal.band(score, positive, coverage=coverage)
    chosen = Safety(
        positive_labels=positive_labels,
        threshold=threshold,
        required_recall=required_recall,
        attained=attained,
        recall=figures.recall,
        recall_lower_bound=promise(needed),
        confidence=confidence,
        false_alarm_rate=figures.false_alarm_rate,
        positives=figures.positives,
        negatives=figures.negatives,
        not_sure=(min(round_down(low), threshold), max(round_up(high), threshold)),
        not_sure_coverage=coverage,
    )
    unsure = chosen.unsure(score)
    shares = {"positives": float(unsure[positive].mean()), "negatives": float(unsure[~positive].mean())}
    return chosen.model_copy(update={f"not_sure_share_of_{kind}": share for kind, share in shares.items()})


def round_down(value: float) -> float:
    """A probability rounded down to three significant digits: 0.98765 to 0.987, 0.00045678 to 0.000456, 1 to 0.999."""
    return float(_DOWN.create_decimal_from_float(min(value, 0.9995)))


def round_up(value: float) -> float:
    """A probability rounded up to three significant digits: 0.98712 to 0.988, 0.00045612 to 0.000457."""
    return float(_UP.create_decimal_from_float(value))
