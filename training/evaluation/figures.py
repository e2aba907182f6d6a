"""What the answers of a classifier amount to, as the JSON values of ``evaluation.json``.

A share that has nothing to divide by is None, and so is its interval. Intervals are two-sided Clopper-Pearson ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from leafport import metrics
from leafport.contract import Contract, Safety

CONFIDENCE = 0.95
MOST_CONFUSIONS = 30


def answers(probabilities: np.ndarray, contract: Contract) -> np.ndarray:
    """What photographs with these probabilities, float [N, classes], are called: int [N], indices of labels.

    The likeliest class; for a binary task with a threshold, what that says.
    """
    called: np.ndarray = probabilities.argmax(axis=1)
    if contract.task == "binary" and contract.safety:
        positive = contract.positive_indices[0]
        danger = contract.positive_score(probabilities).astype(np.float64) >= contract.safety.threshold
        called = np.where(danger, positive, 1 - positive)
    return called


def figures(probabilities: np.ndarray, truth: np.ndarray, contract: Contract) -> dict[str, Any]:
    """Every figure of the answers float [N, classes] to photographs whose right labels are int [N], N > 0.

    ``binary`` is there where the contract has positive labels. Top-k, calibration and the two scores are of the
    probabilities; ``macro``, ``per_class`` and ``confusions`` of the ``answers``.
    """
    called, classes = answers(probabilities, contract), len(contract.labels)
    each = metrics.per_class(called, truth, classes)
    return {
        **accuracy(probabilities, truth),
        "macro": _macro(each),
        "reliability": [
            {**asdict(one), "interval": _interval(round((one.accuracy or 0) * one.n), one.n)}
            for one in metrics.reliability(probabilities, truth)
        ],
        "per_class": dict(zip(contract.labels, map(_class, each), strict=True)),
        "confusions": confusions(confusion(called, truth, classes), contract.labels),
        **({"binary": binary(probabilities, truth, contract)} if contract.safety else {}),
    }


def accuracy(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """How often the answers are right, and how well their probabilities say so.

    top3 and top5 are None where there are no more classes than that: they would say nothing. The log loss is in nats;
    the Brier score is the squared distance from the right answer, summed over the classes, 0 to 2 (Brier 1950).
    """
    n, classes = probabilities.shape
    shares = {f"top{k}": metrics.top_k(probabilities, truth, k) if k == 1 or classes > k else None for k in (1, 3, 5)}
    exact = probabilities.astype(np.float64)
    right = exact[np.arange(n), truth]
    return {
        "n": n,
        **shares,
        "confidence": CONFIDENCE,
        "intervals": {
            name: None if share is None else _interval(round(share * n), n) for name, share in shares.items()
        },
        "expected_calibration_error": metrics.expected_calibration_error(metrics.reliability(probabilities, truth)),
        "log_loss": float(-np.log(np.maximum(right, np.finfo(np.float64).eps)).mean()),
        "brier_score": float(((exact**2).sum(axis=1) - 2 * right + 1).mean()),
    }


def binary(probabilities: np.ndarray, truth: np.ndarray, contract: Contract) -> dict[str, Any]:
    """Figures of the question "is it dangerous?" at the contract's threshold.

    ``not_sure`` says how many of each kind lie in the contract's not-sure band and how many on its wrong side, and is
    None where there is no band. ``recall_lower_bound`` is one-sided, with the contract's confidence; the area under the
    ROC curve and the average precision are of all thresholds, and None where one of the two kinds is missing.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    safety = contract.safety
    assert safety is not None
    score, positive = contract.positive_score(probabilities), np.isin(truth, contract.positive_indices)
    found = metrics.binary_figures(score, positive, safety.threshold, confidence=safety.confidence)
    alarms = found.true_positives + found.false_positives
    both = found.positives and found.negatives
    return {
        "n": len(truth),
        "positives": found.positives,
        "negatives": found.negatives,
        "recall": found.recall,
        "recall_lower_bound": found.recall_lower_bound,
        "precision": found.precision,
        "f1": found.f1,
        "false_alarm_rate": found.false_alarm_rate,
        "threshold": found.threshold,
        "missed": found.positives - found.true_positives,
        "false_alarms": found.false_positives,
        "intervals": {
            "recall": _interval(found.true_positives, found.positives),
            "precision": _interval(found.true_positives, alarms),
            "f1": _f1_interval(found.true_positives, alarms, found.positives),
            "false_alarm_rate": _interval(found.false_positives, found.negatives),
        },
        "roc_auc": float(roc_auc_score(positive, score)) if both else None,
        "average_precision": float(average_precision_score(positive, score)) if both else None,
        "not_sure": _band(score.astype(np.float64), positive, safety) if safety.not_sure else None,
    }


