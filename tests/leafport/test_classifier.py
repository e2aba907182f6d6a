from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from leafport import classifier as classifiers
from leafport.classifier import Classifier
from leafport.errors import ModelError


def test_a_saved_classifier_answers_as_before(classifier: Classifier, pixels: np.ndarray, tmp_path: Path) -> None:
    again = Classifier.load(classifier.save(tmp_path / "copy"))
    np.testing.assert_array_equal(again.predict(pixels), classifier.predict(pixels))
    assert again.contract == classifier.contract


def test_batches_do_not_change_answers(classifier: Classifier, pixels: np.ndarray) -> None:
    np.testing.assert_allclose(classifier.predict(pixels, batch_size=7), classifier.predict(pixels), atol=1e-6)


def test_a_model_with_another_models_contract_is_refused(run: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(run, tmp_path / "mixed")
    contract = json.loads((mixed / "classifier.json").read_text())
    contract["image"]["height"] = 64
    (mixed / "classifier.json").write_text(json.dumps(contract))
    with pytest.raises(ModelError, match="do not belong together"):
        Classifier.load(mixed)


def test_a_folder_that_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a classifier"):
        Classifier.load(tmp_path)


def test_a_damaged_model_file(run: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run, tmp_path / "damaged")
    whole = (damaged / "model.keras").read_bytes()
    (damaged / "model.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.keras"):
        Classifier.load(damaged)


def test_a_model_with_code_in_it_is_not_executed(run: Path, tmp_path: Path) -> None:
    import keras

    evil = shutil.copytree(run, tmp_path / "evil")
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Lambda(lambda x: x * 2)(inputs)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(inputs, x).save(evil / "model.keras")
    with pytest.raises(ModelError, match="Lambda"):
        Classifier.load(evil)


def test_the_digest_follows_the_contents(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    assert classifiers.digest(copy) == classifiers.digest(run)
    contract = json.loads((copy / "classifier.json").read_text())
    (copy / "classifier.json").write_text(json.dumps({**contract, "version": "2"}))
    assert classifiers.digest(copy) != classifiers.digest(run)
