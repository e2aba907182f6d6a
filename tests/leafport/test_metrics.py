"""The arithmetic, checked against scikit-learn, scipy and figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

from leafport.metrics import (
    binary_figures,
    clopper_pearson,
    clopper_pearson_lower,
    expected_calibration_error,
    paired_difference,
    per_class,
    reliability,
    top_k,
)


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.dirichlet(np.full(9, 0.3), 400).astype(np.float32), rng.integers(0, 9, 400)


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_top_k_is_scikit_learns(answers: tuple[np.ndarray, np.ndarray], k: int) -> None:
    probabilities, truth = answers
    assert top_k(probabilities, truth, k) == pytest.approx(
        1.0 if k == 9 else top_k_accuracy_score(truth, probabilities, k=k, labels=range(9))
    )


def test_equal_probabilities_rank_as_argmax_ranks_them() -> None:
    tied = np.array([[0.5, 0.5, 0.0, 0.0]] * 4)
    assert top_k(tied, np.array([0, 1, 2, 3]), 1) == (tied.argmax(axis=1) == [0, 1, 2, 3]).mean() == 0.25
    assert top_k(tied, np.array([0, 1, 2, 3]), 2) == 0.5
    assert top_k(tied, np.array([0, 1, 2, 3]), 3) == 0.75


def test_top_k_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no photographs"):
        top_k(np.empty((0, 3)), np.empty(0, int), 1)


def test_binary_figures_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, truth = answers
    score, positive = probabilities[:, :3].sum(axis=1), truth < 4
    figures = binary_figures(score, positive, 0.25)
    precision, recall, f1, _ = precision_recall_fscore_support(positive, score >= 0.25, average="binary")
    assert (figures.precision, figures.recall, figures.f1) == pytest.approx((precision, recall, f1))
    assert figures.false_alarm_rate == pytest.approx((score[~positive] >= 0.25).mean())
    assert figures.positives + figures.negatives == 400


def test_binary_figures_by_hand() -> None:
    figures = binary_figures(np.array([0.9, 0.2, 0.3, 0.1]), np.array([True, True, False, False]), 0.2)
    assert (figures.true_positives, figures.false_positives) == (2, 1)
    assert (figures.recall, figures.precision, figures.false_alarm_rate) == (1.0, 2 / 3, 0.5)
    assert figures.f1 == pytest.approx(0.8)
    assert figures.recall_lower_bound == pytest.approx(0.05**0.5)


def test_a_threshold_equal_to_a_float32_score_is_reached() -> None:
    score = np.array([0.1, 0.7], np.float32)
    assert binary_figures(score, np.array([True, True]), float(score[0])).recall == 1.0


def test_figures_without_a_base_are_none() -> None:
    nothing_positive = binary_figures(np.array([0.1, 0.2]), np.array([False, False]), 0.5)
    assert nothing_positive.recall is nothing_positive.recall_lower_bound is nothing_positive.precision is None
    assert nothing_positive.false_alarm_rate == 0.0
    assert binary_figures(np.array([0.1]), np.array([True]), 0.5).false_alarm_rate is None


@pytest.mark.parametrize(("successes", "n"), [(1, 1), (19, 20), (20, 20), (3, 50), (480, 500)])
def test_clopper_pearson_is_exact(successes: int, n: int) -> None:
    bound = clopper_pearson_lower(successes, n, 0.95)
    assert bound == pytest.approx(binomtest(successes, n, alternative="greater").proportion_ci(0.95, "exact").low)
    assert binom.sf(successes - 1, n, bound) == pytest.approx(0.05)


def test_clopper_pearson_at_its_ends() -> None:
    assert clopper_pearson_lower(0, 10) == clopper_pearson_lower(0, 0) == 0.0
    with pytest.raises(ValueError, match="impossible"):
        clopper_pearson_lower(3, 2)
    with pytest.raises(ValueError, match="confidence"):
        clopper_pearson_lower(1, 2, 95)


def test_per_class_is_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, truth = answers
    predicted = probabilities.argmax(axis=1)
    expected = zip(*precision_recall_fscore_support(truth, predicted, labels=range(9)), strict=True)
    for figures, (precision, recall, f1, support) in zip(per_class(predicted, truth, 9), expected, strict=True):
        assert (figures.precision, figures.recall, figures.f1, figures.support) == pytest.approx(
            (precision, recall, f1, support)
        )


def test_a_class_never_seen_has_no_recall() -> None:
    figures = per_class(np.array([0, 0]), np.array([0, 0]), 2)[1]
    assert (figures.precision, figures.recall, figures.f1, figures.support) == (None, None, None, 0)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (3, 20), (20, 20), (313, 417)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_two_sided_interval_is_scipys(successes: int, n: int, confidence: float) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(successes, n, confidence) == pytest.approx((expected.low, expected.high))


def test_no_trials_show_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_reliability_is_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, truth = answers
    right = probabilities.argmax(axis=1) == truth
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=10)
    found = [one for one in reliability(probabilities, truth, 10) if one.n]
    assert [one.accuracy for one in found] == pytest.approx(accuracy)
    assert [one.confidence for one in found] == pytest.approx(confidence, rel=1e-5)
    gap = sum(one.n * abs(a - c) for one, a, c in zip(found, accuracy, confidence, strict=True)) / len(truth)
    assert expected_calibration_error(reliability(probabilities, truth, 10)) == pytest.approx(gap)


def test_calibration_worked_out_by_hand() -> None:
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0], [0.4, 0.6], [0.4, 0.6]])
    error = expected_calibration_error(reliability(probabilities, np.array([0, 1, 1, 1])))
    assert error == pytest.approx((2 * 0.5 + 2 * 0.4) / 4)
    assert expected_calibration_error(reliability(np.empty((0, 2)), np.empty(0, int))) is None


def test_paired_difference_holds_zero_where_mcnemar_finds_nothing() -> None:
    for gained in range(12):
        for lost in range(12):
            low, high = paired_difference(gained, lost, 400)
            assert low <= (gained - lost) / 400 <= high
            mcnemar = (gained - lost) ** 2 / max(gained + lost, 1)
            assert (low <= 0 <= high) == (mcnemar <= 1.959964**2), (gained, lost)
            mirrored = paired_difference(lost, gained, 400)
            assert mirrored == pytest.approx((-high, -low), abs=1e-9)


def test_paired_difference_of_equal_answers_is_not_nothing() -> None:
    """Tango 1998: without a photograph that differs the limits are z² / (n + z²)."""
    low, high = paired_difference(0, 0, 100)
    z2 = 1.959964**2
    assert (low, high) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)), abs=1e-6)
    assert paired_difference(0, 0, 0) == (-1.0, 1.0)
    assert paired_difference(10, 0, 10)[1] == 1.0


def test_paired_difference_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    shares, n = (0.03, 0.02, 0.95), 300
    draws = random.multinomial(n, shares, size=1500)
    inside = 0
    for gained, lost, _ in draws:
        low, high = paired_difference(int(gained), int(lost), n)
        inside += low <= 0.01 <= high
    assert 0.93 <= inside / len(draws) <= 0.975


@pytest.mark.parametrize(("gained", "lost", "confidence"), [(-1, 0, 0.95), (3, 3, 0.95), (1, 1, 1.0)])
def test_paired_difference_refuses_what_cannot_be(gained: int, lost: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"impossible|between 0 and 1"):
        paired_difference(gained, lost, 5, confidence)
