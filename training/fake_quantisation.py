"""A model as its int8 file will calculate: weights on 127 steps to each side of zero, activations on 256 steps.

``fake_quantised`` draws the network again, over the same weights, and rounds wherever an int8 file of TFLite holds
8-bit numbers: the weights of convolutions and dense layers, and every activation that is not fused into what made it.
Gradients pass through the rounding as if it were not there (Bengio et al. 2013; Jacob et al. 2018), so that training
finds weights that lose little by it.

Batch normalisation stays as it is, frozen. In the file it is folded into the convolution before it, which multiplies
each output channel's weights by one number; their steps, one size to a channel, are multiplied by it too, so that to
round before it and after it is the same.

This module imports Keras: import it where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from leafport.errors import ModelError

Range = tuple[float, float]

_STEPS = 127
_PIXELS: Range = (0.0, 255.0)
_MOMENTUM = 0.99
_SMALLEST = 1e-7


def fake_quantised(model: keras.Model, ranges: Mapping[str, Range] | None = None) -> keras.Model:
    """The functional ``model`` with rounding in it: the same input and output, the same layers and weights.

    Its batch normalisation is frozen, in ``model`` too.

    Args:
        model: float32 [N, H, W, 3] pixels 0..255 to probabilities; nested models are gone into.
        ranges: of every activation the range its 256 steps cover (``ranges_of`` a model made earlier); None: each is
            the moving average of what training sees.

    Raises:
        ModelError: the model has a layer of which it is not known how an int8 file calculates it.
    """
    return _Drawing(ranges).draw(model)


def imitating(student: keras.Model, teacher: keras.Model) -> keras.Model:
    """``student`` with a second loss: to answer otherwise than ``teacher``, which stays as it is (Hinton et al. 2015).

    What a network knew before it was rounded is worth more than labels alone: these say nothing of how likely the other
    classes are, and a few epochs of them would pull it elsewhere.
    """
    teacher = _undisturbed(teacher)
    teacher.trainable = False
    teacher.name = "teacher"
    image = keras.Input(student.input_shape[1:], name="image")
    return keras.Model(image, _Imitation(name="imitation")(student(image), teacher(image)))


class _Imitation(layers.Layer):
    """Hands on the student's probabilities, and adds the cross-entropy of the teacher's to the loss."""

    def call(self, student: Any, teacher: Any) -> Any:
        likely = ops.clip(student, _SMALLEST, 1.0)
        self.add_loss(-ops.mean(ops.sum(ops.stop_gradient(teacher) * ops.log(likely), axis=-1)))
        return student


def _undisturbed(model: keras.Model) -> keras.Model:
    """The same layers but for those that drop features while training, from which Keras 3 cannot be kept otherwise."""

    def call(layer: Any, *inputs: Any, **settings: Any) -> Any:
        if isinstance(layer, layers.Dropout):
            return inputs[0]
        return (_undisturbed(layer) if isinstance(layer, keras.Model) else layer)(*inputs, **settings)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def ranges_of(model: keras.Model) -> dict[str, Range]:
    """By name the range of each activation of what ``fake_quantised`` made; 0 to 1 of one that was always 0."""
    found = {each.name: (float(each.low), float(each.high)) for each in _rounded(model) if each.observes}
    return {name: found_range if any(found_range) else (0.0, 1.0) for name, found_range in found.items()}


def put_on_steps(model: keras.Model) -> None:
    """Give the layers of a model made by ``fake_quantised``, which others may share, the weights it calculates with."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            put_on_steps(layer)
        elif isinstance(layer, SteppedWeights):
            layer.wrapped.kernel.assign(layer.kernel())


def _rounded(model: keras.Model) -> list[FakeQuantise]:
    found: list[FakeQuantise] = []
    for layer in model.layers:
        found += _rounded(layer) if isinstance(layer, keras.Model) else []
        found += [layer] if isinstance(layer, FakeQuantise) else []
    return found


class FakeQuantise(layers.Layer):
    """Rounds activations to 256 steps over a range, which it is given or learns while training."""

    def __init__(self, name: str, given: Range | None) -> None:
        super().__init__(name=name, dtype="float32")
        self.observes = given is None
        low, high = given or (0.0, 0.0)
        self.low, self.high, self.seen = self._number("low", low), self._number("high", high), self._number("seen", 0.0)

    def _number(self, name: str, value: float) -> Any:
        start = keras.initializers.Constant(value)
        return self.add_weight(shape=(), initializer=start, trainable=False, name=name)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if self.observes and training:
            self._observe(inputs)
        return keras.quantizers.fake_quant_with_min_max_vars(inputs, self.low, self.high)

    def _observe(self, inputs: Any) -> None:
        # Zero must have a step of its own: it is what padding adds.
        for edge, extreme in (
            (self.low, ops.minimum(ops.min(inputs), 0)),
            (self.high, ops.maximum(ops.max(inputs), 0)),
        ):
            average = _MOMENTUM * edge + (1 - _MOMENTUM) * extreme
            edge.assign(ops.where(self.seen > 0, average, extreme))
        self.seen.assign(self.seen + 1)


