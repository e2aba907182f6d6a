"""Where to draw the line between harmless and dangerous, and what that line promises."""

from __future__ import annotations

from decimal import ROUND_DOWN, Context

import numpy as np

from leafport import metrics
from leafport.contract import Safety
from leafport.errors import DataError

_THREE_DIGITS = Context(prec=3, rounding=ROUND_DOWN)


def choose(
    score: np.ndarray,
    positive: np.ndarray,
    positive_labels: tuple[str, ...],
    *,
    required_recall: float = 0.95,
    confidence: float = 0.95,
) -> Safety:
    """The largest threshold whose recall is, with ``confidence``, at least ``required_recall``.

    The recall changes only at the positives' own scores, so the threshold is one of these, rounded down to three
    digits: a device whose arithmetic gives that photograph a hair less must not miss it. Where too few positives were
    seen for any threshold to promise so much, it is the largest that misses none, and ``attained`` is false.

    Args:
        score: float [N], the positive labels' share of each validation photograph's probabilities.
        positive: bool [N], which photographs are positive.

    Raises:
        DataError: there are no positives or no negatives.
    """
    positive = np.asarray(positive, dtype=bool)
    if not positive.any() or positive.all():
        raise DataError("A threshold can only be chosen on positive and negative photographs; one kind is missing.")
    descending = np.sort(np.asarray(score, dtype=np.float64)[positive])[::-1]
    count = len(descending)
    needed = next(
        (n for n in range(1, count + 1) if metrics.clopper_pearson_lower(n, count, confidence) >= required_recall), None
    )
    threshold = round_down(float(descending[(needed or count) - 1]))
    figures = metrics.binary_figures(score, positive, threshold, confidence=confidence)
    assert figures.recall is not None and figures.recall_lower_bound is not None  # There are positives,
    assert figures.false_alarm_rate is not None  # and negatives.
    return Safety(
        positive_labels=positive_labels,
        threshold=threshold,
        required_recall=required_recall,
        attained=needed is not None,
        recall=figures.recall,
        recall_lower_bound=figures.recall_lower_bound,
        confidence=confidence,
        false_alarm_rate=figures.false_alarm_rate,
        positives=figures.positives,
        negatives=figures.negatives,
    )


def round_down(value: float) -> float:
    """A probability rounded down to three significant digits: 0.98765 to 0.987, 0.00045678 to 0.000456, 1 to 0.999."""
    return float(_THREE_DIGITS.create_decimal_from_float(min(value, 0.9995)))
