"""SqueezeNet v1.1 (Iandola et al. 2016, arXiv:1602.07360; v1.1 is its authors' second release).

A fire module squeezes a map to few channels with 1 x 1 convolutions and expands it again with 1 x 1 and 3 x 3 ones side
by side. 722,496 weights: a phone's smallest useful network. Nothing is normalised in it, so it is hard to train from
scratch; published weights make good features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
"""By module: how many channels it squeezes to, and how many each of its two expansions has."""

SHRINKING_AFTER = (3, 5)


def build(image_size: int) -> keras.Model:
    """The network without its top: float32 [N, image_size, image_size, 3], scaled, to a map of 512 channels.

    Layers hold their weights in the order in which the published files have them; Keras reads these by order, since
    their names ("fire2/squeeze1x1") are none that Keras 3 allows.
    """
    import keras

    image = keras.Input((image_size, image_size, 3))
    maps = keras.layers.Conv2D(64, 3, strides=2, activation="relu", name="conv1")(image)
    maps = keras.layers.MaxPooling2D(3, strides=2, name="pool1")(maps)
    for number, (squeezed, expanded) in FIRES.items():
        maps = _fire(maps, squeezed, expanded, f"fire{number}")
        if number in SHRINKING_AFTER:
            maps = keras.layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(maps)
    return keras.Model(image, maps, name="squeezenet")


def _fire(maps: Any, squeezed: int, expanded: int, name: str) -> Any:
    import keras

    maps = keras.layers.Conv2D(squeezed, 1, activation="relu", name=f"{name}_squeeze1x1")(maps)
    near = keras.layers.Conv2D(expanded, 1, activation="relu", name=f"{name}_expand1x1")(maps)
    wide = keras.layers.Conv2D(expanded, 3, padding="same", activation="relu", name=f"{name}_expand3x3")(maps)
    return keras.layers.Concatenate(name=f"{name}_concat")([near, wide])
