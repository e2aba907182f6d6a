"""The reference evaluator: calculates what a saved .mlpackage says, step by step, where Core ML itself cannot run.

It takes the file's own operations, weights and settings, so a wrong conversion shows as wrong probabilities. What it
does not tell is how an Apple device orders or fuses its arithmetic, or how long it takes.

float16: every result that the file declares as float16 is calculated in float32 from operands that are float16 values,
then rounded to float16. That is what hardware that accumulates in float32 does.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from leafport.contract import Contract
from leafport.errors import ModelError, TargetError
from leafport.targets.coreml.compressed import COMPRESSED
from leafport.targets.coreml.operations import OPERATIONS, Operation, UnsupportedError
from leafport.targets.coreml.program import BGR, Program, Reference, Step, read

BATCH = 32
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class ReferenceEvaluator:
    """A Runner for a saved package, on any machine that has TensorFlow."""

    untimed = "Core ML runs only on Apple devices; measure its latency there."

    def __init__(self, path: Path, contract: Contract):
        """Read the package and prepare its steps.

        Raises:
            ModelError: the package is damaged, or holds another model than the contract's.
            TargetError: it has an operation that the evaluator does not know.
        """
        self.executes = f"reference evaluator (not Core ML), TensorFlow {tf.__version__}"
        self._path = path
        program = read(path)
        if any(dtype == "float16" for dtype in program.dtypes):
            self.executes += ", float32 arithmetic with each float16 result rounded"
        image = contract.image
        signature = tf.TensorSpec((None, image.height, image.width, 3), tf.float32)
        # Traced once for any batch; autograph would rewrap the errors raised on the way.
        function = tf.function(lambda images: evaluate(program, images, contract.labels), autograph=False)
        self._function = function.get_concrete_function(signature)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (float32 [N, classes], the contract's order) of images (uint8 [N, H, W, 3], RGB)."""
        try:
            chunks = [
                self._function(tf.constant(images[start : start + BATCH], tf.float32)).numpy()
                for start in range(0, len(images), BATCH)
            ]
        except tf.errors.OpError as problem:
            raise ModelError(f"{self._path} is damaged: it cannot be calculated ({problem.message}).") from None
        return np.concatenate(chunks) if chunks else np.empty((0, self._function.outputs[0].shape[1]), np.float32)


@dataclass(frozen=True)
class _Computed:
    """A computed tensor; of rank 4, it may lie channels last in memory, whatever the file says."""

    tensor: Any
    channels_last: bool = False

    def laid_out(self, channels_last: bool) -> Any:
        if self.channels_last == channels_last:
            return self.tensor
        return tf.transpose(self.tensor, _TO_LAST if channels_last else _TO_FIRST)


def evaluate(program: Program, images: Any, labels: tuple[str, ...]) -> Any:
    """Probabilities (float32 [N, classes], in the order of ``labels``) of images (float32 [N, H, W, 3], RGB 0..255).

    Raises:
        ModelError: the program does not fit the images or the labels, or contradicts itself.
        TargetError: it has an operation that the evaluator does not know.
    """
    values = _calculated(program, images)
    if program.steps and program.steps[-1].type == "classify":
        return _classified(program, program.steps[-1], values, labels)
    result = values.get(program.results[0]) if len(program.results) == 1 else None
    if not isinstance(result, _Computed) or result.tensor.shape[1:] != (len(labels),):
        raise ModelError(
            f"{program.path} is not a classifier of {len(labels)} classes: it names none, and has no such result."
        )
    return result.tensor


def calculated(program: Program, images: Any) -> dict[str, Any]:
    """The image and each step's result by its name, up to the naming of classes, as tensors in any layout.

    Raises as ``evaluate`` does.
    """
    values = _calculated(program, images)
    return {name: value.tensor for name, value in values.items() if isinstance(value, _Computed)}


def _calculated(program: Program, images: Any) -> dict[str, Any]:
    """The input and every step's result by its name, up to the naming of classes: _Computed, or an unpacked array."""
    values: dict[str, Any] = {program.inputs[0].name: _input(program, images)} if program.inputs else {}
    for step in program.steps:
        if step.type == "classify":
            break
        if step.type in COMPRESSED:
            values.update(_constants(program.path, step, values))
        else:
            values[step.name] = _evaluate_step(program.path, step, values)
    return values


def _input(program: Program, images: Any) -> _Computed:
    """The photographs as the file takes them: in the order of colours that it asks for."""
    expected = (1, 3, *images.shape[1:3])
    if len(program.inputs) != 1 or program.inputs[0].shape not in (expected, (1, *images.shape[1:])):
        found = ", ".join(f"{value.name} {value.shape}" for value in program.inputs)
        raise ModelError(f"{program.path} takes {found or 'nothing'}, not one image {expected} as its contract says.")
    (feature,) = program.description.input
    bgr = feature.type.WhichOneof("Type") == "imageType" and feature.type.imageType.colorSpace == BGR
    return _Computed(images[..., ::-1] if bgr else images, channels_last=program.inputs[0].shape == expected)


