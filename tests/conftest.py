"""What many tests share: drawn photographs, a small classifier trained on them, and its serving graph."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leafport import images
from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput, Safety
from leafport.export import engine, graph
from leafport.export.graph import ServingGraph
from leafport.quantisation import Quantisation
from leafport.training.data import splits

SHARED = Path(__file__).resolve().parents[2] / "shared"
SIZE = 32
SHAPES = ("disc", "ring", "square")


LONG = ("test_resume.py", "test_distributed.py", "test_train.py", "test_fake_quantisation.py", "test_origin.py")
"""Files of few tests that take minutes: they go first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``plants`` need the photographs and weights beside the checkout."""
    items.sort(key=lambda item: item.path.name not in LONG)
    if not (SHARED / "plants").is_dir():
        skip = pytest.mark.skip(reason=f"needs the photographs in {SHARED}")
        for item in items:
            if item.get_closest_marker("plants"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs, weights and reference models; only for tests marked ``plants``."""
    return SHARED


def draw(shape: str, generator: np.random.Generator) -> Image.Image:
    """A photograph of one coloured shape on noise, 40 x 36 pixels."""
    noise = generator.integers(0, 90, (36, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    pen = ImageDraw.Draw(image)
    left, top = generator.integers(2, 12), generator.integers(2, 10)
    size = int(generator.integers(16, 24))
    box = (left, top, left + size, top + size)
    colour = tuple(int(value) for value in generator.integers(150, 255, 3))
    if shape == "disc":
        pen.ellipse(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=3)
    else:
        pen.rectangle(box, fill=colour)
    return image


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` has filled, one for all workers of a run: the first to need it makes it, others wait."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        make(folder)
        return folder
    shared = factory.getbasetemp().parent  # A worker's own folder lies in that of the run.
    folder, done = shared / name, shared / f"{name}.done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three classes, 30 photographs each."""
    return made_once(tmp_path_factory, "photographs", _draw_all)


def _draw_all(root: Path) -> None:
    generator = np.random.default_rng(7)
    for shape in SHAPES:
        (root / shape).mkdir()
        for index in range(30):
            draw(shape, generator).save(root / shape / f"{index}.png")


@pytest.fixture(scope="session")
def run(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's folder as training leaves it, with rings for the poisonous class.

    The network is small but has what exporters trip over: strided and depthwise convolutions, batch normalisation
    with statistics of its own, ReLU6, a residual sum, dropout. It has the ranges of its activations, too.
    """
    return made_once(tmp_path_factory, "run", lambda folder: _train(photo_folder, folder / "shapes")) / "shapes"


def _train(photo_folder: Path, folder: Path) -> None:
    import keras

    from leafport.training.fake_quantisation import fake_quantised, ranges_of

    keras.utils.set_random_seed(0)
    split = splits.split(splits.scan(photo_folder), validation=0.2, test=0.3)
    image = ImageInput(height=SIZE, width=SIZE)
    layers = keras.layers
    inputs = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(y))
    x = layers.Add()([x, layers.Conv2D(12, 1)(y)])
    x = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(len(split.labels), activation="softmax")(x))
    pixels = np.stack([images.read(split.file(photo), image) for photo in split.train])
    truth = np.array([split.label_index(photo) for photo in split.train])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(pixels.astype(np.float32), truth, batch_size=16, epochs=25, verbose=0)
    safety = Safety(
        positive_labels=("ring",),
        threshold=0.3,
        required_recall=0.9,
        attained=True,
        recall=1.0,
        recall_lower_bound=0.91,
        false_alarm_rate=0.1,
        positives=30,
        negatives=60,
    )
    contract = Contract(
        name="shapes",
        author="The shape society",
        license="CC0-1.0",
        description="Discs, rings and squares",
        task="class",
        labels=split.labels,
        image=image,
        safety=safety,
    )
    rounding = fake_quantised(model)
    rounding(pixels.astype(np.float32), training=True)
    Classifier(model, contract, Quantisation(ranges=ranges_of(rounding))).save(folder)
    split.save(folder / "splits.json")


@pytest.fixture(scope="session")
def classifier(run: Path) -> Classifier:
    """The small classifier, loaded."""
    return Classifier.load(run)


@pytest.fixture(scope="session")
def serving_graph(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> ServingGraph:
    """Its serving graph."""
    return graph.build(classifier, tmp_path_factory.mktemp("graph"))


@pytest.fixture
def unconvertible_graph(serving_graph: ServingGraph, tmp_path: Path) -> ServingGraph:
    """The serving graph with an operation in it that no device format has."""
    graph_def = serving_graph.graph_def()
    next(node for node in graph_def.node if node.op == "Softmax").op = "Erfinv"
    path = tmp_path / "unconvertible.pb"
    path.write_bytes(graph_def.SerializeToString())
    return ServingGraph(path, serving_graph.contract)


@pytest.fixture(scope="session")
def photographs(photo_folder: Path) -> tuple[Path, ...]:
    """Some of the photographs, every class among them."""
    return tuple(sorted(photo_folder.glob("*/?.png")))


@pytest.fixture(scope="session")
def pixels(photographs: tuple[Path, ...], classifier: Classifier) -> np.ndarray:
    """Their pixels: uint8 [N, H, W, 3]."""
    return np.stack([images.read(path, classifier.contract.image) for path in photographs])


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the distribution of tests/third_party installed in it, entry points and all, by pip."""
    source = shutil.copytree(Path(__file__).parent / "third_party", tmp_path_factory.mktemp("source") / "third_party")
    installed = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(installed), str(source)], check=True, capture_output=True)
    return installed


@pytest.fixture(scope="session")
def exports(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small classifier exported to every built-in target. Tests copy it before they change it."""

    def make(folder: Path) -> None:
        settings = engine.Settings(comparison_images=27, calibration_images=30)
        made = engine.export(run, folder / "shapes", settings=settings)
        assert {name: entry.reason for name, entry in made.artifacts.items() if entry.status != "ok"} == {}

    return made_once(tmp_path_factory, "exports", make) / "shapes"
