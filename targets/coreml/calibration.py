"""The ranges over which activations get 8 bits, from photographs run through the saved package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from leafport import images
from leafport.contract import Contract
from leafport.targets.coreml.evaluator import calculated
from leafport.targets.coreml.program import read

BINS = 2048
_BATCH = 16
_SHRINKINGS = np.linspace(1, 0.4, 25)


def ranges(package: Path, photographs: Sequence[Path], contract: Contract) -> dict[str, tuple[float, float]]:
    """For each result by name the range (least, largest) whose 256 steps cost its values the smallest squared error.

    The few largest values may lie outside, where all others get finer steps for it.

    Raises:
        ModelError, TargetError: the evaluator cannot calculate the package.
    """
    program = read(package)
    signature = tf.TensorSpec((None, contract.image.height, contract.image.width, 3), tf.float32)

    def run(function: Any) -> Any:
        """``function`` of each batch's results by name: float32 tensors."""
        found = tf.function(lambda batch: function(calculated(program, batch)), autograph=False)
        found = found.get_concrete_function(signature)
        batches = images.batches(photographs, contract.image, batch_size=_BATCH)
        return (found(tf.constant(pixels, tf.float32)) for pixels in batches)

    def extremes(values: dict[str, Any]) -> dict[str, Any]:
        return {name: (tf.reduce_min(value), tf.reduce_max(value)) for name, value in values.items()}

    least: dict[str, float] = {}
    largest: dict[str, float] = {}
    for batch in run(extremes):
        for name, (low, high) in batch.items():
            least[name] = min(least.get(name, 0.0), float(low))  # Zero, which padding is, must have a step of its own.
            largest[name] = max(largest.get(name, 0.0), float(high))
    varied = [name for name in least if largest[name] > least[name]]

    def histograms(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tf.histogram_fixed_width(values[name], [least[name], largest[name]], BINS) for name in varied}

    counts = {name: np.zeros(BINS) for name in varied}
    for batch in run(histograms):
        for name, count in batch.items():
            counts[name] += count.numpy()
    nothing = dict.fromkeys(least, (0.0, 1.0))  # What is always zero needs a range all the same.
    return nothing | {name: best_range(counts[name], least[name], largest[name]) for name in varied}


def best_range(counts: np.ndarray, least: float, largest: float) -> tuple[float, float]:
    """The part of a range that 256 steps fit best, by the squared error.

    Args:
        counts: float [BINS], how many values there are in each of as many equal parts of ``least`` to ``largest``.
    """
    values = least + (np.arange(len(counts)) + 0.5) * (largest - least) / len(counts)
    best, found = np.inf, (least, largest)
    for low in least * (_SHRINKINGS if least < 0 else np.ones(1)):
        for high in largest * (_SHRINKINGS if largest > 0 else np.ones(1)):
            step = (high - low) / 255
            rounded = np.clip(np.round((values - low) / step), 0, 255) * step + low
            error = float(counts @ np.square(values - rounded))
            if error < best:
                best, found = error, (float(low), float(high))
    return found
