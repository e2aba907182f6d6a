"""The layers of Core ML's older format: what each kind calculates, as one or a few steps of a program.

Definitions: Apple's NeuralNetwork.proto, as coremltools publishes it. To add a layer, write a function that yields its
steps, and put it into ``LAYERS``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leafport.targets.coreml.program import Output, Reference, Step


class UnknownError(Exception):
    """A layer, or one of its settings, that has no meaning here."""


@dataclass(frozen=True)
class Layer:
    """A layer of a file.

    Attributes:
        parameters: the message that describes it.
        inputs: References, or arrays for constants.
        weights: from a ``WeightParams`` message and the shape it is to have to the constants in it.
    """

    name: str
    parameters: Any
    inputs: tuple[Any, ...]
    output: str
    weights: Callable[..., np.ndarray]

    def step(self, operation: str, /, *, into: str = "", **arguments: Any) -> Step:
        """A step whose result is the layer's, or one on the way, called ``into``."""
        name = f"{self.output}/{into}" if into else self.output
        return Step(operation, arguments, (Output(name, "float32", None),))

    def on_the_way(self, into: str) -> Reference:
        return Reference(f"{self.output}/{into}")

    @property
    def input(self) -> Any:
        """Its one input."""
        self.refuse(len(self.inputs) != 1, f"{len(self.inputs)} inputs")
        return self.inputs[0]

    def refuse(self, condition: bool, what: str) -> None:
        if condition:
            raise UnknownError(what)


def _convolution(layer: Layer) -> Iterator[Step]:
    found = layer.parameters
    layer.refuse(found.isDeconvolution, "deconvolutions")
    groups, kernel = max(int(found.nGroups), 1), [int(size) for size in found.kernelSize] or [3, 3]
    weights = layer.weights(found.weights, int(found.outputChannels), int(found.kernelChannels), *kernel)
    yield layer.step(
        "conv",
        x=layer.input,
        weight=weights,
        bias=layer.weights(found.bias, int(found.outputChannels)) if found.hasBias else None,
        strides=list(found.stride) or [1, 1],
        dilations=list(found.dilationFactor) or [1, 1],
        groups=groups,
        **_padding(layer),
    )


def _padding(layer: Layer) -> dict[str, Any]:
    """A convolution's or pooling's padding as an operation's arguments."""
    found = layer.parameters
    if found.WhichOneof(_PADDING_FIELDS[type(found).__name__]) == "same":
        return {"pad_type": "same_lower" if found.same.asymmetryMode == 1 else "same"}
    return {"pad_type": "custom", "pad": _amounts(layer, found.valid.paddingAmounts)}


_PADDING_FIELDS = {"ConvolutionLayerParams": "ConvolutionPaddingType", "PoolingLayerParams": "PoolingPaddingType"}


def _amounts(layer: Layer, borders: Any) -> list[int]:
    """(top, bottom, left, right)."""
    amounts = [int(size) for edge in borders.borderAmounts for size in (edge.startEdgeSize, edge.endEdgeSize)]
    layer.refuse(len(amounts) not in (0, 4), "padding of other than two axes")
    return amounts or [0, 0, 0, 0]


def _pooling(layer: Layer) -> Iterator[Step]:
    found = layer.parameters
    layer.refuse(found.type not in (0, 1), "L2 pooling")
    if found.globalPooling:
        kind = ("reduce_max", "reduce_mean")[found.type]
        yield layer.step(kind, x=layer.input, axes=[2, 3], keep_dims=True)
        return
    layer.refuse(found.WhichOneof("PoolingPaddingType") == "includeLastPixel", "pooling that includes the last pixel")
    average = {"exclude_padding_from_average": found.avgPoolExcludePadding} if found.type else {}
    yield layer.step(
        ("max_pool", "avg_pool")[found.type],
        x=layer.input,
        kernel_sizes=list(found.kernelSize) or [3, 3],
        strides=list(found.stride) or [1, 1],
        **_padding(layer),
        **average,
    )


def _inner_product(layer: Layer) -> Iterator[Step]:
    found = layer.parameters
    layer.refuse(found.int8DynamicQuantize, "dynamic quantisation")
    outputs = int(found.outputChannels)
    weights = layer.weights(found.weights, outputs, int(found.inputChannels))
    bias = layer.weights(found.bias, outputs) if found.hasBias else np.float32(0)
    yield layer.step("inner_product", x=layer.input, weight=weights, bias=bias)


def _batched_matmul(layer: Layer) -> Iterator[Step]:
    found = layer.parameters
    layer.refuse(found.transposeA or found.transposeB or found.int8DynamicQuantize, "such a matrix product")
    rows, columns = int(found.weightMatrixFirstDimension), int(found.weightMatrixSecondDimension)
    weights = layer.weights(found.weights, columns, rows)  # Stored column by column.
    bias = layer.weights(found.bias, columns) if found.hasBias else np.float32(0)
    yield layer.step("linear", x=layer.input, weight=weights, bias=bias)


