from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.classifier import Classifier
from leafport.errors import DataError, ModelError
from leafport.training.data.splits import Splits
from leafport.training.evaluation.evaluate import evaluate, evaluate_folder
from leafport.training.evaluation.figures import figures


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