class SteppedWeights(layers.Layer):
    """A convolution or dense layer that calculates with rounded weights, and without its activation."""

    def __init__(self, wrapped: layers.Layer) -> None:
        super().__init__(name=f"{wrapped.name}_stepped", dtype="float32")
        self.wrapped = wrapped

    def kernel(self) -> Any:
        """The weights as an int8 file has them: 127 steps for the largest of an output channel, or of a dense layer."""
        weights = self.wrapped.kernel
        axes = {layers.DepthwiseConv2D: (0, 1), layers.Dense: (0, 1)}.get(type(self.wrapped), (0, 1, 2))
        largest = ops.max(ops.abs(weights), axis=axes, keepdims=True)
        step = ops.where(largest > 0, largest / _STEPS, 1.0)
        return weights + ops.stop_gradient(ops.round(weights / step) * step - weights)

    def call(self, inputs: Any) -> Any:
        layer = self.wrapped
        if isinstance(layer, layers.Dense):
            outputs = ops.matmul(inputs, self.kernel())
        else:
            convolve = ops.depthwise_conv if isinstance(layer, layers.DepthwiseConv2D) else ops.conv
            outputs = convolve(
                inputs, self.kernel(), layer.strides, padding=layer.padding, dilation_rate=layer.dilation_rate
            )
        return outputs if layer.bias is None else outputs + layer.bias


@dataclass
class _Made:
    """A result in the new drawing: by what name its range goes, and what it becomes when it is rounded.

    ``fusible`` says that an activation right after it is calculated with it, so that only what comes out is rounded;
    ``linear`` that a normalisation is.
    """

    tensor: Any  # Kept, so that no other gets its id.
    name: str
    fusible: bool = False
    linear: bool = False
    rounded: Any = None


