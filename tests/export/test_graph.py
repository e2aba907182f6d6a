from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.errors import ModelError
from leafport.export import graph
from leafport.export.graph import ServingGraph


def test_the_graph_answers_as_the_classifier(
    serving_graph: ServingGraph, classifier: Classifier, pixels: np.ndarray
) -> None:
    for batch in (None, len(pixels)):
        answers = serving_graph.function(batch)(pixels.astype(np.float32))["probabilities"]
        np.testing.assert_allclose(answers, classifier.predict(pixels), atol=2e-6)


def test_normalisation_is_folded_away(serving_graph: ServingGraph) -> None:
    facts = graph.read_facts(serving_graph.path.parent)
    assert facts["nodes"] < facts["nodes_traced"] / 2
    assert set(facts["ops"]) <= {
        *("AddV2", "BiasAdd", "Const", "Conv2D", "DepthwiseConv2dNative", "Identity", "MatMul", "Mean", "Mul"),
        *("Pad", "Placeholder", "Relu", "Relu6", "Softmax"),
    }


def test_default_attributes_are_left_out(serving_graph: ServingGraph) -> None:
    convolutions = [node for node in serving_graph.graph_def().node if node.op == "Conv2D"]
    assert convolutions
    for node in convolutions:
        assert "explicit_paddings" not in node.attr
        assert not [name for name in node.attr if name.startswith("_")]
        assert not node.device


def test_equal_classifiers_give_equal_bytes(
    classifier: Classifier, serving_graph: ServingGraph, tmp_path: Path
) -> None:
    again = graph.build(classifier, tmp_path)
    assert again.path.read_bytes() == serving_graph.path.read_bytes()


def test_a_layer_may_have_the_interfaces_names(tmp_path: Path, classifier: Classifier) -> None:
    import keras

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, name="probabilities")(inputs)
    x = keras.layers.GlobalAveragePooling2D(name="image")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    named = Classifier(model, classifier.contract)
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    answers = graph.build(named, tmp_path).function(2)(image.astype(np.float32))["probabilities"]
    np.testing.assert_allclose(answers, named.predict(image), atol=1e-5)


def test_a_damaged_graph_is_refused(serving_graph: ServingGraph, tmp_path: Path) -> None:
    damaged = tmp_path / "serving.pb"
    damaged.write_bytes(b"\xff" + serving_graph.path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        graph.read_graph_def(damaged)


@pytest.mark.parametrize("side", [1, 2])
def test_reshapes_do_not_ask_for_the_batchs_size(side: int, classifier: Classifier, tmp_path: Path) -> None:
    """Keras's Reshape does; over an average (side 1, as squeeze-and-excitation has it) nothing is left of it at all."""
    import keras

    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    maps = layers.Conv2D(8, 3, activation="relu")(inputs)
    weights = layers.Reshape((side, side, 8 // side**2))(layers.GlobalAveragePooling2D()(maps))
    weights = layers.Conv2D(8, side, activation="sigmoid")(weights)
    pooled = layers.GlobalAveragePooling2D()(layers.Multiply()([maps, weights]))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(pooled))
    reshaping = Classifier(model, classifier.contract)
    built = graph.build(reshaping, tmp_path)
    ops = graph.read_facts(tmp_path)["ops"]
    assert not {"Shape", "StridedSlice", "Pack"} & set(ops)
    assert ops.get("Reshape", 0) == (0 if side == 1 else 1)
    image = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for batch in (1, 4):
        answers = built.function(None)(image[:batch].astype(np.float32))["probabilities"]
        np.testing.assert_allclose(answers, reshaping.predict(image[:batch]), atol=1e-5)


def test_what_is_calculated_from_large_weights_is_folded(tmp_path: Path) -> None:
    """Large kernels stay out of Grappler, but not where something is made of their values, as QAT's rounding is."""
    import keras

    class Halved(keras.layers.Layer):  # type: ignore[misc]
        def build(self, shape: tuple[int, ...]) -> None:
            self.kernel = self.add_weight(shape=(shape[-1], 400), initializer="ones", name="kernel")

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, keras.ops.abs(self.kernel) * 0.5)

    image = keras.Input((8, 8, 3))
    x = Halved()(keras.layers.Dense(200)(keras.layers.Flatten()(image)))
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))
    contract = Contract(name="tiny", task="class", labels=("a", "b"), image=ImageInput(height=8, width=8))
    classifier = Classifier(model, contract)
    _, kept_out = graph._freeze(model, contract)
    assert [name for name in kept_out if "dense" in name] == list(kept_out) != []  # But the kernel of 200 units is.
    built = graph.build(classifier, tmp_path)
    ops = {node.op for node in built.graph_def().node}
    assert not ops & {"Abs", "Mul"}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    expected = model(pixels, training=False)
    np.testing.assert_allclose(built.function(None)(pixels)["probabilities"], expected, atol=1e-5)
