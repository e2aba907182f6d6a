from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from leafport.classifier import Classifier
from leafport.errors import ModelError
from leafport.export import graph
from leafport.export.graph import ServingGraph

if TYPE_CHECKING:
    import keras


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


def with_trained_statistics(model: keras.Model) -> None:
    """Give every weight that a new model has as zero or one a value of its own, as training would."""
    generator = np.random.default_rng(3)
    for weight in model.weights:
        if weight.name in ("bias", "beta", "moving_mean"):
            weight.assign(generator.normal(0, 0.1, weight.shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))


@pytest.mark.parametrize(
    ("backbone", "operations"), [("ResNet50", 182), ("MobileNet", 93), ("MobileNetV2", 161), ("ResNet50V2", 235)]
)
def test_trained_networks_fold(backbone: str, operations: int, classifier: Classifier, tmp_path: Path) -> None:
    import keras

    network = getattr(keras.applications, backbone)(include_top=False, weights=None, input_shape=(32, 32, 3))
    inputs = keras.Input((32, 32, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D()(network(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    with_trained_statistics(model)
    trained = Classifier(model, classifier.contract)
    built = graph.build(trained, tmp_path)
    facts = graph.read_facts(tmp_path)
    assert facts["operations"] <= operations
    assert facts["nodes"] < facts["nodes_traced"] / 3
    assert "Rsqrt" not in facts["ops"]
    image = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    answers = built.function(None)(image.astype(np.float32))["probabilities"]
    np.testing.assert_allclose(answers, trained.predict(image), atol=1e-5)
