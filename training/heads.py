"""What stands on a backbone: from its features to one probability for each class.

Heads have no batch normalisation, and so no statistics that go stale when the backbone under them is fine-tuned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from leafport.errors import ModelError

Kind = Literal["gap", "dense", "conv", "residual"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "selu", "silu", "hard_silu"),
    *("sigmoid", "hard_sigmoid", "tanh", "softplus", "softsign", "linear"),
)
"""Keras's activations that every target can express. elu and gelu are none of them: TFLite quantises no elu, and the
gelu of TensorFlow 2.21 is made of an operation (Erfc) that only TFLite knows."""

PROBABILITIES = "probabilities"
_CONVOLVING = ("conv", "residual")


@dataclass(frozen=True)
class Head:
    """A head's shape and how it is kept from learning photographs by heart. Every kind ends with a softmax layer.

    Attributes:
        kind: ``gap`` averages each feature over the image; ``dense`` keeps where in the image each was seen, at the
            price of one weight for every place; ``conv`` averages after ``blocks`` convolutions (3 x 3), ``residual``
            after ``blocks`` residual blocks of two.
        units: the sizes of dense layers before the last one.
        activation: one of ACTIVATIONS, after every convolution and dense layer but the last.
        dropout: the share of its inputs that each dense layer forgets at each step, 0 to below 1.
        l2: the weight, in the loss, of the sum of the squares of the head's kernels.
        blocks: how many convolutions or residual blocks; only for these two kinds.
        filters: their width; only for these two kinds.

    Raises:
        ModelError: a value that makes no head.
    """

    kind: Kind = "gap"
    units: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.5
    l2: float = 0.0
    blocks: int = 1
    filters: int = 256

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ModelError(f"There is no head {self.kind!r}. There are: {', '.join(KINDS)}.")
        if self.activation not in ACTIVATIONS:
            raise ModelError(
                f"There is no activation {self.activation!r} for heads. There are: {', '.join(ACTIVATIONS)}."
            )
        if any(size < 1 for size in self.units):
            raise ModelError(f"A head's dense layers of {self.units} units are too small: give 1 or more for each.")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"A head cannot drop {self.dropout:g} of its features: give 0 or more, and less than 1.")
        if not 0 <= self.l2 < math.inf:
            raise ModelError(f"A head's L2 penalty cannot be {self.l2:g}: give 0, or a small number such as 1e-4.")
        if self.blocks < 1 or self.filters < 1:
            raise ModelError(f"A head needs a block and a filter at least, not {self.blocks} and {self.filters}.")
        if self.kind not in _CONVOLVING and (self.blocks, self.filters) != (Head.blocks, Head.filters):
            raise ModelError(
                f"A {self.kind} head has no blocks and filters. Leave them, or choose a conv or residual one."
            )

    @property
    def pools_first(self) -> bool:
        """Whether it takes averages, float [N, channels], and not maps, float [N, height, width, channels]."""
        return self.kind == "gap"


def apply(head: Head, features: Any, classes: int) -> Any:
    """The probabilities, float32 [N, classes], that a new head makes of a symbolic tensor of what it takes.

    The last layer is a dense one called ``probabilities``. It calculates in float32 also where all else is in 16 bits.
    """
    import keras

    regularizer = keras.regularizers.L2(head.l2) if head.l2 else None
    vector = features
    if head.kind == "dense":
        vector = keras.layers.Flatten(name="flatten")(features)
    elif head.kind in _CONVOLVING:
        maps = _convolve(features, head, regularizer) if head.kind == "conv" else _refine(features, head, regularizer)
        vector = keras.layers.GlobalAveragePooling2D(name="head_pool")(maps)
    for number, size in enumerate(head.units, 1):
        vector = keras.layers.Dropout(head.dropout, name=f"dense{number}_dropout")(vector)
        dense = keras.layers.Dense(
            size, activation=head.activation, kernel_regularizer=regularizer, name=f"dense{number}"
        )
        vector = dense(vector)
    last = keras.layers.Dense(
        classes, activation="softmax", kernel_regularizer=regularizer, dtype="float32", name=PROBABILITIES
    )
    return last(keras.layers.Dropout(head.dropout, name="dropout")(vector))


def _convolve(maps: Any, head: Head, regularizer: Any) -> Any:
    for number in range(1, head.blocks + 1):
        maps = _convolution(head, regularizer, f"conv{number}", activation=head.activation)(maps)
    return maps


def _refine(maps: Any, head: Head, regularizer: Any) -> Any:
    """Residual blocks, after a narrowing to their width; each begins as the identity (Zhang et al. 2019, Fixup)."""
    import keras

    maps = _convolution(head, regularizer, "narrow", size=1, activation=head.activation)(maps)
    for number in range(1, head.blocks + 1):
        name = f"residual{number}"
        branch = _convolution(head, regularizer, f"{name}_conv1", activation=head.activation)(maps)
        branch = _convolution(head, regularizer, f"{name}_conv2", kernel_initializer="zeros")(branch)
        total = keras.layers.Add(name=f"{name}_add")([maps, branch])
        maps = keras.layers.Activation(head.activation, name=f"{name}_out")(total)
    return maps


def _convolution(head: Head, regularizer: Any, name: str, *, size: int = 3, **settings: Any) -> Any:
    import keras

    return keras.layers.Conv2D(
        head.filters, size, padding="same", kernel_regularizer=regularizer, name=f"head_{name}", **settings
    )
