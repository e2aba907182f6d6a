"""Normalisation as part of the first convolution, so that 8-bit files see pixels and not numbers made of them.

A network that takes pixels as -1 to 1 subtracts 127.5 first, and no 8-bit range that has a zero holds all the results:
each pixel would be off by half a step, which costs an int8 file more than any of its layers. The convolution can as
well take pixels: its weights and its bias do what the normalisation did, and what is padded is not 0 but the pixel that
stands for it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leafport import files
from leafport.export.graph import INPUT
from leafport.export.rounding import bias_of, is_plain, set_value

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef, NodeDef

    from leafport.export.graph import ServingGraph

_AFFINE = ("Mul", "RealDiv", "AddV2", "Add", "Sub")
_PADDED, _SIZES, _VALUE = "padded_pixels", "padded_pixels/sizes", "padded_pixels/value"


def taken_directly(graph: ServingGraph, path: Path) -> ServingGraph:
    """The graph with its normalisation in the first convolution, written to ``path``; itself where that cannot be."""
    made = without_normalisation(graph.graph_def(), INPUT)
    if made is None:
        return graph
    files.write_bytes(path, made.SerializeToString(deterministic=True))
    return dataclasses.replace(graph, path=path)


def without_normalisation(graph_def: GraphDef, feed: str) -> GraphDef | None:
    """A copy of a frozen graph whose first convolution takes pixels.

    None where what comes before it is not a scale and a shift for each channel, or where it pads and the channels have
    different pixels for zero.

    Args:
        feed: the placeholder's name: float32 [N, height, width, 3].
    """
    from tensorflow.core.framework.graph_pb2 import GraphDef

    copy = GraphDef()
    copy.CopyFrom(graph_def)
    nodes = {node.name: node for node in copy.node}
    uses = Counter(reference.partition(":")[0] for node in copy.node for reference in node.input)
    placeholder = nodes[feed]
    node, scale, shift, gone = placeholder, np.ones(3), np.zeros(3), []
    while (follower := _only_follower(copy, uses, node)) is not None and follower.op in _AFFINE:
        if (moved := _moved(nodes, node, follower, scale, shift)) is None:
            return None
        scale, shift = moved
        gone.append(follower.name)
        node = follower
    sizes = np.zeros((4, 2), np.int32)
    if follower is not None and follower.op == "Pad" and (given := _value(nodes, follower.input[1])) is not None:
        sizes = given.astype(np.int32)
        gone.append(follower.name)
        node = follower
        follower = _only_follower(copy, uses, node)
    if not gone or follower is None or follower.op != "Conv2D" or not is_plain(follower):
        return None
    kernel = _value(nodes, follower.input[1])
    bias = None if kernel is None else bias_of(copy, nodes, uses, follower, kernel.shape[-1])
    if kernel is None or bias is None or kernel.shape[2] != 3 or uses[follower.input[1].partition(":")[0]] > 1:
        return None
    if follower.attr["padding"].s == b"SAME":
        sizes = sizes + _same(placeholder, follower, sizes, kernel.shape)
    zero = -shift / scale
    if sizes.any() and not (np.ptp(zero) < 1e-3 and 0 <= zero[0] <= 255):
        return None
    weights = kernel.astype(np.float64)
    set_value(nodes[follower.input[1].partition(":")[0]], weights * scale[:, None])
    set_value(bias, _value(nodes, bias.name) + np.einsum("hwio,i->o", weights, shift))
    follower.attr["padding"].s = b"VALID"
    follower.input[0] = _PADDED if sizes.any() else feed
    kept = [node for node in copy.node if node.name not in gone and node.name != feed]
    made = GraphDef(versions=copy.versions, library=copy.library)
    made.node.extend([placeholder, *(_padding(feed, sizes, zero[0]) if sizes.any() else ()), *kept])
    return made


def _only_follower(graph_def: GraphDef, uses: Counter[str], node: NodeDef) -> NodeDef | None:
    if uses[node.name] != 1:
        return None
    return next(other for other in graph_def.node if node.name in {name.partition(":")[0] for name in other.input})


def _moved(
    nodes: dict[str, NodeDef], node: NodeDef, follower: NodeDef, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift, float64 [3], after one more step; None where it is not with a constant for each channel."""
    first, second = (name.partition(":")[0] for name in follower.input)
    constant = _value(nodes, second if first == node.name else first)
    if constant is None or constant.size not in (1, 3) or (first != node.name and follower.op in ("RealDiv", "Sub")):
        return None
    constant = constant.astype(np.float64).ravel()
    if follower.op in ("Mul", "RealDiv"):
        factor = constant if follower.op == "Mul" else 1 / constant
        return scale * factor, shift * factor
    return scale, shift + (-constant if follower.op == "Sub" else constant)


def _same(placeholder: NodeDef, convolution: NodeDef, sizes: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    """What SAME adds around an image that ``sizes`` is added around already, int32 [4, 2]; an odd pixel goes behind."""
    found = np.zeros((4, 2), np.int32)
    for axis in (1, 2):
        size = placeholder.attr["shape"].shape.dim[axis].size + int(sizes[axis].sum())
        stride = convolution.attr["strides"].list.i[axis]
        total = max((-(-size // stride) - 1) * stride + kernel[axis - 1] - size, 0)
        found[axis] = total // 2, total - total // 2
    return found


def _padding(feed: str, sizes: np.ndarray, pixel: float) -> list[NodeDef]:
    """Nodes that put ``pixel`` around the image."""
    import tensorflow as tf
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    found = []
    for name, value in ((_SIZES, sizes), (_VALUE, np.float32(pixel))):
        node = NodeDef(name=name, op="Const")
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        node.attr["dtype"].type = node.attr["value"].tensor.dtype
        found.append(node)
    node = NodeDef(name=_PADDED, op="PadV2", input=[feed, _SIZES, _VALUE])
    node.attr["T"].type = tf.float32.as_datatype_enum
    node.attr["Tpaddings"].type = tf.int32.as_datatype_enum
    return [*found, node]


def _value(nodes: dict[str, NodeDef], reference: str) -> np.ndarray | None:
    from tensorflow.python.framework import tensor_util

    node = nodes[reference.partition(":")[0]]
    if node.op != "Const":
        return None
    found: np.ndarray = tensor_util.MakeNdarray(node.attr["value"].tensor)
    return found
