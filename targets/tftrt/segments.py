"""Which operations TF-TRT takes into an engine, and how those of a graph fall into segments, an engine each.

What it takes was read in its sources (tf2tensorrt/convert/convert_nodes.cc): what the oldest on a Jetson TX2, that of
TensorFlow 1.15, has a converter for, with an implicit batch: the first dimension is the batch, and stays it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

_TAKEN = """
    Abs Add AddN AddV2 AvgPool BatchMatMul BatchMatMulV2 BiasAdd ClipByValue ConcatV2 Const Conv2D
    Conv2DBackpropInput DepthToSpace DepthwiseConv2dNative Div Elu Exp ExpandDims FloorDiv Identity LeakyRelu Log
    MatMul Max MaxPool Maximum Mean Min Minimum Mul Neg Pack Pad Pow Prod RealDiv Reciprocal Relu Relu6 Reshape
    ResizeBilinear ResizeNearestNeighbor Rsqrt Selu Sigmoid Slice Snapshot Softmax Softplus Softsign SpaceToDepth
    Split Sqrt Square SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tanh Transpose Unpack
"""
TAKEN = frozenset(_TAKEN.split())


def why_native(operation: tf.Operation) -> str | None:
    """Why TF-TRT leaves an operation to TensorFlow, or None where it takes it.

    The operation is of a graph whose batch size is open. That shows in its tensors: where their first size alone is
    unknown, the batch is where TensorRT keeps it.
    """
    if operation.type not in TAKEN:
        return "TF-TRT has no converter for it"
    calculated = [tensor for tensor in operation.inputs if tensor.op.type != "Const"]
    if not calculated:
        return "it takes constants only"
    if (demand := _DEMANDS.get(operation.type)) and (reason := demand(operation)):
        return reason
    for tensor in (*calculated, *operation.outputs):
        if tensor.dtype.name != "float32":
            return f"{tensor.name} is {tensor.dtype.name}, and an engine takes float32"
        if tensor.shape.rank is None or tensor.shape.rank < 2 or tensor.shape[0] is not None:
            return f"{tensor.name} has no batch as its first dimension"
        if not tensor.shape[1:].is_fully_defined():
            return f"only the batch of {tensor.name} may have a size that is not known beforehand"
    return None


def split(operations: Iterable[tf.Operation], minimum: int) -> tuple[list[list[tf.Operation]], dict[str, str]]:
    """The segments of at least ``minimum`` operations, and by name why every other operation stays native.

    No path leads out of a segment and back into it: what it needs is there before it runs. For that each operation has
    a level, the number of changes between native and converted before it, and a segment is what hangs together of one
    level. Operations come in an order in which they could run; constants belong to what uses them, and are left out.
    """
    levels: dict[str, int] = {}
    reasons: dict[str, str] = {}
    groups: dict[str, list[tf.Operation]] = {}  # By each of its members' names.
    for operation in operations:
        sources = {tensor.op.name: tensor.op for tensor in operation.inputs if tensor.op.type != "Const"}
        reason = why_native(operation)
        if reason:
            reasons[operation.name] = reason
        native = reason is not None
        levels[operation.name] = max((levels[name] + ((name in reasons) != native) for name in sources), default=0)
        if native:
            continue
        before = {id(groups[name]): groups[name] for name in sources if levels[name] == levels[operation.name]}
        joined = [member for group in before.values() for member in group] + [operation]
        groups |= {member.name: joined for member in joined}
    segments = list({id(group): group for group in groups.values()}.values())
    for segment in segments:
        if len(segment) < minimum:
            reason = f"its segment has {len(segment)} operations, and an engine at least {minimum}"
            reasons |= {operation.name: reason for operation in segment}
    return [segment for segment in segments if len(segment) >= minimum], reasons


def _constant(operation: tf.Operation, place: int) -> np.ndarray | None:
    """The value of an input that is a constant, or None."""
    from tensorflow.python.framework import tensor_util

    source = operation.inputs[place].op
    return tensor_util.MakeNdarray(source.get_attr("value")) if source.type == "Const" else None


def _fixed(*places: int) -> Callable[[Any], str | None]:
    """Some inputs must be constants."""

    def demand(operation: Any) -> str | None:
        missing = [operation.inputs[place].name for place in places if operation.inputs[place].op.type != "Const"]
        return f"{missing[0]} is no constant" if missing else None

    return demand


def _axes(place: int) -> Callable[[Any], str | None]:
    """Axes are a constant, and not the batch's."""

    def demand(operation: Any) -> str | None:
        axes = _constant(operation, place)
        if axes is None:
            return f"{operation.inputs[place].name} is no constant"
        data = operation.inputs[1 if place == 0 else 0]
        rank = data.shape.rank or 0
        if not axes.size:
            return "it names no axes"
        return "it works along the batch" if {0, -rank} & set(np.ravel(axes).tolist()) else None

    return demand


