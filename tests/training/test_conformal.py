from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from leafport.training.conformal import band
from leafport.training.safety import choose

DRAWS = 2000


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=70),
    st.sampled_from([0.5, 0.8, 0.9, 0.95]),
    st.booleans(),
)
def test_whichever_photograph_is_the_new_one_few_of_them_get_the_wrong_answer(
    scores: list[int], coverage: float, positive: bool
) -> None:
    """This is the promise, exactly: any of n + 1 exchangeable photographs may be the new one. Ties abound here."""
    score = np.array(scores) / 12
    count, wrong = len(score), 0
    for new in range(count):
        others = np.delete(score, new)
        other_kind = np.full(40, 0.5)
        low, high = band(
            np.concatenate([others, other_kind]),
            np.concatenate([np.full(count - 1, positive), np.full(40, not positive)]),
            coverage=coverage,
        )
        wrong += score[new] < low if positive else score[new] > high
    assert wrong <= (1 - coverage) * count + 1e-9


def test_it_is_no_wider_than_it_must_be() -> None:
    score = np.arange(1, 100) / 100
    low, high = band(np.concatenate([score, score]), np.arange(198) < 99, coverage=0.95)
    assert (low, high) == (0.05, 0.95)  # The fifth of 99 at either end: 5 of 100 places lie outside.
    low, high = band(np.concatenate([score, score]), np.arange(198) < 99, coverage=0.9)
    assert (low, high) == (0.1, 0.9)


def test_too_few_photographs_allow_no_sure_answer() -> None:
    score = np.linspace(0.2, 0.8, 36)
    positive = np.arange(36) >= 18
    assert band(score, positive) == (0.0, 1.0)  # 18 of each kind: one short.
    assert band(score, positive, coverage=0.9) == (score[18], score[17])


@pytest.mark.parametrize("kind", ["positives", "negatives"])
@pytest.mark.parametrize(("positives", "negatives", "coverage"), [(88, 328, 0.95), (25, 40, 0.9), (10, 300, 0.95)])
def test_new_photographs_get_the_wrong_answer_as_rarely_as_the_contract_says(
    kind: str, positives: int, negatives: int, coverage: float
) -> None:
    random = np.random.default_rng([positives, negatives])
    positive = np.arange(positives + negatives) < positives
    wrong = 0
    for _ in range(DRAWS):
        score = np.where(positive, random.beta(2, 2, len(positive)), random.beta(1, 5, len(positive)))
        safety = choose(score, positive, ("datura",), required_recall=0.5, coverage=coverage)
        assert safety.not_sure
        assert safety.not_sure_coverage == coverage
        new = random.beta(2, 2) if kind == "positives" else random.beta(1, 5)
        wrong += new < safety.not_sure[0] if kind == "positives" else new > safety.not_sure[1]
    assert wrong <= binom.ppf(0.9999, DRAWS, 1 - coverage)
    enough = (positives if kind == "positives" else negatives) >= coverage / (1 - coverage)
    assert (wrong > 0) == enough


@given(st.integers(0, 999), st.integers(1, 60), st.integers(1, 60), st.integers(1, 8), st.sampled_from([0.5, 0.95]))
def test_the_band_holds_the_threshold_whatever_the_scores(
    seed: int, positives: int, negatives: int, distinct: int, required: float
) -> None:
    random = np.random.default_rng(seed)
    score = random.choice(random.random(distinct).astype(np.float32), positives + negatives)
    positive = np.arange(len(score)) < positives
    safety = choose(score, positive, ("datura",), required_recall=required)
    assert safety.not_sure
    low, high = safety.not_sure
    assert 0 <= low <= safety.threshold <= high <= 1
    inside = (score.astype(float) >= low) & (score.astype(float) <= high)
    assert safety.not_sure_share_of_positives == inside[positive].mean()
    assert safety.not_sure_share_of_negatives == inside[~positive].mean()


def test_kinds_that_lie_apart_need_no_third_answer() -> None:
    random = np.random.default_rng(0)
    positive = np.arange(200) < 100
    score = np.where(positive, random.uniform(0.8, 1, 200), random.uniform(0, 0.1, 200))
    safety = choose(score, positive, ("datura",))
    assert safety.not_sure == (safety.threshold, safety.threshold)
    assert safety.false_alarm_rate == safety.not_sure_share_of_negatives == 0
