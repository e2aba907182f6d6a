"""Core ML's newer layers in the older ones' words, so that old devices read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leafport.targets.coreml import older
from tests.targets.neural_networks import MATRIX, THREE, WIDTH, Build, answer, coremltools, network, pixels, product


def test_constants_among_newer_layers_become_older_ones(tmp_path: Path) -> None:
    def build(made: Any) -> None:
        made.add_load_constant_nd("factors", "f", THREE.reshape(1, 3, 1, 1), [1, 3, 1, 1])
        made.add_elementwise("scaling", ["x", "f"], "scaled", "MULTIPLY")
        made.add_load_constant_nd("summands", "s", -THREE.reshape(1, 3, 1, 1), [1, 3, 1, 1])
        made.add_elementwise("moving", ["s", "scaled"], "moved", "ADD")
        made.add_transpose("last", [0, 2, 3, 1], "moved", "moved_last")
        made.add_activation("relu", "RELU", "moved_last", "positive")
        made.add_reduce_mean("mean", "positive", "means", [1, 2], keepdims=False)
        product(made, "means", MATRIX[:, :3], None, "logits")
        made.add_softmax_nd("softmax", "logits", "y", axis=-1)

    path = network(build, tmp_path, exact=True)
    images = pixels()
    wanted = answer(path, images)
    spec = coremltools.utils.load_spec(str(path))
    changed = type(spec)()
    changed.CopyFrom(spec)
    changed.neuralNetworkClassifier.layers.extend(spec.neuralNetwork.layers)
    changed.neuralNetworkClassifier.stringClassLabels.vector[:] = list("abcdefg")
    changed.neuralNetworkClassifier.labelProbabilityLayerName = "y"
    changed.description.predictedProbabilitiesName, changed.description.predictedFeatureName = "y", "label"
    older.for_older_devices(changed)
    kinds = [layer.WhichOneof("layer") for layer in changed.neuralNetworkClassifier.layers]
    assert kinds == ["scale", "bias", "activation", "pooling", "innerProduct", "softmax"]
    assert changed.specificationVersion == 2
    path.write_bytes(changed.SerializeToString())
    found = answer(path, images)
    np.testing.assert_allclose(found[:, :, 0, 0], wanted, rtol=1e-5, atol=1e-6)


def by_width(made: Any) -> None:
    made.add_load_constant_nd("constant", "c", np.ones((1, 1, 1, WIDTH)), [1, 1, 1, WIDTH])
    made.add_elementwise("layer", ["x", "c"], "y", "ADD")


def transposed_sum(made: Any) -> None:
    made.add_load_constant_nd("constant", "c", THREE.reshape(1, 1, 1, 3), [1, 1, 1, 3])
    made.add_transpose("last", [0, 2, 3, 1], "x", "t")
    made.add_elementwise("layer", ["t", "c"], "y", "ADD")


@pytest.mark.parametrize(
    "build",
    [
        lambda made: made.add_erf("layer", "x", "y"),
        lambda made: made.add_softmax_nd("layer", "x", "y", axis=-1),
        by_width,
        transposed_sum,
    ],
    ids=["erf", "softmax along the width", "a constant along the width", "a constant for what is transposed"],
)
def test_what_has_no_older_layer_stays(build: Build, tmp_path: Path) -> None:
    path = network(build, tmp_path, exact=True)
    spec = coremltools.utils.load_spec(str(path))
    layers = list(spec.neuralNetwork.layers)
    spec.neuralNetworkClassifier.layers.extend(layers)
    before, version = spec.SerializeToString(deterministic=True), spec.specificationVersion
    older.for_older_devices(spec)
    assert spec.SerializeToString(deterministic=True) == before
    assert spec.specificationVersion == version >= 4