def _band(score: np.ndarray, positive: np.ndarray, safety: Safety) -> dict[str, int]:
    assert safety.not_sure is not None
    (low, high), inside = safety.not_sure, safety.unsure(score)
    return {
        "positives": int((inside & positive).sum()),
        "negatives": int((inside & ~positive).sum()),
        "positives_below": int((positive & (score < low)).sum()),
        "negatives_above": int((~positive & (score > high)).sum()),
    }


def beside(varied: np.ndarray, plain: np.ndarray, truth: np.ndarray, contract: Contract) -> dict[str, Any]:
    """The figures of a second way of asking, to be held against the plain one.

    ``gained`` photographs are right only when asked so, ``lost`` only when asked plainly. ``p_value`` is that of
    McNemar's exact test: how probable so uneven a pair is where the two ways are equally good.
    """
    from scipy.stats import binomtest

    now, before = varied.argmax(axis=1) == truth, plain.argmax(axis=1) == truth
    gained, lost = int((now & ~before).sum()), int((before & ~now).sum())
    return {
        **accuracy(varied, truth),
        **({"binary": binary(varied, truth, contract)} if contract.safety else {}),
        "gained": gained,
        "lost": lost,
        "p_value": float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    }


def confusion(called: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """int [classes, classes]: how many photographs of each class (row) were called each class (column)."""
    from sklearn.metrics import confusion_matrix

    matrix: np.ndarray = confusion_matrix(truth, called, labels=np.arange(classes))
    return matrix


def confusions(matrix: np.ndarray, labels: Sequence[str], most: int = MOST_CONFUSIONS) -> list[dict[str, Any]]:
    """The pairs of classes that are taken for one another most often, the most frequent first.

    Each with the number ``n`` ``of`` the photographs of the class ``is`` that were ``called`` the other.
    """
    totals = matrix.sum(axis=1)
    wrong = matrix - np.diag(np.diag(matrix))
    pairs = [(int(row), int(column)) for row, column in np.argwhere(wrong > 0)]
    pairs.sort(key=lambda pair: (-wrong[pair], -wrong[pair] / totals[pair[0]], pair))
    return [
        {
            "is": labels[row],
            "called": labels[column],
            "n": int(wrong[row, column]),
            "of": int(totals[row]),
            "share": float(wrong[row, column] / totals[row]),
            "interval": _interval(int(wrong[row, column]), int(totals[row])),
        }
        for row, column in pairs[:most]
    ]


def _class(one: metrics.ClassFigures) -> dict[str, Any]:
    return {
        "n": one.support,
        "precision": one.precision,
        "recall": one.recall,
        "f1": one.f1,
        "intervals": {
            "precision": _interval(one.hits, one.answered),
            "recall": _interval(one.hits, one.support),
            "f1": _f1_interval(one.hits, one.answered, one.support),
        },
    }


def _macro(each: Sequence[metrics.ClassFigures]) -> dict[str, float | None]:
    """Averages in which every class counts the same, over the classes for which there is a figure."""
    averages: dict[str, float | None] = {}
    for name in ("precision", "recall", "f1"):
        known = [value for one in each if (value := getattr(one, name)) is not None]
        averages[name] = sum(known) / len(known) if known else None
    return averages


def _interval(part: int, whole: int) -> list[float] | None:
    return list(metrics.clopper_pearson(part, whole, CONFIDENCE)) if whole else None


def _f1_interval(hits: int, answered: int, support: int) -> list[float] | None:
    return list(metrics.f1_interval(hits, answered, support, CONFIDENCE)) if answered + support else None
