"""Rounding weights to few bits so that a layer's results stay, instead of each weight by itself.

A converter rounds every weight to the nearest of the values its channel may have. The errors of a layer's many weights
then add up as they happen to fall. Here photographs say which inputs of a layer occur, and together: the weights are
rounded one input after another, and what each rounding changes in the results is made good by the weights that are not
rounded yet, and by the bias in the end (Frantar et al. 2022, "GPTQ", after Hassibi and Stork 1993; the bias as a last
weight, whose input is always 1, is our addition). The result has the very values that the converter finds for itself,
so that it has nothing left to round. docs/results.md has what it brings.

Layers can go in turn: each is first fitted to what the rounded layers before it leave of its inputs, so that its
results are those of the whole network again. That takes as long as all layers take once, for each of them. Palettes,
whose values are few, need it.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import files, images
from leafport import palette as palettes
from leafport.export.graph import INPUT

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef, NodeDef

    from leafport.export.graph import ServingGraph

EVEN_STEPS = np.arange(-127, 128) / 127
"""The values of 8-bit weights, as shares of the largest of their scale."""
PHOTOGRAPHS = 64
"""Of those given, so many say what layers see; four times as many where values are few."""
MAX_INPUTS = 6144
"""Layers whose outputs each see more inputs are left alone: their Gram matrix would take over 300 MB."""
_POSITIONS = 4096  # Of a feature map, at most so many of a photograph are looked at.
_BATCH = 8
_FEW = 64  # A layer of no more different weights has been given them on purpose.
_DAMPING = 0.01
_HELD = 0.05
_BLOCK = 128
_NOTHING = 1e-10


@dataclass(frozen=True)
class _Layer:
    """A convolution or a dense layer with constant weights: ``groups`` of ``inputs`` that ``outputs`` each see.

    A depthwise convolution has a group for each channel, all others have one.
    """

    node: NodeDef
    weights: NodeDef
    bias: NodeDef | None
    groups: int
    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        """The number of its weights."""
        return self.groups * self.inputs * self.outputs

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights [groups, inputs, outputs] and bias [groups, 1 or 0 where there is none, outputs], float64."""
        from tensorflow.python.framework import tensor_util

        weights = tensor_util.MakeNdarray(self.weights.attr["value"].tensor)
        if self.groups > 1:
            weights = weights.reshape(self.inputs, self.groups, self.outputs).swapaxes(0, 1)
        bias = np.empty(0) if self.bias is None else tensor_util.MakeNdarray(self.bias.attr["value"].tensor)
        shape = (self.groups, self.inputs, self.outputs)
        return weights.reshape(shape).astype(np.float64), bias.reshape(self.groups, -1, self.outputs).astype(np.float64)

    def write(self, weights: np.ndarray, bias: np.ndarray) -> None:
        """Put them into the graph, in the shapes of ``read``."""
        set_value(self.weights, weights.swapaxes(0, 1) if self.groups > 1 else weights)
        if self.bias is not None:
            set_value(self.bias, bias)

    def per_channel(self, *, dense: bool) -> bool:
        """Whether the converter gives each output a scale of its own."""
        return dense or self.node.op != "MatMul"


def fitted(graph: ServingGraph, photographs: Sequence[Path], path: Path, **settings: Any) -> ServingGraph:
    """The graph with its weights rounded by what some of the photographs show, written to ``path``.

    Args:
        settings: those of ``rounded``.
    """
    used = photographs[: PHOTOGRAPHS * (1 if settings.get("palette") is None else 4)]
    batches = images.batches(used, graph.contract.image, batch_size=_BATCH)
    made = rounded(graph.graph_def(), [pixels.astype(np.float32) for pixels in batches], INPUT, **settings)
    files.write_bytes(path, made.SerializeToString(deterministic=True))
    return dataclasses.replace(graph, path=path)


