"""From a device's answers to the figures of a report: ``leafport.benchmarks.accuracy`` with numpy alone.

Copied into kits. Each function returns a record of the report's JSON.
"""

import math
from typing import Any, Callable, Dict, Optional, Tuple  # noqa: F401  # In comments: Python 3.6 reads this.

import numpy as np

_Safety = Dict[str, Any]
_NORMAL_97_5 = 1.959963984540054
_STEPS = 60  # Halvings of an interval, after which a float64 has no more digits.


def accuracy(probabilities, kit, safety):
    # type: (np.ndarray, Dict[str, Any], Optional[Dict[str, Any]]) -> Dict[str, Any]
    """The report's Accuracy of answers float32 [N, classes].

    Args:
        kit: ``truth``, the index of the right label of each photograph, and ``positive_indices``.
        safety: the contract's, of the file that answers; None where it names no positive labels.
    """
    truth, classes = np.array(kit["truth"]), probabilities.shape[1]
    right = probabilities[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(classes)[None, :] < truth[:, None]
    rank = (probabilities > right).sum(axis=1) + ((probabilities == right) & earlier).sum(axis=1)
    top = {k: float((rank < k).mean()) if k < classes else None for k in (3, 5)}
    found = {"n": len(truth), "top1": float((rank < 1).mean()), "top3": top[3], "top5": top[5]}  # type: Dict[str, Any]
    if safety is None:
        return found
    score = _score(probabilities, kit)
    called, dangerous = score >= safety["threshold"], np.isin(truth, kit["positive_indices"])
    positives, negatives = int(dangerous.sum()), int((~dangerous).sum())
    hits, alarms = int((called & dangerous).sum()), int((called & ~dangerous).sum())
    band = safety["not_sure"]
    return {
        **found,
        "threshold": safety["threshold"],
        "positives": positives,
        "negatives": negatives,
        "recall": _share(hits, positives),
        "recall_lower_bound": recall_lower_bound(hits, positives, safety["confidence"]) if positives else None,
        "precision": _share(hits, hits + alarms),
        "f1": _share(2 * hits, hits + alarms + positives),
        "false_alarm_rate": _share(alarms, negatives),
        "not_sure": float(((score >= band[0]) & (score <= band[1])).mean()) if band else None,
    }


def agreement(reference, answers, kit, classifier_safety, safety):
    # type: (np.ndarray, np.ndarray, Dict[str, Any], Optional[_Safety], Optional[_Safety]) -> Dict[str, Any]
    """The report's Agreement of ``answers`` with ``reference``, the Keras model's: float32 [N, classes] both."""
    truth = np.array(kit["truth"])
    flips = dangerous = None
    if classifier_safety is not None and safety is not None:
        alarm = _score(reference, kit) >= classifier_safety["threshold"]
        lost = alarm & (_score(answers, kit) < safety["threshold"])
        flips, dangerous = int(lost.sum()), int((lost & np.isin(truth, kit["positive_indices"])).sum())
    before, after = (each.argmax(axis=1) == truth for each in (reference, answers))
    worse, better = int((before & ~after).sum()), int((after & ~before).sum())
    low, high = paired_difference(worse, better, len(truth))
    return {
        "n": len(truth),
        "top1": float((reference.argmax(axis=1) == answers.argmax(axis=1)).mean()),
        "top1_lost": (worse - better) / len(truth),
        "top1_lost_low": low,
        "top1_lost_high": high,
        "max_abs_diff": float(np.abs(reference - answers).max()),
        "flips_to_safe": flips,
        "dangerous_flips": dangerous,
    }


def recall_lower_bound(hits, positives, confidence):
    # type: (int, int, float) -> float
    """Clopper and Pearson's one-sided bound: where seeing so many or more has probability 1 - ``confidence``."""
    if hits == 0:
        return 0.0

    def excess(share):
        # type: (float) -> float
        seen = [math.exp(_log_binomial(k, positives, share)) for k in range(hits, positives + 1)]
        return math.fsum(seen) - (1 - confidence)

    return _root(excess, 0.0, 1.0)


def _log_binomial(k, n, share):
    # type: (int, int, float) -> float
    """The logarithm of the probability of ``k`` successes in ``n`` trials."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(share) + (n - k) * math.log1p(-share)


def paired_difference(gained, lost, n):
    # type: (int, int, int) -> Tuple[float, float]
    """Tango's 95 % score interval of (gained - lost) / n; see ``leafport.metrics.paired_difference``."""

    def excess(difference, sign):
        # type: (float, int) -> float
        linear = (2 * n - gained + lost) * difference - gained - lost
        share = (math.sqrt(linear**2 + 8 * n * lost * difference * (1 - difference)) - linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return sign * (gained - lost - n * difference) - _NORMAL_97_5 * math.sqrt(max(variance, 0.0))

    seen = (gained - lost) / n
    low = -1.0 if excess(-1.0, 1) <= 0 else _root(lambda value: -excess(value, 1), -1.0, seen - 1e-9)
    high = 1.0 if excess(1.0, -1) <= 0 else _root(lambda value: excess(value, -1), seen + 1e-9, 1.0)
    return low, high


def _root(function, low, high):
    # type: (Callable[[float], float], float, float) -> float
    """Where a rising function of one number is 0."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def _score(probabilities, kit):
    # type: (np.ndarray, Dict[str, Any]) -> np.ndarray
    """How dangerous each photograph looks, as ``Contract.positive_score`` says."""
    score = probabilities[:, kit["positive_indices"]].sum(axis=1)  # type: np.ndarray
    return np.asarray(np.minimum(score, 1), np.float64)


def _share(part, whole):
    # type: (int, int) -> Optional[float]
    return part / whole if whole else None
