from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.errors import DataError, ModelError
from leafport.export import graph
from leafport.targets import tflite
from leafport.training import backbones
from leafport.training.calibration import apply, fit, scaled


def answers(seed: int, n: int, classes: int, sureness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (float32) of a model that is ``sureness`` times as sure as it should be, and the truth."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, classes))
    truth = np.array([random.choice(classes, p=row) for row in softmax(logits, axis=1)])
    return softmax(sureness * logits, axis=1).astype(np.float32), truth


def loss(truth: np.ndarray, probabilities: np.ndarray) -> float:
    exact = probabilities.astype(float)
    return float(log_loss(truth, exact / exact.sum(axis=1, keepdims=True), labels=range(exact.shape[1])))


@pytest.mark.parametrize("classes", [2, 70])
@pytest.mark.parametrize("sureness", [0.5, 1.8])
def test_a_model_that_is_too_sure_or_not_sure_enough_is_put_right(classes: int, sureness: float) -> None:
    probabilities, truth = answers(1, 3000, classes, sureness)
    found = fit(probabilities, truth)
    assert found.kept is None
    assert found.temperature == pytest.approx(sureness, rel=0.1)
    after = scaled(probabilities, found.temperature)
    assert found.nll_before == pytest.approx(loss(truth, probabilities), rel=1e-4)
    assert found.nll_after == pytest.approx(loss(truth, after), rel=1e-4)
    assert found.ece_after < found.ece_before / 2
    for near in (0.97, 1.03):  # A temperature close by is worse.
        other = scaled(probabilities, near * found.temperature)
        assert loss(truth, other) > found.nll_after
    assert json.loads(json.dumps(asdict(found)))["n"] == 3000


@pytest.mark.parametrize("n", [12, 400])
def test_a_calibrated_model_is_left_alone(n: int) -> None:
    changed = [fit(*answers(seed, n, 5, 1.0)).kept is None for seed in range(60)]
    assert sum(changed) <= 8  # Three are expected, by the test's 5 %; nine would be one case in 250.


def test_why_nothing_was_changed_is_said() -> None:
    found = fit(*answers(0, 300, 5, 1.0))
    assert found.temperature == 1
    assert found.nll_after == found.nll_before
    assert found.ece_after == pytest.approx(found.ece_before)
    assert found.kept is not None
    assert "300 validation photographs do not show" in found.kept
    with pytest.raises(DataError, match="there are none"):
        fit(np.empty((0, 3)), np.empty(0, int))


def test_a_model_without_a_mistake_does_not_become_certain() -> None:
    truth = np.arange(200) % 3
    found = fit(np.where(np.eye(3)[truth] == 1, 0.8, 0.1), truth)
    assert found.temperature == 1
    assert found.kept is not None
    assert "All 200 answers" in found.kept


def test_a_model_that_knows_nothing_does_not_become_a_coin() -> None:
    random = np.random.default_rng(0)
    certain = np.where(np.eye(2)[random.integers(0, 2, 400)] == 1, 1.0, 0.0)  # With zeros, as float32 has them.
    found = fit(certain, random.integers(0, 2, 400))
    assert found.temperature == 1
    assert found.kept is not None
    assert np.isfinite([found.nll_before, found.nll_after]).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 12), st.floats(0.05, 20))
def test_the_likeliest_class_stays_so(seed: int, classes: int, temperature: float) -> None:
    probabilities, _ = answers(seed, 50, classes, 1.0)
    after = scaled(probabilities, temperature)
    ahead = np.diff(np.sort(probabilities, axis=1)[:, -2:])[:, 0] > 1e-5 * max(1, temperature)
    assert (after.argmax(axis=1) == probabilities.argmax(axis=1))[ahead].all()
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-5)


def test_a_model_and_its_files_carry_the_temperature(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    network = backbones.build("small", classes=4, image_size=32, weights="none")
    kernel, bias = network.head.layers[-1].get_weights()
    network.head.layers[-1].set_weights([kernel * 20, bias + np.arange(4, dtype=np.float32)])
    contract = Contract(name="four", task="class", labels=tuple("abcd"), image=ImageInput(height=32, width=32))
    classifier = Classifier(network.model, contract)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    before = classifier.predict(pixels)
    apply(network.model, 2.5)
    after = classifier.predict(pixels)
    assert np.abs(after - before).max() > 0.05
    np.testing.assert_allclose(after, scaled(before, 2.5), atol=1e-6)
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
    apply(network.model, 1 / 2.5)
    np.testing.assert_allclose(classifier.predict(pixels), before, atol=1e-6)
    apply(network.model, 2.5)
    written = tflite.convert(graph.build(classifier, tmp_path), "float32", tmp_path, tflite.Options())
    said = tflite.runner(written, contract, 1).predict(pixels)
    np.testing.assert_allclose(said, after, atol=1e-5)
    assert (said.argmax(axis=1) == before.argmax(axis=1)).all()


def test_another_model_is_refused() -> None:
    layers = keras.layers
    inputs = keras.Input((8,))
    for last in (
        layers.Dense(3, activation="softmax", name="dense"),
        layers.Dense(3, name="probabilities"),
        layers.Softmax(name="probabilities"),
    ):
        with pytest.raises(ModelError, match="can only be folded into a dense softmax layer"):
            apply(keras.Model(inputs, last(inputs)), 2.0)