def rounded(
    graph_def: GraphDef,
    photographs: Sequence[np.ndarray],
    feed: str,
    *,
    per_channel_dense: bool = False,
    at_least: int = 0,
    palette: int | None = None,
    fine: float = 0.0,
    in_turn: bool = False,
) -> GraphDef:
    """A copy of a frozen graph with the weights of its layers rounded, and biases to match.

    Args:
        photographs: what the graph is fed with, float32 [N, H, W, 3] each: some dozens of the training split.
        feed: the placeholder's name.
        per_channel_dense: whether the converter will quantise dense layers per output, or per tensor.
        at_least: layers of fewer weights stay as they are, since the converter will leave them so.
        palette: how many values the weights of a layer may have (``leafport.palette``), but for depthwise ones and
            small ones; None: 8-bit steps.
        fine: the share of the weights whose layers, the smallest, get 8-bit steps all the same.
        in_turn: whether each layer is refitted to what the rounded ones before it leave of its inputs, which takes as
            long as all layers take once, for each of them. With palettes it always is.
    """
    from tensorflow.core.framework.graph_pb2 import GraphDef

    copy = GraphDef()
    copy.CopyFrom(graph_def)
    layers = list(_layers(copy, at_least))
    small = palettes.fine_size([layer.size for layer in layers if layer.groups == 1], fine)

    def per_channel(layer: _Layer) -> bool:
        return layer.per_channel(dense=per_channel_dense)

    def round_layer(layer: _Layer, weights: np.ndarray, bias: np.ndarray, gram: np.ndarray) -> None:
        count = palette if layer.groups == 1 and layer.size > small else None
        layer.write(*round_group(weights, bias, gram, per_channel=per_channel(layer), palette=count))

    if palette is None and not in_turn:
        grams = _grams(copy, layers, photographs, feed)
        for layer in layers:
            weights, bias = layer.read()
            round_layer(layer, weights, bias, _without_bias(grams.pop(layer.node.name), layer, bias))
    else:
        _round_in_turn(graph_def, layers, photographs, feed, round_layer, per_channel)
    return copy


