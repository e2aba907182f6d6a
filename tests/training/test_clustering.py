"""Clustering: a layer's weights share so many values, learn on together, and are as few in 8-bit files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tensorflow.lite.tools import flatbuffer_utils

from leafport import files
from leafport.classifier import Classifier
from leafport.errors import ModelError
from leafport.export import graph
from leafport.targets import tflite
from leafport.training import origin
from leafport.training.clustering import assigned, shared
from leafport.training.config import Config
from leafport.training.pruning import compressible, sparsity
from leafport.training.train import check, train

KERNELS = ((3, 3, 20, 40), (1, 1, 64, 64), (200, 30))


def kernel(*shape: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.normal(size=shape) * random.uniform(0.1, 3, size=shape[-1])).astype(np.float32)


def values(weights: np.ndarray) -> np.ndarray:
    """What weights are of the largest of their channel."""
    largest = np.abs(weights).max(axis=tuple(range(weights.ndim - 1)) if weights.ndim > 2 else None)
    return np.unique(np.round(weights / largest, 4))


@pytest.mark.parametrize("shape", KERNELS)
@pytest.mark.parametrize("count", [4, 16, 64])
def test_weights_share_so_many_values(shape: tuple[int, ...], count: int) -> None:
    weights = kernel(*shape)
    found = shared(weights, assigned(weights, count))
    assert found.shape == weights.shape and found.dtype == weights.dtype
    assert len(values(found)) in (count, count - 1)  # Of a single channel either 1 or -1 is the largest.
    assert 0 in values(found) and np.abs(values(found)).max() == 1


def test_more_values_are_nearer() -> None:
    weights = kernel(3, 3, 20, 40)
    errors = [np.square(shared(weights, assigned(weights, count)) - weights).mean() for count in (4, 8, 16, 32, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.015 * np.square(weights).mean()


@pytest.mark.parametrize("shape", KERNELS)
def test_clusters_are_found_again(shape: tuple[int, ...]) -> None:
    """A training that was interrupted goes on with the clusters it had."""
    weights = kernel(*shape)
    members = assigned(weights, 16)
    once = shared(weights, members)
    np.testing.assert_array_equal(assigned(once, 16), members)
    np.testing.assert_allclose(shared(once, members), once, rtol=1e-6)


def test_a_cluster_takes_one_step_for_all_its_weights() -> None:
    weights = kernel(1, 1, 64, 64)
    members = assigned(weights, 16)
    weights = shared(weights, members)
    step = np.where(members == 3, 0.01 * np.abs(weights).max(axis=(0, 1, 2)), 0).astype(np.float32)
    step[0, 0, ::2] *= 3
    moved = shared(weights + step, members)
    assert len(values(moved)) == 16
    assert (moved[members == 3] > weights[members == 3]).all()
    np.testing.assert_allclose(moved[members != 3], weights[members != 3], rtol=1e-5)


def test_channels_without_weights_stay_without() -> None:
    weights = kernel(3, 3, 20, 40)
    weights[..., 7] = 0
    found = shared(weights, assigned(weights, 16))
    assert not found[..., 7].any() and found[..., 8].any()


@pytest.fixture(scope="module")
def clustered(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = {"clusters": 16, "sparsity": 0.3, "max_steps": 4, "unfreeze": "all", "learning_rate": 1e-3}
    return train(origin.settings(trained, photos, tmp_path_factory.mktemp("clustered") / "run", asked))


def test_a_trained_classifier_has_its_clusters_and_zeros(clustered: Path, trained: Path) -> None:
    model = Classifier.load(clustered).model
    before = {weights.path: np.asarray(weights) for weights in Classifier.load(trained).model.weights}
    assert sparsity(model) >= 0.3
    for weights in compressible(model):
        found, other = np.asarray(weights), before[weights.path]
        assert len(values(found)) <= 16 < 100 < len(values(other))
        assert not np.allclose(found, shared(other, assigned(other, 16)))  # It learned.


def test_8_bit_files_have_as_few(clustered: Path, trained: Path, photos: Path, tmp_path: Path) -> None:
    options = tflite.Options(calibration=tuple(sorted(photos.glob("*/00*.png")))[:16])
    sizes = {}
    for name, run in (("plain", trained), ("clustered", clustered)):
        folder = tmp_path / name
        folder.mkdir()
        serving = graph.build(Classifier.load(run), folder)
        nearest = dataclasses.replace(options, fit_rounding=name == "clustered")  # The other's size hardly changes.
        sizes[name] = files.zipped_bytes(tflite.convert(serving, "dynamic", folder, nearest))
    assert sizes["clustered"] < 0.6 * sizes["plain"]
    for variant in ("dynamic", "int8"):
        path = tflite.convert(serving, variant, folder, options)
        assert max(_distinct(path)) <= 32  # Twice 16, for normalisation may turn a channel's signs around.


def test_both_go_with_learning_to_be_rounded(trained: Path, photos: Path, tmp_path: Path) -> None:
    asked = {"clusters": 16, "sparsity": 0.5, "quantise": True, "max_steps": 2, "unfreeze": "all"}
    classifier = Classifier.load(train(origin.settings(trained, photos, tmp_path / "out", asked)))
    assert sparsity(classifier.model) >= 0.5
    path = tflite.convert(graph.build(classifier, tmp_path), "int8-qat", tmp_path, tflite.Options())
    assert max(_distinct(path)) <= 32


@pytest.mark.parametrize(("asked", "message"), [({"epochs": 0}, "take epochs"), ({"clusters": 2}, "takes 4 to 64")])
def test_what_cannot_be_meant_is_refused(photos: Path, tmp_path: Path, asked: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check(Config(photos, tmp_path / "out", **{"clusters": 16, **asked}))


def _distinct(path: Path) -> list[int]:
    """How many different bytes the weights of a file's layers are, but for small, depthwise and last ones."""
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer_utils.read_model(str(path))
    tensors = model.subgraphs[0].tensors
    found = []
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) in (
            schema.BuiltinOperator.CONV_2D,
            schema.BuiltinOperator.FULLY_CONNECTED,
        ):
            weights = tensors[operator.inputs[1]]
            if weights.type == schema.TensorType.INT8 and np.prod(weights.shape) >= 1024:
                found.append(len(np.unique(model.buffers[weights.buffer].data)))
    return found[:-1]
