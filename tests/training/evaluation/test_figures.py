"""Every figure of evaluation.json, held against scikit-learn, scipy or a count by hand."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from leafport.training.evaluation.figures import answers, beside, confusion, confusions, figures

Make = Callable[..., Any]
drawn = st.tuples(st.integers(3, 9), st.integers(1, 90), st.integers(0, 10**6), st.booleans())


def interval(part: int, whole: int) -> Any:
    exact = stats.binomtest(part, whole).proportion_ci(0.95, method="exact")
    return pytest.approx([exact.low, exact.high], abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(drawn)
def test_accuracies_are_scikit_learns(make_contract: Make, make_answers: Make, data: Any) -> None:
    probabilities, truth = make_answers(*data)
    n, classes = probabilities.shape
    found = figures(probabilities, truth, make_contract(classes))
    # scikit-learn ranks the later of equals first, leafport the earlier, as argmax does: so mirror the classes.
    mirrored, right = probabilities[:, ::-1], classes - 1 - truth
    for k in (1, 3, 5):
        if k >= classes:
            assert found[f"top{k}"] is found["intervals"][f"top{k}"] is None
            continue
        expected = reference.top_k_accuracy_score(right, mirrored, k=k, labels=range(classes), normalize=False)
        assert found[f"top{k}"] == pytest.approx(expected / n)
        assert found["intervals"][f"top{k}"] == interval(int(expected), n)
    exact = probabilities.astype(np.float64)
    assert found["log_loss"] == pytest.approx(
        reference.log_loss(truth, exact / exact.sum(axis=1, keepdims=True), labels=range(classes)), rel=1e-5
    )
    assert found["brier_score"] == pytest.approx(
        classes * reference.mean_squared_error(np.eye(classes)[truth], exact), rel=1e-6
    )
    assert found["n"] == n
    json.dumps(found, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(drawn)
def test_figures_of_each_class_are_scikit_learns(make_contract: Make, make_answers: Make, data: Any) -> None:
    probabilities, truth = make_answers(*data)
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    found = figures(probabilities, truth, make_contract(classes))
    each = reference.precision_recall_fscore_support(truth, predicted, labels=range(classes), zero_division=np.nan)
    known: dict[str, list[float]] = {"precision": [], "recall": [], "f1": []}
    for index, one in enumerate(found["per_class"].values()):
        hits, called = int(((predicted == index) & (truth == index)).sum()), int((predicted == index).sum())
        support = int((truth == index).sum())
        assert one["n"] == support == each[3][index]
        for name, row, part, whole in (("precision", 0, hits, called), ("recall", 1, hits, support)):
            if not whole:
                assert one[name] is one["intervals"][name] is None
                continue
            assert one[name] == pytest.approx(each[row][index])
            assert one["intervals"][name] == interval(part, whole)
        either = called + support - hits  # F1 = 2 J / (1 + J) of the Jaccard index J = hits / either.
        if not either:
            assert one["f1"] is one["intervals"]["f1"] is None
        else:
            share = stats.binomtest(hits, either).proportion_ci(0.95, method="exact")
            bounds = [2 * bound / (1 + bound) for bound in share]
            assert one["f1"] == pytest.approx(each[2][index])
            assert one["intervals"]["f1"] == pytest.approx(bounds)
            assert bounds[0] <= one["f1"] <= bounds[1]
        for name in known:
            known[name] += [] if one[name] is None else [one[name]]
    for name, values in known.items():
        assert found["macro"][name] == pytest.approx(np.mean(values))


@settings(max_examples=40, deadline=None)
@given(drawn)
def test_confusions_are_scikit_learns(make_contract: Make, make_answers: Make, data: Any) -> None:
    probabilities, truth = make_answers(*data)
    classes = probabilities.shape[1]
    labels = make_contract(classes).labels
    expected = reference.confusion_matrix(truth, probabilities.argmax(axis=1), labels=range(classes))
    assert (confusion(probabilities.argmax(axis=1), truth, classes) == expected).all()
    found = confusions(expected, labels, most=1000)
    assert {(one["is"], one["called"]): one["n"] for one in found} == {
        (labels[row], labels[column]): expected[row, column]
        for row, column in np.ndindex(expected.shape)
        if row != column and expected[row, column]
    }
    assert [one["n"] for one in found] == sorted((one["n"] for one in found), reverse=True)
    for one in found:
        assert one["of"] == (truth == labels.index(one["is"])).sum()
        assert one["share"] == pytest.approx(one["n"] / one["of"])
        assert one["interval"] == interval(one["n"], one["of"])
    assert confusions(expected, labels, most=1) == found[:1]


@settings(max_examples=40, deadline=None)
@given(drawn)
def test_the_reliability_diagram_is_scikit_learns(make_contract: Make, make_answers: Make, data: Any) -> None:
    probabilities, truth = make_answers(*data)
    found = figures(probabilities, truth, make_contract(probabilities.shape[1]))
    sure, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == truth
    filled = [one for one in found["reliability"] if one["n"]]
    accuracy, confidence = calibration_curve(right, np.minimum(sure, 1), n_bins=15)
    assert [one["accuracy"] for one in filled] == pytest.approx(accuracy)
    assert [one["confidence"] for one in filled] == pytest.approx(confidence)
    for one in filled:
        inside = (sure > one["low"]) & (sure <= one["high"])
        assert one["n"] == inside.sum()
        assert one["interval"] == interval(int(right[inside].sum()), one["n"])
    counts = np.array([one["n"] for one in filled])
    gap = np.average(np.abs(accuracy - confidence), weights=counts)
    assert found["expected_calibration_error"] == pytest.approx(gap)
    assert all(one["accuracy"] is one["interval"] is None for one in found["reliability"] if not one["n"])


@settings(max_examples=60, deadline=None)
@given(drawn)
def test_figures_of_danger_are_scikit_learns(make_contract: Make, make_answers: Make, data: Any) -> None:
    probabilities, truth = make_answers(*data)
    found = figures(probabilities, truth, make_contract(probabilities.shape[1], (0, 2)))["binary"]
    positive, score = np.isin(truth, [0, 2]), probabilities[:, [0, 2]].sum(axis=1)
    called = score.astype(np.float64) >= 0.4
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        positive, called, average="binary", zero_division=np.nan
    )
    negatives = int((~positive).sum())
    (_, alarms), (missed, hits) = reference.confusion_matrix(positive, called, labels=[False, True])
    assert (found["n"], found["positives"], found["negatives"]) == (len(truth), positive.sum(), negatives)
    assert (found["missed"], found["false_alarms"]) == (missed, alarms)
    for name, expected, part, whole in (
        ("precision", precision, hits, hits + alarms),
        ("recall", recall, hits, hits + missed),
        ("false_alarm_rate", alarms / negatives if negatives else None, alarms, negatives),
    ):
        if not whole:
            assert found[name] is found["intervals"][name] is None
        else:
            assert found[name] == pytest.approx(expected)
            assert found["intervals"][name] == interval(int(part), int(whole))
    if hits + missed:
        bound = stats.binomtest(int(hits), int(hits + missed), alternative="greater").proportion_ci(0.95, "exact")
        assert found["recall_lower_bound"] == pytest.approx(bound.low, abs=1e-12)
    if hits + alarms + missed:
        assert found["f1"] == pytest.approx(f1)
        assert found["intervals"]["f1"][0] <= found["f1"] <= found["intervals"]["f1"][1]
    if not positive.any() or positive.all():
        assert found["roc_auc"] is found["average_precision"] is None
        return
    # The area is the probability that a dangerous photograph scores above a harmless one (Mann and Whitney's U).
    u = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    assert found["roc_auc"] == pytest.approx(u / (positive.sum() * negatives))
    at, recalls, _ = reference.precision_recall_curve(positive, score)
    assert found["average_precision"] == pytest.approx(-np.sum(np.diff(recalls) * at[:-1]))


def test_figures_that_would_say_nothing_are_none(make_contract: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = figures(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 0]), make_contract(2))
    assert found["top1"] == 1.0
    assert found["top3"] is found["top5"] is None
    assert {**found["per_class"]["class 1"], "intervals": None} == {
        "n": 0,
        "precision": None,
        "recall": None,
        "f1": None,
        "intervals": None,
    }
    assert found["macro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert found["confusions"] == []
    assert "binary" not in found


def test_a_second_way_of_asking_is_held_against_the_first(make_contract: Make, make_answers: Make) -> None:
    plain, truth = make_answers(5, 80, 1)
    varied, _ = make_answers(5, 80, 2)
    found = beside(varied, plain, truth, make_contract(5, (1,)))
    now, before = varied.argmax(axis=1) == truth, plain.argmax(axis=1) == truth
    table = reference.confusion_matrix(before, now)
    assert (found["gained"], found["lost"]) == (table[0, 1], table[1, 0])
    assert found["top1"] - before.mean() == pytest.approx((found["gained"] - found["lost"]) / 80)
    tail = stats.binom.cdf(min(table[0, 1], table[1, 0]), table[0, 1] + table[1, 0], 0.5)
    assert found["p_value"] == pytest.approx(min(1.0, 2 * tail))
    expected = figures(varied, truth, make_contract(5, (1,)))
    assert all(found[name] == expected[name] for name in ("top1", "top3", "intervals", "log_loss", "binary"))
    assert beside(plain, plain, truth, make_contract(5))["p_value"] == 1.0


def test_a_binary_answer_is_what_the_threshold_says(make_contract: Make, make_answers: Make) -> None:
    probabilities, truth = make_answers(2, 200, 3)
    for positive in (0, 1):
        asked = make_contract(("no", "yes"), (positive,), threshold=0.2, task="binary")
        danger = probabilities[:, positive].astype(np.float64) >= 0.2
        expected = np.where(danger, positive, 1 - positive)
        assert (answers(probabilities, asked) == expected).all()
        assert (expected != probabilities.argmax(axis=1)).any()
        found = figures(probabilities, truth, asked)
        assert found["per_class"][asked.labels[positive]]["recall"] == found["binary"]["recall"]
        assert sum(pair["n"] for pair in found["confusions"]) == (
            found["binary"]["missed"] + found["binary"]["false_alarms"]
        )
        assert found["top1"] == pytest.approx(reference.accuracy_score(truth, probabilities.argmax(axis=1)))


@settings(deadline=None)
@given(drawn)
def test_three_answers_are_counted_as_scikit_learn_would(make_contract: Make, make_answers: Make, data: Any) -> None:
    probabilities, truth = make_answers(*data)
    plain = make_contract(probabilities.shape[1], (0, 1))
    assert plain.safety
    assert figures(probabilities, truth, plain)["binary"]["not_sure"] is None
    band = plain.model_copy(update={"safety": plain.safety.model_copy(update={"not_sure": (0.25, 0.5)})})
    score = band.positive_score(probabilities).astype(float)
    answer = np.select([score < 0.25, score > 0.5], ["no", "yes"], "not sure")
    table = reference.confusion_matrix(
        np.where(np.isin(truth, (0, 1)), "yes", "no"), answer, labels=["no", "not sure", "yes"]
    )
    assert figures(probabilities, truth, band)["binary"]["not_sure"] == {
        "positives": table[2, 1],
        "negatives": table[0, 1],
        "positives_below": table[2, 0],
        "negatives_above": table[0, 2],
    }
