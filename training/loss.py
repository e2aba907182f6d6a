"""What training minimises: cross-entropy, and its remedies for labels that are rare, easy, too sure or dangerous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_SMALLEST = 1e-7


@dataclass(frozen=True)
class Loss:
    """How answers are judged while learning.

    Attributes:
        smoothing: the share of each label that is spread over all of them (Szegedy et al. 2016).
        focus: gamma of the focal loss (Lin et al. 2017): answers that are right already count less; 0 is off.
        weights: what a photograph of each label counts, [classes]; all the same if None.
        positives: which labels are positive (dangerous), by their index.
        safety: the weight of a second cross-entropy, that of positive against negative, whose probabilities are the
            sums of the labels'. So to take one positive label for another costs less than to take it for a negative
            one. 0 is off.
    """

    smoothing: float = 0.0
    focus: float = 0.0
    weights: tuple[float, ...] | None = None
    positives: tuple[int, ...] = ()
    safety: float = 0.0

    def function(self) -> Callable[[Any, Any], Any]:
        """A Keras loss: truth (float32 [N, classes], rows sum to 1) and probabilities to nats, [N]."""
        from keras import ops

        def loss(truth: Any, probabilities: Any) -> Any:
            classes = probabilities.shape[-1]
            truth = truth * (1 - self.smoothing) + self.smoothing / classes
            probabilities = ops.clip(probabilities, _SMALLEST, 1.0)
            each = -truth * ops.log(probabilities)
            if self.focus:
                each = each * (1 - probabilities) ** self.focus
            if self.weights is not None:
                each = each * ops.convert_to_tensor(self.weights, each.dtype)
            total = ops.sum(each, axis=-1)
            if self.safety:
                total = total + self.safety * self._between_kinds(truth, probabilities)
            return total

        return loss

    def _between_kinds(self, truth: Any, probabilities: Any) -> Any:
        """The cross-entropy of positive against negative, in nats, [N]."""
        from keras import ops

        classes = probabilities.shape[-1]
        kinds = np.zeros((classes, 2), np.float32)
        kinds[:, 0] = 1
        kinds[list(self.positives)] = 0, 1
        likely = ops.clip(ops.matmul(probabilities, kinds), _SMALLEST, 1.0)
        return -ops.sum(ops.matmul(truth, kinds) * ops.log(likely), axis=-1)


def rarity(truth: np.ndarray, classes: int) -> tuple[float, ...]:
    """Weights that make every label count the same: [classes], 1 on average over the photographs (int [N] labels)."""
    counts = np.bincount(truth, minlength=classes)
    return tuple(len(truth) / (classes * int(count)) for count in counts)