def _batchnorm(layer: Layer) -> Iterator[Step]:
    found, channels = layer.parameters, int(layer.parameters.channels)
    layer.refuse(found.computeMeanVar or found.instanceNormalization, "normalisation by the image's own mean")
    names = ("mean", "variance", "gamma", "beta")
    parts: dict[str, Any] = {name: layer.weights(getattr(found, name), channels) for name in names}
    yield layer.step("batch_norm", x=layer.input, **parts, epsilon=found.epsilon or 1e-5)


_ACTIVATIONS: Mapping[str, tuple[str, Sequence[str]]] = {
    "linear": ("linear_activation", ("alpha", "beta")),
    "ReLU": ("relu", ()),
    "leakyReLU": ("leaky_relu", ("alpha",)),
    "thresholdedReLU": ("thresholded_relu", ("alpha",)),
    "tanh": ("tanh", ()),
    "scaledTanh": ("scaled_tanh", ("alpha", "beta")),
    "sigmoid": ("sigmoid", ()),
    "sigmoidHard": ("sigmoid_hard", ("alpha", "beta")),
    "ELU": ("elu", ("alpha",)),
    "softsign": ("softsign", ()),
    "softplus": ("softplus", ()),
}


def _activation(layer: Layer) -> Iterator[Step]:
    kind = str(layer.parameters.WhichOneof("NonlinearityType"))
    found = getattr(layer.parameters, kind, None)
    if kind == "PReLU":
        stored = found.alpha  # type: ignore[union-attr]
        count = len(stored.floatValue) or len(stored.float16Value) // 2
        yield layer.step("prelu", x=layer.input, alpha=layer.weights(stored, count))
        return
    layer.refuse(kind not in _ACTIVATIONS, f"the activation {kind!r}")
    operation, settings = _ACTIVATIONS[kind]
    yield layer.step(operation, x=layer.input, **{name: getattr(found, name) for name in settings})


_UNARY: Mapping[int, tuple[str, Mapping[str, str]]] = {  # By UnaryFunctionLayerParams.Operation.
    0: ("sqrt", {}),
    1: ("rsqrt", {"epsilon": "epsilon"}),
    2: ("inverse", {"epsilon": "epsilon"}),
    3: ("pow", {"y": "alpha"}),
    4: ("exp", {}),
    5: ("log", {"epsilon": "epsilon"}),
    6: ("abs", {}),
    7: ("maximum", {"y": "alpha"}),
}


def _unary(layer: Layer) -> Iterator[Step]:
    found, x = layer.parameters, layer.input
    layer.refuse(found.type not in _UNARY, f"the function of number {found.type}")
    scale = found.scale or 1.0  # 0 means the default, here and below.
    if (scale, found.shift) != (1, 0):
        yield layer.step("linear_activation", into="scaled", x=x, alpha=scale, beta=found.shift)
        x = layer.on_the_way("scaled")
    operation, settings = _UNARY[found.type]
    arguments = {name: getattr(found, setting) for name, setting in settings.items()}
    if "epsilon" in arguments:
        arguments["epsilon"] = found.epsilon or 1e-6
    yield layer.step(operation, x=x, **arguments)


def _combined(operation: str, lone: str = "") -> Callable[[Layer], Iterator[Step]]:
    """All inputs by one operation of two; ``lone`` is the setting that goes with an only one."""

    def steps(layer: Layer) -> Iterator[Step]:
        layer.refuse(not layer.inputs, "no inputs")
        operands = list(layer.inputs)
        if len(operands) == 1:
            layer.refuse(not lone, f"{operation} of one input")
            operands.append(getattr(layer.parameters, lone))
        for index, operand in enumerate(operands[1:], 1):
            x = operands[0] if index == 1 else layer.on_the_way(str(index - 1))
            yield layer.step(operation, into=str(index) if index < len(operands) - 1 else "", x=x, y=operand)

    return steps


def _average(layer: Layer) -> Iterator[Step]:
    layer.refuse(len(layer.inputs) < 2, f"{len(layer.inputs)} inputs")
    for step in _combined("add")(layer):
        last = step.outputs[0].name == layer.output
        yield dataclasses.replace(step, outputs=(Output(f"{layer.output}/sum", "float32", None),)) if last else step
    yield layer.step("mul", x=layer.on_the_way("sum"), y=1 / len(layer.inputs))


def _scale(layer: Layer) -> Iterator[Step]:
    found = layer.parameters
    factors = _each_channel(layer, found.scale, found.shapeScale)
    if not found.hasBias:
        yield layer.step("mul", x=layer.input, y=factors)
        return
    yield layer.step("mul", into="scaled", x=layer.input, y=factors)
    yield layer.step("add", x=layer.on_the_way("scaled"), y=_each_channel(layer, found.bias, found.shapeBias))


def _bias(layer: Layer) -> Iterator[Step]:
    yield layer.step("add", x=layer.input, y=_each_channel(layer, layer.parameters.bias, layer.parameters.shape))


def _each_channel(layer: Layer, stored: Any, shape: Sequence[int]) -> np.ndarray:
    """Constants of shape [1], [channels] or [channels, height, width], to go with [batch, channels, height, width]."""
    found = layer.weights(stored, *shape)
    layer.refuse(found.ndim not in (1, 3), f"constants of shape {list(shape)}")
    return found.reshape(1, -1, 1, 1) if found.ndim == 1 else found[None]


