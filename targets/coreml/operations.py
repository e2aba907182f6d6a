"""The operations the reference evaluator knows: one small function each, on float32 TensorFlow tensors.

Definitions: Apple's MIL operation reference, https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(opsets iOS15 to iOS18). A function takes the operation's arguments under MIL's names; one that it does not name makes
the evaluator refuse the file. To add an operation, write the function and decorate it.

The first axis of every computed tensor is the batch. The file says 1 there; here it may be any number, so an operation
that would mix the batch with another axis is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

Layout = Literal["file", "channels last", "any"]


class UnsupportedError(Exception):
    """An operation, or one of its settings, that the reference evaluator does not know."""


@dataclass(frozen=True)
class Operation:
    """How to evaluate one type of step.

    Attributes:
        function: from keyword arguments to the result. Computed tensors arrive as TensorFlow tensors, constants as
            float32 or integer arrays, numbers, bools or str.
        layout: how computed tensors of rank 4 lie in memory, on the way in and out. ``file``: as the file says
            ([N, C, H, W] after a convolution). ``channels last``: [N, H, W, C], what TensorFlow's CPU kernels want; the
            function sees the axes in that order. ``any``: element by element, so the operands, constants included, are
            given in one order, whichever is at hand.
        selects: the result holds only values that are among the operands (or in float16 anyway), so that it needs no
            rounding.
    """

    function: Callable[..., Any]
    layout: Layout
    selects: bool


OPERATIONS: dict[str, Operation] = {}
_EIGHT_BITS = {"int8": (-128.0, 127.0), "uint8": (0.0, 255.0)}


def operation(
    name: str, *, layout: Layout = "file", selects: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the evaluation of the MIL operation ``name``."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATIONS[name] = Operation(function, layout, selects)
        return function

    return register


# Convolution and pooling: x is [N, H, W, C].


@operation("conv", layout="channels last")
def conv(
    x: Any,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """2-D convolution; ``weight`` is [out, in / groups, height, width], as the file stores it."""
    kernel = weight.shape[2:]
    padding = _padding(x, kernel, strides, pad_type, pad, dilations)
    if groups == x.shape[-1] and weight.shape[1] == 1:
        result = _depthwise(x, weight, strides, padding, dilations)
    else:
        filters = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        settings = {"strides": list(strides), "padding": padding, "dilations": list(dilations)}
        # TensorFlow's CPU kernel has no groups.
        parts = zip(tf.split(x, groups, axis=-1), np.split(filters, groups, axis=-1), strict=True)
        results = [tf.nn.conv2d(part, part_filters, **settings) for part, part_filters in parts]
        result = results[0] if groups == 1 else tf.concat(results, axis=-1)
    return result if bias is None else tf.nn.bias_add(result, bias)


def _depthwise(
    x: Any, weight: np.ndarray, strides: Sequence[int], padding: list[list[int]], dilations: Sequence[int]
) -> Any:
    outputs, _, height, width = weight.shape
    channels = x.shape[-1]
    filters = weight.transpose(2, 3, 0, 1).reshape(height, width, channels, outputs // channels)
    if tuple(dilations) == (1, 1) and strides[0] == strides[1]:
        # Explicit padding, which the kernel knows too, aborts the process in TensorFlow 2.21's graph optimiser.
        if padding == _padding(x, (height, width), strides, "same", ()):
            return tf.nn.depthwise_conv2d(x, filters, [1, *strides, 1], "SAME")
        return tf.nn.depthwise_conv2d(_padded(x, padding, 0.0), filters, [1, *strides, 1], "VALID")
    # The kernel takes neither unequal strides nor strides with dilation: calculate all, keep every nth.
    dense = tf.nn.depthwise_conv2d(_padded(x, padding, 0.0), filters, [1, 1, 1, 1], "VALID", dilations=list(dilations))
    return dense[:, :: strides[0], :: strides[1]]


@operation("max_pool", layout="channels last", selects=True)
def max_pool(
    x: Any,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] = (1, 1),
    pad: Sequence[int] = (0, 0, 0, 0),
    ceil_mode: bool = False,
) -> Any:
    _refuse(ceil_mode, "ceil_mode")
    padding = _padding(x, kernel_sizes, strides, pad_type, pad)
    return tf.nn.max_pool2d(_padded(x, padding, float("-inf")), list(kernel_sizes), list(strides), "VALID")


@operation("avg_pool", layout="channels last")
def avg_pool(
    x: Any,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Sequence[int] = (1, 1),
    pad: Sequence[int] = (0, 0, 0, 0),
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Any:
    _refuse(ceil_mode, "ceil_mode")
    padding = _padding(x, kernel_sizes, strides, pad_type, pad)

    def average(values: Any) -> Any:
        return tf.nn.avg_pool2d(_padded(values, padding, 0.0), list(kernel_sizes), list(strides), "VALID")

    if exclude_padding_from_average and np.any(padding):
        return average(x) / average(tf.ones([1, *x.shape[1:]]))
    return average(x)


@operation("pad", layout="channels last", selects=True)
def pad(x: Any, pad: Sequence[int], mode: str = "constant", constant_val: float = 0.0) -> Any:
    """``pad`` holds (before, after) for the last axes in the file's order, [N, C, H, W]."""
    _refuse(mode not in ("constant", "reflect"), f"mode {mode!r}")
    sizes = np.concatenate([np.zeros(8 - len(pad), int), np.asarray(pad, int)]).reshape(4, 2)
    _refuse(bool(sizes[0].any()), "padding of the batch")
    return tf.pad(x, sizes[[0, 2, 3, 1]], mode=mode.upper(), constant_values=constant_val)


