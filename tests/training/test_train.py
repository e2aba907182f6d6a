from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from leafport import images
from leafport.classifier import CONTRACT_FILE, MODEL_FILE, Classifier, load_contract
from leafport.errors import DataError, ImageError, LeafportError, ModelError, OutputError
from leafport.training import train as training
from leafport.training.config import Config
from leafport.training.data.splits import Splits
from leafport.training.heads import Head
from leafport.training.train import train

WHOLE = {
    MODEL_FILE,
    CONTRACT_FILE,
    "splits.json",
    "training.json",
    "history.csv",
    "evaluation.json",
    "evaluation.html",
    "answers.csv",
    "confusion.csv",
    "plots",
    "train.log",
}


def small(data: Path, out: Path, **options: Any) -> Config:
    settings = {"backbone": "mobilenet", "weights": "none", "image_size": 32, "batch_size": 16, "max_steps": 2}
    return Config(data, out, **{**settings, **options})


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_class_model_with_positive_classes(trained: Path, photos: Path) -> None:
    assert {path.name for path in trained.iterdir()} == WHOLE
    contract = load_contract(trained)
    assert (contract.name, contract.task, contract.author) == ("plants", "class", "Ada")
    assert contract.labels == ("clover", "daisy", "foxglove", "nightshade")
    assert contract.safety is not None
    assert contract.safety.positive_labels == ("foxglove", "nightshade")
    divided = Splits.load(trained / "splits.json")
    assert divided.root == photos.resolve()
    assert contract.safety.positives == sum(p.folder in ("foxglove", "nightshade") for p in divided.validation)
    assert not contract.safety.attained  # A dozen photographs cannot promise 95 %.

    pixels = np.stack([images.read(divided.file(photo), contract.image) for photo in divided.test])
    probabilities = Classifier.load(trained).predict(pixels)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    evaluation = json.loads((trained / "evaluation.json").read_text())
    assert evaluation["n"] == len(divided.test)
    assert evaluation["binary"]["threshold"] == contract.safety.threshold

    lines = history(trained)
    assert [line["stage"] for line in lines][:2] == ["Training the head", "Fine-tuning"]
    assert all(float(line["val_loss"]) > 0 and float(line["images_per_second"]) > 0 for line in lines)
    for name in ("loss", "accuracy", "confusion", "reliability", "roc", "precision_recall", "scores"):
        assert (trained / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (trained / "confusion.csv").open() as stream:
        head, *rows = csv.reader(stream)
    assert head == ["is", *contract.labels]
    assert [row[0] for row in rows] == list(contract.labels)
    supports = [evaluation["per_class"][label]["n"] for label in contract.labels]
    assert [sum(map(int, row[1:])) for row in rows] == supports
    record = json.loads((trained / "training.json").read_text())
    assert record["request"]["backbone"] == "mobilenet"
    assert record["calibration"]["n"] == len(divided.validation)
    low, high = evaluation["intervals"]["top1"]
    assert low <= evaluation["top1"] <= high
    assert evaluation["intervals"]["top5"] is None
    assert "test: top-1" in (trained / "train.log").read_text()


def test_a_binary_model_from_scratch(tmp_path: Path, photos: Path, poisonous: Path) -> None:
    stages: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int, note: str) -> None:
        stages[stage] = (done, total)

    out = train(small(photos, tmp_path / "run", task="binary", positive=poisonous), progress=progress)
    contract = load_contract(out)
    assert contract.labels == ("not_poisonous", "poisonous")
    assert contract.safety is not None
    assert contract.safety.positive_labels == ("poisonous",)
    assert "Training from scratch" in stages
    assert all(done == total for done, total in stages.values())
    divided = Splits.load(out / "splits.json")
    pixels = np.stack([images.read(divided.file(photo), contract.image) for photo in divided.test])
    assert np.isfinite(Classifier.load(out).predict(pixels)).all()


def test_fine_tuning_that_does_not_help_changes_nothing(tmp_path: Path, photos: Path, mobilenet_weights: Path) -> None:
    options = {"weights": str(mobilenet_weights), "head_epochs": 3, "max_steps": None}
    head = train(small(photos, tmp_path / "head", epochs=0, **options))
    ruined = train(small(photos, tmp_path / "ruined", epochs=1, learning_rate=10.0, **options))
    one, other = Classifier.load(head).model.get_weights(), Classifier.load(ruined).model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert [line["stage"] for line in history(ruined)] == ["Training the head"] * 3 + ["Fine-tuning"]