def _constant_padding(layer: Layer) -> Iterator[Step]:
    found = layer.parameters
    kind = found.WhichOneof("PaddingType") or "constant"
    layer.refuse(kind not in ("constant", "reflection"), f"padding by {kind}")
    settings = {"mode": "reflect"} if kind == "reflection" else {"constant_val": found.constant.value}
    yield layer.step("pad", x=layer.input, pad=_amounts(layer, found.paddingAmounts), **settings)


def _concat(layer: Layer) -> Iterator[Step]:
    layer.refuse(layer.parameters.sequenceConcat, "joining sequences")
    yield layer.step("concat", values=layer.inputs, axis=-3)


def _flatten(layer: Layer) -> Iterator[Step]:
    x = layer.input
    if layer.parameters.mode == 1:
        yield layer.step("transpose", into="channels last", x=x, perm=[0, 2, 3, 1])
        x = layer.on_the_way("channels last")
    yield layer.step("reshape", x=x, shape=np.array([1, -1, 1, 1]))


def _reshape(layer: Layer) -> Iterator[Step]:
    shape = [int(size) for size in layer.parameters.targetShape]
    layer.refuse(
        layer.parameters.mode == 1 or len(shape) not in (3, 4) or shape[:-3] not in ([], [1]), f"reshaping to {shape}"
    )
    yield layer.step("reshape", x=layer.input, shape=np.array([1, *shape[-3:]]))


def _reduced(operation: str) -> Callable[[Layer], Iterator[Step]]:
    def steps(layer: Layer) -> Iterator[Step]:
        found = layer.parameters
        axes = None if found.reduceAll else [int(axis) for axis in found.axes]
        yield layer.step(operation, x=layer.input, axes=axes, keep_dims=found.keepDims)

    return steps


def _simple(operation: str, **settings: str) -> Callable[[Layer], Iterator[Step]]:
    """One operation of one input; ``settings`` are its arguments, by the names of the layer's."""

    def steps(layer: Layer) -> Iterator[Step]:
        stored = {name: getattr(layer.parameters, setting) for name, setting in settings.items()}
        arguments: dict[str, Any] = {
            name: value if isinstance(value, int | float) else list(value) for name, value in stored.items()
        }
        yield layer.step(operation, x=layer.input, **arguments)

    return steps


def _squeeze(layer: Layer) -> Iterator[Step]:
    axes = None if layer.parameters.squeezeAll else [int(axis) for axis in layer.parameters.axes]
    yield layer.step("squeeze", x=layer.input, axes=axes)


def _gelu(layer: Layer) -> Iterator[Step]:
    modes = ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
    layer.refuse(layer.parameters.mode >= len(modes), f"mode {layer.parameters.mode}")
    yield layer.step("gelu", x=layer.input, mode=modes[layer.parameters.mode])


LAYERS: Mapping[str, Callable[[Layer], Iterator[Step]]] = {
    "activation": _activation,
    "add": _combined("add", "alpha"),
    "addBroadcastable": _combined("add"),
    "average": _average,
    "batchedMatmul": _batched_matmul,
    "batchnorm": _batchnorm,
    "bias": _bias,
    "clampedReLU": _simple("clamped_relu", alpha="alpha", beta="beta"),
    "clip": _simple("clip", alpha="minVal", beta="maxVal"),
    "concat": _concat,
    "concatND": lambda layer: iter(
        [
            layer.step(
                "concat",
                values=layer.inputs,
                axis=int(layer.parameters.axis),
                interleave=bool(layer.parameters.interleave),
            )
        ]
    ),
    "convolution": _convolution,
    "copy": _simple("identity"),
    "divideBroadcastable": _combined("real_div"),
    "erf": _simple("erf"),
    "expandDims": _simple("expand_dims", axes="axes"),
    "flatten": _flatten,
    "gelu": _gelu,
    "innerProduct": _inner_product,
    "max": _combined("maximum"),
    "maxBroadcastable": _combined("maximum"),
    "min": _combined("minimum"),
    "minBroadcastable": _combined("minimum"),
    "multiply": _combined("mul", "alpha"),
    "multiplyBroadcastable": _combined("mul"),
    "padding": _constant_padding,
    "pooling": _pooling,
    "reduceMax": _reduced("reduce_max"),
    "reduceMean": _reduced("reduce_mean"),
    "reduceSum": _reduced("reduce_sum"),
    "reshape": _reshape,
    "reshapeStatic": _simple("reshape", shape="targetShape"),
    "scale": _scale,
    "softmax": lambda layer: iter([layer.step("softmax", x=layer.input, axis=-3)]),
    "softmaxND": _simple("softmax", axis="axis"),
    "squeeze": _squeeze,
    "subtractBroadcastable": _combined("sub"),
    "tanh": _simple("tanh"),
    "transpose": _simple("transpose", perm="axes"),
    "unary": _unary,
}
