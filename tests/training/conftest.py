"""Drawn photographs, weights and classifiers, small enough to train in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLOURS = {"clover": (40, 160, 60), "daisy": (230, 230, 210), "foxglove": (170, 60, 160), "nightshade": (60, 20, 90)}


def draw(path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (60, 48)) -> Path:
    """A coloured blob on noise: every seed gives another file."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(60, 130, (size[1], size[0], 3), dtype=np.uint8))
    left, top = random.integers(2, 18, 2)
    tint = tuple(int(np.clip(value + random.integers(-20, 20), 0, 255)) for value in colour)
    ImageDraw.Draw(image).ellipse((left, top, left + 28, top + 24), fill=tint)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., Path]:
    """A function that fills a folder with class folders of ``count`` drawn photographs each."""

    def make(root: Path, count: int = 12, classes: int = 4) -> Path:
        for index, (name, colour) in enumerate(list(COLOURS.items())[:classes]):
            for number in range(count):
                draw(root / name / f"{number:03}.png", colour, 1000 * index + number)
        return root

    return make


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos") / "plants")


@pytest.fixture(scope="session")
def poisonous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "poisonous.txt"
    path.write_text("# the dangerous ones\nfoxglove\n\nnightshade\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def mobilenet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of MobileNet without its top, with random values as large as He et al. (2015) have them.

    With Keras's own, signals fade out on the way through its depthwise layers: all photographs would look the same.
    """
    import keras

    random = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    for layer in network.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            shape = layer.kernel.shape
            inputs = shape[0] * shape[1] * (1 if isinstance(layer, keras.layers.DepthwiseConv2D) else shape[2])
            layer.set_weights([random.normal(0, (2 / inputs) ** 0.5, shape)])
    network.save_weights(path)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, photos: Path, poisonous: Path, mobilenet_weights: Path) -> Path:
    """The folder of a class model with positive classes, trained in both stages for two steps each."""
    from leafport.training.config import Config
    from leafport.training.train import train

    out = tmp_path_factory.mktemp("trained") / "run"
    config = Config(
        photos,
        out,
        positive=poisonous,
        backbone="mobilenet",
        weights=str(mobilenet_weights),
        image_size=32,
        batch_size=16,
        max_steps=2,
        author="Ada",
        license="CC0-1.0",
        description="Four plants",
    )
    return train(config)
