"""Figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from leafport.benchmarks.accuracy import accuracy, agreement, check
from leafport.contract import Contract, ImageInput, Safety
from leafport.errors import MeasurementError

KERAS = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.5, 0.1, 0.4]], np.float32)
OTHER = np.array([[0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [0.3, 0.5, 0.2], [0.5, 0.25, 0.25]], np.float32)
TRUTH = np.array([0, 1, 2, 2])


@pytest.fixture
def contract() -> Contract:
    safety = Safety(
        positive_labels=("hemlock",),
        threshold=0.3,
        required_recall=0.9,
        attained=False,
        recall=1.0,
        recall_lower_bound=0.5,
        false_alarm_rate=0.2,
        positives=4,
        negatives=9,
    )
    image = ImageInput(height=8, width=8)
    return Contract(name="three", task="class", labels=("yarrow", "dill", "hemlock"), image=image, safety=safety)


def test_accuracy_and_safety_by_hand(contract: Contract) -> None:
    figures = accuracy(KERAS, TRUTH, contract)
    assert (figures.n, figures.top1) == (4, 0.75)
    assert figures.top3 is figures.top5 is None  # Three classes: every answer is among the first three.
    assert (figures.positives, figures.negatives, figures.threshold) == (2, 2, 0.3)
    assert (figures.recall, figures.precision, figures.false_alarm_rate) == (1.0, 2 / 3, 0.5)
    assert figures.f1 == pytest.approx(0.8)
    assert figures.recall_lower_bound == pytest.approx(0.05**0.5)


def test_the_share_that_is_not_sure(contract: Contract) -> None:
    assert contract.safety
    assert accuracy(KERAS, TRUTH, contract).not_sure is None
    safety = contract.safety.model_copy(update={"not_sure": (0.25, 0.35)})
    assert accuracy(KERAS, TRUTH, contract.model_copy(update={"safety": safety})).not_sure == 0.25  # Only the second.


def test_agreement_by_hand(contract: Contract) -> None:
    compared = agreement(KERAS, OTHER, TRUTH, contract, contract)
    assert (compared.n, compared.top1) == (4, 0.5)
    assert compared.max_abs_diff == pytest.approx(0.5)
    assert compared.flips_to_safe == 2  # The third and fourth; the second is called positive by both.
    assert compared.dangerous_flips == 2
    assert compared.top1_lost == 0.5
    assert compared.top1_lost_low is not None and compared.top1_lost_low < 0.5
    assert agreement(KERAS, OTHER, np.array([0, 1, 2, 0]), contract, contract).dangerous_flips == 1
    assert agreement(OTHER, KERAS, TRUTH, contract, contract).flips_to_safe == 0
    assert agreement(KERAS, KERAS, TRUTH, contract, contract).max_abs_diff == 0


def test_a_file_is_held_to_its_own_threshold(contract: Contract) -> None:
    assert contract.safety
    lower = contract.safety.model_copy(update={"threshold": 0.0, "not_sure": None})
    assert agreement(KERAS, OTHER, TRUTH, contract, contract.model_copy(update={"safety": lower})).flips_to_safe == 0


def test_without_positive_labels_there_are_no_safety_figures(contract: Contract) -> None:
    plain = contract.model_copy(update={"safety": None})
    assert accuracy(KERAS, TRUTH, plain).threshold is accuracy(KERAS, TRUTH, plain).recall is None
    assert agreement(KERAS, OTHER, TRUTH, plain, plain).flips_to_safe is None


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (KERAS[:3], "shape"),
        (KERAS[:, :2], "shape"),
        (np.where(KERAS == 0.7, np.nan, KERAS), "not numbers"),
        (np.log(KERAS), "range"),
        (KERAS / 2, "add up"),
    ],
)
def test_what_is_no_probability_is_refused(contract: Contract, answers: np.ndarray, why: str) -> None:
    with pytest.raises(MeasurementError, match=why):
        check(answers, 4, contract)
    assert check(KERAS, 4, contract) is KERAS
