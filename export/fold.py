"""What Grappler does not fold: scales and offsets around a convolution's bias, and shapes that name the batch's size.

A trained batch normalisation is, at inference, a scale and an offset per channel. Grappler multiplies them into the
kernel only when they follow the convolution directly; with a bias in between (ResNet50) or after a depthwise
convolution (MobileNet) it leaves four to six nodes where two are enough. ``fold_affine`` computes, in double precision,

    ((x * kernel + bias) * scale + offset) ...  =  x * (kernel * scale') + bias'

for any such chain in which each operation is the only reader of the one before.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

_LINEAR = frozenset({"Conv2D", "DepthwiseConv2dNative", "MatMul"})
_COMMUTATIVE = frozenset({"Mul", "AddV2", "Add"})
_AFFINE = _COMMUTATIVE | {"Sub", "BiasAdd"}


@dataclass(frozen=True)
class _Step:
    """One operation of a chain: y = x * scale + offset, each float64 [channels]."""

    name: str
    op: str
    scale: np.ndarray
    offset: np.ndarray


def fold_affine(graph_def: GraphDef) -> GraphDef:
    """The same frozen graph with every chain folded; no node that is kept changes its name."""
    from tensorflow.core.framework.graph_pb2 import GraphDef

    nodes = {node.name: node for node in GraphDef.FromString(graph_def.SerializeToString()).node}
    readers: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes.values():
        for reference in node.input:
            readers[_name(reference)].append(node.name)
    for linear in [node for node in nodes.values() if node.op in _LINEAR]:
        chain = _chain_after(linear, nodes, readers)
        if [step.op for step in chain] not in ([], ["BiasAdd"]):
            _fold(linear, chain, nodes)
    read = {_name(reference) for node in nodes.values() for reference in node.input}
    kept = [node for node in nodes.values() if node.op != "Const" or node.name in read]
    return GraphDef(node=kept, versions=graph_def.versions)


def fold_shapes(graph_def: GraphDef) -> GraphDef:
    """The same frozen graph without reshapes to [size of the batch, constants ...].

    Keras's Reshape layer asks for the batch's size at run time, which takes three operations that no TensorRT engine
    would have; -1 says as much. An average over a map that is reshaped to [batch, 1, 1, channels] keeps its dimensions
    instead. What is read no longer is left for Grappler to drop.
    """
    import tensorflow as tf
    from tensorflow.core.framework.graph_pb2 import GraphDef

    folded = GraphDef.FromString(graph_def.SerializeToString())
    nodes = {node.name: node for node in folded.node}
    for reshape in [node for node in nodes.values() if node.op == "Reshape"]:
        source, shape = (nodes[_name(reference)] for reference in reshape.input)
        if shape.op != "Pack" or _constant(shape.input[0], nodes) is not None:
            continue
        sizes = [_constant(reference, nodes) for reference in shape.input[1:]]
        known = [int(size) for size in sizes if size is not None and size.size == 1 and size > 0]
        if len(known) < len(sizes):
            continue
        if len(known) == 3 and known[:2] == [1, 1] and _averages_maps(source, nodes):
            reshape.op = "Mean"
            reshape.input[:] = source.input
            reshape.ClearField("attr")
            reshape.attr.MergeFrom(source.attr)
            reshape.attr["keep_dims"].b = True
            continue
        constant = folded.node.add(name=f"{reshape.name}/folded_shape", op="Const")
        constant.attr["dtype"].type = shape.attr["T"].type
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([-1, *known], shape.attr["T"].type))
        reshape.input[1] = constant.name
    return folded


def _averages_maps(node: NodeDef, nodes: dict[str, NodeDef]) -> bool:
    """Whether ``node`` takes [N, height, width, channels] to [N, channels]."""
    if node.op != "Mean" or node.attr["keep_dims"].b:
        return False
    axes = _constant(node.input[1], nodes)
    return axes is not None and axes.tolist() == [1, 2]


def _chain_after(linear: NodeDef, nodes: dict[str, NodeDef], readers: dict[str, list[str]]) -> list[_Step]:
    kernel = _constant(linear.input[1], nodes)
    if kernel is None or kernel.dtype != np.float32 or not _plain(linear):
        return []
    channels = int(np.prod(kernel.shape[2:])) if linear.op == "DepthwiseConv2dNative" else int(kernel.shape[-1])
    steps: list[_Step] = []
    last = linear.name
    while len(readers[last]) == 1:
        step = _step(nodes[readers[last][0]], last, channels, nodes)
        if step is None:
            break
        steps.append(step)
        last = step.name
    return steps


def _step(node: NodeDef, source: str, channels: int, nodes: dict[str, NodeDef]) -> _Step | None:
    """What ``node`` does to each channel of ``source``; None if it is not a scale or an offset by a constant."""
    if node.op not in _AFFINE or len(node.input) != 2 or source not in node.input or not _plain(node):
        return None
    position = list(node.input).index(source)
    if position == 1 and node.op not in _COMMUTATIVE:
        return None
    value = _constant(node.input[1 - position], nodes)
    if value is None or value.size not in (1, channels) or (value.size > 1 and value.shape[-1] != channels):
        return None
    vector = np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,))
    if node.op == "Mul":
        return _Step(node.name, node.op, vector, np.zeros(channels))
    return _Step(node.name, node.op, np.ones(channels), -vector if node.op == "Sub" else vector)


def _fold(linear: NodeDef, chain: list[_Step], nodes: dict[str, NodeDef]) -> None:
    """Write a chain's effect into the kernel and one BiasAdd, which takes the name of the chain's last operation."""
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    kernel = _constant(linear.input[1], nodes)
    assert kernel is not None
    scale, offset = np.ones_like(chain[0].scale), np.zeros_like(chain[0].offset)
    for step in chain:
        scale, offset = scale * step.scale, offset * step.scale + step.offset
        del nodes[step.name]
    if linear.op == "DepthwiseConv2dNative":
        scale = scale.reshape(kernel.shape[2:])
    linear.input[1] = _add_constant(f"{linear.name}/folded_kernel", kernel * scale, nodes)
    bias = NodeDef(name=chain[-1].name, op="BiasAdd")
    bias.input.extend([linear.name, _add_constant(f"{linear.name}/folded_bias", offset, nodes)])
    bias.attr["T"].type = linear.attr["T"].type
    nodes[bias.name] = bias


def _constant(reference: str, nodes: dict[str, NodeDef]) -> np.ndarray | None:
    from tensorflow.python.framework import tensor_util

    node = nodes[_name(reference)]
    return np.asarray(tensor_util.MakeNdarray(node.attr["value"].tensor)) if node.op == "Const" else None


def _add_constant(name: str, value: np.ndarray, nodes: dict[str, NodeDef]) -> str:
    import tensorflow as tf
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    node = NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(np.float32)))
    nodes[name] = node
    return name


def _plain(node: NodeDef) -> bool:
    """Whether channels come last and nothing is transposed; attributes at their defaults may be absent."""
    channels_last = "data_format" not in node.attr or node.attr["data_format"].s == b"NHWC"
    return channels_last and not any(name in node.attr and node.attr[name].b for name in ("transpose_a", "transpose_b"))


def _name(reference: str) -> str:
    return reference.removeprefix("^").partition(":")[0]
