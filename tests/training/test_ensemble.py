"""Several classifiers as one: the mean of their logits, in a classifier like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import log_softmax, softmax

from leafport import files, images
from leafport.classifier import Classifier
from leafport.cli.ensemble import command
from leafport.errors import ModelError, OutputError
from leafport.export import graph
from leafport.targets import tflite
from leafport.training.config import Config
from leafport.training.data.splits import Splits
from leafport.training.ensemble import averaged, combine
from leafport.training.evaluation import gradcam
from leafport.training.train import train


def quiet(stage: str, done: int, total: int, note: str) -> None:
    pass


@pytest.fixture(scope="module")
def second(trained: Path, photos: Path, poisonous: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another network, trained on the same split."""
    out = tmp_path_factory.mktemp("second") / "run"
    config = Config(
        photos,
        out,
        positive=poisonous,
        splits=trained / "splits.json",
        backbone="small",
        weights="none",
        image_size=32,
        max_steps=2,
    )
    return train(config)


@pytest.fixture(scope="module")
def both(trained: Path, second: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both") / "run"
    return combine([trained, second], photos, out, required_recall=0.5, name="both", progress=quiet)


def pixels(run: Path) -> np.ndarray:
    split, rule = Splits.load(run / "splits.json"), Classifier.load(run).contract.image
    return np.stack([images.read(split.file(photo), rule) for photo in split.test])


def test_logits_are_averaged(trained: Path, second: Path) -> None:
    seen = pixels(trained)
    answers = [Classifier.load(run).predict(seen) for run in (trained, second)]
    model = averaged([Classifier.load(run).model for run in (trained, second)])
    expected = softmax(np.mean([log_softmax(np.log(each), axis=1) for each in answers], axis=0), axis=1)
    np.testing.assert_allclose(model.predict(seen.astype(np.float32), verbose=0), expected, atol=1e-5)


def test_the_result_is_a_classifier_like_any_other(trained: Path, second: Path, both: Path, tmp_path: Path) -> None:
    classifier, first = Classifier.load(both), Classifier.load(trained).contract
    assert classifier.contract.name == "both"
    assert (classifier.contract.labels, classifier.contract.author) == (first.labels, "Ada")
    safety = classifier.contract.safety
    assert safety is not None and safety.required_recall == 0.5
    assert files.read_json(both / "evaluation.json")["n"] == len(pixels(trained))
    record = files.read_json(both / "training.json")
    assert [Path(member["path"]).name for member in record["ensemble"]] == ["run", "run"]
    assert Splits.load(both / "splits.json").sides == Splits.load(trained / "splits.json").sides
    serving = graph.build(classifier, tmp_path)
    path = tflite.convert(serving, "float32", tmp_path, tflite.Options())
    seen = pixels(trained)
    found = tflite.runner(path, classifier.contract, 1).predict(seen)
    np.testing.assert_allclose(found, classifier.predict(seen), atol=1e-5)
    network = gradcam.network(classifier.model)
    assert gradcam.heat(network, seen[0], 0).max() <= 1


def test_what_does_not_belong_together_is_refused(trained: Path, second: Path, photos: Path, tmp_path: Path) -> None:
    def refusal(*runs: Path) -> str:
        with pytest.raises(ModelError) as caught:
            combine(runs, photos, tmp_path / "out", progress=quiet)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "two classifiers or more" in refusal(trained)
    other = shutil.copytree(second, tmp_path / "other")
    contract = files.read_json(other / "classifier.json")
    files.write_json(other / "classifier.json", {**contract, "labels": contract["labels"][::-1]})
    assert "same labels" in refusal(trained, other)
    files.write_json(other / "classifier.json", {**contract, "safety": None})
    assert "not the same are positive" in refusal(trained, other)
    files.write_json(other / "classifier.json", {**contract, "image": {**contract["image"], "fit": "crop"}})
    assert "another size or shape" in refusal(trained, other)
    files.write_json(other / "classifier.json", contract)
    split = files.read_json(other / "splits.json")
    split["train"], split["test"] = split["train"][1:], [*split["test"], split["train"][0]]
    files.write_json(other / "splits.json", split)
    assert "another split" in refusal(trained, other) and "--splits" in refusal(trained, other)


def test_a_model_that_ends_in_something_else_is_refused() -> None:
    image = keras.Input((8, 8, 3))
    plain = keras.Model(image, keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(image)))
    with pytest.raises(ModelError, match="no dense softmax layer"):
        averaged([plain, plain])


def test_what_stands_at_out_is_left(trained: Path, second: Path, both: Path, photos: Path) -> None:
    with pytest.raises(OutputError, match="--overwrite"):
        combine([trained, second], photos, both, progress=quiet)


def test_the_command(trained: Path, second: Path, photos: Path, tmp_path: Path) -> None:
    arguments = [str(trained), str(second), "--data", str(photos), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "Next: leafport export" in result.output
    assert Classifier.load(tmp_path / "out").contract.name == Classifier.load(trained).contract.name