@operation("batch_norm", layout="channels last")
def batch_norm(
    x: Any,
    mean: np.ndarray,
    variance: np.ndarray,
    gamma: np.ndarray | float = 1.0,
    beta: np.ndarray | float = 0.0,
    epsilon: float = 1e-5,
) -> Any:
    scale = gamma / np.sqrt(variance + epsilon)
    return x * scale.astype(np.float32) + (beta - mean * scale).astype(np.float32)


@operation("prelu", layout="channels last")
def prelu(x: Any, alpha: np.ndarray) -> Any:
    return tf.where(x > 0, x, x * alpha)


def _padding(
    x: Any,
    kernel: Sequence[int],
    strides: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
    dilations: Sequence[int] = (1, 1),
) -> list[list[int]]:
    """(before, after) for each axis of [N, H, W, C]. ``same`` puts an odd pixel after, ``same_lower`` before."""
    if pad_type == "custom":
        top, bottom, left, right = (int(size) for size in pad)
        return [[0, 0], [top, bottom], [left, right], [0, 0]]
    _refuse(pad_type not in ("valid", "same", "same_lower"), f"pad_type {pad_type!r}")
    pairs = []
    for size, window, stride, dilation in zip(x.shape[1:3], kernel, strides, dilations, strict=True):
        reach = (int(window) - 1) * int(dilation) + 1
        total = max((-(-size // int(stride)) - 1) * int(stride) + reach - size, 0) if pad_type != "valid" else 0
        before = (total + 1) // 2 if pad_type == "same_lower" else total // 2
        pairs.append([before, total - before])
    return [[0, 0], *pairs, [0, 0]]


def _padded(x: Any, padding: list[list[int]], value: float) -> Any:
    return tf.pad(x, padding, constant_values=value) if np.any(padding) else x


# Element by element: x and y are computed tensors in one layout, arrays that broadcast against them, or numbers.


def _elementwise(name: str, function: Callable[..., Any], *, selects: bool = False) -> None:
    OPERATIONS[name] = Operation(function, "any", selects)


_elementwise("add", lambda x, y: x + y)
_elementwise("sub", lambda x, y: x - y)
_elementwise("mul", lambda x, y: x * y)
_elementwise("real_div", lambda x, y: x / y)
_elementwise("pow", lambda x, y: tf.pow(x, y))
_elementwise("maximum", lambda x, y: tf.maximum(x, y), selects=True)
_elementwise("minimum", lambda x, y: tf.minimum(x, y), selects=True)

_elementwise("identity", lambda x: x, selects=True)
_elementwise("relu", lambda x: tf.nn.relu(x), selects=True)
_elementwise("relu6", lambda x: tf.nn.relu6(x), selects=True)
_elementwise("abs", lambda x: tf.abs(x), selects=True)
_elementwise("erf", lambda x: tf.math.erf(x))
_elementwise("exp", lambda x: tf.exp(x))
_elementwise("sigmoid", lambda x: tf.sigmoid(x))
_elementwise("silu", lambda x: x * tf.sigmoid(x))
_elementwise("softplus", lambda x: tf.math.softplus(x))
_elementwise("softsign", lambda x: tf.math.softsign(x))
_elementwise("sqrt", lambda x: tf.sqrt(x))
_elementwise("square", lambda x: x * x)
_elementwise("tanh", lambda x: tf.tanh(x))

_elementwise("clip", lambda x, alpha, beta: tf.clip_by_value(x, alpha, beta))
_elementwise("clamped_relu", lambda x, alpha, beta: tf.minimum(tf.where(x >= 0, x, alpha * x), beta))
_elementwise("elu", lambda x, alpha: tf.where(x >= 0, x, alpha * tf.math.expm1(x)))
_elementwise("leaky_relu", lambda x, alpha: tf.where(x >= 0, x, alpha * x))
_elementwise("linear_activation", lambda x, alpha, beta: alpha * x + beta)
_elementwise("scaled_tanh", lambda x, alpha, beta: alpha * tf.tanh(beta * x))
_elementwise("thresholded_relu", lambda x, alpha: tf.where(x >= alpha, x, 0.0))
_elementwise("sigmoid_hard", lambda x, alpha, beta: tf.clip_by_value(alpha * x + beta, 0.0, 1.0))

_elementwise("inverse", lambda x, epsilon=1e-4: 1.0 / (x + epsilon))
_elementwise("log", lambda x, epsilon=1e-45: tf.math.log(x + epsilon))
_elementwise("rsqrt", lambda x, epsilon=1e-12: 1.0 / tf.sqrt(x + epsilon))


@operation("cast", layout="any")
def cast(x: Any, dtype: str) -> Any:
    """To an integer type: towards zero. float16 is kept in float32; the evaluator rounds it."""
    types = {"fp16": tf.float32, "fp32": tf.float32, "int32": tf.int32, "uint8": tf.uint8, "int8": tf.int8}
    _refuse(dtype not in types, f"dtype {dtype!r}")
    return tf.cast(x, types[dtype])


@operation("quantize", layout="any")
def quantize(input: Any, scale: float, output_dtype: str, zero_point: int = 0, axis: int | None = None) -> Any:
    """To whole numbers of 8 bits, halves to the even one; the evaluator keeps them in float32."""
    _refuse(output_dtype not in _EIGHT_BITS, f"output_dtype {output_dtype!r}")
    _refuse(np.ndim(scale) > 0 or np.ndim(zero_point) > 0, "a scale for each channel")
    return tf.clip_by_value(tf.round(input / scale) + zero_point, *_EIGHT_BITS[output_dtype])


@operation("dequantize", layout="any")
def dequantize(input: Any, scale: float, zero_point: int = 0, axis: int | None = None) -> Any:
    _refuse(np.ndim(scale) > 0 or np.ndim(zero_point) > 0, "a scale for each channel")
    return (input - zero_point) * scale


@operation("gelu", layout="any")
def gelu(x: Any, mode: str = "EXACT") -> Any:
    if mode == "SIGMOID_APPROXIMATION":
        return x * tf.sigmoid(1.702 * x)
    _refuse(mode not in ("EXACT", "TANH_APPROXIMATION"), f"mode {mode!r}")
    return tf.nn.gelu(x, approximate=mode == "TANH_APPROXIMATION")


# Axes by number: x lies as the file says.


@operation("transpose", selects=True)
def transpose(x: Any, perm: Sequence[int]) -> Any:
    order = [int(axis) % x.shape.rank for axis in perm]
    _refuse(order[0] != 0, "moving the batch axis")
    return tf.transpose(x, order)


@operation("reshape", selects=True)
def reshape(x: Any, shape: Sequence[int]) -> Any:
    wanted = [int(size) for size in shape]
    _refuse(wanted[0] not in (1, -1) or 0 in wanted, f"shape {wanted}")
    if -1 in wanted[1:]:
        unknown = wanted.index(-1, 1)
        wanted[unknown] = int(np.prod(x.shape[1:])) // -int(np.prod(wanted[1:]))
    if int(np.prod(wanted[1:])) != int(np.prod(x.shape[1:])):  # TensorFlow would make up for it with the batch.
        raise ValueError(f"{list(x.shape[1:])} has not the size of {wanted[1:]}")
    return tf.reshape(x, [-1, *wanted[1:]])


@operation("squeeze", selects=True)
def squeeze(x: Any, axes: Sequence[int] | None = None) -> Any:
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    return tf.squeeze(x, _axes(axes, x.shape.rank))


@operation("expand_dims", selects=True)
def expand_dims(x: Any, axes: Sequence[int]) -> Any:
    for axis in sorted(_axes(axes, x.shape.rank + len(axes))):
        x = tf.expand_dims(x, axis)
    return x


@operation("concat", selects=True)
def concat(values: Any, axis: int, interleave: bool = False) -> Any:
    _refuse(interleave or not isinstance(values, tuple), "interleave")
    return tf.concat(values, _axes([axis], values[0].shape.rank)[0])


@operation("reduce_mean")
def reduce_mean(x: Any, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Any:
    return tf.reduce_mean(x, _axes(axes, x.shape.rank), keep_dims)


@operation("reduce_sum")
def reduce_sum(x: Any, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Any:
    return tf.reduce_sum(x, _axes(axes, x.shape.rank), keep_dims)


@operation("reduce_max", selects=True)
def reduce_max(x: Any, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Any:
    return tf.reduce_max(x, _axes(axes, x.shape.rank), keep_dims)


@operation("softmax")
def softmax(x: Any, axis: int = -1) -> Any:
    return tf.nn.softmax(x, _axes([axis], x.shape.rank)[0])


@operation("matmul")
def matmul(x: Any, y: Any, transpose_x: bool = False, transpose_y: bool = False) -> Any:
    return tf.matmul(x, y, transpose_a=transpose_x, transpose_b=transpose_y)


@operation("linear")
def linear(x: Any, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> Any:
    """``weight`` is [out, in]."""
    return tf.matmul(x, weight, transpose_b=True) + bias


@operation("inner_product")
def inner_product(x: Any, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> Any:
    """The older format's dense layer, of no MIL name. Of four axes the last three are one: it gives [N, out, 1, 1]."""
    if x.shape.rank != 4:
        return linear(x, weight, bias)
    found = linear(reshape(x, [1, weight.shape[1]]), weight, bias)
    return found[:, :, None, None]


@operation("layer_norm")
def layer_norm(
    x: Any,
    axes: Sequence[int] | None = None,
    gamma: np.ndarray | float = 1.0,
    beta: np.ndarray | float = 0.0,
    epsilon: float = 1e-5,
) -> Any:
    """``gamma`` and ``beta`` have the shape of the normalised axes, which must be the last ones."""
    normalised = sorted(_axes(axes, x.shape.rank))
    _refuse(normalised != list(range(normalised[0], x.shape.rank)), f"axes {normalised}")
    mean, variance = tf.nn.moments(x, normalised, keepdims=True)
    return (x - mean) / tf.sqrt(variance + epsilon) * gamma + beta


def _axes(axes: Sequence[int] | None, rank: int) -> list[int]:
    found = [int(axis) % rank for axis in (range(rank) if axes is None else axes)]
    _refuse(0 in found, "working along the batch axis")
    return found


def _refuse(condition: bool, what: str) -> None:
    if condition:
        raise UnsupportedError(what)
