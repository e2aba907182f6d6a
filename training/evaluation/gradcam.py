"""Where in a photograph a classifier saw what it answered: Grad-CAM (Selvaraju et al. 2017).

The last map of features is weighed, channel by channel, with the mean gradient of a class's logit, added up, and cut
off at zero. Where much is left speaks for the class. The map is coarse (7 x 7 for most networks at 224 pixels) and
shows what the answer rests on, not whether that is a good reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from leafport import images
from leafport.contract import ImageInput
from leafport.errors import ModelError

if TYPE_CHECKING:
    import keras

OPACITY = 0.65


def network(model: keras.Model) -> keras.Model:
    """The same layers with two outputs: the last map of features [N, h, w, channels], and logits float32 [N, classes].

    The map is the last 4-D tensor between the model's own layers (a backbone is one of them) that is larger than one
    cell. Gradients are taken of logits, as a softmax that is sure of itself has none: it is left out, where it is the
    last layer or the last layer's activation.

    Raises:
        ModelError: no layer gives a map of features.
    """
    import keras

    model = keras.Model(model.inputs[0], model.outputs[0])  # A Sequential one cannot be copied layer by layer.
    last = model.layers[-1]
    maps: list[Any] = []

    def share(layer: Any) -> Any:
        return _linear(layer) if layer is last and _is_softmax(layer) and layer.weights else layer

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if layer is last and _is_softmax(layer):
            return arguments[0]
        result = layer(*arguments, **options)
        if len(getattr(result, "shape", ())) == 4 and not isinstance(layer, keras.layers.InputLayer):
            maps.append(result)
        return result

    # Layers are shared, not copied, but for the last: this is the public way to tap a loaded model with others in it.
    copy = keras.models.clone_model(model, clone_function=share, call_function=call)
    if not maps:
        raise ModelError(f"The model {model.name!r} has no map of features to look at.")
    wide = [found for found in maps if found.shape[1] * found.shape[2] > 1]
    return keras.Model(copy.inputs[0], [(wide or maps)[-1], copy.outputs[0]])


def heat(network: keras.Model, pixels: np.ndarray, label: int) -> np.ndarray:
    """How much each place speaks for a class: float32 [h, w], 0..1, the highest 1 unless nothing speaks for it.

    Args:
        network: made by the function of that name.
        pixels: uint8 [H, W, 3], as ``leafport.images.read`` gives them.
        label: the index of the class.
    """
    import tensorflow as tf

    image = tf.cast(pixels[None], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(image)  # And with it all that follows from it, also where every layer is frozen.
        maps, logits = network(image, training=False)
        logit = logits[0, label]
    gradient = tf.cast(tape.gradient(logit, maps), tf.float32)
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    found = tf.nn.relu(tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=-1))[0].numpy()
    highest = found.max()
    result: np.ndarray = found / highest if highest > 0 else found
    return result


def overlay(photo: Image.Image, heat: np.ndarray, rule: ImageInput) -> Image.Image:
    """The photograph with its heat, float [h, w], 0..1, laid over the part of it that the classifier saw."""
    from matplotlib import colormaps

    box = (0, 0, *photo.size)
    if rule.fit == "crop":
        box = images.crop_box(photo.size, (rule.width, rule.height))
    size = (box[2] - box[0], box[3] - box[1])
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    strength = np.asarray(smooth).clip(0, 1)
    colour = Image.fromarray((colormaps["inferno"](strength)[..., :3] * 255).astype(np.uint8))
    # Cold places stay as they are, only a little darker, so that one sees what the warm ones lie on.
    opacity = Image.fromarray((255 * (0.35 + (OPACITY - 0.35) * strength)).astype(np.uint8))
    shown = photo.copy()
    shown.paste(Image.composite(colour, photo.crop(box), opacity), box[:2])
    return shown


def _is_softmax(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.layers.Softmax) or getattr(layer, "activation", None) is keras.activations.softmax


def _linear(layer: Any) -> Any:
    """A layer with weights, without its activation."""
    copy = type(layer).from_config({**layer.get_config(), "activation": "linear", "name": "logits"})
    copy.build(layer.get_build_config()["input_shape"])
    copy.set_weights(layer.get_weights())
    return copy