def _convolution(operation: Any) -> str | None:
    if operation.get_attr("padding") == b"EXPLICIT":
        return "its padding is explicit"
    return _fixed(1)(operation)


def _reshape(operation: Any) -> str | None:
    before, after = operation.inputs[0].shape, operation.outputs[0].shape
    if _constant(operation, 1) is None:
        return "its shape is calculated"
    known = before.rank and after.rank and before[1:].is_fully_defined() and after[1:].is_fully_defined()
    same = known and math.prod(before.as_list()[1:]) == math.prod(after.as_list()[1:])
    return None if same else "it changes the batch"


def _pad(operation: Any) -> str | None:
    paddings = _constant(operation, 1)
    if paddings is None or paddings.shape != (4, 2):
        return "it pads other than images by constants"
    return "it pads more than height and width" if paddings[[0, 3]].any() else None


def _product(operation: Any) -> str | None:
    return "its first factor is transposed" if operation.get_attr("transpose_a") else _fixed(1)(operation)


def _strided_slice(operation: Any) -> str | None:
    if not operation.get_attr("begin_mask") & operation.get_attr("end_mask") & 1:
        return "it takes a part of the batch"
    if operation.get_attr("new_axis_mask"):
        return "it adds dimensions"
    steps = _constant(operation, 3)
    return "its steps go backwards" if steps is not None and (steps < 0).any() else _fixed(1, 2, 3)(operation)


def _nothing_fixed(operation: Any) -> str | None:
    """No input may be a constant."""
    fixed = [tensor.name for tensor in operation.inputs if tensor.op.type == "Const"]
    return f"{fixed[0]} is a constant" if fixed else None


def _concatenation(operation: Any) -> str | None:
    fixed = [tensor.name for tensor in list(operation.inputs)[:-1] if tensor.op.type == "Const"]
    return f"{fixed[0]} is a constant" if fixed else _axes(-1)(operation)


def _resizing(operation: Any) -> str | None:
    return "it counts from the centres of pixels" if operation.get_attr("half_pixel_centers") else _fixed(1)(operation)


def _slice(operation: Any) -> str | None:
    begin, size = _constant(operation, 1), _constant(operation, 2)
    if begin is None or size is None:
        return "what it takes is calculated"
    return None if (begin[0], size[0]) == (0, -1) else "it takes a part of the batch"


def _stacking(operation: Any) -> str | None:
    return "it works along the batch" if operation.get_attr("axis") == 0 else _nothing_fixed(operation)


def _squeeze(operation: Any) -> str | None:
    return None if operation.get_attr("squeeze_dims") else "it does not say which dimensions it removes"


_DEMANDS: dict[str, Callable[[Any], str | None]] = {
    **dict.fromkeys(("Conv2D", "DepthwiseConv2dNative"), _convolution),
    **dict.fromkeys(("Mean", "Sum", "Max", "Min", "Prod", "ExpandDims"), _axes(1)),
    **dict.fromkeys(("Pack", "Unpack"), _stacking),
    **dict.fromkeys(("ResizeBilinear", "ResizeNearestNeighbor"), _resizing),
    **dict.fromkeys(("BiasAdd", "Transpose"), _fixed(1)),
    "ConcatV2": _concatenation,
    "SquaredDifference": _nothing_fixed,
    "Split": _axes(0),
    "MatMul": _product,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
}
