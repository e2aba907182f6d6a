from __future__ import annotations

import numpy as np
import pytest

from leafport.training.loss import Loss, rarity

PROBABILITIES = np.random.default_rng(0).dirichlet(np.ones(5), 8).astype(np.float32)
TRUTH = np.arange(8) % 5
ONE_HOT = np.eye(5, dtype=np.float32)[TRUTH]


def found(loss: Loss, truth: np.ndarray = ONE_HOT) -> np.ndarray:
    return np.asarray(loss.function()(truth, PROBABILITIES))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_cost_what_keras_says(smoothing: float) -> None:
    import keras

    expected = keras.losses.categorical_crossentropy(ONE_HOT, PROBABILITIES, label_smoothing=smoothing)
    assert np.allclose(found(Loss(smoothing=smoothing)), np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_keras_s(gamma: float) -> None:
    import keras

    expected = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma, reduction=None)(ONE_HOT, PROBABILITIES)
    assert np.allclose(found(Loss(focus=gamma)), np.asarray(expected), atol=1e-5)


def test_weights_count_each_label() -> None:
    weights = (1.0, 2.0, 3.0, 4.0, 5.0)
    plain = found(Loss())
    assert np.allclose(found(Loss(weights=weights)), plain * np.array(weights)[TRUTH])
    mixed = (ONE_HOT + np.roll(ONE_HOT, 1, axis=0)) / 2  # As MixUp makes them.
    assert np.allclose(found(Loss(), mixed), -(mixed * np.log(PROBABILITIES)).sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("truth", [ONE_HOT, (ONE_HOT + np.roll(ONE_HOT, 2, axis=0)) / 2], ids=["plain", "mixed"])
def test_the_safety_loss_is_the_cross_entropy_of_the_sums(truth: np.ndarray) -> None:
    positives = [1, 3]
    extra = found(Loss(positives=(1, 3), safety=2.0), truth) - found(Loss(), truth)
    score, share = PROBABILITIES[:, positives].sum(axis=1), truth[:, positives].sum(axis=1)
    assert np.allclose(extra, -2 * (share * np.log(score) + (1 - share) * np.log(1 - score)), atol=1e-5)


def test_the_safety_loss_forgives_what_stays_among_the_positives() -> None:
    loss = Loss(positives=(1, 3), safety=1.0).function()
    truth = np.eye(5, dtype=np.float32)[[1, 1]]
    among, across = np.asarray(loss(truth, np.array([[0, 0.1, 0, 0.9, 0], [0.9, 0.1, 0, 0, 0]], np.float32)))
    assert among == pytest.approx(-np.log(0.1), rel=1e-4)
    assert across == pytest.approx(-2 * np.log(0.1), rel=1e-4)


def test_rare_labels_weigh_more_and_the_average_stays() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    truth = np.repeat([0, 1, 2], [20, 5, 75])
    weights = np.array(rarity(truth, 3))
    assert np.allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=truth))
    assert weights[truth].mean() == pytest.approx(1)


def test_a_probability_of_zero_costs_no_infinity() -> None:
    certain = np.eye(2, dtype=np.float32)
    for loss in (Loss(smoothing=0.1), Loss(positives=(1,), safety=1.0)):
        assert np.isfinite(np.asarray(loss.function()(certain[::-1], certain))).all()
