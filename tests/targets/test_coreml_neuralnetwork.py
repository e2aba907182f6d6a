"""Core ML's older format: each layer against numpy, and files that coremltools writes in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from leafport.contract import Contract
from leafport.errors import ModelError, TargetError
from leafport.targets import coreml
from leafport.targets.coreml.evaluator import evaluate
from leafport.targets.coreml.program import read
from tests.targets.neural_networks import (
    CHANNELS,
    FOUR,
    GROUPED,
    HEIGHT,
    KERNEL,
    MATRIX,
    THREE,
    WIDTH,
    Build,
    answer,
    coremltools,
    network,
    pixels,
    product,
    traced,
)


def convolved(images: np.ndarray, **settings: Any) -> np.ndarray:
    """What TensorFlow calculates."""
    return np.asarray(tf.nn.conv2d(images, KERNEL.transpose(2, 3, 1, 0), **settings) + FOUR)


def convolution(**settings: Any) -> Build:
    def build(made: Any) -> None:
        arguments = {"stride_height": 1, "stride_width": 1, "border_mode": "valid", **settings}
        made.add_convolution(
            "layer",
            CHANNELS,
            4,
            3,
            2,
            groups=1,
            W=KERNEL.transpose(2, 3, 1, 0),
            b=FOUR,
            has_bias=True,
            input_name="x",
            output_name="y",
            **arguments,
        )

    return build


def pooled(images: np.ndarray, kind: str, padding: str) -> np.ndarray:
    return np.asarray(tf.nn.pool(images, (3, 2), kind, strides=(2, 1), padding=padding))


def pooling(kind: str, border: str, **settings: Any) -> Build:
    return lambda made: made.add_pooling("layer", 3, 2, 2, 1, kind, border, "x", "y", **settings)


def activation(kind: str, *parameters: float) -> Build:
    given: Any = parameters[0] if len(parameters) == 1 and kind != "LEAKYRELU" else list(parameters)
    return lambda made: made.add_activation("layer", kind, "x", "y", given if parameters else None)


def unary(kind: str, **settings: float) -> Build:
    return lambda made: made.add_unary("layer", "x", "y", kind, **settings)


def with_negative(how: str) -> Build:
    """The images and their negatives, combined."""

    def build(made: Any) -> None:
        made.add_activation("before", "LINEAR", "x", "z", [-1.0, 0.0])
        made.add_elementwise("layer", ["x", "z"], "y", how)

    return build


# Each of a name: the layer, and what it is to give for images [N, H, W, C], [N, H, W, C] itself.
SPATIAL: dict[str, tuple[Build, Callable[[np.ndarray], np.ndarray]]] = {
    "convolution": (convolution(), lambda x: convolved(x, strides=1, padding="VALID")),
    "convolution same": (
        convolution(stride_height=2, stride_width=2, border_mode="same"),
        lambda x: convolved(x, strides=2, padding="SAME"),
    ),
    "convolution dilated": (
        convolution(dilation_factors=[2, 1]),
        lambda x: convolved(x, strides=1, padding="VALID", dilations=[2, 1]),
    ),
    "convolution padded": (
        convolution(padding_top=1, padding_bottom=2, padding_left=0, padding_right=3),
        lambda x: convolved(x, strides=1, padding=[[0, 0], [1, 2], [0, 3], [0, 0]]),
    ),
    "depthwise": (
        lambda made: made.add_convolution(
            "layer",
            1,
            6,
            3,
            3,
            1,
            1,
            "valid",
            CHANNELS,
            GROUPED.transpose(2, 3, 1, 0),
            None,
            False,
            input_name="x",
            output_name="y",
        ),
        lambda x: np.asarray(
            tf.nn.depthwise_conv2d(
                x, GROUPED[:, 0].reshape(CHANNELS, 2, 3, 3).transpose(2, 3, 0, 1), [1, 1, 1, 1], "VALID"
            )
        ),
    ),
    "max pooling": (pooling("MAX", "VALID"), lambda x: pooled(x, "MAX", "VALID")),
    "average pooling": (
        pooling("AVERAGE", "SAME", exclude_pad_area=True),
        lambda x: pooled(x, "AVG", "SAME"),
    ),
    "global pooling": (
        pooling("AVERAGE", "VALID", is_global=True),
        lambda x: x.mean(axis=(1, 2), keepdims=True),
    ),
    "global maximum": (pooling("MAX", "VALID", is_global=True), lambda x: x.max(axis=(1, 2), keepdims=True)),
    "relu": (activation("RELU"), lambda x: np.maximum(x, 0)),
    "leaky relu": (activation("LEAKYRELU", 0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    "thresholded relu": (activation("THRESHOLDEDRELU", 0.7), lambda x: np.where(x >= 0.7, x, 0)),
    "prelu": (
        lambda made: made.add_activation("layer", "PRELU", "x", "y", np.array([0.1, 0.2, 0.3])),
        lambda x: np.where(x > 0, x, x * np.array([0.1, 0.2, 0.3])),
    ),
    "linear": (activation("LINEAR", 2.0, -1.0), lambda x: 2 * x - 1),
    "tanh": (activation("TANH"), np.tanh),
    "scaled tanh": (activation("SCALED_TANH", 2.0, 0.5), lambda x: 2 * np.tanh(0.5 * x)),
    "sigmoid": (activation("SIGMOID"), lambda x: 1 / (1 + np.exp(-x))),
    "hard sigmoid": (activation("SIGMOID_HARD", 0.2, 0.5), lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "elu": (activation("ELU", 0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    "softsign": (activation("SOFTSIGN"), lambda x: x / (1 + np.abs(x))),
    "softplus": (activation("SOFTPLUS"), lambda x: np.log1p(np.exp(x))),
    "threshold": (unary("threshold", alpha=-0.5, scale=-1.0), lambda x: np.maximum(-x, -0.5)),
    "absolute": (unary("abs", shift=1.0), lambda x: np.abs(x + 1)),
    "power": (unary("power", alpha=2.0), np.square),
    "exponential": (unary("exp", scale=0.5), lambda x: np.exp(0.5 * x)),
    "inverse": (unary("inverse", epsilon=9.0, scale=0.1), lambda x: 1 / (0.1 * x + 9)),
    "root": (unary("sqrt", shift=20.0), lambda x: np.sqrt(x + 20)),
    "inverse root": (unary("rsqrt", shift=20.0, epsilon=0.5), lambda x: 1 / np.sqrt(x + 20.5)),
    "logarithm": (unary("log", shift=20.0, epsilon=1e-6), lambda x: np.log(x + 20)),
    "batch norm": (
        lambda made: made.add_batchnorm("layer", 3, THREE, -THREE, THREE / 2, THREE, "x", "y", epsilon=0.1),
        lambda x: (x - THREE / 2) / np.sqrt(THREE + 0.1) * THREE - THREE,
    ),
    "scale": (
        lambda made: made.add_scale("layer", THREE, -THREE, True, "x", "y", shape_scale=[3], shape_bias=[3]),
        lambda x: x * THREE - THREE,
    ),
    "bias": (lambda made: made.add_bias("layer", THREE, "x", "y", shape_bias=[3]), lambda x: x + THREE),
    "padding": (
        lambda made: made.add_padding("layer", 1, 2, 0, 3, 0.5, "x", "y"),
        lambda x: np.pad(x, [(0, 0), (0, 3), (1, 2), (0, 0)], constant_values=0.5),
    ),
    "reflection": (
        lambda made: made.add_padding("layer", 1, 1, 2, 0, 0, "x", "y", padding_type="reflection"),
        lambda x: np.pad(x, [(0, 0), (2, 0), (1, 1), (0, 0)], mode="reflect"),
    ),
    "add a number": (lambda made: made.add_elementwise("layer", ["x"], "y", "ADD", 0.5), lambda x: x + 0.5),
    "multiply by a number": (lambda made: made.add_elementwise("layer", ["x"], "y", "MULTIPLY", -2), lambda x: -2 * x),
    "add three": (lambda made: made.add_elementwise("layer", ["x", "x", "x"], "y", "ADD"), lambda x: 3 * x),
    "average": (lambda made: made.add_elementwise("layer", ["x", "x", "x"], "y", "AVE"), lambda x: x),
    "minimum": (
        with_negative("MIN"),
        lambda x: -np.abs(x),
    ),
    "maximum": (
        with_negative("MAX"),
        np.abs,
    ),
    "squeeze and excite": (
        lambda made: (
            made.add_pooling("squeeze", 0, 0, 1, 1, "AVERAGE", "VALID", "x", "z", is_global=True),
            made.add_elementwise("layer", ["x", "z"], "y", "MULTIPLY"),
        ),
        lambda x: x * x.mean(axis=(1, 2), keepdims=True),
    ),
    "concat": (
        with_negative("CONCAT"),
        lambda x: np.concatenate([x, -x], axis=-1),
    ),
    "softmax": (
        lambda made: made.add_softmax("layer", "x", "y"),
        lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True),
    ),
    "a constant": (
        lambda made: (
            made.add_load_constant("constant", "c", THREE, [3, 1, 1]),
            made.add_elementwise("layer", ["x", "c"], "y", "ADD"),
        ),
        lambda x: x + THREE,
    ),
}


@pytest.mark.parametrize("name", SPATIAL)
def test_a_layer_calculates_what_it_says(name: str, tmp_path: Path) -> None:
    build, expected = SPATIAL[name]
    images = pixels()
    found, wanted = answer(network(build, tmp_path), images), expected(images)
    if found.shape != wanted.shape:
        found = found.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def flat(images: np.ndarray) -> np.ndarray:
    """As the file's layers see it: [N, C * H * W]."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def dense(made: Any, mode: int = 0) -> None:
    made.add_flatten("flat", mode, "x", "z")
    made.add_inner_product("layer", MATRIX, MATRIX[:, 0], MATRIX.shape[1], 7, True, "z", "y")