def _classified(program: Program, step: Step, values: Mapping[str, Any], labels: tuple[str, ...]) -> Any:
    classes, probabilities = step.arguments.get("classes"), step.arguments.get("probabilities")
    if not isinstance(classes, list) or sorted(map(str, classes)) != sorted(labels):
        raise ModelError(f"{program.path} names other classes than its contract. Export it again.")
    if not isinstance(probabilities, Reference) or values[probabilities.name].tensor.shape[1:] != (len(labels),):
        raise ModelError(f"{program.path} is damaged: it has not one probability for each of {len(labels)} classes.")
    result = values[probabilities.name].tensor
    return result if tuple(classes) == labels else tf.gather(result, [classes.index(label) for label in labels], axis=1)


def _constants(path: Path, step: Step, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a step unpacks: arrays, in float16's values where the file says so."""
    arguments = {
        name: values.get(value.name) if isinstance(value, Reference) else value
        for name, value in step.arguments.items()
    }
    try:
        inspect.signature(COMPRESSED[step.type]).bind(**arguments)
    except TypeError as problem:
        raise _unsupported(path, step, problem) from None
    try:
        results = COMPRESSED[step.type](**arguments)
        found = {}
        for output, result in zip(step.outputs, results, strict=True):
            if result.shape != output.shape:
                raise ValueError(f"it gives {result.shape} where the file declares {output.shape}")
            found[output.name] = result.astype(np.float16) if output.dtype == "float16" else result
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as problem:
        raise ModelError(f"{path} is damaged: {step.type!r} at {step.name!r} cannot be unpacked: {problem}") from None
    return found


def _evaluate_step(path: Path, step: Step, values: Mapping[str, Any]) -> _Computed:
    operation = OPERATIONS.get(step.type)
    if operation is None:
        raise TargetError(
            f"{path}: the reference evaluator does not know the operation {step.type!r} (at {step.name!r}). "
            "Verify this file on a Mac, or add the operation to leafport.targets.coreml.operations."
        )
    try:
        inspect.signature(operation.function).bind(**step.arguments)
    except TypeError as problem:
        raise _unsupported(path, step, problem) from None
    try:
        result = _call(operation, step, values)
        _check_shape(step, result)
    except UnsupportedError as problem:
        raise _unsupported(path, step, problem) from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, tf.errors.OpError) as problem:
        raise ModelError(f"{path} is damaged: {step.type!r} at {step.name!r} cannot be calculated: {problem}") from None
    return result


def _call(operation: Operation, step: Step, values: Mapping[str, Any]) -> _Computed:
    arguments = {name: _resolve(value, values) for name, value in step.arguments.items()}
    operands = [
        operand
        for value in arguments.values()
        for operand in (value if isinstance(value, tuple) else (value,))
        if isinstance(operand, _Computed)
    ]
    if not operands or any(operand.tensor.shape.rank != operands[0].tensor.shape.rank for operand in operands):
        raise UnsupportedError("computed tensors of different ranks, or none")  # Would broadcast over the batch.
    channels_last = operation.layout == "channels last" or (
        operation.layout == "any" and any(operand.channels_last for operand in operands)
    )
    if channels_last and operands[0].tensor.shape.rank != 4:
        raise UnsupportedError(f"a tensor of rank {operands[0].tensor.shape.rank}")

    def lay_out(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(lay_out(item) for item in value)
        if isinstance(value, _Computed):
            return value.laid_out(channels_last)
        if channels_last and operation.layout == "any" and isinstance(value, np.ndarray):
            return value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(_TO_LAST)
        return value

    result = operation.function(**{name: lay_out(value) for name, value in arguments.items()})
    if step.outputs[0].dtype == "float16" and not operation.selects:
        result = tf.cast(tf.cast(result, tf.float16), tf.float32)
    return _Computed(result, channels_last)


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    """An argument's value; arrays of floats become float32, which holds every float16 exactly."""
    if isinstance(value, Reference):
        value = values[value.name]
    if isinstance(value, tuple):
        return tuple(_resolve(item, values) for item in value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float32)
    return value


def _check_shape(step: Step, result: _Computed) -> None:
    """The result must have the shape the file declares, with the batch where the file says 1."""
    shape = tuple(result.tensor.shape)
    if result.channels_last:
        shape = tuple(shape[axis] for axis in _TO_FIRST)
    declared = step.outputs[0].shape  # The older format declares none.
    if len(step.outputs) != 1 or shape[0] is not None or (declared is not None and declared[:1] != (1,)):
        raise UnsupportedError("a result without a batch axis")
    if declared is not None and shape[1:] != declared[1:]:
        raise ValueError(f"it gives {shape[1:]} where the file declares {declared[1:]}")


def _unsupported(path: Path, step: Step, problem: Exception) -> TargetError:
    return TargetError(
        f"{path}: the reference evaluator does not know this form of {step.type!r} (at {step.name!r}): {problem}. "
        "Verify this file on a Mac, or extend leafport.targets.coreml.operations."
    )
