from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from leafport.errors import DataError
from leafport.training.safety import choose, round_down


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
    assert safety.recall_lower_bound == pytest.approx(promise(safety.threshold))
    assert (safety.positives, safety.negatives) == (positives, negatives)


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


def test_certain_scores_leave_a_device_room() -> None:
    assert round_down(1.0) == 0.999
    assert round_down(0.00045678) == 0.000456
    assert round_down(0.98765) == 0.987
