"""Every backbone and every head goes through the serving graph to every target, and answers there as in Keras."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.export import graph
from leafport.export.graph import ServingGraph
from leafport.targets import registry
from leafport.training import heads
from leafport.training.backbones import BACKBONES, Network, build
from leafport.training.heads import ACTIVATIONS, Head

SIZE = 64
TOLERANCE = 1e-3  # Untrained networks amplify rounding; a wrong operation shows in the first digit.
HALF_TOLERANCE = 0.05  # With weights in float16.
EVERYWHERE = ("onnx-float32", "tflite-float32", "coreml-fp32", "tftrt-fp32")

OPERATIONS = {
    "resnet50": 182,
    "resnet50v2": 235,
    "resnet101": 352,
    "vgg16": 52,
    "mobilenet": 93,
    "mobilenetv2": 161,
    "mobilenetv3large": 277,
    "mobilenetv3small": 244,
    "efficientnetv2b0": 363,
    "squeezenet": 94,
    "small": 39,
}
TARGETS = {
    # These have no operation that the others have not, and some take a target half a minute.
    **dict.fromkeys(("resnet50", "resnet50v2"), ("coreml-fp32",)),
    **dict.fromkeys(("resnet101", "vgg16", "mobilenet", "mobilenetv3large"), ()),
    "mobilenetv3small": (*EVERYWHERE, "coreml-neuralnetwork"),  # Gates, which old devices must know too.
}
PREACTIVATIONS = {"resnet50v2": 17}
"""Normalisations that follow no convolution, and cannot be folded."""


def pictures(seed: int, count: int) -> np.ndarray:
    """Images of coloured patches that differ, uint8 [count, SIZE, SIZE, 3]."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(patch).resize((SIZE, SIZE))) for patch in patches])


def ripen(network: Network, pixels: np.ndarray) -> Classifier:
    """Make a new network one that could have been trained: each of its weights matters, and it tells images apart."""
    import keras

    generator = np.random.default_rng(3)
    layers = [layer for model in (network.backbone, network.head) for layer in model.layers]
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            layer.gamma.assign(generator.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(generator.normal(0, 0.1, layer.beta.shape))
        for weight in layer.weights:
            if weight.name == "bias":
                weight.assign(generator.normal(0, 0.02, weight.shape))
            elif weight.name == "kernel" and not np.asarray(weight).any():
                weight.assign(generator.normal(0, 0.05, weight.shape))
    images = pixels.astype(np.float32)
    network.features(images, training=True)  # Its statistics are these images' now.
    last = network.model.get_layer(heads.PROBABILITIES)
    before = keras.Model(network.model.input, last.input)
    logits = np.asarray(before(images, training=False)) @ np.asarray(last.kernel)
    spread = logits.std(axis=0)
    last.set_weights([np.asarray(last.kernel) / spread, -logits.mean(axis=0) / spread])
    image = ImageInput(height=SIZE, width=SIZE)
    contract = Contract(name="plants", task="class", labels=("ash", "birch", "cedar"), image=image)
    return Classifier(network.model, contract)


def check(classifier: Classifier, built: ServingGraph, artifacts: Sequence[str], folder: Path) -> None:
    """Each artifact is what its name says, and answers as the classifier does."""
    pixels = pictures(1, 6)
    expected = classifier.predict(pixels)
    assert np.ptp(expected, axis=0).min() > 0.05, "the images do not differ enough to tell anything"
    answers = built.function(None)(pixels.astype(np.float32))["probabilities"]
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)
    for artifact in registry.select(artifacts) if artifacts else ():
        target = registry.load(artifact.target)
        settings = {}
        if artifact.variant == "int8":
            settings["calibration"] = save(pictures(0, 8), folder)
        path = target.convert(built, artifact.variant, folder, target.Options(**settings))
        assert target.broken_claims(artifact.variant, target.inspect(path), classifier.contract) == [], artifact.name
        found = target.runner(path, classifier.contract, 1).predict(pixels)
        if artifact.variant == "int8":  # Only training makes a network that withstands rounding.
            np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.02)
        else:
            tolerance = HALF_TOLERANCE if artifact.variant == "neuralnetwork" else TOLERANCE
            np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=artifact.name)


def save(images: np.ndarray, folder: Path) -> tuple[Path, ...]:
    paths = tuple(folder / f"{index}.png" for index in range(len(images)))
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def scales_left(built: ServingGraph) -> int:
    """Multiplications by a constant for each of more channels than an image has: normalisations not folded away."""
    nodes = {node.name: node for node in built.graph_def().node}
    factors = [
        nodes[reference.partition(":")[0]].attr["value"].tensor.tensor_shape
        for node in nodes.values()
        if node.op == "Mul"
        for reference in node.input
    ]
    return sum(math.prod(dimension.size for dimension in shape.dim) > 3 for shape in factors)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_folds_and_exports(name: str, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    classifier = ripen(build(name, classes=3, image_size=SIZE, weights="none"), pictures(0, 16))
    built = graph.build(classifier, tmp_path)
    facts = graph.read_facts(tmp_path)
    ops = Counter(facts["ops"])
    assert facts["operations"] <= OPERATIONS[name]
    assert facts["nodes"] < facts["nodes_traced"]
    assert not {"Rsqrt", "FusedBatchNormV3", "Sub", "Shape"} & set(ops)
    assert ops["BiasAdd"] >= ops["Conv2D"] + ops["DepthwiseConv2dNative"]
    assert scales_left(built) == PREACTIVATIONS.get(name, 0)
    check(classifier, built, TARGETS.get(name, EVERYWHERE), tmp_path)


@pytest.mark.parametrize(
    "head",
    [Head(units=(8,)), Head("dense", units=(8,)), Head("conv", filters=8, blocks=2), Head("residual", filters=8)],
    ids=heads.KINDS,
)
def test_every_head_exports(head: Head, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    classifier = ripen(build("small", classes=3, image_size=SIZE, weights="none", head=head), pictures(0, 16))
    check(classifier, graph.build(classifier, tmp_path), (*EVERYWHERE, "tflite-int8"), tmp_path)


def test_every_activation_exports(tmp_path: Path) -> None:
    """One head with a layer for each, one after the other as a head has them."""
    import keras

    keras.utils.set_random_seed(0)
    network = build("small", classes=3, image_size=SIZE, weights="none", head=Head(units=(12,) * len(ACTIVATIONS)))
    for number, activation in enumerate(ACTIVATIONS, 1):
        network.model.get_layer(f"dense{number}").activation = keras.activations.get(activation)
    classifier = ripen(network, pictures(0, 16))
    check(classifier, graph.build(classifier, tmp_path), (*EVERYWHERE, "tflite-int8"), tmp_path)
