from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput, Safety
from leafport.errors import DataError, ModelError
from leafport.training.data.splits import Splits
from leafport.training.evaluation.evaluate import evaluate, evaluate_folder, figures

SAFETY = Safety(
    positive_labels=("c", "f"),
    threshold=0.4,
    required_recall=0.95,
    attained=True,
    recall=1,
    recall_lower_bound=0.95,
    false_alarm_rate=0,
    positives=9,
    negatives=9,
)


def contract(labels: str, safety: Safety | None = None) -> Contract:
    return Contract(name="x", task="class", labels=tuple(labels), image=ImageInput(height=8, width=8), safety=safety)


def test_figures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(3)
    truth = random.integers(0, 7, 300)
    probabilities = random.dirichlet(np.ones(7), 300)
    probabilities[np.arange(300), truth] += random.uniform(0, 0.6, 300)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = figures(probabilities, truth, contract("abcdefg", SAFETY))
    predicted = probabilities.argmax(axis=1)
    for k in (1, 3, 5):
        expected = reference.top_k_accuracy_score(truth, probabilities, k=k, labels=range(7))
        assert found[f"top{k}"] == pytest.approx(expected)
    each = reference.precision_recall_fscore_support(truth, predicted, labels=range(7))
    for index, label in enumerate("abcdefg"):
        one = found["per_class"][label]
        assert [one["precision"], one["recall"], one["f1"], one["n"]] == pytest.approx([row[index] for row in each])
    positive, called = np.isin(truth, [2, 5]), probabilities[:, [2, 5]].sum(axis=1) >= 0.4
    binary = found["binary"]
    assert binary["recall"] == pytest.approx(reference.recall_score(positive, called))
    assert binary["precision"] == pytest.approx(reference.precision_score(positive, called))
    assert binary["f1"] == pytest.approx(reference.f1_score(positive, called))
    assert binary["false_alarm_rate"] == pytest.approx(1 - reference.recall_score(~positive, ~called))
    assert binary["recall_lower_bound"] < binary["recall"]
    json.dumps(found, allow_nan=False)


def test_figures_that_would_say_nothing_are_none() -> None:
    found = figures(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 0]), contract("ab"))
    assert found["top1"] == 1.0
    assert found["top3"] is found["top5"] is None
    assert found["per_class"]["b"] == {"n": 0, "precision": None, "recall": None, "f1": None}
    assert "binary" not in found


def test_over_its_own_photographs_the_figures_are_the_test_splits(trained: Path, photos: Path) -> None:
    found = evaluate_folder(trained, photos)
    assert found == json.loads((trained / "evaluation.json").read_text())
    divided = Splits.load(trained / "splits.json")
    assert found["n"] == len(divided.test)
    assert found["left_out_as_seen"] == len(divided.train) + len(divided.validation)


def test_photographs_it_learned_from_are_known_under_other_names(trained: Path, tmp_path: Path) -> None:
    divided = Splits.load(trained / "splits.json")
    for side in ("train", "test"):
        for number, photo in enumerate(getattr(divided, side)):
            path = tmp_path / photo.folder / f"{side}{number}.png"
            path.parent.mkdir(exist_ok=True)
            shutil.copy(divided.file(photo), path)
    (tmp_path / "clover" / "broken.jpg").write_text("text")
    found = evaluate_folder(trained, tmp_path)
    assert (found["n"], found["left_out_as_seen"]) == (len(divided.test), len(divided.train))
    assert [entry["path"] for entry in found["skipped"]] == ["clover/broken.jpg"]


def test_figures_are_of_what_the_classifier_says(trained: Path, photos: Path) -> None:
    classifier = Classifier.load(trained)
    paths = sorted(photos.glob("*/*.png"))
    from leafport import images

    pixels = np.stack([images.read(path, classifier.contract.image) for path in paths])
    truth = np.array([classifier.contract.labels.index(path.parent.name) for path in paths])
    expected = figures(classifier.predict(pixels), truth, classifier.contract)
    assert evaluate(classifier, paths, truth) == expected


def test_photographs_it_cannot_be_judged_by(trained: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "clover", tmp_path / "more" / "thistle")
    with pytest.raises(DataError, match="no label for: thistle"):
        evaluate_folder(trained, tmp_path / "more")
    divided = Splits.load(trained / "splits.json")
    photo = divided.train[0]
    (tmp_path / "seen" / photo.folder).mkdir(parents=True)
    shutil.copy(divided.file(photo), tmp_path / "seen" / photo.folder)
    with pytest.raises(DataError, match="learned from every photograph"):
        evaluate_folder(trained, tmp_path / "seen")
    with pytest.raises(ModelError, match="is not a classifier"):
        evaluate_folder(photos, photos)
