"""A network small enough to learn from scratch within a minute on two cores.

Its parts are those that converters and quantisers meet in large networks: convolutions, depthwise convolutions,
batch normalisation, residual additions and ReLU6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

IMAGE_SIZE = 96


def build(image_size: int = IMAGE_SIZE) -> keras.Model:
    """The network without its top: float32 [N, image_size, image_size, 3], scaled to -1..1, to a map of features.

    The map has 192 channels and a sixteenth of the image's size. Plain convolutions do the early work, on large maps,
    where a depthwise one saves a device little and costs training much; a depthwise one widens the last map.
    """
    import keras

    image = keras.Input((image_size, image_size, 3))
    maps = _convolve(image, 16, "stem", strides=2)
    for number, width in enumerate((32, 64, 128), start=1):
        maps = _convolve(maps, width, f"shrink{number}", strides=2)
        maps = _residual(maps, width, f"residual{number}")
    maps = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="last_depthwise")(maps)
    maps = _normalise(maps, "last_depthwise")
    maps = _convolve(maps, 192, "last", size=1)
    return keras.Model(image, maps, name="small")


def _convolve(maps: Any, width: int, name: str, *, size: int = 3, strides: int = 1) -> Any:
    import keras

    convolution = keras.layers.Conv2D(width, size, strides=strides, padding="same", use_bias=False, name=name)
    return _normalise(convolution(maps), name)


def _residual(maps: Any, width: int, name: str) -> Any:
    import keras

    inner = _convolve(maps, width, f"{name}_a")
    inner = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_b")(inner)
    inner = keras.layers.BatchNormalization(name=f"{name}_b_norm")(inner)
    total = keras.layers.Add(name=f"{name}_add")([maps, inner])
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(total)


def _normalise(maps: Any, name: str) -> Any:
    import keras

    maps = keras.layers.BatchNormalization(name=f"{name}_norm")(maps)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(maps)