def round_group(
    weights: np.ndarray, bias: np.ndarray, gram: np.ndarray, *, per_channel: bool, palette: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of few values, and the bias that goes with them.

    Args:
        weights: float64 [groups, inputs, outputs].
        bias: float64 [groups, 1, outputs], or [groups, 0, outputs] where there is none.
        gram: float [groups, inputs + 1 or 0, the same]: the sums of products of every two inputs, the bias's 1 last.
        per_channel: each output has a scale of its own, or all have one.
        palette: how many values there are, which then lie where the weights do; None: 8-bit steps.

    Returns:
        Weights and bias in the same shapes. The largest weight of each scale stays what it is (or becomes the scale,
        with a palette), since a converter takes the scale from it; and so do zeros, which somebody may have pruned, and
        layers of few different weights (``training.clustering``), where only the bias moves.
    """
    inputs = weights.shape[1]
    size = np.abs(weights)
    largest = size.max(axis=1, keepdims=True) if per_channel else size.max(keepdims=True)
    scale = whole = _scale(size, per_channel)
    levels = EVEN_STEPS
    if palette is not None:
        levels, scale = palettes.chosen(weights, scale, palette)
    order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2)[:, :inputs], axis=1, kind="stable")
    order = np.concatenate([order, np.full((len(order), bias.shape[1]), inputs)], axis=1)[:, :, None]
    root = _inverse_root(np.take_along_axis(np.take_along_axis(gram, order, 1), order.swapaxes(1, 2), 2), inputs)
    rest = np.take_along_axis(np.concatenate([weights, bias], axis=1), order, 1)
    few = _few(weights / whole)
    fixed = np.take_along_axis((size == 0) | (size == largest) | few, order[:, :inputs], 1)
    found = np.where(fixed, _nearest(levels, rest[:, :inputs] / scale), 0.0)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = np.empty_like(rest[:, start:end])
        for row in range(start, end):
            found[:, row] = np.where(fixed[:, row], found[:, row], _nearest(levels, rest[:, row] / scale[:, 0]))
            error = (rest[:, row] - found[:, row] * scale[:, 0]) / root[:, row, row, None]
            rest[:, row:end] -= root[:, row, row:end, None] * error[:, None]
            errors[:, row - start] = error
        rest[:, end:] -= root[:, start:end, end:].swapaxes(1, 2) @ errors
    made = np.empty_like(weights)
    np.put_along_axis(made, order[:, :inputs], found * scale, axis=1)
    return made, rest[:, inputs:]


def _nearest(levels: np.ndarray, relative: np.ndarray) -> np.ndarray:
    if levels is EVEN_STEPS:
        return np.clip(np.round(relative * 127), -127, 127) / 127
    found: np.ndarray = levels[palettes.nearest(levels, relative)]
    return found


def _scale(size: np.ndarray, per_channel: bool) -> np.ndarray:
    """The largest weight of each output, or of all; 1 where all are nothing."""
    largest = size.max(axis=1, keepdims=True) if per_channel else size.max(keepdims=True)
    found: np.ndarray = np.where(largest > _NOTHING, largest, 1.0)
    return found


def _few(relative: np.ndarray) -> bool:
    """Whether weights, as shares of the largest of a scale, have so few values that a file would zip well."""
    return len(np.unique(np.round(relative, 4))) <= min(_FEW, relative.size / 8)


def _inverse_root(gram: np.ndarray, inputs: int) -> np.ndarray:
    """The upper Cholesky factor of a Gram matrix's inverse; inputs that never occur are damped, not divided by."""
    damped = gram.astype(np.float64)
    diagonal = np.einsum("gii->gi", damped)  # A view.
    mean = diagonal[:, :inputs].mean(axis=1, keepdims=True)
    diagonal[:, :inputs] += _DAMPING * mean + _NOTHING * (1 + diagonal.max())
    root: np.ndarray = np.linalg.cholesky(np.linalg.inv(damped)).swapaxes(1, 2)
    return root


def _layers(graph_def: GraphDef, at_least: int) -> Iterator[_Layer]:
    """The layers whose weights the converter will quantise."""
    nodes = {node.name: node for node in graph_def.node}
    uses = Counter(reference.partition(":")[0] for node in graph_def.node for reference in node.input)
    for node in graph_def.node:
        if node.op not in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
            continue
        weights = nodes[node.input[1].partition(":")[0]]
        if weights.op != "Const" or uses[weights.name] > 1 or not is_plain(node):
            continue
        shape = [dim.size for dim in weights.attr["value"].tensor.tensor_shape.dim]
        groups, outputs = (shape[2], shape[3]) if node.op == "DepthwiseConv2dNative" else (1, shape[-1])
        inputs = math.prod(shape) // (groups * outputs)
        if inputs <= MAX_INPUTS and math.prod(shape) >= at_least:
            yield _Layer(
                node, weights, bias_of(graph_def, nodes, uses, node, groups * outputs), groups, inputs, outputs
            )


def is_plain(node: NodeDef) -> bool:
    """Whether a layer has no dilation, no explicit padding and no transposition."""
    attr = dict(node.attr)  # Asking protobuf's own map for what is missing would put it there.
    if any(attr[name].b for name in ("transpose_a", "transpose_b") if name in attr):
        return False
    if "data_format" in attr and attr["data_format"].s != b"NHWC":
        return False
    if "padding" in attr and attr["padding"].s not in (b"SAME", b"VALID"):
        return False
    return "dilations" not in attr or set(attr["dilations"].list.i) == {1}


def bias_of(
    graph_def: GraphDef, nodes: dict[str, NodeDef], uses: Counter[str], node: NodeDef, size: int
) -> NodeDef | None:
    """The constant of ``size`` values that is added to a layer's result, if nothing else uses either."""
    if uses[node.name] != 1:
        return None
    follower = next(other for other in graph_def.node if node.name in {name.partition(":")[0] for name in other.input})
    if follower.op not in ("BiasAdd", "AddV2", "Add"):
        return None
    for reference in follower.input:
        other = nodes[reference.partition(":")[0]]
        if other.op == "Const" and uses[other.name] == 1:
            dims = [dim.size for dim in other.attr["value"].tensor.tensor_shape.dim]
            return other if dims == [size] else None
    return None


def _grams(
    graph_def: GraphDef, layers: list[_Layer], photographs: Iterable[np.ndarray], feed: str
) -> dict[str, np.ndarray]:
    """Of each layer the sums, over photographs and positions, of products of its inputs, [groups, inputs + 1, same]."""
    import tensorflow as tf

    total: dict[str, np.ndarray] = {}
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        wanted = {}
        for layer in layers:
            seen = _seen(layer, graph.get_tensor_by_name(_tensor(layer.node.input[0])))
            seen = tf.concat([seen, tf.ones_like(seen[:, :, :1])], axis=2)
            wanted[layer.node.name] = tf.matmul(seen, seen, transpose_a=True)
        with tf.compat.v1.Session(graph=graph) as session:
            for batch in photographs:
                for name, gram in session.run(wanted, {_tensor(feed): batch}).items():
                    if name in total:
                        total[name] += gram  # In place: a ResNet50's take 450 MB.
                    else:
                        total[name] = gram
    return total


def _without_bias(gram: np.ndarray, layer: _Layer, bias: np.ndarray) -> np.ndarray:
    """The part of a Gram matrix that concerns what the layer has: weights, and perhaps a bias."""
    used = layer.inputs + bias.shape[1]
    return gram[:, :used, :used]


def _round_in_turn(
    graph_def: GraphDef,
    layers: list[_Layer],
    photographs: Sequence[np.ndarray],
    feed: str,
    round_layer: Callable[[_Layer, np.ndarray, np.ndarray, np.ndarray], None],
    per_channel: Callable[[_Layer], bool],
) -> None:
    """Round one layer after another, each refitted to what it sees behind those that are rounded.

    Two copies of the graph lie side by side; one stays as it is. Their constants are variables: TensorFlow would keep
    another copy of each constant for every layer that is looked at.
    """
    import tensorflow as tf
    from tensorflow.python.framework import tensor_util

    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        fed = tf.compat.v1.placeholder(tf.float32, (None, *photographs[0].shape[1:]))
        constants = {node.name: node for layer in layers for node in (layer.weights, layer.bias) if node is not None}
        variables = {}
        for name in ("whole", "rounded"):
            values: dict[str, Any] = {_tensor(feed): fed}
            for node in constants.values():
                value = tensor_util.MakeNdarray(node.attr["value"].tensor)
                empty = tf.zeros_initializer()(value.shape, value.dtype)
                variables[name, node.name] = tf.compat.v1.Variable(empty, use_resource=True)
                values[f"{node.name}:0"] = variables[name, node.name].read_value()
                variables[name, node.name].load(value, session)
            tf.graph_util.import_graph_def(graph_def, input_map=values, name=name)
        sums = {layer.node.name: _sums(layer, graph) for layer in layers}
        for layer in layers:
            gram = cross = None
            for batch in photographs:
                one, other = session.run(sums[layer.node.name], {fed: batch})
                gram, cross = (one, other) if gram is None or cross is None else (gram + one, cross + other)
            assert gram is not None and cross is not None
            weights, bias = layer.read()
            gram, cross = (_without_bias(found.astype(np.float64), layer, bias) for found in (gram, cross))
            round_layer(layer, *refitted(weights, bias, gram, cross, per_channel=per_channel(layer)), gram)
            for node in (layer.weights, layer.bias):
                if node is not None:
                    value = tensor_util.MakeNdarray(node.attr["value"].tensor)
                    variables["rounded", node.name].load(value, session)


def _sums(layer: _Layer, graph: Any) -> tuple[Any, Any]:
    """Sums of products of what a layer sees in the rounded graph with itself, and with what it saw in the whole one."""
    import tensorflow as tf

    seen = {}
    for name in ("whole", "rounded"):
        found = _seen(layer, graph.get_tensor_by_name(f"{name}/{_tensor(layer.node.input[0])}"))
        seen[name] = tf.concat([found, tf.ones_like(found[:, :, :1])], axis=2)
    return (
        tf.matmul(seen["rounded"], seen["rounded"], transpose_a=True),
        tf.matmul(seen["rounded"], seen["whole"], transpose_a=True),
    )


def refitted(
    weights: np.ndarray, bias: np.ndarray, gram: np.ndarray, cross: np.ndarray, *, per_channel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias with which a layer gives, from other inputs, most nearly what it gave from its own.

    Args:
        weights, bias, per_channel: as for ``round_group``.
        gram: float64 [groups, inputs + 1 or 0, the same]: the sums of products of every two of the other inputs.
        cross: the same of the other inputs (second axis) with its own (third axis).

    Returns:
        The least squares, held to the weights that were where the inputs say little. Zeros stay zeros, and layers of
        few different weights stay as they are.
    """
    inputs = weights.shape[1]
    size = np.abs(weights)
    if _few(weights / _scale(size, per_channel)):
        return weights, bias
    were = np.concatenate([weights, bias], axis=1)
    mean = np.einsum("gii->gi", gram)[:, :inputs].mean(axis=1, keepdims=True)
    held = np.full(were.shape[:2], _NOTHING) * (1 + mean)
    held[:, :inputs] += _HELD * mean
    found = np.linalg.solve(gram + np.eye(were.shape[1]) * held[:, None], cross @ were + held[:, :, None] * were)
    return np.where(size == 0, 0.0, found[:, :inputs]), found[:, inputs:]


def _seen(layer: _Layer, features: Any) -> Any:
    """What a layer's outputs see at some positions of some photographs: [groups, rows, inputs]."""
    import tensorflow as tf

    node = layer.node
    if node.op == "MatMul":
        return features[None]
    height, width, *_ = (dim.size for dim in layer.weights.attr["value"].tensor.tensor_shape.dim)
    strides = list(node.attr["strides"].list.i)
    positions = math.prod(int(size or 1) for size in features.shape[1:3]) / (strides[1] * strides[2])
    thinned = math.ceil(math.sqrt(max(positions / _POSITIONS, 1)))
    strides = [1, strides[1] * thinned, strides[2] * thinned, 1]
    padding = node.attr["padding"].s.decode()
    patches = tf.image.extract_patches(features, [1, height, width, 1], strides, [1, 1, 1, 1], padding)
    if layer.groups == 1:
        return tf.reshape(patches, [1, -1, layer.inputs])
    return tf.transpose(tf.reshape(patches, [-1, layer.inputs, layer.groups]), [2, 0, 1])


def _tensor(reference: str) -> str:
    return reference if ":" in reference else f"{reference}:0"


def set_value(node: NodeDef, value: np.ndarray) -> None:
    """Give a constant other values, in the dtype and shape it has."""
    from tensorflow.python.framework import tensor_util

    tensor = node.attr["value"].tensor
    old = tensor_util.MakeNdarray(tensor)
    tensor.CopyFrom(tensor_util.make_tensor_proto(value.reshape(old.shape).astype(old.dtype)))
