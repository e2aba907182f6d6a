"""The pictures: what they show is what scikit-learn computes, and in the page they take its colours."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from leafport.training.evaluation import plots
from leafport.training.evaluation.figures import figures
from leafport.training.evaluation.learning import Point

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def judged(make_contract: Make, make_answers: Make) -> Any:
    """Answers, right labels, a contract with two dangerous classes and the figures of all this."""
    probabilities, truth = make_answers(6, 300, 8)
    contract = make_contract(6, (0, 1, 2))
    return probabilities, truth, contract, figures(probabilities, truth, contract)


def lines(figure: Figure) -> list[np.ndarray]:
    return [np.array(line.get_xydata()) for line in figure.axes[0].lines]


def test_the_curves_are_scikit_learns_with_the_chosen_threshold_on_them(judged: Any) -> None:
    probabilities, truth, contract, value = judged
    score, positive = contract.positive_score(probabilities), np.isin(truth, contract.positive_indices)
    assert 0 < positive.sum() < len(positive)
    binary = value["binary"]
    alarms, found, _ = reference.roc_curve(positive, score)
    _, curve, chosen = lines(plots.roc(score, positive, binary))
    assert np.allclose(curve, np.stack([alarms, found], axis=1))
    assert chosen.tolist() == [[binary["false_alarm_rate"], binary["recall"]]]
    assert reference.auc(*curve.T) == pytest.approx(binary["roc_auc"])
    precision, recall, _ = reference.precision_recall_curve(positive, score, drop_intermediate=True)
    base, curve, chosen = lines(plots.precision_recall(score, positive, binary))
    assert np.allclose(curve, np.stack([recall, precision], axis=1))
    assert np.allclose(base[:, 1], positive.mean())
    assert chosen.tolist() == [[binary["recall"], binary["precision"]]]
    full = reference.precision_recall_curve(positive, score)
    at = np.searchsorted(full[2], contract.safety.threshold)  # The lowest score that is called dangerous.
    assert chosen[0].tolist() == pytest.approx([full[1][at], full[0][at]])


def test_the_reliability_diagram_is_scikit_learns(judged: Any) -> None:
    probabilities, truth, _, value = judged
    figure = plots.reliability(value["reliability"])
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    right, _ = calibration_curve(probabilities.argmax(axis=1) == truth, probabilities.max(axis=1), n_bins=15)
    assert heights == pytest.approx(right)
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == len(truth)


def test_the_scores_are_all_shown_each_on_its_side(judged: Any) -> None:
    probabilities, truth, contract, value = judged
    score, positive = contract.positive_score(probabilities), np.isin(truth, contract.positive_indices)
    figure = plots.scores(score, positive, value["binary"])
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches])
    assert (heights[heights > 0].sum(), -heights[heights < 0].sum()) == (positive.sum(), (~positive).sum())
    below = [bar.get_height() for bar in figure.axes[0].patches if bar.get_x() + bar.get_width() / 2 < 0.5]
    assert sum(n for n in below if n > 0) == (score[positive] < 0.5).sum()


def test_the_matrix_shows_the_share_of_each_row(judged: Any) -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]])
    figure = plots.confusion(matrix, ["a", "b", "c"])
    shown = figure.axes[0].images[0].get_array()
    assert np.allclose(shown[..., 3], [[0.75, 0.25, 0], [0, 0, 0], [0.25, 0.25, 0.5]])
    assert shown[0, 0, 1] > shown[0, 0, 0] and shown[0, 1, 0] > shown[0, 1, 1]  # Right is green, wrong red.
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["1", "2", "2", "3", "4"]
    many = plots.confusion(np.eye(300, dtype=int), [str(n) for n in range(300)])
    assert max(many.get_size_inches()) <= 40


def test_learning_goes_on_from_stage_to_stage() -> None:
    history = [Point("head", 2 / n, n / 9, 3 / n, n / 10) for n in range(1, 6)] + [Point("all", 0.2, 0.9, 0.5, 0.8)]
    for quantity in ("loss", "accuracy"):
        drawn = lines(plots.learning(history, quantity))
        for name, colour in ((quantity, plots.BLUE), (f"val_{quantity}", plots.ORANGE)):
            figure = plots.learning(history, quantity)
            parts = [np.array(line.get_xydata()) for line in figure.axes[0].lines if line.get_color() == colour]
            assert np.concatenate(parts).tolist() == [[n, getattr(p, name)] for n, p in enumerate(history, 1)]
        assert len(drawn) == 5  # Two curves in each stage, and the line between the stages.


def test_in_the_page_a_picture_has_no_colour_of_its_own(judged: Any) -> None:
    probabilities, truth, contract, value = judged
    score, positive = contract.positive_score(probabilities), np.isin(truth, contract.positive_indices)
    made: dict[str, Callable[[], Figure]] = {
        "roc": lambda: plots.roc(score, positive, value["binary"]),
        "scores": lambda: plots.scores(score, positive, value["binary"]),
        "reliability": lambda: plots.reliability(value["reliability"]),
        "confusion": lambda: plots.confusion(np.eye(6, dtype=int), contract.labels),
        "loss": lambda: plots.learning([Point("head", 1, 0, 1, 0)], "loss"),
    }
    names: set[str] = set()
    for name, draw in made.items():
        text = plots.svg(draw(), name, "What it shows")
        assert plots.svg(draw(), name, "What it shows") == text
        assert not re.findall(r"#[0-9a-f]{6}|https?:|<metadata|<\?xml", re.sub(r"base64,[^\"]*", "", text))
        root = ElementTree.fromstring(text.replace("xlink:href", "href"))
        assert root.attrib["aria-label"] == "What it shows" and "width" not in root.attrib
        inner = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
        assert not inner & names
        names |= inner
        assert plots.png(draw()).startswith(b"\x89PNG")
    style = (resources.files("leafport") / "templates/page.css").read_text()
    light = style[: style.index("@media")]
    assert all(f"--{name}: {colour};" in light for name, colour in plots.COLOURS.items())


def test_labels_are_text_whatever_they_are() -> None:
    labels = ["$\\frac$", "<script>alert(1)</script>", 'a"b&c']
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = plots.svg(plots.confusion(np.eye(3, dtype=int), labels), "confusion", '"><script>')
    assert "<script" not in text
    shown = {
        "".join(element.itertext()).strip()
        for element in ElementTree.fromstring(text.replace("xlink:href", "href")).iter("text")
    }
    assert set(labels) <= shown