@dataclass
class _Drawing:
    """A model being drawn again. Layers are called with results as they were made, and round them first if need be."""

    ranges: Mapping[str, Range] | None
    prefix: str = ""
    made: dict[int, _Made] = field(default_factory=dict)

    def draw(self, model: keras.Model) -> keras.Model:
        return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=self.call)

    def call(self, layer: Any, *inputs: Any, **_: Any) -> Any:
        """What stands in the place of ``layer``; called for one after the other, from the image on."""
        if isinstance(layer, keras.Model):
            inner = _Drawing(self.ranges, f"{self.prefix}{layer.name}.").draw(layer)
            return self.keep(inner(self.on_steps(inputs[0])), layer.name)
        for kinds, draw in _RULES:
            if isinstance(layer, kinds):
                return draw(self, layer, inputs[0])
        if isinstance(layer, keras.Operation) and type(layer).__name__ in _ARITHMETIC:
            return self.arithmetic(layer, *inputs)
        raise ModelError(
            f"It is not known how an int8 file calculates {layer.name!r}, a {type(layer).__name__}: this network "
            "cannot be trained with --qat."
        )

    def keep(
        self, tensor: Any, name: str, *, fusible: bool = False, linear: bool = False, rounded: bool = False
    ) -> Any:
        """Remember a result; ``rounded`` where it lies on steps already."""
        self.made[id(tensor)] = _Made(tensor, f"{self.prefix}{name}", fusible, linear, tensor if rounded else None)
        return tensor

    def on_steps(self, tensor: Any) -> Any:
        """A result, or several, rounded; or what is no result, as it is."""
        if isinstance(tensor, (list, tuple)):
            return [self.on_steps(each) for each in tensor]
        if not isinstance(tensor, keras.KerasTensor):
            return tensor
        found = self.made.get(id(tensor))
        if found is None:  # The model's input; that of a nested one was rounded outside.
            image = tensor if self.prefix else FakeQuantise("image_steps", _PIXELS)(tensor)
            found = self.made[id(tensor)] = _Made(tensor, "image", rounded=image)
        if found.rounded is None:
            found.rounded = self.rounding(found.name)(tensor)
        return found.rounded

    def rounding(self, name: str) -> FakeQuantise:
        """A layer that rounds what is called ``name``. Raises ModelError where no range of it is known."""
        name = f"{name}_steps"
        if self.ranges is None:
            return FakeQuantise(name, None)
        if name not in self.ranges:
            raise ModelError(f"The range of {name} is not known: these ranges are another network's.")
        return FakeQuantise(name, self.ranges[name])

    # How each kind of layer is drawn.

    def weighted(self, layer: Any, inputs: Any) -> Any:
        linear = self.keep(SteppedWeights(layer)(self.on_steps(inputs)), layer.name, fusible=True, linear=True)
        return self.activated(layer, linear)

    def activated(self, layer: Any, inputs: Any) -> Any:
        """The activation of a layer, which may be an Activation itself."""
        function = layer.activation
        kind = keras.activations.serialize(function)
        if kind == "linear":
            return inputs
        if kind in ("relu", "relu6"):
            return self.clipped(layers.Activation(function, name=f"{layer.name}_{kind}"), inputs)
        steps, name = self.on_steps(inputs), f"{layer.name}_{kind}"
        if kind in ("softmax", "sigmoid", "tanh"):  # Their steps are the same in every file.
            return self.keep(function(steps), name, rounded=True)
        if kind == "silu":
            return self.keep(steps * ops.sigmoid(steps), name)
        if kind == "hard_silu":  # Written so, TFLite has one operation for it.
            return self.keep(_scaled(ops.multiply(steps, ops.relu6(steps + 3.0)), 1 / 6), name)
        if kind == "hard_sigmoid":
            return self.keep(_scaled(self.on_steps(self.keep(ops.relu6(steps + 3.0), f"{name}_sum")), 1 / 6), name)
        if kind == "leaky_relu":
            return self.keep(function(steps), name)
        raise ModelError(
            f"It is not known how an int8 file calculates {kind}, the activation of {layer.name!r}. Train a head with "
            "another --activation."
        )

    def clipped(self, layer: Any, inputs: Any) -> Any:
        found = self.made.get(id(inputs))
        return self.keep(layer(inputs if found and found.fusible else self.on_steps(inputs)), layer.name)

    def normalised(self, layer: layers.BatchNormalization, inputs: Any) -> Any:
        """After a convolution it is folded into that one; elsewhere it is a product and a sum."""
        layer.trainable = False
        found = self.made.get(id(inputs))
        if found and found.linear:
            return self.keep(layer(inputs), layer.name, fusible=True)
        mean, variance = (np.asarray(value) for value in (layer.moving_mean, layer.moving_variance))
        scale = 1 / np.sqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * np.asarray(layer.gamma)
        offset = -mean * scale + (np.asarray(layer.beta) if layer.center else 0)
        product = self.on_steps(self.keep(_scaled(self.on_steps(inputs), scale), f"{layer.name}_product"))
        return self.keep(_scaled(product, 1.0, offset), layer.name, fusible=True)

    def rescaled(self, layer: layers.Rescaling, inputs: Any) -> Any:
        """Pixels as the network wants them, whose ranges follow from those of pixels."""
        scale, offset = (np.asarray(value, np.float32) for value in (layer.scale, layer.offset))
        result, name = self.on_steps(inputs), f"{self.prefix}{layer.name}"
        low, high = (edge * scale for edge in _PIXELS)
        if (scale != 1).any():
            result = FakeQuantise(f"{name}_product_steps", _hull(low, high))(_scaled(result, scale))
        if (offset != 0).any():
            result = FakeQuantise(f"{name}_steps", _hull(low + offset, high + offset))(_scaled(result, 1.0, offset))
        return self.keep(result, layer.name, rounded=True)

    def arithmetic(self, operation: keras.Operation, first: Any, second: Any) -> Any:
        """x + 3 and the like, which are no layers."""
        adds, both = type(operation).__name__ == "Add", (first, second)
        numbers = [each for each in both if not isinstance(each, keras.KerasTensor)]
        if not numbers:
            layer = layers.Add() if adds else layers.Multiply()
            return self.keep(layer(self.on_steps(both)), operation.name, fusible=True)
        tensor = self.on_steps(next(each for each in both if isinstance(each, keras.KerasTensor)))
        constants = (1.0, numbers[0]) if adds else (numbers[0],)
        return self.keep(_scaled(tensor, *constants), operation.name, fusible=True)

    def summed(self, layer: Any, inputs: Any) -> Any:
        return self.keep(layer(self.on_steps(inputs)), layer.name, fusible=True)

    def computed(self, layer: Any, inputs: Any) -> Any:
        return self.keep(layer(self.on_steps(inputs)), layer.name)

    def passed_on(self, layer: Any, inputs: Any) -> Any:
        """What moves or drops numbers leaves them on their steps."""
        return self.keep(layer(self.on_steps(inputs)), layer.name, rounded=True)


def _scaled(tensor: Any, scale: Any, offset: Any = 0.0) -> Any:
    """A product and a sum with constants, for each channel or all; as a layer, since Keras takes x * 2 for sparse."""
    as_given = [np.asarray(value).tolist() for value in (scale, offset)]
    return layers.Rescaling(*as_given)(tensor)


def _hull(low: Any, high: Any) -> Range:
    return min(0.0, float(np.min(low)), float(np.min(high))), max(0.0, float(np.max(low)), float(np.max(high)))


_ARITHMETIC = ("Add", "Multiply")

_RULES: tuple[tuple[tuple[type, ...], Callable[[_Drawing, Any, Any], Any]], ...] = (
    ((layers.Conv2D, layers.DepthwiseConv2D, layers.Dense), _Drawing.weighted),
    ((layers.BatchNormalization,), _Drawing.normalised),
    ((layers.Rescaling,), _Drawing.rescaled),
    ((layers.ReLU,), _Drawing.clipped),
    ((layers.Activation,), _Drawing.activated),
    ((layers.Add,), _Drawing.summed),
    ((layers.Multiply, layers.Concatenate, layers.GlobalAveragePooling2D), _Drawing.computed),
    (
        (layers.Dropout, layers.Flatten, layers.Reshape, layers.ZeroPadding2D, layers.MaxPooling2D),
        _Drawing.passed_on,
    ),
)
