from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import confusion_matrix

from leafport import images
from leafport.classifier import Classifier
from leafport.cli.evaluate import command
from leafport.contract import Contract
from leafport.errors import DataError, ModelError, OutputError
from leafport.training.data.splits import Splits
from leafport.training.evaluation import figures, gallery, tta
from leafport.training.evaluation.evaluate import evaluate_folder, judge
from leafport.training.evaluation.selection import Selection


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


@pytest.fixture
def everything(trained: Path, photos: Path) -> Selection:
    """All photographs, whatever the classifier learned from."""
    divided = Splits.load(trained / "splits.json")
    chosen = sorted((*divided.train, *divided.validation, *divided.test), key=lambda photo: photo.path)
    truth = np.array([divided.label_index(photo) for photo in chosen])
    return Selection(photos, tuple(chosen), truth, (), 0)


@pytest.fixture
def answered(trained: Path, everything: Selection) -> tuple[Contract, np.ndarray]:
    """The contract, and what the classifier says of everything, batch by batch from memory."""
    classifier = Classifier.load(trained)
    pixels = np.stack([images.read(path, classifier.contract.image) for path in everything.paths])
    return classifier.contract, classifier.predict(pixels)


def test_figures_are_of_what_the_classifier_says(
    trained: Path, everything: Selection, answered: tuple[Contract, np.ndarray]
) -> None:
    contract, probabilities = answered
    found = judge(Classifier.load(trained), everything)
    expected = figures.figures(probabilities, everything.truth, contract)
    assert found["per_class"] == expected["per_class"]
    assert found["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-6)
    assert found["contract_sha256"] == contract.sha256
    assert set(found) - set(expected) == {"data_sha256", "left_out_as_seen", "skipped", "contract_sha256", "versions"}


def test_the_whole_evaluation_is_written(
    trained: Path, everything: Selection, answered: tuple[Contract, np.ndarray], tmp_path: Path
) -> None:
    contract, probabilities = answered
    out = tmp_path / "evaluation"
    stranger = shutil.copy(everything.paths[5], tmp_path / "stranger.png")
    seen: list[tuple[str, int, int]] = []
    found = judge(
        Classifier.load(trained),
        everything,
        out,
        history=trained / "history.csv",
        several_views=True,
        explain=[everything.paths[0], stranger, everything.paths[0]],
        explain_worst=2,
        progress=lambda stage, done, total, note: seen.append((stage, done, total)),
    )
    assert {path.name for path in out.iterdir()} == {
        "evaluation.json",
        "evaluation.html",
        "confusion.csv",
        "answers.csv",
        "plots",
    }
    assert json.loads((out / "evaluation.json").read_text()) == found
    assert {path.stem for path in (out / "plots").iterdir()} == {
        *("loss", "accuracy", "confusion", "reliability", "roc", "precision_recall", "scores")
    }
    with (out / "answers.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["path"] for line in lines] == [photo.path for photo in everything.photos]
    assert [line["is"] for line in lines] == [contract.labels[truth] for truth in everything.truth]
    assert [line["called"] for line in lines] == [contract.labels[index] for index in probabilities.argmax(axis=1)]
    for name, expected in {
        "probability": probabilities.max(axis=1),
        "probability_of_is": probabilities[np.arange(len(lines)), everything.truth],
        "danger": contract.positive_score(probabilities),
    }.items():
        assert [float(line[name]) for line in lines] == pytest.approx(expected, abs=1e-5)
    with (out / "confusion.csv").open() as stream:
        rows = [list(map(int, row[1:])) for row in list(csv.reader(stream))[1:]]
    assert (np.array(rows) == confusion_matrix(everything.truth, probabilities.argmax(axis=1))).all()

    several = found["test_time_augmentation"]
    expected = tta.predict(Classifier.load(trained), everything.paths)
    assert several["top1"] == pytest.approx((expected.argmax(axis=1) == everything.truth).mean())
    assert several["views"] == [view.name for view in tta.VIEWS]
    assert found["top1"] == pytest.approx((probabilities.argmax(axis=1) == everything.truth).mean())

    page = (out / "evaluation.html").read_text()
    explained = page[page.index("Where it looked</h2>") : page.index("Every class, the worst first")]
    assert everything.photos[0].path in explained and str(stranger) in explained
    worst = gallery.worst(probabilities, everything.truth, contract)[:2]
    assert all(everything.photos[index].path in explained for index in worst)
    assert explained.count("<figcaption>photograph") == len({0, "stranger", *map(int, worst)})  # Each once.
    assert {stage for stage, *_ in seen} >= {
        "Asking the classifier",
        "Asking about several views",
        "Looking where it looked",
    }


def test_an_evaluation_is_not_written_among_the_photographs(trained: Path, everything: Selection, photos: Path) -> None:
    with pytest.raises(OutputError, match="lies inside the photographs' folder"):
        judge(Classifier.load(trained), everything, photos / "evaluation")
    assert not (photos / "evaluation").exists()


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


def test_the_command_line_writes_the_page(trained: Path, photos: Path, tmp_path: Path) -> None:
    out, figures_file = tmp_path / "out", tmp_path / "figures.json"
    asked = [str(trained), "--data", str(photos), "--explain-worst", "1"]
    refused = CliRunner().invoke(command, asked)
    assert refused.exit_code == 2 and "--out DIR" in refused.stderr
    done = CliRunner().invoke(
        command, [*asked, "--out", str(out), "--tta", "--json", str(figures_file)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "Averaged over 4 views: top-1" in done.stdout
    assert f"The whole evaluation: {out / 'evaluation.html'}" in done.stdout
    assert figures_file.read_text() == (out / "evaluation.json").read_text()
    plain = json.loads((trained / "evaluation.json").read_text())
    found = json.loads(figures_file.read_text())
    assert found.pop("test_time_augmentation")["n"] == plain["n"]
    assert found == plain  # Beside the plain figures, which stay as they are.
