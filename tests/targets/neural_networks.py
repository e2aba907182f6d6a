"""Small files in Core ML's older format, layer by layer, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from leafport.targets.coreml.evaluator import calculated
from leafport.targets.coreml.program import read

coremltools = pytest.importorskip("coremltools", reason="the [coreml] extra is not installed")

CHANNELS, HEIGHT, WIDTH = 3, 9, 8
RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(4, CHANNELS, 3, 2)).astype(np.float32)  # [outputs, inputs, height, width]
GROUPED = RANDOM.normal(size=(6, 1, 3, 3)).astype(np.float32)
FOUR, THREE = RANDOM.normal(size=4).astype(np.float32), RANDOM.uniform(0.5, 2, 3).astype(np.float32)
MATRIX = RANDOM.normal(size=(7, CHANNELS * HEIGHT * WIDTH)).astype(np.float32)  # [outputs, inputs]
Build = Callable[[Any], None]


def pixels(count: int = 2) -> np.ndarray:
    """float32 [count, HEIGHT, WIDTH, CHANNELS], of both signs."""
    return RANDOM.normal(0, 2, (count, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)


def network(build: Build, folder: Path, *, exact: bool = False) -> Path:
    """A file of the layers that ``build`` adds between the image, ``x``, and the result, ``y``."""
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    made = NeuralNetworkBuilder(
        [("x", datatypes.Array(CHANNELS, HEIGHT, WIDTH))],
        [("y", None)],
        disable_rank5_shape_mapping=exact,
    )
    build(made)
    image = made.spec.description.input[0].type
    image.imageType.width, image.imageType.height, image.imageType.colorSpace = WIDTH, HEIGHT, 20
    made.spec.neuralNetwork.imageInputShapeMapping = int(exact)
    path = folder / "layers.mlmodel"
    path.write_bytes(made.spec.SerializeToString())
    return path


def answer(path: Path, images: np.ndarray) -> np.ndarray:
    """The network's result ``y``; four axes may lie channels first or last."""
    program = read(path)
    return traced(lambda batch: calculated(program, batch)["y"], images)


def traced(function: Callable[[Any], Any], images: np.ndarray) -> np.ndarray:
    """What it gives for a batch of any size, which the evaluator insists on."""
    signature = tf.TensorSpec((None, HEIGHT, WIDTH, CHANNELS), tf.float32)
    return np.asarray(tf.function(function, autograph=False).get_concrete_function(signature)(tf.constant(images)))


def product(made: Any, source: str, matrix: np.ndarray, bias: np.ndarray | None, into: str = "y") -> None:
    outputs, inputs = matrix.shape
    made.add_batched_mat_mul(
        "product", [source], into, weight_matrix_rows=inputs, weight_matrix_columns=outputs, W=matrix.T, bias=bias
    )