def test_dense_layers_take_what_was_flattened(tmp_path: Path) -> None:
    images = pixels()
    found = answer(network(dense, tmp_path), images)
    np.testing.assert_allclose(found[:, :, 0, 0], flat(images) @ MATRIX.T + MATRIX[:, 0], rtol=1e-4, atol=1e-4)
    found = answer(network(lambda made: dense(made, 1), tmp_path), images)
    channels_last = images.reshape(len(images), -1)
    np.testing.assert_allclose(found[:, :, 0, 0], channels_last @ MATRIX.T + MATRIX[:, 0], rtol=1e-4, atol=1e-4)


def globally(made: Any) -> None:
    made.add_pooling("pool", 0, 0, 1, 1, "AVERAGE", "VALID", "x", "z", is_global=True)
    made.add_inner_product("layer", MATRIX[:, :3], None, 3, 7, False, "z", "y")


EXACT: dict[str, tuple[Build, Callable[[np.ndarray], np.ndarray]]] = {
    "transpose": (
        lambda made: made.add_transpose("layer", [0, 2, 3, 1], "x", "y"),
        lambda x: x.transpose(0, 2, 3, 1),
    ),
    "mean": (lambda made: made.add_reduce_mean("layer", "x", "y", [2, 3], keepdims=False), lambda x: x.mean((2, 3))),
    "sum": (lambda made: made.add_reduce_sum("layer", "x", "y", [-1]), lambda x: x.sum(-1, keepdims=True)),
    "maximum": (lambda made: made.add_reduce_max("layer", "x", "y", [1]), lambda x: x.max(1, keepdims=True)),
    "softmax": (
        lambda made: made.add_softmax_nd("layer", "x", "y", axis=-1),
        lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    ),
    "expand and squeeze": (
        lambda made: (
            made.add_expand_dims("more", "x", "z", [2]),
            made.add_squeeze("layer", "z", "y", [2]),
        ),
        lambda x: x,
    ),
    "reshape": (
        lambda made: made.add_reshape_static("layer", "x", "y", (1, WIDTH, -1)),
        lambda x: x.reshape(len(x), WIDTH, -1),
    ),
    "concat": (
        lambda made: made.add_concat_nd("layer", ["x", "x"], "y", axis=-1),
        lambda x: np.concatenate([x, x], -1),
    ),
    "clip": (lambda made: made.add_clip("layer", "x", "y", -1.0, 0.5), lambda x: x.clip(-1, 0.5)),
    "clamped relu": (
        lambda made: made.add_clamped_relu("layer", "x", "y", alpha=0.1, beta=1.0),
        lambda x: np.minimum(np.where(x > 0, x, 0.1 * x), 1),
    ),
    "erf": (lambda made: made.add_erf("layer", "x", "y"), lambda x: np.asarray(tf.math.erf(x))),
    "gelu": (
        lambda made: made.add_gelu("layer", "x", "y", "TANH_APPROXIMATION"),
        lambda x: np.asarray(tf.nn.gelu(x, approximate=True)),
    ),
    "tanh": (lambda made: made.add_tanh("layer", "x", "y"), np.tanh),
    "subtract": (lambda made: made.add_subtract_broadcastable("layer", ["x", "x"], "y"), np.zeros_like),
    "divide": (lambda made: made.add_divide_broadcastable("layer", ["x", "x"], "y"), np.ones_like),
    "a constant": (
        lambda made: (
            made.add_load_constant_nd("constant", "c", THREE.reshape(1, 3, 1, 1), [1, 3, 1, 1]),
            made.add_multiply_broadcastable("layer", ["x", "c"], "y"),
        ),
        lambda x: x * THREE.reshape(1, 3, 1, 1),
    ),
    "dense behind pooling": (globally, lambda x: (x.mean((2, 3)) @ MATRIX[:, :3].T)[:, :, None, None]),
    "matrix product": (
        lambda made: (
            made.add_reshape_static("flat", "x", "z", (1, MATRIX.shape[1])),
            product(made, "z", MATRIX, MATRIX[:, 0]),
        ),
        lambda x: x.reshape(len(x), -1) @ MATRIX.T + MATRIX[:, 0],
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_layer_of_arrays_of_any_rank_calculates_what_it_says(name: str, tmp_path: Path) -> None:
    build, expected = EXACT[name]
    images = pixels()
    found, wanted = answer(network(build, tmp_path, exact=True), images), expected(images.transpose(0, 3, 1, 2))
    if found.shape != wanted.shape:
        found = found.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("bits", "how"), [(16, "linear"), (8, "linear"), (8, "linear_symmetric"), (4, "linear_lut"), (3, "linear_lut")]
)
def test_constants_of_few_bits_are_unpacked(bits: int, how: str, tmp_path: Path) -> None:
    """As coremltools packs them; what they stand for is read back with its own functions."""
    from coremltools.models.neural_network import quantization_utils

    def without_bias(made: Any) -> None:  # Which would be packed too.
        made.add_flatten("flat", 0, "x", "z")
        made.add_inner_product("layer", MATRIX, None, MATRIX.shape[1], 7, False, "z", "y")

    path = network(without_bias, tmp_path)
    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    packed = quantization_utils.quantize_weights(model, bits, how)
    packed = packed if isinstance(packed, type(model.get_spec())) else packed.get_spec()
    path.write_bytes(packed.SerializeToString())
    stored = packed.neuralNetwork.layers[1].innerProduct.weights
    if bits == 16:
        weights = np.frombuffer(stored.float16Value, np.float16).reshape(MATRIX.shape).astype(np.float32)
    else:
        places = quantization_utils._unpack_to_bytes(np.frombuffer(stored.rawValue, np.uint8), MATRIX.size, bits)
        if stored.quantization.WhichOneof("QuantizationType") == "linearQuantization":
            scale, bias = stored.quantization.linearQuantization.scale, stored.quantization.linearQuantization.bias
            weights = places.reshape(MATRIX.shape) * np.array(scale)[:, None] + np.array(bias)[:, None]
        else:
            table = np.array(stored.quantization.lookupTableQuantization.floatValue)
            weights = table[places.astype(int)].reshape(MATRIX.shape)
    assert np.abs(weights - MATRIX).max() < 2
    assert read(path).weights["float16" if bits == 16 else f"uint{bits}"] >= MATRIX.size
    images = pixels()
    wanted = flat(images) @ weights.T
    np.testing.assert_allclose(answer(path, images)[:, :, 0, 0], wanted, rtol=1e-2, atol=0.05)


def classifier(folder: Path, *, bgr: bool = False) -> Path:
    """A file as tools of before 2020 wrote them: the scaling of pixels beside the layers, 10 logits, a softmax."""
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    made = NeuralNetworkBuilder(
        [("data", datatypes.Array(CHANNELS, HEIGHT, WIDTH))], [("prob", None)], mode="classifier"
    )
    made.add_flatten("flat", 0, "data", "z")
    made.add_inner_product("layer", MATRIX, MATRIX[:, 0], MATRIX.shape[1], 7, True, "z", "logits")
    made.add_softmax("softmax", "logits", "prob")
    made.set_class_labels(list("abcdefg"), predicted_feature_name="class")
    made.set_pre_processing_parameters(
        ["data"], is_bgr=bgr, red_bias=-0.1, green_bias=-0.2, blue_bias=-0.3, image_scale=1 / 255
    )
    path = folder / "old.mlmodel"
    path.write_bytes(made.spec.SerializeToString())
    return path


@pytest.mark.parametrize("bgr", [False, True])
def test_scaling_beside_the_layers_and_the_order_of_colours_count(bgr: bool, tmp_path: Path) -> None:
    path = classifier(tmp_path, bgr=bgr)
    images = np.random.default_rng(1).integers(0, 256, (3, HEIGHT, WIDTH, CHANNELS), dtype=np.uint8)
    scaled = images / 255 + np.array([-0.1, -0.2, -0.3])
    logits = flat(scaled[..., ::-1] if bgr else scaled) @ MATRIX.T + MATRIX[:, 0]
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    contract = Contract.from_json(
        {
            "name": "old",
            "version": "1",
            "task": "class",
            "labels": list("abcdefg"),
            "image": {"height": HEIGHT, "width": WIDTH},
        }
    )
    np.testing.assert_allclose(coreml.runner(path, contract, 1).predict(images), wanted, atol=1e-5)
    facts = coreml.inspect(path)
    assert facts.labels == tuple("abcdefg")
    assert facts.inputs[0].dtype == ("BGR image" if bgr else "RGB image")


def test_layers_that_do_not_fit_are_damage_and_not_other_answers(tmp_path: Path) -> None:
    """A network of 7 logits cannot name 3 classes, which 7 photographs of 3 would give as 3 of 7."""
    path = classifier(tmp_path)
    spec = coremltools.utils.load_spec(str(path))
    spec.neuralNetworkClassifier.stringClassLabels.vector[:] = list("abc")
    path.write_bytes(spec.SerializeToString())
    with pytest.raises(ModelError, match="damaged"):
        traced(functools.partial(evaluate, read(path), labels=tuple("abc")), pixels(3))


def test_what_is_unknown_is_named(tmp_path: Path) -> None:
    images = pixels()
    path = network(lambda made: made.add_lrn("layer", "x", "y", 1.0, 0.75, 5), tmp_path)
    assert coreml.inspect(path).ops == {"lrn": 1}
    with pytest.raises(TargetError, match="'lrn'"):
        answer(path, images)
    path = network(pooling("L2", "VALID"), tmp_path)
    with pytest.raises(TargetError, match="pooling with L2 pooling"):
        answer(path, images)


def test_a_network_that_names_no_classes_is_run_by_its_one_result(tmp_path: Path) -> None:
    def build(made: Any) -> None:
        made.add_reshape_static("flat", "x", "z", (1, MATRIX.shape[1]))
        made.add_inner_product("layer", MATRIX, None, MATRIX.shape[1], 7, False, "z", "y")

    images = pixels()
    program = read(network(build, tmp_path, exact=True))
    found = traced(lambda batch: evaluate(program, batch, tuple("abcdefg")), images)
    np.testing.assert_allclose(found, flat(images) @ MATRIX.T, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="not a classifier of 3 classes"):
        traced(lambda batch: evaluate(program, batch, tuple("abc")), images)


def test_flipped_bits_and_missing_ends_never_crash(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    whole = path.read_bytes()
    random = np.random.default_rng(2)
    refused = 0
    for position in random.integers(0, len(whole), 200):
        changed = bytearray(whole)
        changed[position] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(changed if position % 2 else changed[:position])
        try:
            coreml.inspect(path)
            program = read(path)
            traced(functools.partial(evaluate, program, labels=tuple("abcdefg")), pixels())
        except (ModelError, TargetError):
            refused += 1
    assert refused > 50
