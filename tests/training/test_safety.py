from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from leafport import metrics
from leafport.errors import DataError
from leafport.training.safety import choose, round_down, round_up

DRAWS = 2000


def lower_bound(hits: int, count: int, confidence: float = 0.95) -> float:
    """The one-sided bound, from SciPy's own two-sided test at twice the error."""
    return float(binomtest(hits, count).proportion_ci(1 - 2 * (1 - confidence), method="exact").low)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 120), st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_the_threshold_is_the_largest_that_promises_the_recall(
    seed: int, positives: int, negatives: int, required: float
) -> None:
    random = np.random.default_rng(seed)
    positive = np.arange(positives + negatives) < positives
    score = np.where(positive, random.beta(4, 2, len(positive)), random.beta(2, 6, len(positive))).astype(np.float32)
    safety = choose(score, positive, ("poisonous",), required_recall=required)

    def promise(threshold: float) -> float:
        return lower_bound(int((score[positive].astype(float) >= threshold).sum()), positives)

    candidates = sorted(set(score[positive].astype(float)))
    keeping = [threshold for threshold in candidates if promise(threshold) >= required]
    if keeping:
        assert safety.attained
        assert safety.recall_lower_bound >= required
        assert keeping[-1] * 0.99 <= safety.threshold <= keeping[-1]
    else:
        assert not safety.attained
        assert safety.recall == 1.0
        assert candidates[0] * 0.99 <= safety.threshold <= candidates[0]
    called = score.astype(float) >= safety.threshold
    assert safety.recall == called[positive].mean()
    assert safety.false_alarm_rate == called[~positive].mean()
    rank = max(keeping, default=candidates[0])  # What was promised is what the score chosen promises:
    assert safety.recall_lower_bound == pytest.approx(promise(rank))  # rounding may catch more, but not count for it.
    assert (safety.positives, safety.negatives) == (positives, negatives)


@pytest.mark.parametrize(("positives", "required"), [(88, 0.95), (30, 0.95), (120, 0.8), (10, 0.5), (1, 0.95)])
def test_the_promise_is_broken_in_one_draw_of_twenty_and_no_more_often(positives: int, required: float) -> None:
    """Of evenly distributed scores the recall at a threshold is what lies above it."""
    random = np.random.default_rng([positives, 1])
    positive = np.arange(positives + 1) < positives
    broken = 0
    for _ in range(DRAWS):
        safety = choose(random.random(positives + 1), positive, ("datura",), required_recall=required)
        broken += 1 - safety.threshold < safety.recall_lower_bound
    assert binom.ppf(0.001, DRAWS, 0.05) <= broken <= binom.ppf(0.999, DRAWS, 0.05)


def test_ties_do_not_break_the_promise_more_often() -> None:
    """Counting every photograph that ties with the chosen one would promise too much in a tenth of these draws."""
    scores, shares = np.array([0.1, 0.5, 0.9]), np.array([0.034, 0.054, 0.912])
    recall = dict(zip(scores, shares[::-1].cumsum()[::-1], strict=True))
    random = np.random.default_rng(0)
    positive = np.arange(89) < 88
    broken = counted = 0
    for _ in range(DRAWS):
        safety = choose(random.choice(scores, 89, p=shares), positive, ("datura",), required_recall=0.9)
        assert safety.attained
        broken += recall[safety.threshold] < safety.recall_lower_bound
        counted += recall[safety.threshold] < metrics.clopper_pearson_lower(round(safety.recall * 88), 88)
    assert broken <= binom.ppf(0.999, DRAWS, 0.05)
    assert counted > binom.ppf(0.999, DRAWS, 0.05)


def test_a_few_photographs_promise_little() -> None:
    safety = choose(np.array([0.9, 0.8, 0.1]), np.array([True, True, False]), ("poisonous",))
    assert not safety.attained
    assert (safety.threshold, safety.recall) == (0.8, 1.0)
    assert safety.recall_lower_bound == pytest.approx(0.05**0.5)


def test_one_kind_alone_is_refused() -> None:
    for positive in ([True, True], [False, False]):
        with pytest.raises(DataError, match="one kind is missing"):
            choose(np.array([0.1, 0.9]), np.array(positive), ("poisonous",))


@given(st.floats(0, 1))
def test_rounding_never_goes_up_nor_far_down(value: float) -> None:
    rounded = round_down(value)
    assert rounded <= value
    assert rounded >= value * 0.99
    assert len(f"{rounded:.3g}") >= len(repr(rounded).removesuffix(".0")) or f"{rounded:.3g}" == f"{rounded:g}"


@given(st.floats(0, 1))
def test_rounding_up_never_goes_down_nor_far_up(value: float) -> None:
    assert value <= round_up(value) <= min(value * 1.01, 1)


def test_certain_scores_leave_a_device_room() -> None:
    assert round_down(1.0) == 0.999
    assert round_down(0.00045678) == 0.000456
    assert round_down(0.98765) == 0.987
