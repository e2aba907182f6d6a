"""Files that are 8-bit but for the fewest operations that must stay float for the answers to stay.

TensorFlow's quantiser takes a calibrated file and a list of operations to leave alone, and needs a third of a second.
So every operation is left in float once, by itself, and what that gains is measured where it counts: in the
probabilities of photographs. The most worthwhile ones are then left in float, as many as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from leafport.errors import ConversionError

Answers = Callable[[bytes], np.ndarray]


@dataclass(frozen=True)
class Mixture:
    """A file, which operations of it stay float, and how often it names the class that the model names."""

    model: bytes
    kept: tuple[str, ...]
    agreement: float


def quantise(calibrated: bytes, kept: Sequence[str], *, per_channel_dense: bool) -> bytes:
    """A calibrated file (one that ``experimental_calibrate_only`` made) in 8 bits, but for the operations ``kept``.

    It takes and gives float32.
    """
    from tensorflow.lite.python import convert

    return bytes(
        convert.mlir_quantize(
            calibrated, disable_per_channel_for_dense_layers=not per_channel_dense, denylisted_nodes=list(kept)
        )
    )


def search(calibrated: bytes, true: np.ndarray, answers: Answers, *, goal: float, per_channel_dense: bool) -> Mixture:
    """The file with the fewest float operations, by their gains, that names the model's class often enough.

    Args:
        true: the model's probabilities of some photographs, float [N, classes].
        answers: what a file gives for the same ones.
        goal: the share of them on which its top class must be the model's.

    Raises:
        ConversionError: none need stay float, or there is no such file.
    """
    operations = _operations(calibrated)

    def mixture(kept: Sequence[str]) -> tuple[Mixture, float]:
        model = quantise(calibrated, kept, per_channel_dense=per_channel_dense)
        found = answers(model)
        agreement = float((found.argmax(axis=1) == true.argmax(axis=1)).mean())
        return Mixture(model, tuple(kept), agreement), float(np.abs(found - true).sum(axis=1).mean())

    whole, loss = mixture(())
    if whole.agreement >= goal:
        raise ConversionError(
            f"All in 8 bits it already agrees on {whole.agreement:.1%} of {len(true)} validation photographs: take "
            "tflite-int8, or ask for more with --tflite-mixed-agreement."
        )
    gains = {name: loss - mixture((name,))[1] for name in operations}
    ranked = sorted(operations, key=lambda name: -gains[name])
    few, enough = 0, 1
    while (best := mixture(ranked[:enough])[0]).agreement < goal:
        if enough >= len(ranked):
            raise ConversionError(
                f"Even with every operation in float it agrees on {best.agreement:.1%} only, not {goal:.1%}."
            )
        few, enough = enough, min(2 * enough, len(ranked))
    while enough - few > 1:
        middle = (few + enough) // 2
        tried = mixture(ranked[:middle])[0]
        if tried.agreement >= goal:
            best, enough = tried, middle
        else:
            few = middle
    return best


def _operations(model: bytes) -> list[str]:
    """The names by which the quantiser knows a file's operations: those of what they give."""
    from tensorflow.lite.tools import flatbuffer_utils

    graph = flatbuffer_utils.convert_bytearray_to_object(model).subgraphs[0]
    return [graph.tensors[operator.outputs[0]].name.decode() for operator in graph.operators]