def test_the_head_is_fitted_to_what_became_of_the_backbone(
    tmp_path: Path, photos: Path, mobilenet_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[tuple[str, int, list[np.ndarray]]] = []
    fit = training.loop.fit

    def watch(model: Any, train: Any, validation: Any, stage: Any, **options: Any) -> Any:
        found = fit(model, train, validation, stage, **options)
        after.append((stage.name, train.source.shape[0], model.get_weights()))
        return found

    monkeypatch.setattr(training.loop, "fit", watch)
    options = {"weights": str(mobilenet_weights), "max_steps": None, "head_epochs": 4, "learning_rate": 1e-3}
    out = train(small(photos, tmp_path / "run", image_size=64, fine_tuning_size=48, epochs=3, **options))
    assert [name for name, _, _ in after] == ["Training the head", "Fine-tuning", "Refitting the head"]
    assert after[1][1] == 48
    lines = history(out)
    assert lines[-1]["stage"] == "Refitting the head"
    model = Classifier.load(out).model
    assert model.input_shape == (None, 64, 64, 3)
    *backbone, kernel, bias = model.get_weights()
    *tuned, before, _ = after[1][2]
    assert all(np.array_equal(a, b) for a, b in zip(backbone, tuned, strict=True))
    assert not np.array_equal(kernel, before)
    # The file has the head of that stage's best epoch (divided by one number, the temperature).
    np.testing.assert_allclose(kernel * after[2][2][1].max() / bias.max(), after[2][2][0], rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"weights": "none"}, {"unfreeze": "none"}, {"epochs": 0}, {"head": Head("dense"), "image_size": 64}],
    ids=["scratch", "frozen", "no-epochs", "dense"],
)
def test_a_size_for_fine_tuning_that_makes_no_sense_is_refused(
    options: dict[str, Any], tmp_path: Path, photos: Path, mobilenet_weights: Path
) -> None:
    settings = {"weights": str(mobilenet_weights), "fine_tuning_size": 48, **options}
    with pytest.raises(ModelError, match="--fine-tuning-size"):
        train(small(photos, tmp_path / "run", **settings))


