from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport.classifier import Classifier
from leafport.errors import ConversionError, ModelError
from leafport.export import graph
from leafport.export.graph import ServingGraph
from leafport.targets import onnx


@pytest.fixture(scope="module")
def written(serving_graph: ServingGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx.convert(serving_graph, "float32", tmp_path_factory.mktemp("onnx"), onnx.Options())


def test_it_answers_as_the_classifier_for_any_batch(written: Path, classifier: Classifier, pixels: np.ndarray) -> None:
    runner = onnx.runner(written, classifier.contract, threads=1)
    assert "ONNX Runtime" in runner.executes
    for count in (1, len(pixels)):
        np.testing.assert_allclose(runner.predict(pixels[:count]), classifier.predict(pixels[:count]), atol=1e-5)


def test_facts(written: Path, classifier: Classifier) -> None:
    facts = onnx.inspect(written)
    assert onnx.broken_claims("float32", facts, classifier.contract) == []
    assert facts.inputs[0].name == "image"
    assert facts.inputs[0].shape == (None, 32, 32, 3)
    assert facts.outputs[0].name == "probabilities"
    assert facts.outputs[0].shape == (None, 3)
    assert facts.labels == classifier.contract.labels
    assert facts.contract == classifier.contract
    assert facts.metadata["license"] == "CC0-1.0"
    assert facts.notes["opset"]["ai.onnx"] == 17
    assert "BatchNormalization" not in facts.ops


def test_zeros_around_a_max_pooling_stay_zeros(classifier: Classifier, tmp_path: Path) -> None:
    """ONNX Runtime would make them minus infinity, which shows where everything is below zero."""
    import keras

    inputs = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    below = keras.layers.Conv2D(2, 1, bias_initializer=keras.initializers.Constant(-3.0))(scaled)
    padded = keras.layers.MaxPooling2D(3, strides=2)(keras.layers.ZeroPadding2D(1)(below))
    same = keras.layers.MaxPooling2D(3, strides=2, padding="same")(below)
    both = keras.layers.GlobalAveragePooling2D()(keras.layers.Concatenate()([padded, same]))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(both))
    pooling = Classifier(model, classifier.contract)
    image = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    path = onnx.convert(graph.build(pooling, tmp_path), "float32", tmp_path, onnx.Options())
    found = onnx.runner(path, pooling.contract, threads=1).predict(image)
    np.testing.assert_allclose(found, pooling.predict(image), atol=1e-5)


def test_half_precision_weights_break_the_claim(written: Path, classifier: Classifier, tmp_path: Path) -> None:
    import onnx as library
    from onnx import numpy_helper

    model = library.load(written)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    library.save(model, tmp_path / "half.onnx")
    broken = onnx.broken_claims("float32", onnx.inspect(tmp_path / "half.onnx"), classifier.contract)
    assert broken == ["it stores float16 weights"]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07"])
def test_damaged_files_are_refused(tmp_path: Path, classifier: Classifier, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    for use in (onnx.inspect, lambda path: onnx.runner(path, classifier.contract, 1)):
        with pytest.raises(ModelError, match=r"bad\.onnx"):
            use(path)


def test_an_operation_onnx_lacks_is_refused(unconvertible_graph: ServingGraph, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="tf2onnx refused"):
        onnx.convert(unconvertible_graph, "float32", tmp_path, onnx.Options())
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.plants
def test_a_file_made_by_others(shared: Path) -> None:
    facts = onnx.inspect(shared / "reference" / "SqueezeNet_fp16.onnx")
    assert facts.contract is None
    assert facts.ops["Conv"] == 26
    assert "float16" in facts.weights
