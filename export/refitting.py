"""A threshold of its own for a file that rounds, so that it raises the alarm where the classifier does.

Rounding moves every photograph's score a little, up or down. One that the classifier calls dangerous by a hair may fall
below its threshold in the file. So the file's threshold is lower, by as much as rounding takes from scores near it: the
most that it takes from a validation photograph there, or ``deviations`` times what it takes on average (the root mean
square), whichever is more. Differences are those of log-odds, since rounding acts on logits: a sum of probabilities of
0.5 moves further than one of 0.01. What the lower threshold costs in false alarms stands in the file's own contract.
"""

from __future__ import annotations

import numpy as np

from leafport import metrics
from leafport.contract import Contract, Safety
from leafport.training import safety
from leafport.training.safety import round_down

NEAREST = 50
_HALF_STEP = 1 / 512
"""Below it an 8-bit output says 0, and log-odds would be those of nothing."""


def refitted(
    contract: Contract, true: np.ndarray, found: np.ndarray, truth: np.ndarray, *, deviations: float
) -> Contract:
    """The contract of a file that answers ``found`` where its classifier answers ``true``, float [N, classes] both.

    The new threshold is never higher than the classifier's. Its recall, false alarms and band are what the file was
    seen to do; it promises what the highest threshold does that keeps the classifier's promise in this file.

    Args:
        truth: int [N], the right labels of these validation photographs.
        deviations: how many times the mean loss near the threshold is allowed for; 0 leaves the contract as it is.
    """
    old = contract.safety
    positive = np.isin(truth, contract.positive_indices) if old else np.zeros(0, bool)
    if old is None or not deviations or not positive.any() or positive.all():
        return contract
    before, score = (contract.positive_score(each).astype(np.float64) for each in (true, found))
    lowered = _probability(_log_odds(old.threshold) - margin(before, score, old.threshold, deviations))
    own = safety.choose(
        score, positive, old.positive_labels, required_recall=old.required_recall, confidence=old.confidence
    )
    threshold = min(own.threshold, old.threshold, round_down(lowered))
    return contract.model_copy(update={"safety": _at(threshold, own, score, positive)})


def margin(true: np.ndarray, found: np.ndarray, threshold: float, deviations: float) -> float:
    """What rounding may take from the log-odds of a score near the threshold; scores are float [N]."""
    level = _log_odds(threshold)
    nearest = np.argsort(np.abs(_log_odds(true) - level), kind="stable")[:NEAREST]
    loss = (_log_odds(true) - _log_odds(found))[nearest]
    return float(max(loss.max(), deviations * np.sqrt(np.mean(loss**2)), 0.0))


def _at(threshold: float, own: Safety, score: np.ndarray, positive: np.ndarray) -> Safety:
    """What was promised for a threshold holds for a lower one; what was seen is seen anew."""
    figures = metrics.binary_figures(score, positive, threshold, confidence=own.confidence)
    assert own.not_sure is not None  # ``choose`` gives one.
    lower = own.model_copy(
        update={
            "threshold": threshold,
            "recall": figures.recall,
            "false_alarm_rate": figures.false_alarm_rate,
            "not_sure": (min(own.not_sure[0], threshold), own.not_sure[1]),
        }
    )
    unsure = lower.unsure(score)
    shares = {"positives": float(unsure[positive].mean()), "negatives": float(unsure[~positive].mean())}
    return lower.model_copy(update={f"not_sure_share_of_{kind}": share for kind, share in shares.items()})


def _log_odds(probability: np.ndarray | float) -> np.ndarray:
    inside = np.clip(probability, _HALF_STEP, 1 - _HALF_STEP)
    odds: np.ndarray = np.log(inside / (1 - inside))
    return odds


def _probability(log_odds: np.ndarray) -> float:
    return float(1 / (1 + np.exp(-log_odds)))
