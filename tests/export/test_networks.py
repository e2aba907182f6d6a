"""Every backbone and every head goes through the serving graph to every target, and answers there as in Keras."""

from __future__ import annotations

import functools
import json
import math
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.export import graph
from leafport.export.graph import ServingGraph
from leafport.targets import registry, tftrt
from leafport.targets.tftrt import operations
from leafport.training import heads
from leafport.training.backbones import AVERAGE, BACKBONES, Network, build
from leafport.training.heads import ACTIVATIONS, Head
from tests import environments

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
HEADS = {
    "gap": Head(units=(8,)),
    "dense": Head("dense", units=(8,)),
    "conv": Head("conv", filters=8, blocks=2),
    "residual": Head("residual", filters=8),
}
ON_A_BOARD = Path(__file__).resolve().parents[1] / "on_a_board.py"
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
    labels = ("ash", "birch", "cedar")[: logits.shape[1]]
    task = "class" if len(labels) > 2 else "binary"
    contract = Contract(name="plants", task=task, labels=labels, image=image)
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


def backbone(name: str, folder: Path) -> tuple[Classifier, ServingGraph]:
    return prepared(new(name), folder)


def with_head(kind: str, folder: Path, *, classes: int = 3) -> tuple[Classifier, ServingGraph]:
    return prepared(new("small", HEADS[kind], classes), folder)


def with_every_activation(folder: Path) -> tuple[Classifier, ServingGraph]:
    """One head with a layer for each, one after the other as a head has them."""
    import keras

    network = new("small", Head(units=(12,) * len(ACTIVATIONS)))
    for number, activation in enumerate(ACTIVATIONS, 1):
        network.model.get_layer(f"dense{number}").activation = keras.activations.get(activation)
    return prepared(network, folder)


def new(name: str, head: Head = AVERAGE, classes: int = 3) -> Network:
    import keras

    keras.utils.set_random_seed(0)
    return build(name, classes=classes, image_size=SIZE, weights="none", head=head)


def prepared(network: Network, folder: Path) -> tuple[Classifier, ServingGraph]:
    classifier = ripen(network, pictures(0, 16))
    return classifier, graph.build(classifier, folder)


@pytest.fixture(scope="module")
def for_boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each test leaves its network's graphs for boards, and what they must say."""
    return tmp_path_factory.mktemp("boards")


def keep_for_boards(name: str, classifier: Classifier, built: ServingGraph, folder: Path) -> None:
    (folder / name).mkdir()
    np.save(folder / name / "expected.npy", classifier.predict(pictures(1, 6)))
    for variant in ("frozen", "fp16"):
        tftrt.convert(built, variant, folder / name, tftrt.Options(minimum_segment_size=1))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_folds_and_exports(name: str, tmp_path: Path, for_boards: Path) -> None:
    classifier, built = backbone(name, tmp_path)
    facts = graph.read_facts(tmp_path)
    ops = Counter(facts["ops"])
    assert facts["operations"] <= OPERATIONS[name]
    assert facts["nodes"] < facts["nodes_traced"]
    assert not {"Rsqrt", "FusedBatchNormV3", "Sub", "Shape"} & set(ops)
    assert ops["BiasAdd"] >= ops["Conv2D"] + ops["DepthwiseConv2dNative"]
    assert scales_left(built) == PREACTIVATIONS.get(name, 0)
    check(classifier, built, TARGETS.get(name, EVERYWHERE), tmp_path)
    keep_for_boards(name, classifier, built, for_boards)


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_exports(kind: str, tmp_path: Path, for_boards: Path) -> None:
    classifier, built = with_head(kind, tmp_path)
    check(classifier, built, (*EVERYWHERE, "tflite-int8"), tmp_path)
    keep_for_boards(kind, classifier, built, for_boards)


def test_every_activation_exports(tmp_path: Path, for_boards: Path) -> None:
    classifier, built = with_every_activation(tmp_path)
    check(classifier, built, (*EVERYWHERE, "tflite-int8"), tmp_path)
    keep_for_boards("activations", classifier, built, for_boards)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"tensorflow-{version}", marks=pytest.mark.environment(f"tensorflow-{version}"))
        for version in operations.versions()
    ],
)
def test_every_network_runs_in_the_tensorflows_of_boards(name: str, for_boards: Path, tmp_path: Path) -> None:
    """Every operation and attribute is known there, and an engine's native segment says what the frozen graph says."""
    python = environments.required(name)
    makers: dict[str, Callable[[Path], tuple[Classifier, ServingGraph]]] = {
        **{each: functools.partial(backbone, each) for each in BACKBONES},
        **{kind: functools.partial(with_head, kind) for kind in HEADS},
        **{f"binary-{kind}": functools.partial(with_head, kind, classes=2) for kind in HEADS},
        "activations": with_every_activation,
    }
    for case, maker in makers.items():  # Those that no test above has left.
        if not (for_boards / case).is_dir():
            keep_for_boards(case, *maker(tmp_path / case), for_boards)
    np.save(tmp_path / "pixels.npy", pictures(1, 6))
    paths = [for_boards / case / f"plants-{variant}.pb" for case in makers for variant in ("frozen", "fp16")]
    command = [str(python), str(ON_A_BOARD), str(tmp_path / "pixels.npy"), *map(str, paths)]
    finished = subprocess.run(command, text=True, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    found = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert [row["unknown"] for row in found] == [[]] * len(paths)
    for case, frozen, fp16 in zip(makers, found[::2], found[1::2], strict=True):
        assert (frozen["engines"], fp16["engines"] > 0) == (0, True), case
        frozen_says, engines_say = (np.load(for_boards / case / f"plants-{v}.pb.npy") for v in ("frozen", "fp16"))
        np.testing.assert_array_equal(engines_say, frozen_says, err_msg=case)
        expected = np.load(for_boards / case / "expected.npy")
        np.testing.assert_allclose(frozen_says, expected, atol=TOLERANCE, err_msg=case)
