"""How good a classifier's answers are: the arithmetic training, export and benchmarks share.

Probabilities are float [N, classes]; truth is int [N], the index of each photograph's right label. A share that has
nothing to divide by (the recall of a class without photographs) is None, never 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BinaryFigures:
    """Answers to one question, "is it positive (dangerous)?", at one threshold.

    Attributes:
        recall: the share of the positives that were called positive; what a missed poisonous plant lowers.
        recall_lower_bound: what the recall is at least, with ``confidence`` (one-sided Clopper-Pearson).
        precision: the share of the alarms that were right.
        false_alarm_rate: the share of the negatives that were called positive.
    """

    threshold: float
    positives: int
    negatives: int
    true_positives: int
    false_positives: int
    recall: float | None
    recall_lower_bound: float | None
    confidence: float
    precision: float | None
    f1: float | None
    false_alarm_rate: float | None


@dataclass(frozen=True)
class ClassFigures:
    """How one class fares.

    Attributes:
        support: the number of its photographs.
        answered: how many photographs were called it.
        hits: how many of these rightly.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    answered: int
    hits: int


def top_k(probabilities: np.ndarray, truth: np.ndarray, k: int) -> float:
    """The share of photographs whose right label is among the ``k`` likeliest; 1.0 when k reaches the class count.

    Equal probabilities, which quantised files give often, rank in the order of the labels, as argmax has it.

    Raises:
        ValueError: there are no photographs.
    """
    if not len(truth):
        raise ValueError("the accuracy over no photographs is undefined")
    right = probabilities[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(probabilities.shape[1])[None, :] < np.asarray(truth)[:, None]
    rank = (probabilities > right).sum(axis=1) + ((probabilities == right) & earlier).sum(axis=1)
    return float((rank < k).mean())


def binary_figures(
    score: np.ndarray, truth_positive: np.ndarray, threshold: float, *, confidence: float = 0.95
) -> BinaryFigures:
    """Figures of the answer "positive where score >= threshold" for scores float [N] and truth bool [N]."""
    truth = np.asarray(truth_positive, dtype=bool)
    # In float64, so that a threshold that is itself some photograph's float32 score is compared as it stands.
    called = np.asarray(score, dtype=np.float64) >= threshold
    positives, negatives = int(truth.sum()), int((~truth).sum())
    hits, alarms = int((called & truth).sum()), int((called & ~truth).sum())
    return BinaryFigures(
        threshold=float(threshold),
        positives=positives,
        negatives=negatives,
        true_positives=hits,
        false_positives=alarms,
        recall=_share(hits, positives),
        recall_lower_bound=clopper_pearson_lower(hits, positives, confidence) if positives else None,
        confidence=confidence,
        precision=_share(hits, hits + alarms),
        f1=_share(2 * hits, hits + alarms + positives),
        false_alarm_rate=_share(alarms, negatives),
    )


def clopper_pearson_lower(successes: int, n: int, confidence: float = 0.95) -> float:
    """The one-sided lower ``confidence`` bound of a proportion, of which ``successes`` in ``n`` trials were seen.

    Exact for the binomial distribution (Clopper and Pearson 1934): the proportion at which seeing this many or more
    would have probability 1 - confidence. 0.0 for no successes, and for no trials, which show nothing.

    Raises:
        ValueError: not 0 <= successes <= n, or a confidence outside (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials are impossible")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if successes == 0:
        return 0.0
    from scipy.stats import beta

    return float(beta.ppf(1 - confidence, successes, n - successes + 1))


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided interval of a proportion, of which ``successes`` in ``n`` trials were seen.

    Exact for the binomial distribution, each side with half of 1 - confidence. (0, 1) for no trials.

    Raises:
        ValueError: see ``clopper_pearson_lower``.
    """
    if not n:
        return 0.0, 1.0
    one_sided = (1 + confidence) / 2
    return clopper_pearson_lower(successes, n, one_sided), 1 - clopper_pearson_lower(n - successes, n, one_sided)


def f1_interval(hits: int, answered: int, support: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided interval of an F1, which is no share of anything itself.

    It grows with one: of the photographs that are the class or were called it, the share J that are both
    (F1 = 2 J / (1 + J)), so the Clopper-Pearson bounds of J give those of F1. (0, 1) where there are no photographs.

    Raises:
        ValueError: there are more hits than answers or than photographs of the class.
    """
    low, high = clopper_pearson(hits, answered + support - hits, confidence)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def paired_difference(gained: int, lost: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided interval of the difference of two shares that were seen on the same ``n`` photographs.

    The difference is (``gained`` - ``lost``) / n: photographs on which only the first is right, and only the second.
    Those on which both are, or neither, say little about it. Tango's score interval (1998, Statistics in Medicine 17,
    891-908): the differences that the photographs do not contradict. It holds zero exactly where McNemar's test finds
    nothing. (-1, 1) for no photographs.

    Raises:
        ValueError: more photographs differ than there are, or a confidence outside (0, 1).
    """
    if gained < 0 or lost < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n} photographs are impossible")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if not n:
        return -1.0, 1.0
    from scipy.optimize import brentq
    from scipy.stats import norm

    limit = float(norm.ppf((1 + confidence) / 2))

    def excess(difference: float, sign: int) -> float:
        # The likeliest share of lost ones, were this the difference: the root of a quadratic equation.
        linear = (2 * n - gained + lost) * difference - gained - lost
        share = (np.sqrt(linear**2 + 8 * n * lost * difference * (1 - difference)) - linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return float(sign * (gained - lost - n * difference) - limit * np.sqrt(max(variance, 0.0)))

    # Beside what was seen, where it is contradicted by nothing, since there the excess may be exactly 0.
    below, above = (gained - lost) / n - 1e-9, (gained - lost) / n + 1e-9
    low = -1.0 if excess(-1.0, 1) <= 0 else float(brentq(excess, -1.0, below, args=(1,)))
    high = 1.0 if excess(1.0, -1) <= 0 else float(brentq(excess, above, 1.0, args=(-1,)))
    return low, high


@dataclass(frozen=True)
class Bin:
    """Photographs whose top probability lies in (low, high]: how many, that probability on average, how many right."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> tuple[Bin, ...]:
    """How often a classifier is right when it is so sure, in ``bins`` equally wide steps of its top probability."""
    sure = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == truth
    step = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for index in range(bins):
        inside = step == index
        n = int(inside.sum())
        confidence = float(sure[inside].mean()) if n else None
        found.append(Bin(index / bins, (index + 1) / bins, n, confidence, _share(int(right[inside].sum()), n)))
    return tuple(found)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float | None:
    """How far confidence and accuracy lie apart, averaged over photographs (Guo et al. 2017); None without any."""
    total = sum(one.n for one in bins)
    gaps = [
        one.n * abs(one.confidence - one.accuracy)
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]
    return sum(gaps) / total if total else None


def per_class(predicted: np.ndarray, truth: np.ndarray, classes: int) -> tuple[ClassFigures, ...]:
    """Precision, recall, F1 and support of each class, from int [N] predicted and right indices."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    answered = np.bincount(predicted, minlength=classes)
    support = np.bincount(truth, minlength=classes)
    hits = np.bincount(truth[predicted == truth], minlength=classes)
    return tuple(
        ClassFigures(
            precision=_share(int(hits[i]), int(answered[i])),
            recall=_share(int(hits[i]), int(support[i])),
            f1=_share(2 * int(hits[i]), int(answered[i] + support[i])),
            support=int(support[i]),
            answered=int(answered[i]),
            hits=int(hits[i]),
        )
        for i in range(classes)
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
