"""Core ML's older format, neuralnetwork, read as a program: one step, or a few, for each layer of the file.

Definitions: Apple's NeuralNetwork.proto, as coremltools publishes it. Until iOS 12 (specification version 3) every blob
has five axes, [sequence, batch, channels, height, width], of which this reader leaves out the first; from iOS 13 on a
file may say that its arrays have the axes they have (``EXACT_ARRAY_MAPPING``). What layers calculate: ``layers``.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leafport.targets.coreml.compressed import unpacked
from leafport.targets.coreml.layers import LAYERS, Layer, UnknownError
from leafport.targets.coreml.program import BGR, MAX_STEPS, Output, Program, Reference, Step, damaged

FORMATS = ("neuralNetwork", "neuralNetworkClassifier")
_EXACT = 1  # EXACT_ARRAY_MAPPING, RANK4_IMAGE_MAPPING


def program(path: Path, model: Any) -> Program:
    """The network in a ``Model`` message as a program.

    A layer that is not known here becomes a step that no evaluator knows.

    Raises:
        ModelError: it is damaged.
    """
    kind = model.WhichOneof("Type")
    network = getattr(model, kind)
    if len(network.layers) > MAX_STEPS:
        raise damaged(path, f"it has more than {MAX_STEPS:,} layers")
    reader = _Reader(path, exact=network.imageInputShapeMapping == _EXACT)
    inputs = tuple(reader.input(feature) for feature in model.description.input)
    steps = [*reader.preprocessing(network, model.description), *reader.layers(network.layers)]
    if kind == "neuralNetworkClassifier":
        steps += reader.classify(network, model.description)
    results = tuple(feature.name for feature in model.description.output)
    calculated = {output.name for step in steps for output in step.outputs}
    if len(steps) > MAX_STEPS:
        raise damaged(path, f"its layers take more than {MAX_STEPS:,} steps")
    if missing := [name for name in results if name not in calculated]:
        raise damaged(path, f"nothing calculates its result {missing[0]!r}")
    return Program(
        path=path,
        format="neuralnetwork",
        description=model.description,
        specification_version=model.specificationVersion,
        opset="neuralnetwork",
        inputs=inputs,
        steps=tuple(steps),
        results=results,
        ops=dict(sorted(Counter(str(layer.WhichOneof("layer")) for layer in network.layers).items())),
        weights=dict(sorted(reader.weights.items())),
        largest_float=reader.largest_float,
        dtypes={"float32": sum(len(step.outputs) for step in steps)},
    )


@dataclass
class _Reader:
    path: Path
    exact: bool
    weights: Counter[str] = field(default_factory=Counter)
    largest_float: int = 0
    known: dict[str, Any] = field(default_factory=dict)

    def input(self, feature: Any) -> Output:
        """An input as the program takes it, [1, channels, height, width] if it is an image."""
        kind = feature.type.WhichOneof("Type")
        if kind == "imageType":
            image = feature.type.imageType
            shape: tuple[int, ...] = (1, 3 if image.colorSpace in (20, BGR) else 1, image.height, image.width)
        elif kind == "multiArrayType":
            shape = tuple(feature.type.multiArrayType.shape)
            shape = shape if self.exact or len(shape) != 3 else (1, *shape)
        else:
            raise damaged(self.path, f"its input {feature.name!r} is a {kind or 'nothing'}")
        self.known[feature.name] = Reference(feature.name)
        return Output(feature.name, "float32", shape)

    def preprocessing(self, network: Any, description: Any) -> Iterator[Step]:
        """What becomes of an image before the first layer."""
        images = {feature.name: feature.type.imageType for feature in description.input}
        for rule in network.preprocessing:
            name = rule.featureName or next(iter(images), "")
            if rule.WhichOneof("preprocessor") != "scaler" or name not in images:
                yield Step("preprocessing", {}, (Output(f"{name}/preprocessed", "float32", None),))
                continue
            scaler = rule.scaler
            bias = [scaler.redBias, scaler.greenBias, scaler.blueBias]
            bias = bias[::-1] if images[name].colorSpace == BGR else bias
            if scaler.channelScale == 1 and not any(bias):
                continue
            layer = self._layer(name, rule, (self.known[name],), f"{name}/preprocessed")
            yield layer.step("mul", into="scaled", x=layer.input, y=scaler.channelScale)
            yield layer.step("add", x=layer.on_the_way("scaled"), y=np.array(bias, np.float32).reshape(1, 3, 1, 1))
            self.known[name] = Reference(layer.output)

    def layers(self, layers: Sequence[Any]) -> Iterator[Step]:
        for message in layers:
            kind = str(message.WhichOneof("layer"))
            if len(message.output) != 1 or any(name not in self.known for name in message.input):
                raise damaged(self.path, f"the layer {message.name!r} takes what nothing calculates, or gives nothing")
            inputs = tuple(self.known[name] for name in message.input)
            layer = self._layer(message.name, getattr(message, kind, None), inputs, message.output[0])
            if kind in ("loadConstant", "loadConstantND"):
                self.known[layer.output] = self._constant(layer)
                continue
            try:
                yield from list(LAYERS[kind](layer)) if kind in LAYERS else [layer.step(kind)]
            except UnknownError as what:  # Whoever calculates the program will say that there is no such operation.
                yield layer.step(f"{kind} with {what}")
            self.known[layer.output] = Reference(layer.output)

    def classify(self, network: Any, description: Any) -> Iterator[Step]:
        """The step that names the classes."""
        kind = network.WhichOneof("ClassLabels")
        labels = [str(label) for label in getattr(network, kind).vector] if kind else []
        name = network.labelProbabilityLayerName or (network.layers[-1].output[0] if network.layers else "")
        if not labels or not isinstance(self.known.get(name), Reference):
            raise damaged(self.path, "its classes, or what their probabilities are calculated from, are missing")
        layer = self._layer(name, network, (self.known[name],), f"{name}/by class")
        yield layer.step("reshape", x=layer.input, shape=np.array([1, len(labels)]))
        features = (description.predictedFeatureName, description.predictedProbabilitiesName)
        yield Step(
            "classify",
            {"probabilities": Reference(layer.output), "classes": labels},
            tuple(Output(feature, None, None) for feature in features),
        )

    def _layer(self, name: str, parameters: Any, inputs: tuple[Any, ...], output: str) -> Layer:
        return Layer(name, parameters, inputs, output, functools.partial(self._weights, name))

    def _weights(self, name: str, stored: Any, *shape: int) -> np.ndarray:
        """A layer's constants, whichever way they are stored, as floats."""
        values, dtype = self._values(name, stored, math.prod(shape))
        self.weights[dtype] += values.size
        if values.size != math.prod(shape) or min(shape, default=1) < 1:
            raise damaged(self.path, f"{name!r} holds {values.size:,} constants for a shape of {tuple(shape)}")
        if dtype.startswith("float") and sum(size > 1 for size in shape) > 1:
            self.largest_float = max(self.largest_float, values.size)
        return values.reshape(shape)

    def _values(self, name: str, stored: Any, count: int) -> tuple[np.ndarray, str]:
        try:
            if stored.floatValue:
                return np.array(stored.floatValue, np.float32), "float32"
            if stored.float16Value:
                return np.frombuffer(stored.float16Value, np.float16), "float16"
            quantisation, bits = stored.quantization, int(stored.quantization.numberOfBits)
            if not 1 <= bits <= 8:
                raise ValueError(f"values of {bits} bits")
            places = unpacked(np.frombuffer(stored.rawValue, np.uint8), bits, count, highest_first=True)
            if quantisation.WhichOneof("QuantizationType") == "lookupTableQuantization":
                return np.array(quantisation.lookupTableQuantization.floatValue, np.float32)[places], f"uint{bits}"
            steps = quantisation.linearQuantization
            scale, bias = (np.array(values, np.float32) for values in (steps.scale, steps.bias))
            each = places.reshape(max(len(scale), len(bias)), -1)  # One scale for all, or one for each output.
            return (each * scale[:, None] + bias[:, None]).ravel().astype(np.float32), f"uint{bits}"
        except (ValueError, IndexError) as problem:
            raise damaged(self.path, f"the constants of {name!r} cannot be read ({problem})") from None

    def _constant(self, layer: Layer) -> np.ndarray:
        shape = [int(size) for size in layer.parameters.shape]
        found = layer.weights(layer.parameters.data, *shape)
        return found if self.exact else found.reshape(1, *shape)
