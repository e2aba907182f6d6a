"""Rounding weights by what a layer sees: results stay closer, and the converter finds nothing left to round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leafport import palette
from leafport.classifier import Classifier
from leafport.export import rounding
from leafport.export.graph import INPUT, ServingGraph
from leafport.targets import tflite


@pytest.fixture
def dice() -> np.random.Generator:
    return np.random.default_rng(3)


def correlated(dice: np.random.Generator, rows: int, inputs: int) -> np.ndarray:
    """Inputs as layers see them: none below zero, and few of them independent."""
    mixed = dice.normal(size=(rows, inputs // 4)) @ dice.normal(size=(inputs // 4, inputs))
    return np.maximum(mixed + dice.normal(size=(rows, inputs)) * 0.1, 0)


def plainly(weights: np.ndarray, per_channel: bool) -> np.ndarray:
    scale = np.abs(weights).max(axis=1, keepdims=True) if per_channel else np.abs(weights).max(keepdims=True)
    return np.round(weights / scale * 127) * scale / 127


def with_ones(seen: np.ndarray) -> np.ndarray:
    return np.concatenate([seen, np.ones_like(seen[:, :1])], axis=1)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("inputs", [12, 300])
def test_results_stay_closer_than_with_each_weight_by_itself(
    dice: np.random.Generator, inputs: int, per_channel: bool
) -> None:
    weights, bias = dice.normal(size=(1, inputs, 20)), dice.normal(size=(1, 1, 20))
    learned = correlated(dice, 2000, inputs)
    gram = with_ones(learned).T @ with_ones(learned)
    found, shifted = rounding.round_group(weights, bias, gram[None], per_channel=per_channel)
    true = learned @ weights[0] + bias[0]
    error = np.square(learned @ found[0] + shifted[0] - true).mean()
    plain = np.square(learned @ plainly(weights, per_channel)[0] + bias[0] - true).mean()
    assert error < plain / 2


@pytest.mark.parametrize("per_channel", [True, False])
def test_everything_lies_on_the_steps_that_a_converter_finds(dice: np.random.Generator, per_channel: bool) -> None:
    weights = dice.normal(size=(1, 64, 9)).astype(np.float32).astype(np.float64)
    seen = with_ones(correlated(dice, 500, 64))
    found, _ = rounding.round_group(weights, np.zeros((1, 1, 9)), (seen.T @ seen)[None], per_channel=per_channel)
    stored = found.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(plainly(stored, per_channel), stored, rtol=1e-6)
    assert np.abs(found).max() == np.abs(weights).max()


def test_groups_are_rounded_each_by_its_own_inputs(dice: np.random.Generator) -> None:
    weights, bias = dice.normal(size=(5, 9, 1)), dice.normal(size=(5, 1, 1))
    grams = np.stack([with_ones(seen).T @ with_ones(seen) for seen in (correlated(dice, 200, 9) for _ in range(5))])
    together, shifted = rounding.round_group(weights, bias, grams, per_channel=True)
    for group in range(5):
        one = slice(group, group + 1)
        alone, shift = rounding.round_group(weights[one], bias[one], grams[one], per_channel=True)
        np.testing.assert_allclose(together[one], alone)
        np.testing.assert_allclose(shifted[one], shift)


def test_what_is_nothing_stays_nothing(dice: np.random.Generator) -> None:
    """A pruned channel, and inputs that never occur: no step of 127 out of nothing, no division by it."""
    weights = dice.normal(size=(2, 9, 3))
    weights[0, :, 1] = 0
    grams = np.zeros((2, 10, 10))
    grams[:, 9, 9] = 100.0
    found, bias = rounding.round_group(weights, np.ones((2, 1, 3)), grams, per_channel=True)
    assert (found[0, :, 1] == 0).all()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(bias, 1)
    np.testing.assert_allclose(found, plainly(np.where(weights == 0, 1e-300, weights), True), atol=1e-12)


def test_a_layer_without_a_bias(dice: np.random.Generator) -> None:
    weights, seen = dice.normal(size=(1, 30, 4)), correlated(dice, 300, 30)
    found, bias = rounding.round_group(weights, np.empty((1, 0, 4)), (seen.T @ seen)[None], per_channel=True)
    assert bias.shape == (1, 0, 4)
    error, plain = (np.square(seen @ (one - weights)[0]).mean() for one in (found, plainly(weights, True)))
    assert error < plain / 2


def test_other_inputs_give_what_the_first_gave(dice: np.random.Generator) -> None:
    """A layer behind rounded ones sees what they leave of its inputs."""
    weights, bias = dice.normal(size=(2, 30, 4)), dice.normal(size=(2, 1, 4))
    weights[0, 3] = 0
    own = np.stack([with_ones(correlated(dice, 2000, 30)) for _ in range(2)])
    other = np.maximum(own * dice.normal(1, 0.1, (2, 1, 31)) + dice.normal(0, 0.05, own.shape), 0)
    other[:, :, -1] = 1
    gram, cross = (np.einsum("gri,grj->gij", other, seen) for seen in (other, own))
    found, shifted = rounding.refitted(weights, bias, gram, cross, per_channel=True)
    wanted = own @ np.concatenate([weights, bias], axis=1)
    errors = [
        np.square(other @ np.concatenate(used, axis=1) - wanted).mean() for used in ((weights, bias), (found, shifted))
    ]
    assert errors[1] < errors[0] / 4
    assert (found[0, 3] == 0).all()
    same, unmoved = rounding.refitted(weights, bias, *[np.einsum("gri,grj->gij", own, own)] * 2, per_channel=True)
    np.testing.assert_allclose(same, weights, atol=1e-8)
    np.testing.assert_allclose(unmoved, bias, atol=1e-8)


def test_few_values_are_not_refitted(dice: np.random.Generator) -> None:
    """As clustered training leaves them: shares of the largest of a channel, and channels differ in size."""
    shares = dice.choice([-1, -0.4, 0.1, 0.7, 1], size=(1, 30, 40))
    shares[:, 0] = 1
    weights, bias = shares * dice.uniform(0.1, 9, 40), np.zeros((1, 0, 40))
    gram, cross = (np.cov(dice.normal(size=(30, 100)))[None] for _ in range(2))
    assert rounding.refitted(weights, bias, gram, cross, per_channel=True)[0] is weights


def test_the_smallest_layers_may_have_more_bits(
    serving_graph: ServingGraph, classifier: Classifier, fed: list[np.ndarray], pixels: np.ndarray, tmp_path: Path
) -> None:
    errors = {}
    for name, settings in {"in turn": {"palette": 16}, "smallest in 8 bits": {"palette": 16, "fine": 0.5}}.items():
        made = rounding.rounded(serving_graph.graph_def(), fed, INPUT, per_channel_dense=True, **settings)
        path = tmp_path / f"{name}.pb"
        path.write_bytes(made.SerializeToString())
        found = ServingGraph(path, classifier.contract).function(None)(pixels.astype(np.float32))["probabilities"]
        errors[name] = float(np.abs(found - classifier.predict(pixels)).mean())
    assert 0 < errors["smallest in 8 bits"] < errors["in turn"] < 0.05


@pytest.mark.parametrize("count", [16, 64])
def test_a_palette_of_a_layers_own(dice: np.random.Generator, count: int) -> None:
    weights = dice.normal(size=(1, 300, 20)) * dice.uniform(0.1, 3, 20)
    seen = with_ones(correlated(dice, 2000, 300))
    found, bias = rounding.round_group(
        weights, np.zeros((1, 1, 20)), (seen.T @ seen)[None], per_channel=True, palette=count
    )
    largest = np.abs(weights).max(axis=1, keepdims=True)
    levels = palette.levels(weights / largest, count)
    plain = levels[palette.nearest(levels, weights / largest)] * largest
    levels, scale = palette.chosen(weights, largest, count)
    assert len(np.unique(np.round(found / scale, 9))) <= count
    np.testing.assert_allclose(levels[palette.nearest(levels, found / scale)] * scale, found)
    np.testing.assert_allclose(np.abs(found).max(axis=1, keepdims=True), scale)  # From which packages take it.
    true = seen[:, :-1] @ weights[0]
    error = np.square(seen[:, :-1] @ found[0] + bias[0] - true).mean()
    assert error < np.square(seen[:, :-1] @ plain[0] - true).mean() / 2
    again, _ = rounding.round_group(found, np.zeros((1, 1, 20)), (seen.T @ seen)[None], per_channel=True, palette=count)
    np.testing.assert_allclose(again, found)


@pytest.fixture
def fed(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels[start : start + 8].astype(np.float32) for start in range(0, len(pixels), 8)]


def test_a_graph_answers_more_as_it_did(
    serving_graph: ServingGraph,
    classifier: Classifier,
    pixels: np.ndarray,
    fed: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the weights are rounded here; a file's activations are too, and such a small network feels that more."""

    def error(name: str) -> float:
        made = rounding.rounded(serving_graph.graph_def(), fed, INPUT)
        path = tmp_path / f"{name}.pb"
        path.write_bytes(made.SerializeToString())
        written = tflite.convert(ServingGraph(path, classifier.contract), "float32", tmp_path, tflite.Options())
        found = tflite.runner(written, classifier.contract, 1).predict(pixels)
        return float(np.abs(found - classifier.predict(pixels)).mean())

    fitted = error("fitted")
    grams = rounding._grams

    def independent(*arguments: Any) -> dict[str, np.ndarray]:
        """As if no two inputs went together: then there is nothing to make good, and each weight goes by itself."""
        return {name: np.broadcast_to(np.eye(gram.shape[1]), gram.shape) for name, gram in grams(*arguments).items()}

    monkeypatch.setattr(rounding, "_grams", independent)
    assert 0 < fitted < error("plain") / 2
