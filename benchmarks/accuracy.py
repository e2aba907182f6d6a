"""From answers to figures: how often an artifact is right, and how often it says what the Keras model says."""

from __future__ import annotations

import numpy as np

from leafport import metrics
from leafport.benchmarks.report import Accuracy, Agreement
from leafport.contract import Contract
from leafport.errors import MeasurementError


def accuracy(probabilities: np.ndarray, truth: np.ndarray, contract: Contract) -> Accuracy:
    """Figures of float [N, classes] answers, the right ones being int [N] indices into the contract's labels."""
    classes = len(contract.labels)
    top3, top5 = (metrics.top_k(probabilities, truth, k) if k < classes else None for k in (3, 5))
    top = Accuracy(n=len(truth), top1=metrics.top_k(probabilities, truth, 1), top3=top3, top5=top5)
    if contract.safety is None:
        return top
    safety, score = contract.safety, contract.positive_score(probabilities)
    binary = metrics.binary_figures(
        score,
        np.isin(truth, contract.positive_indices),
        safety.threshold,
        confidence=safety.confidence,
    )
    return top.model_copy(
        update={
            "threshold": binary.threshold,
            "positives": binary.positives,
            "negatives": binary.negatives,
            "recall": binary.recall,
            "recall_lower_bound": binary.recall_lower_bound,
            "precision": binary.precision,
            "f1": binary.f1,
            "false_alarm_rate": binary.false_alarm_rate,
            "not_sure": float(safety.unsure(score).mean()) if safety.not_sure else None,
        }
    )


def agreement(
    reference: np.ndarray, answers: np.ndarray, truth: np.ndarray, contract: Contract, own: Contract
) -> Agreement:
    """How ``answers`` compare with ``reference``, the Keras model's: float [N, classes], of the same photographs.

    ``contract`` is the classifier's, ``own`` that of the file that answers, whose threshold may be its own.
    """
    flips = dangerous = None
    if contract.safety is not None and own.safety is not None:
        alarm = _score(reference, contract) >= contract.safety.threshold
        lost = alarm & (_score(answers, own) < own.safety.threshold)
        flips = int(lost.sum())
        dangerous = int((lost & np.isin(truth, contract.positive_indices)).sum())
    before, after = (each.argmax(axis=1) == truth for each in (reference, answers))
    worse, better = int((before & ~after).sum()), int((after & ~before).sum())
    low, high = metrics.paired_difference(worse, better, len(truth))
    return Agreement(
        n=len(reference),
        top1=float((reference.argmax(axis=1) == answers.argmax(axis=1)).mean()),
        top1_lost=(worse - better) / len(truth),
        top1_lost_low=low,
        top1_lost_high=high,
        max_abs_diff=float(np.abs(reference - answers).max()),
        flips_to_safe=flips,
        dangerous_flips=dangerous,
    )


def check(answers: np.ndarray, n: int, contract: Contract) -> np.ndarray:
    """Answers as float32 [n, classes], refused when they are not probabilities.

    Raises:
        MeasurementError: another shape, values that are no numbers or outside 0..1, or rows that do not add up to 1.
    """
    expected = (n, len(contract.labels))
    if answers.shape != expected:
        raise MeasurementError(f"it answered with an array of shape {answers.shape}, not {expected}")
    if not np.isfinite(answers).all():
        raise MeasurementError("its answers hold values that are not numbers")
    if answers.min() < -1e-3 or answers.max() > 1 + 1e-3:
        raise MeasurementError(f"its answers range from {answers.min():g} to {answers.max():g}: no probabilities")
    # An int8 file rounds each class to 1/256, so over many classes its rows may miss 1 by a good deal.
    allowed = 0.01 + expected[1] / 512
    if (worst := float(np.abs(answers.sum(axis=1) - 1).max())) > allowed:
        raise MeasurementError(f"its answers add up to 1 only within {worst:.3f}: no probabilities")
    return answers.astype(np.float32, copy=False)


def _score(probabilities: np.ndarray, contract: Contract) -> np.ndarray:
    return contract.positive_score(probabilities).astype(np.float64)
