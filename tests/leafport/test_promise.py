from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from leafport.contract import Safety
from leafport.promise import in_words, limits, positives_needed, promises
from leafport.training.safety import choose


def safety(**changes: Any) -> Safety:
    fields: dict[str, Any] = {
        "positive_labels": ("venomous",),
        "threshold": 0.05,
        "required_recall": 0.95,
        "attained": True,
        "recall": 1.0,
        "recall_lower_bound": 0.05 ** (1 / 88),
        "false_alarm_rate": 115 / 328,
        "positives": 88,
        "negatives": 328,
        "not_sure": (0.05, 0.63),
        "not_sure_coverage": 0.95,
        "not_sure_share_of_positives": 0.18,
        "not_sure_share_of_negatives": 0.305,
    }
    return Safety(**{**fields, **changes})


def said(chosen: Safety, figures: dict[str, Any] | None = None) -> str:
    return " ".join(in_words(chosen, figures)).replace("\u202f", " ")


def test_a_promise_that_was_asked_for_and_kept() -> None:
    words = said(safety())
    assert "88 venomous and 328 other photographs of the validation split" in words
    assert "misses none of the venomous ones, and calls 35.1 % of the others venomous" in words
    assert "With 95 % confidence at least 96.6 % of venomous photographs like these" in words  # 96.65, rounded down.
    assert "95 % was asked for" in words
    assert "88 of their kind allow no miss; 93 would allow one," in words
    assert 'From 0.05 to 0.63 the answer is "not sure"' in words
    assert "at most 5 % of venomous photographs like these lie below it and at most 5 % of others above it" in words
    assert "holds 18.0 % of the venomous and 30.5 % of the other ones" in words


def test_a_promise_that_could_not_be_made_says_what_it_would_take() -> None:
    words = said(safety(positives=12, recall_lower_bound=0.05 ** (1 / 12), attained=False, not_sure=(0, 1)))
    assert "A recall of 95 % was asked for, and 12 venomous photographs cannot show it" in words
    assert "at least 77.9 %" in words
    assert "That takes at least 59." in words
    assert 'gives it to every photograph: "not sure". Surer answers take 19 photographs or more of each kind.' in words
    impossible = said(safety(required_recall=1.0, attained=False))
    assert "No number of photographs shows that." in impossible


def test_several_positive_classes_are_called_positive() -> None:
    words = said(safety(positive_labels=("adder", "mamba", "taipan")))
    assert "the probabilities of the 3 positive classes (adder, mamba and taipan) add up to 0.05 or more" in words
    assert "88 positive and 328 other photographs" in words


def test_the_test_split_has_its_own_figures() -> None:
    figures = {"positives": 89, "negatives": 328, "recall": 88 / 89, "recall_lower_bound": 0.94785}
    words = said(safety(), {**figures, "false_alarm_rate": 158 / 328})
    assert "Of 89 venomous photographs it was neither trained nor tuned on it misses 1" in words
    assert "at least 94.7 % of such" in words
    assert "Of 328 other photographs it was neither trained nor tuned on it calls 48.2 % venomous." in words
    assert "worse than was promised" not in words
    band = {"positives": 12, "negatives": 140, "positives_below": 0, "negatives_above": 9}
    words = said(safety(), {**figures, "false_alarm_rate": 158 / 328, "not_sure": band})
    assert '"Not sure" is the answer for 12 of these venomous and 140 of these other photographs' in words
    assert "none of the venomous ones lie below the band, and 9 of the others above it." in words
    worse = {**figures, "recall": 80 / 89, "recall_lower_bound": 0.831, "false_alarm_rate": None, "negatives": 0}
    assert "worse than was promised" in said(safety(), worse)
    assert "0 other photographs" not in said(safety(), worse)
    none = {**figures, "positives": 0, "recall": None, "recall_lower_bound": None, "false_alarm_rate": 0.4}
    assert promises(safety(), none)[:-1] == promises(safety())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positive_labels": ("adder", "mamba")},
        {"not_sure": None, "not_sure_coverage": None},
        {"not_sure": (0.05, 0.05)},
        {"not_sure_coverage": None, "not_sure_share_of_positives": None},
        {"not_sure": (0.0, 0.4), "positives": 18},
        {"attained": False, "required_recall": 0.999},
    ],
)
def test_the_limits_are_always_said_and_nothing_is_called_safe(changes: dict[str, Any]) -> None:
    chosen = safety(**changes)
    words = said(chosen)
    assert words.endswith(" ".join(limits(chosen)))
    assert "No single answer is a permission to eat, touch or trust" in words
    assert "other cameras" in words
    assert "none of the model's classes" in words
    for word in ("poison", "edible", "harmless", " safe", "guarantee", "certain", "None", "nan"):
        assert word not in words
    assert all(re.fullmatch(r"[A-Z].*[.]", each, re.DOTALL) for each in in_words(chosen))


def test_what_training_chooses_can_be_put_into_words() -> None:
    random = np.random.default_rng(0)
    for positives in (1, 18, 40, 200):
        positive = np.arange(positives + 50) < positives
        score = np.where(positive, random.beta(4, 2, len(positive)), random.beta(2, 6, len(positive)))
        chosen = choose(score, positive, ("venomous",), required_recall=0.9)
        words = said(chosen)
        assert f"{chosen.threshold:g} or more" in words
        assert ("cannot show it" in words) == (positives < 29)


@pytest.mark.parametrize("misses", [0, 1, 5])
@pytest.mark.parametrize("required", [0.5, 0.9, 0.95, 0.99])
def test_how_many_positives_are_needed_agrees_with_scipy(required: float, misses: int) -> None:
    def bound(n: int) -> float:
        return float(binomtest(n - misses, n).proportion_ci(0.9, method="exact").low)

    needed = positives_needed(required, 0.95, misses)
    assert needed is not None
    assert bound(needed) >= required
    assert needed == misses + 1 or bound(needed - 1) < required
    assert positives_needed(1.0, 0.95) is None
    assert positives_needed(0.95, 0.95) == 59  # As tables of tolerance limits have it.
