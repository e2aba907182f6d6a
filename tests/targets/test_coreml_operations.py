"""The reference evaluator's operations, against plain NumPy and against small packages written by coremltools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leafport.errors import ModelError, TargetError

coremltools = pytest.importorskip("coremltools", reason="the [coreml] extra is not installed")
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402, N813

from leafport.targets.coreml.evaluator import evaluate  # noqa: E402
from leafport.targets.coreml.operations import OPERATIONS, UnsupportedError  # noqa: E402
from leafport.targets.coreml.program import read  # noqa: E402

LABELS = ("a", "b", "c", "d")


def call(name: str, *operands: Any, **arguments: Any) -> np.ndarray:
    """An operation's result; a rank-4 operand is given, and the result returned, channels first, as MIL defines it."""
    operation = OPERATIONS[name]
    last = operation.layout == "channels last"
    inputs = [np.transpose(x, (0, 2, 3, 1)) if last and np.ndim(x) == 4 else x for x in operands]
    result = np.asarray(operation.function(*map(tensor, inputs), **arguments))
    return np.transpose(result, (0, 3, 1, 2)) if last else result


def tensor(value: Any) -> Any:
    import tensorflow as tf

    return tf.constant(value, tf.float32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain_pads(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pad_type: str
) -> list[int]:
    """(before, after) per axis, from the definition: "same" leaves ceil(size / stride) windows."""
    pads = []
    for length, window, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        windows = -(-length // stride)
        total = max(0, (windows - 1) * stride + dilation * (window - 1) + 1 - length) if "same" in pad_type else 0
        small, large = total // 2, total - total // 2
        pads += [large, small] if pad_type == "same_lower" else [small, large]
    return pads


def plain_windows(
    x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int] = (1, 1)
) -> np.ndarray:
    """Every window of x [N, C, H, W]: [N, C, rows, columns, *kernel]."""
    reach = [dilation * (window - 1) + 1 for window, dilation in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def plain_conv(
    x: np.ndarray,
    weight: np.ndarray,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    pads: Sequence[int],
) -> np.ndarray:
    top, bottom, left, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    results = []
    for part, filters in zip(np.split(padded, groups, axis=1), np.split(weight, groups), strict=True):
        windows = plain_windows(part, weight.shape[2:], strides, dilations)
        results.append(np.einsum("nchwij,ocij->nohw", windows, filters))
    return np.concatenate(results, axis=1)


sizes = st.integers(7, 10)
small = st.integers(1, 3)
pad_types = st.sampled_from(["valid", "same", "same_lower", "custom"])


@settings(max_examples=60, deadline=None)
@given(
    height=sizes, width=sizes, kernel=st.tuples(small, small), strides=st.tuples(small, small),
    dilations=st.tuples(small, small), groups=small, inputs=small, outputs=small, pad_type=pad_types,
    custom=st.tuples(*[st.integers(0, 2)] * 4), with_bias=st.booleans(),
)  # fmt: skip
def test_conv_is_a_convolution(
    height: int, width: int, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int],
    groups: int, inputs: int, outputs: int, pad_type: str, custom: tuple[int, ...], with_bias: bool,
) -> None:  # fmt: skip
    x = normal(2, groups * inputs, height, width)
    weight = normal(groups * outputs, inputs, *kernel, seed=1)
    bias = normal(groups * outputs, seed=2) if with_bias else None
    pads = custom if pad_type == "custom" else plain_pads((height, width), kernel, strides, dilations, pad_type)
    expected = plain_conv(x, weight, strides, dilations, groups, pads)
    if bias is not None:
        expected = expected + bias[:, None, None]
    found = call(
        "conv", x, weight=weight, bias=bias, strides=strides, dilations=dilations, groups=groups, pad_type=pad_type,
        pad=np.array(custom if pad_type == "custom" else (0, 0, 0, 0)),
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("dilations", [(1, 1), (2, 1)])
@pytest.mark.parametrize("pad_type", ["same", "same_lower", "valid"])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_conv(strides: tuple[int, int], dilations: tuple[int, int], pad_type: str, multiplier: int) -> None:
    x, weight = normal(2, 5, 9, 8), normal(5 * multiplier, 1, 3, 3, seed=1)
    pads = plain_pads((9, 8), (3, 3), strides, dilations, pad_type)
    expected = plain_conv(x, weight, strides, dilations, 5, pads)
    found = call("conv", x, weight=weight, strides=strides, dilations=dilations, groups=5, pad_type=pad_type)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(height=sizes, width=sizes, kernel=st.tuples(small, small), strides=st.tuples(small, small), pad_type=pad_types)
def test_pooling(height: int, width: int, kernel: tuple[int, int], strides: tuple[int, int], pad_type: str) -> None:
    x = normal(2, 3, height, width) - 3.0  # Mostly negative: padding with zeros would show in a maximum.
    custom = (kernel[0] // 2, 0, 0, kernel[1] // 2)
    pads = custom if pad_type == "custom" else plain_pads((height, width), kernel, strides, (1, 1), pad_type)
    where = ((0, 0), (0, 0), tuple(pads[:2]), tuple(pads[2:]))
    settings = {"kernel_sizes": kernel, "strides": strides, "pad_type": pad_type, "pad": custom}

    highest = plain_windows(np.pad(x, where, constant_values=-np.inf), kernel, strides).max(axis=(4, 5))
    np.testing.assert_array_equal(call("max_pool", x, **settings), highest)

    sums = plain_windows(np.pad(x, where), kernel, strides).sum(axis=(4, 5))
    np.testing.assert_allclose(call("avg_pool", x, **settings), sums / np.prod(kernel), atol=1e-5)
    counts = plain_windows(np.pad(np.ones_like(x), where), kernel, strides).sum(axis=(4, 5))
    found = call("avg_pool", x, **settings, exclude_padding_from_average=True)
    np.testing.assert_allclose(found, sums / counts, atol=1e-5)


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_ceil_mode_is_refused_not_ignored(name: str) -> None:
    with pytest.raises(UnsupportedError, match="ceil_mode"):
        call(name, normal(1, 1, 5, 5), kernel_sizes=(2, 2), strides=(2, 2), pad_type="valid", ceil_mode=True)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("pads", [(1, 2, 0, 3), (2, 0, 1, 2, 0, 3), (0, 0, 0, 0, 1, 0, 0, 2)])
def test_pad_counts_from_the_last_axis(mode: str, pads: tuple[int, ...]) -> None:
    x = normal(2, 4, 5, 6)
    where = np.reshape((0,) * (8 - len(pads)) + pads, (4, 2))
    extra: dict[str, Any] = {"constant_values": 1.5} if mode == "constant" else {}
    expected = np.pad(x, where, mode=mode, **extra)  # type: ignore[call-overload]
    np.testing.assert_array_equal(call("pad", x, pad=np.array(pads), mode=mode, constant_val=1.5), expected)


def test_batch_norm_and_prelu_work_along_the_channels() -> None:
    x, mean, beta, alpha = normal(2, 3, 4, 5), normal(3, seed=1), normal(3, seed=2), normal(3, seed=3)
    variance, gamma = np.abs(normal(3, seed=4)) + 0.1, normal(3, seed=5)
    wide = (slice(None), None, None)
    expected = (x - mean[wide]) / np.sqrt(variance[wide] + 1e-3) * gamma[wide] + beta[wide]
    found = call("batch_norm", x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(call("prelu", x, alpha=alpha), np.where(x > 0, x, x * alpha[wide]), atol=1e-6)


def logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


ELEMENTWISE: list[tuple[str, dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = [
    ("relu", {}, lambda x: np.maximum(x, 0)),
    ("relu6", {}, lambda x: np.clip(x, 0, 6)),
    ("sigmoid", {}, logistic),
    ("silu", {}, lambda x: x * logistic(x)),
    ("tanh", {}, np.tanh),
    ("exp", {}, np.exp),
    ("square", {}, np.square),
    ("abs", {}, np.abs),
    ("softplus", {}, lambda x: np.log1p(np.exp(x))),
    ("softsign", {}, lambda x: x / (1 + np.abs(x))),
    ("clip", {"alpha": -1.0, "beta": 2.5}, lambda x: np.clip(x, -1, 2.5)),
    ("leaky_relu", {"alpha": 0.2}, lambda x: np.where(x >= 0, x, 0.2 * x)),
    ("elu", {"alpha": 0.7}, lambda x: np.where(x >= 0, x, 0.7 * (np.exp(x) - 1))),
    ("clamped_relu", {"alpha": 0.1, "beta": 3.0}, lambda x: np.minimum(np.where(x >= 0, x, 0.1 * x), 3)),
    ("linear_activation", {"alpha": 2.0, "beta": -1.0}, lambda x: 2 * x - 1),
    ("sigmoid_hard", {"alpha": 0.2, "beta": 0.5}, lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    ("scaled_tanh", {"alpha": 1.7, "beta": 0.6}, lambda x: 1.7 * np.tanh(0.6 * x)),
    ("gelu", {"mode": "TANH_APPROXIMATION"},
     lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    ("gelu", {"mode": "SIGMOID_APPROXIMATION"}, lambda x: x * logistic(1.702 * x)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "expected"), ELEMENTWISE)
def test_element_by_element(name: str, arguments: dict[str, Any], expected: Callable[[np.ndarray], np.ndarray]) -> None:
    x = 4 * normal(3, 50)
    np.testing.assert_allclose(call(name, x, **arguments), expected(x), rtol=1e-4, atol=1e-5)


def test_roots_and_logarithms_use_their_epsilon() -> None:
    x = np.abs(normal(2, 20)) + 0.01
    np.testing.assert_allclose(call("sqrt", x), np.sqrt(x), rtol=1e-5)
    np.testing.assert_allclose(call("rsqrt", x, epsilon=0.3), 1 / np.sqrt(x + 0.3), rtol=1e-5)
    np.testing.assert_allclose(call("log", x, epsilon=0.3), np.log(x + 0.3), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(call("inverse", x, epsilon=0.3), 1 / (x + 0.3), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", 0), ("int8", -128), ("uint8", 0), ("uint8", 131)])
def test_numbers_of_8_bits(dtype: str, zero_point: int) -> None:
    x = np.concatenate([4 * normal(1, 50), [[0.03, 0.05, -0.05, 1e3, -1e3]]], axis=1).astype(np.float32)
    quantise, dequantise = OPERATIONS["quantize"].function, OPERATIONS["dequantize"].function
    found = np.asarray(quantise(tensor(x), scale=0.1, output_dtype=dtype, zero_point=zero_point))
    limits = np.iinfo(dtype)
    np.testing.assert_array_equal(found, np.clip(np.round(x / np.float32(0.1)) + zero_point, limits.min, limits.max))
    again = np.asarray(dequantise(tensor(found), scale=0.1, zero_point=zero_point))
    np.testing.assert_allclose(again, (found - zero_point) * 0.1, rtol=1e-5, atol=1e-6)
    for function, rest in ((quantise, {"output_dtype": dtype}), (dequantise, {})):
        with pytest.raises(UnsupportedError, match="a scale for each channel"):
            function(tensor(x), scale=np.ones(55, np.float32), axis=1, **rest)
    with pytest.raises(UnsupportedError, match="output_dtype"):
        quantise(tensor(x), scale=0.1, output_dtype="int4")


def test_axes() -> None:
    x = normal(2, 3, 4, 5)
    np.testing.assert_array_equal(call("transpose", x, perm=(0, 2, 3, 1)), x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(call("reshape", x, shape=(1, -1, 5)), x.reshape(2, 12, 5))
    np.testing.assert_array_equal(call("reshape", x, shape=(-1, 60)), x.reshape(2, 60))
    np.testing.assert_array_equal(call("squeeze", x[:, :1, :, :1], axes=(1, -1)), x[:, 0, :, 0])
    np.testing.assert_array_equal(call("squeeze", x[:, :, :1]), x[:, :, 0])
    np.testing.assert_array_equal(call("expand_dims", x[:, 0, 0], axes=(1, -1)), x[:, 0, 0][:, None, :, None])
    np.testing.assert_allclose(call("reduce_mean", x, axes=(2, 3)), x.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(call("reduce_sum", x, axes=(-1,), keep_dims=True), x.sum(3, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(call("reduce_max", x, axes=(1,)), x.max(1))
    exponents = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(call("softmax", x, axis=1), exponents / exponents.sum(1, keepdims=True), atol=1e-6)
    joined = OPERATIONS["concat"].function(values=(tensor(x), tensor(-x)), axis=-3)
    np.testing.assert_array_equal(joined, np.concatenate([x, -x], axis=1))


def test_products() -> None:
    x, weight, bias = normal(3, 4), normal(5, 4, seed=1), normal(5, seed=2)
    np.testing.assert_allclose(call("linear", x, weight=weight, bias=bias), x @ weight.T + bias, atol=1e-5)
    np.testing.assert_allclose(call("matmul", x, y=weight, transpose_y=True), x @ weight.T, atol=1e-5)
    normalised = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    gamma = normal(4, seed=3)
    np.testing.assert_allclose(call("layer_norm", x, axes=(-1,), gamma=gamma), normalised * gamma, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("transpose", {"perm": (1, 0, 2)}),
        ("reshape", {"shape": (6, 4)}),
        ("squeeze", {"axes": (0,)}),
        ("softmax", {"axis": 0}),
        ("reduce_mean", {"axes": None}),
        ("reduce_max", {"axes": (-3,)}),
    ],
)
def test_the_batch_is_never_mixed_with_another_axis(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        call(name, normal(1, 6, 4), **arguments)


# Packages written by coremltools and read back.

SIZE = 8


def package(path: Path, precision: str, body: Callable[[Any], Any]) -> Path:
    """A classifier of SIZE x SIZE images into LABELS; ``body`` goes from [1, 3, SIZE, SIZE] to [1, 4]."""
    model = coremltools.convert(
        mb.program(input_specs=[mb.TensorSpec((1, 3, SIZE, SIZE))])(body),
        convert_to="mlprogram",
        inputs=[coremltools.ImageType(name="image", shape=(1, 3, SIZE, SIZE))],
        classifier_config=coremltools.ClassifierConfig(list(LABELS)),
        compute_precision=getattr(coremltools.precision, precision),
        minimum_deployment_target=coremltools.target.iOS15,
        skip_model_load=True,
    )
    model.save(str(path / "small.mlpackage"))
    return path / "small.mlpackage"


def run(path: Path, images: np.ndarray) -> np.ndarray:
    """As the evaluator's runner does it: traced for any batch."""
    import tensorflow as tf

    program = read(path)
    signature = tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32)
    function = tf.function(lambda images: evaluate(program, images, LABELS), autograph=False)
    return np.asarray(function.get_concrete_function(signature)(tf.constant(images, tf.float32)))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (6, SIZE, SIZE, 3)).astype(np.uint8)


def softmax(x: np.ndarray) -> np.ndarray:
    exponents = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def test_layouts_meet(tmp_path: Path, images: np.ndarray) -> None:
    """A mean kept as [1, C, 1, 1] (file's layout) gates a convolution's result (channels last), as in squeeze-excite;
    and constants of every rank meet tensors of rank 4."""
    weight, per_channel, per_pixel = normal(4, 3, 3, 3), normal(4, 1, 1, seed=1), normal(SIZE, SIZE, seed=2)

    def body(image: Any) -> Any:
        scaled = mb.mul(x=image, y=np.float32(0.01))
        convolved = mb.conv(x=scaled, weight=weight, pad_type="same")
        gate = mb.sigmoid(x=mb.reduce_mean(x=convolved, axes=[2, 3], keep_dims=True))
        gated = mb.mul(x=gate, y=convolved)
        shifted = mb.add(x=mb.add(x=per_channel, y=gated), y=per_pixel)
        return mb.softmax(x=mb.reduce_max(x=mb.sub(x=1.0, y=shifted), axes=[2, 3], keep_dims=False), axis=-1)

    x = images.transpose(0, 3, 1, 2).astype(np.float32) * 0.01
    convolved = plain_conv(x, weight, (1, 1), (1, 1), 1, (1, 1, 1, 1))
    gated = convolved * logistic(convolved.mean((2, 3), keepdims=True))
    expected = softmax((1 - (gated + per_channel + per_pixel)).max(axis=(2, 3)))
    np.testing.assert_allclose(run(package(tmp_path, "FLOAT32", body), images), expected, atol=1e-5)


def test_channel_shuffle(tmp_path: Path, images: np.ndarray) -> None:
    weight = normal(4, 3, 1, 1)

    def body(image: Any) -> Any:
        convolved = mb.conv(x=mb.mul(x=image, y=np.float32(0.01)), weight=weight)
        split = mb.transpose(x=mb.reshape(x=convolved, shape=(1, 2, 2, SIZE, SIZE)), perm=[0, 2, 1, 3, 4])
        shuffled = mb.reshape(x=split, shape=(1, 4, SIZE, SIZE))
        return mb.softmax(x=mb.reduce_mean(x=shuffled, axes=[2, 3], keep_dims=False), axis=-1)

    x = images.transpose(0, 3, 1, 2).astype(np.float32) * 0.01
    means = np.einsum("nchw,ocij->no", x, weight) / SIZE**2
    np.testing.assert_allclose(
        run(package(tmp_path, "FLOAT32", body), images), softmax(means[:, [0, 2, 1, 3]]), atol=1e-5
    )


def test_float16_is_rounded_after_each_operation(tmp_path: Path, images: np.ndarray) -> None:
    """255 * 8.03 + 1000 is far beyond float16's 11 bits at that size, so that each rounding shows."""

    def body(image: Any) -> Any:
        value = mb.mul(x=image, y=np.float32(8.03))
        value = mb.add(x=value, y=np.float32(1000.7))
        value = mb.sub(x=value, y=np.float32(1000.7))
        highest = mb.reduce_max(x=value, axes=[2, 3], keep_dims=False)
        return mb.softmax(x=mb.linear(x=mb.mul(x=highest, y=np.float32(0.001)), weight=normal(4, 3)), axis=-1)

    def half(value: np.ndarray | float) -> np.ndarray:
        return np.asarray(value, np.float16).astype(np.float32)

    x = images.transpose(0, 3, 1, 2).astype(np.float32)
    value = half(half(half(x * half(8.03)) + half(1000.7)) - half(1000.7)).max(axis=(2, 3))
    expected = half(softmax(half(half(value * half(0.001)) @ half(normal(4, 3)).T)))
    found = run(package(tmp_path, "FLOAT16", body), images)
    np.testing.assert_allclose(found, expected, atol=5e-4)  # One step of float16 below 1: sums may add up either way.
    unrounded = softmax(((x * 8.03 + 1000.7 - 1000.7).max(axis=(2, 3)) * 0.001) @ normal(4, 3).T)
    assert np.abs(found - unrounded).max() > 10 * np.abs(found - expected).max()


def test_float16_overflows_as_on_a_device(tmp_path: Path, images: np.ndarray) -> None:
    def body(image: Any) -> Any:
        flat = mb.reduce_max(x=mb.mul(x=image, y=np.float32(60000.0)), axes=[2, 3], keep_dims=False)
        ratio = mb.real_div(x=flat, y=np.float32(60000.0))
        return mb.softmax(x=mb.linear(x=ratio, weight=np.ones((4, 3), np.float32)), axis=-1)

    assert not np.isfinite(run(package(tmp_path, "FLOAT16", body), images)).any()


def test_what_would_mix_images_of_a_batch_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    def body(image: Any) -> Any:
        rows = mb.reshape(x=mb.reduce_mean(x=image, axes=[1, 2], keep_dims=False), shape=(2, 4))
        return mb.softmax(x=mb.reduce_mean(x=rows, axes=[0], keep_dims=True), axis=-1)

    with pytest.raises(TargetError, match=r"reshape.*shape"):
        run(package(tmp_path, "FLOAT32", body), images)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    path = package(tmp_path, "FLOAT32", lambda image: mb.softmax(
        x=mb.linear(x=mb.reduce_mean(x=image, axes=[2, 3], keep_dims=False), weight=normal(4, 3)), axis=-1
    ))  # fmt: skip
    with pytest.raises(ModelError, match="not one image"):
        evaluate(read(path), tf.zeros((1, SIZE + 1, SIZE, 3)), LABELS)