def test_every_stage_minds_what_is_dangerous(
    tmp_path: Path, photos: Path, poisonous: Path, mobilenet_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {}
    fit = training.loop.fit

    def watch(model: Any, train: Any, validation: Any, stage: Any, **options: Any) -> Any:
        losses[stage.name] = stage.loss
        return fit(model, train, validation, stage, **options)

    monkeypatch.setattr(training.loop, "fit", watch)
    options = {"weights": str(mobilenet_weights), "image_size": 64, "fine_tuning_size": 48}
    train(small(photos, tmp_path / "run", positive=poisonous, safety_loss=0.5, **options))
    assert list(losses) == ["Training the head", "Fine-tuning", "Refitting the head"]
    assert {(loss.positives, loss.safety) for loss in losses.values()} == {((2, 3), 0.5)}


@pytest.mark.parametrize("task", ["class", "binary"])
def test_a_safety_loss_that_makes_no_sense_is_refused(task: str, tmp_path: Path, photos: Path, poisonous: Path) -> None:
    positive = poisonous if task == "binary" else None
    with pytest.raises(ModelError, match="--safety-loss is for a class task with --positive"):
        train(small(photos, tmp_path / "run", task=task, positive=positive, safety_loss=1.0))


@pytest.mark.parametrize("unfreeze", ["late", "all"])
def test_fine_tuning_changes_the_layers_it_was_asked_to(
    unfreeze: str, tmp_path: Path, photos: Path, mobilenet_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning: dict[str, bool] = {}
    fit = training.loop.fit

    def watch(model: Any, *arguments: Any, **options: Any) -> Any:
        if any(layer.name == "mobilenet" for layer in model.layers):
            learning.update({layer.name: layer.trainable for layer in model.get_layer("mobilenet").layers})
        return fit(model, *arguments, **options)

    monkeypatch.setattr(training.loop, "fit", watch)
    train(small(photos, tmp_path / "run", weights=str(mobilenet_weights), head_epochs=1, unfreeze=unfreeze))
    assert learning["conv_dw_4"]
    assert learning["conv_pw_13"]
    assert learning["conv_pw_3"] == learning["conv1"] == (unfreeze == "all")


def test_a_photograph_that_vanishes_while_learning_is_named(
    tmp_path: Path, make_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_photos(tmp_path / "plants", count=6)
    fit = training.loop.fit

    def late(model: Any, lessons: Any, *arguments: Any, **options: Any) -> Any:
        lessons.source.paths[3].unlink()
        lost.append(lessons.source.paths[3])
        return fit(model, lessons, *arguments, **options)

    lost: list[Path] = []
    monkeypatch.setattr(training.loop, "fit", late)
    with pytest.raises(ImageError, match="does not exist") as caught:
        train(small(data, tmp_path / "run", max_steps=None, epochs=1))
    assert str(lost[0]) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["plants"]


def test_training_learns(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    """Colours a linear model would tell apart, from scratch, in a few epochs: the loop must not get in the way."""
    data = make_photos(tmp_path / "plants", count=30, classes=2)
    out = train(small(data, tmp_path / "run", max_steps=None, epochs=12, augmentation=None, patience=12))
    with (out / "history.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert max(float(line["accuracy"]) for line in lines) > 0.9


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(LeafportError, match="--learning-rate"):
        train(small(photos, tmp_path / "run", learning_rate=1e30, max_steps=4))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_training_that_failed(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(ModelError, match="There is no weights file"):
        train(small(photos, tmp_path / "run", weights=str(tmp_path / "none.h5")))
    with pytest.raises(ModelError, match="There is no backbone"):
        train(small(photos, tmp_path / "run", backbone="alexnet"))
    with pytest.raises(ModelError, match="What was asked for"):
        train(small(photos, tmp_path / "run", name="My Plants"))
    with pytest.raises(ModelError, match="--epochs 0"):
        train(small(photos, tmp_path / "run", epochs=0))
    with pytest.raises(DataError, match="is not a folder"):
        train(small(tmp_path / "nowhere", tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused_first(
    tmp_path: Path, photos: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="write elsewhere"):
        train(small(photos, tmp_path / "file" / "run"))
    with pytest.raises(OutputError, match="is no classifier"):
        train(small(photos, tmp_path))
    with pytest.raises(OutputError, match="inside the photographs' folder"):
        train(small(photos, photos / "run"))
    standing = shutil.copytree(trained, tmp_path / "standing")
    with pytest.raises(OutputError, match="--overwrite"):
        train(small(photos, standing))
    monkeypatch.setattr(training.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(OutputError, match="MiB are free"):
        train(small(photos, tmp_path / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_first(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="permissions"):
        train(small(photos, tmp_path / "locked" / "run"))


def test_overwriting_replaces_the_whole_folder(tmp_path: Path, photos: Path, trained: Path) -> None:
    standing = shutil.copytree(trained, tmp_path / "run")
    (standing / "stale.txt").write_text("of the older one")
    train(small(photos, standing, overwrite=True, name="newer", epochs=1))
    assert {path.name for path in standing.iterdir()} == WHOLE
    assert load_contract(standing).name == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_command_line_trains_and_evaluates(
    tmp_path: Path, make_photos: Callable[..., Path], poisonous: Path
) -> None:
    from leafport.cli import evaluate as evaluate_verb
    from leafport.cli import train as train_verb

    data = make_photos(tmp_path / "plants")
    (data / "daisy" / "broken.jpg").write_text("text")
    out = tmp_path / "my run"
    arguments = [str(data), "--out", str(out), "--task", "binary", "--positive", str(poisonous), "--weights", "none"]
    small_ones = ["--backbone", "mobilenet", "--image-size", "32", "--max-steps", "2", "--batch-size", "16"]
    done = CliRunner().invoke(train_verb.command, [*arguments, *small_ones], catch_exceptions=False)
    assert done.exit_code == 0
    assert "broken.jpg" in done.stderr
    assert "top-1" in done.stdout
    assert "is called poisonous when" in done.stdout
    assert f"Next: leafport export '{out}' --out" in done.stdout

    figures = tmp_path / "figures.json"
    asked = [str(out), "--data", str(data), "--json", str(figures)]
    done = CliRunner().invoke(evaluate_verb.command, asked, catch_exceptions=False)
    assert done.exit_code == 0
    assert "were left out: it learned from them" in done.stdout
    assert json.loads(figures.read_text()) == json.loads((out / "evaluation.json").read_text())
