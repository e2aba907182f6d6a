"""A network small enough to learn from scratch in less than a minute on two cores.

Its parts are those that converters and quantisers meet in large networks: convolutions, a depthwise one, batch
normalisation, residual additions, pooling and ReLU6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

IMAGE_SIZE = 96


def build(image_size: int = IMAGE_SIZE) -> keras.Model:
    """The network without its top: float32 [N, image_size, image_size, 3], scaled to -1..1, to a map of features.

    The map has 160 channels and a sixteenth of the image's size (rounded). Maps shrink by pooling, after a
    convolution has looked at every pixel of them: the teeth of a leaf are a few pixels, and networks that stride over
    them took twice as many epochs to see them. Only the last convolution is depthwise: early ones would save a
    device little and cost training much.
    """
    import keras

    image = keras.Input((image_size, image_size, 3))
    maps = _convolve(image, 12, "stem", strides=2)
    maps = _shrink(_convolve(maps, 24, "stage1"), "stage1")
    maps = _shrink(_convolve(maps, 40, "stage2"), "stage2")
    maps = _residual(maps, "stage2")
    maps = _shrink(_convolve(maps, 80, "stage3"), "stage3")
    maps = _residual(maps, "stage3")
    depthwise = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="stage4_depthwise")
    maps = _normalise(depthwise(maps), "stage4_depthwise")
    maps = _convolve(maps, 160, "stage4", size=1)
    return keras.Model(image, maps, name="small")


def _convolve(maps: Any, width: int, name: str, *, size: int = 3, strides: int = 1) -> Any:
    import keras

    convolution = keras.layers.Conv2D(width, size, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")
    return _normalise(convolution(maps), name)


def _normalise(maps: Any, name: str) -> Any:
    import keras

    maps = keras.layers.BatchNormalization(name=f"{name}_norm")(maps)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(maps)


def _shrink(maps: Any, name: str) -> Any:
    import keras

    return keras.layers.MaxPooling2D(2, name=f"{name}_pool")(maps)


def _residual(maps: Any, name: str) -> Any:
    import keras

    inner = _convolve(maps, maps.shape[-1], f"{name}_residual")
    return keras.layers.Add(name=f"{name}_add")([maps, inner])
