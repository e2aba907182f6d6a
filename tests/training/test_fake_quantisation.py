"""A drawing with rounding in it must calculate what the int8 file calculates, for every network that can be trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from leafport import files
from leafport.classifier import Classifier
from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.export import graph
from leafport.quantisation import Quantisation
from leafport.targets import tflite
from leafport.training import backbones, heads
from leafport.training.fake_quantisation import (
    FakeQuantise,
    SteppedWeights,
    fake_quantised,
    imitating,
    put_on_steps,
    ranges_of,
)

SIZE = 32


def noise(count: int = 16, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.float32)


def settle(model: keras.Model, images: np.ndarray) -> None:
    """Give batch normalisation the statistics of these photographs, as a training would have."""
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def written(model: keras.Model, ranges: dict[str, tuple[float, float]], folder: Path) -> tuple[Path, Contract]:
    """The int8-qat file of a model with these ranges, made without a single photograph."""
    labels = [f"class {index}" for index in range(model.output_shape[-1])]
    side = model.input_shape[1]
    value = {"name": "drawn", "task": "class", "labels": labels, "image": {"height": side, "width": side}}
    contract = Contract.from_json(value)
    serving = graph.build(Classifier(model, contract, Quantisation(ranges=ranges)), folder)
    return tflite.convert(serving, "int8-qat", folder, tflite.Options()), contract


def test_the_file_calculates_as_the_drawing_does(classifier: Classifier, pixels: np.ndarray, tmp_path: Path) -> None:
    images = pixels.astype(np.float32)
    drawing = fake_quantised(classifier.model)
    drawing(images, training=True)
    path, contract = written(classifier.model, ranges_of(drawing), tmp_path)
    found = tflite.runner(path, contract, 1).predict(pixels)
    assert np.abs(found - drawing(images).numpy()).max() < 2 / 256
    facts = tflite.inspect(path)
    assert tflite.broken_claims("int8-qat", facts, contract) == []
    assert (facts.inputs[0].scale, facts.inputs[0].zero_point, facts.inputs[0].dtype) == (1.0, 0, "uint8")


@pytest.mark.parametrize("name", sorted(backbones.BACKBONES))
def test_every_backbone_can_be_drawn(name: str) -> None:
    network = backbones.build(name, classes=3, image_size=64, weights="none")
    images = noise(4, 64)
    settle(network.model, images)
    drawing = fake_quantised(network.model)
    drawing(images, training=True)
    ranges = ranges_of(drawing)
    assert all(low <= 0 <= high and low < high for low, high in ranges.values())
    found = drawing(images).numpy()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert {id(weight) for weight in drawing.trainable_variables} == {
        id(weight) for weight in network.model.trainable_variables
    }
    again = fake_quantised(network.model, ranges)
    np.testing.assert_allclose(again(images).numpy(), found, atol=1e-5)


@pytest.mark.parametrize("name", ["squeezenet", "mobilenetv3small"])
def test_branches_and_gates_are_integers_in_the_file(name: str, tmp_path: Path) -> None:
    """Concatenations, products of maps and gates, hard and soft sigmoids: what most easily stays a float operation."""
    network = backbones.build(name, classes=3, image_size=SIZE, weights="none")
    settle(network.model, noise())
    drawing = fake_quantised(network.model)
    drawing(noise(), training=True)
    path, contract = written(network.model, ranges_of(drawing), tmp_path)
    assert tflite.broken_claims("int8-qat", tflite.inspect(path), contract) == []
    if name == "mobilenetv3small":
        assert tflite.inspect(path).ops["HARD_SWISH"] == 18
    assert np.isfinite(tflite.runner(path, contract, 1).predict(noise(2).astype(np.uint8))).all()


def test_a_normalisation_that_follows_no_convolution_is_calculated_in_steps(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    maps = layers.Conv2D(8, 3, strides=2, name="first")(image)
    maps = layers.Add(name="sum")([maps, layers.Conv2D(8, 1, name="second")(maps)])
    maps = layers.ReLU()(layers.BatchNormalization(name="alone")(maps))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(maps)))
    settle(model, noise())
    drawing = fake_quantised(model)
    drawing(noise(), training=True)
    path, contract = written(model, ranges_of(drawing), tmp_path)
    assert tflite.broken_claims("int8-qat", tflite.inspect(path), contract) == []
    found = tflite.runner(path, contract, 1).predict(noise().astype(np.uint8))
    assert np.abs(found - model(noise()).numpy()).max() < 0.05


@pytest.mark.parametrize("activation", heads.ACTIVATIONS)
def test_an_activation_is_known_or_refused(activation: str, tmp_path: Path) -> None:
    head = heads.Head(units=(8,), activation=activation)
    model = backbones.build("small", classes=3, image_size=SIZE, weights="none", head=head).model
    if activation in ("selu", "softplus", "softsign"):
        with pytest.raises(ModelError, match=f"{activation}.*dense1.*--activation"):
            fake_quantised(model)
        return
    drawing = fake_quantised(model)
    drawing(noise(), training=True)
    path, contract = written(model, ranges_of(drawing), tmp_path)
    assert tflite.broken_claims("int8-qat", tflite.inspect(path), contract) == []


def test_a_layer_that_is_not_known_is_refused_by_name() -> None:
    image = keras.Input((SIZE, SIZE, 3))
    flat = layers.GlobalAveragePooling2D()(layers.UpSampling2D(name="larger")(image))
    model = keras.Model(image, layers.Dense(2, activation="softmax")(flat))
    with pytest.raises(ModelError, match="'larger', a UpSampling2D"):
        fake_quantised(model)


@pytest.mark.parametrize(
    ("layer", "axes"),
    [(layers.Conv2D(5, 3), (0, 1, 2)), (layers.DepthwiseConv2D(3), (0, 1, 3)), (layers.Dense(5), (0, 1))],
)
def test_weights_lie_on_127_steps_of_their_largest(layer: layers.Layer, axes: tuple[int, ...]) -> None:
    inputs = noise(2, 8)
    layer.build(inputs.shape)
    weights = layer.kernel.numpy()
    with tf.GradientTape() as tape:
        stepped = SteppedWeights(layer).kernel()
    largest = np.abs(weights).max(axis=axes, keepdims=True)
    steps = stepped.numpy() / largest * 127
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    np.testing.assert_allclose(np.abs(stepped.numpy()).max(axis=axes, keepdims=True), largest, rtol=1e-6)
    assert np.abs(stepped.numpy() - weights).max() <= (largest / 127 / 2).max() * 1.001
    np.testing.assert_array_equal(tape.gradient(stepped, layer.kernel.value), np.ones_like(weights))


def test_rounding_before_the_normalisation_is_rounding_what_it_is_folded_into() -> None:
    layer = layers.Conv2D(5, 3)
    layer.build((None, 8, 8, 3))
    weights = layer.kernel.numpy()
    factor = np.array([0.01, -3.0, 1.0, 40.0, -0.2], np.float32)
    folded = weights * factor
    step = np.abs(folded).max(axis=(0, 1, 2)) / 127
    np.testing.assert_allclose(
        SteppedWeights(layer).kernel().numpy() * factor, np.round(folded / step) * step, rtol=1e-4, atol=1e-6
    )


def test_ranges_are_moving_averages_of_what_training_sees() -> None:
    rounding = FakeQuantise("some", None)
    rounding(np.array([[-1.0, 3.0]]))  # Not training: nothing is learned.
    assert float(rounding.seen) == 0
    rounding(np.array([[-1.0, 3.0]]), training=True)
    assert (float(rounding.low), float(rounding.high)) == (-1.0, 3.0)
    rounding(np.array([[0.5, 13.0]]), training=True)  # Zero stays in the range.
    np.testing.assert_allclose([float(rounding.low), float(rounding.high)], [-0.99, 3.1], rtol=1e-6)
    found = rounding(np.array([[-5.0, 0.0, 1.0, 5.0]])).numpy()[0]
    assert found[1] == 0
    np.testing.assert_allclose(found[[0, 3]], [-0.99, 3.1], atol=4 / 255)


def test_ranges_given_stay_as_they_are() -> None:
    rounding = FakeQuantise("some", (-1.0, 2.0))
    rounding(np.array([[-100.0, 100.0]]), training=True)
    assert (float(rounding.low), float(rounding.high)) == (-1.0, 2.0)


def test_put_on_steps_leaves_the_model_with_the_weights_of_the_drawing(classifier: Classifier) -> None:
    model = keras.models.clone_model(classifier.model)
    model.set_weights(classifier.model.get_weights())
    drawing = fake_quantised(model)
    put_on_steps(drawing)
    moved = [np.abs(a - b).max() for a, b in zip(model.get_weights(), classifier.model.get_weights(), strict=True)]
    assert 0 < max(moved) < 0.02
    before = model.get_weights()
    put_on_steps(drawing)
    for once, twice in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(once, twice, atol=1e-6)


def test_ranges_of_another_network_are_refused(classifier: Classifier) -> None:
    with pytest.raises(ModelError, match="another network's"):
        fake_quantised(classifier.model, {"elsewhere": (0.0, 1.0)})


def test_ranges_travel_with_the_classifier(classifier: Classifier, tmp_path: Path) -> None:
    kept = Quantisation(ranges={"a": (-1.0, 0.5), "b": (0.0, 2.0)})
    dataclasses.replace(classifier, quantisation=kept).save(tmp_path)
    assert Classifier.load(tmp_path).quantisation == kept
    dataclasses.replace(classifier, quantisation=None).save(tmp_path)
    assert Classifier.load(tmp_path).quantisation is None


@pytest.mark.parametrize("ranges", [{}, {"a": [1.0, 2.0]}, {"a": [0.0, 0.0]}, {"a": [0.0]}, {"a": "wide"}])
def test_damaged_ranges_are_refused(classifier: Classifier, tmp_path: Path, ranges: object) -> None:
    classifier.save(tmp_path)
    files.write_json(tmp_path / "quantisation.json", {"schema_version": 1, "ranges": ranges})
    with pytest.raises(ModelError, match=r"quantisation\.json does not hold the ranges"):
        Classifier.load(tmp_path)


def test_a_student_is_held_to_its_teacher(classifier: Classifier, pixels: np.ndarray) -> None:
    images = pixels.astype(np.float32)
    keras.utils.set_random_seed(0)
    teacher = classifier.model
    student = keras.models.clone_model(teacher)
    *others, kernel, bias = teacher.get_weights()
    student.set_weights([*others, kernel * 0.2, bias])
    for layer in student.layers[:-1]:
        layer.trainable = False
    before = [weight.numpy() for weight in teacher.weights]
    learning = imitating(student, teacher)
    assert {id(weight) for weight in learning.trainable_variables} == {id(w) for w in student.trainable_variables}
    learning(images, training=True)
    answers, goal = student(images).numpy(), teacher(images).numpy()
    expected = -(goal * np.log(np.clip(answers, 1e-7, 1))).sum(axis=1).mean()
    learning(images, training=False)
    assert float(learning.losses[0]) == pytest.approx(expected, rel=1e-4)
    learning.compile(keras.optimizers.Adam(0.05), lambda truth, found: 0.0 * keras.ops.sum(found, axis=-1))
    learning.fit(images, np.zeros((len(images), 3)), epochs=150, verbose=0)
    assert np.abs(student(images).numpy() - goal).mean() < np.abs(answers - goal).mean() / 2
    for weight, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_a_teacher_is_not_disturbed_while_training(classifier: Classifier, pixels: np.ndarray) -> None:
    """Its dropout would make it say something else at every step."""
    images = pixels.astype(np.float32)
    student = keras.models.clone_model(classifier.model)
    learning = imitating(student, classifier.model)
    teacher = learning.get_layer("teacher")
    np.testing.assert_allclose(teacher(images, training=True).numpy(), classifier.model(images).numpy(), atol=1e-6)
