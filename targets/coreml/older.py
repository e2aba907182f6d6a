"""Writing Core ML's older format, neuralnetwork, so that iOS 11.2 and later can read it.

coremltools writes it for iOS 13 and later: a few layers, all in the network's last part, are of a newer kind than the
others. Each has an older one that does the same, and the network then runs on every device that ever had Core ML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

OLDER_KINDS = {
    *("convolution", "pooling", "activation", "innerProduct", "batchnorm", "softmax", "padding", "unary", "add"),
    *("multiply", "average", "scale", "bias", "max", "min", "concat", "flatten"),
}
FLOAT16_WEIGHTS = 2  # The specification version, that of iOS 11.2.
_EACH_VALUE = {"activation", "unary", "add", "multiply"}  # What calculates each value by itself.
_CHANNELS_LAST = [0, 2, 3, 1]
_AVERAGE = 1
_LARGEST = float(np.finfo(np.float16).max)


def for_older_devices(spec: Any) -> None:
    """Rewrite a ``Model`` message of a neural network classifier in place, where all its layers have older ones.

    Where one has none the message stays as it is.
    """
    network = spec.neuralNetworkClassifier
    layers = _older(network.layers)
    if layers is None:
        return
    del network.layers[:]
    network.layers.extend(layers)
    network.arrayInputShapeMapping = network.imageInputShapeMapping = 0
    spec.specificationVersion = FLOAT16_WEIGHTS


def in_float16(spec: Any) -> None:
    """Store the weights and biases of a neural network classifier's layers as 16-bit floats.

    Core ML takes a layer's weights and bias in one precision only; a layer that float16 cannot hold keeps both.
    """
    for layer in spec.neuralNetworkClassifier.layers:
        kind = str(layer.WhichOneof("layer"))
        if kind not in ("convolution", "innerProduct", "batchedMatmul"):
            continue
        parameters = getattr(layer, kind)
        stored = [parameters.weights, *([parameters.bias] if parameters.hasBias else [])]
        values = [np.array(each.floatValue, np.float32) for each in stored]
        if all(each.size and np.abs(each).max() <= _LARGEST for each in values):
            for message, each in zip(stored, values, strict=True):
                message.ClearField("floatValue")
                message.float16Value = each.astype(np.float16).tobytes()


def renamed(spec: Any, old: str, new: str) -> None:
    """Give a result of a neural network classifier another name, wherever it is mentioned."""
    network = spec.neuralNetworkClassifier
    for layer in network.layers:
        for names in (layer.input, layer.output):
            names[:] = [new if name == old else name for name in names]
    for feature in spec.description.output:
        feature.name = new if feature.name == old else feature.name
    if network.labelProbabilityLayerName == old:
        network.labelProbabilityLayerName = new
    if spec.description.predictedProbabilitiesName == old:
        spec.description.predictedProbabilitiesName = new


def _older(layers: Sequence[Any]) -> list[Any] | None:
    """The layers, each of an older kind, or None where that cannot be."""
    made: list[Any] = []
    constants: dict[str, Any] = {}
    vectors: set[str] = set()  # What has two axes, [batch, values], in the newer layers.
    channels_last: dict[str, str] = {}  # What has them last in the newer layers, and its name in the older ones.
    for layer in layers:
        kind = layer.WhichOneof("layer")
        if kind == "loadConstantND":
            constants[layer.output[0]] = layer.loadConstantND
        elif kind == "transpose" and list(layer.transpose.axes) == _CHANNELS_LAST:
            channels_last[layer.output[0]] = layer.input[0]
        elif kind in _EACH_VALUE and {*layer.input} <= {*channels_last}:
            made.append(_copied(layer))
            made[-1].input[:] = [channels_last[name] for name in layer.input]
            channels_last[layer.output[0]] = layer.output[0]
        else:
            older = _older_layer(layer, constants, channels_last, vectors)
            if older is None or not {*older.input}.isdisjoint({*constants, *_gone(channels_last)}):
                return None
            if {*layer.input} - {*constants} <= vectors or (kind == "reduceMean" and not layer.reduceMean.keepDims):
                vectors.add(layer.output[0])
            made.append(older)
    return made


def _gone(channels_last: dict[str, str]) -> set[str]:
    """What only a transposition gave, which the older layers do without."""
    return {name for name, older in channels_last.items() if name != older}


def _copied(layer: Any) -> Any:
    """The layer without what only newer ones have: the ranks of its tensors."""
    copied = type(layer)()
    copied.CopyFrom(layer)
    del copied.inputTensor[:], copied.outputTensor[:]
    return copied


def _older_layer(layer: Any, constants: dict[str, Any], channels_last: dict[str, str], vectors: set[str]) -> Any | None:
    older = type(layer)(name=layer.name, input=layer.input, output=layer.output)
    kind = layer.WhichOneof("layer")
    found = getattr(layer, kind)
    if kind == "reduceMean":
        last = layer.input[0] in channels_last
        if sorted(axis % 4 for axis in found.axes) != ([1, 2] if last else [2, 3]) or found.keepDims == last:
            return None
        older.input[:] = [channels_last.get(layer.input[0], layer.input[0])]
        older.pooling.type = _AVERAGE
        older.pooling.globalPooling = True
        older.pooling.valid.SetInParent()
    elif kind == "softmaxND":
        if found.axis != -1 or not {*layer.input} <= vectors:
            return None
        older.softmax.SetInParent()
    elif kind == "batchedMatmul":
        if found.transposeA or found.transposeB or not {*layer.input} <= vectors or len(layer.input) != 1:
            return None
        product = older.innerProduct
        product.inputChannels, product.outputChannels = (
            found.weightMatrixFirstDimension,
            found.weightMatrixSecondDimension,
        )
        product.weights.CopyFrom(found.weights)
        product.hasBias = found.hasBias
        product.bias.CopyFrom(found.bias)
    elif kind in ("add", "multiply") and not {*layer.input}.isdisjoint(constants):
        (value,) = (constants[name] for name in layer.input if name in constants)
        older.input[:] = [name for name in layer.input if name not in constants]
        sizes = [int(size) for size in value.shape]
        channels = sizes[-3] if len(sizes) > 2 else sizes[-1]  # [1, channels, 1, 1], or [1, channels].
        if len(older.input) != 1 or not {*older.input}.isdisjoint(channels_last) or channels != np.prod(sizes):
            return None
        shape = [channels]
        if kind == "add":
            older.bias.shape[:] = shape
            older.bias.bias.CopyFrom(value.data)
        else:
            older.scale.shapeScale[:] = shape
            older.scale.scale.CopyFrom(value.data)
    else:
        return _copied(layer) if kind in OLDER_KINDS and {*layer.input}.isdisjoint(channels_last) else None
    return older
