"""The serving graph: the one file every converter starts from.

A Keras model is traced for inference, frozen (variables become constants), and folded by TensorFlow's Grappler and by
``fold``, so that batch normalisation disappears into the convolutions' weights and biases. Of the 1,835 nodes of a
trained ResNet50 295 are left: 182 operations and their constants. Converters then see plain TensorFlow and never have
to understand Keras.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import files
from leafport.classifier import Classifier
from leafport.contract import Contract
from leafport.errors import ConversionError, ModelError
from leafport.export.fold import fold_affine, fold_shapes
from leafport.targets.base import fingerprint, part

if TYPE_CHECKING:
    import keras
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

INPUT = "image"
OUTPUT = "probabilities"
GRAPH_FILE = "serving.pb"
QUANTISED_FILE = "quantised.pb"
FACTS_FILE = "serving.json"
MAX_GRAPH_BYTES = 2**31 - 1  # A protocol buffer's own limit.
_LARGE = 2**16  # Bytes of a constant.
_GRAPPLER_PASSES = ("constfold", "remap", "dependency", "pruning")


@dataclass(frozen=True)
class ServingGraph:
    """The frozen, folded graph of a classifier and its contract.

    The file holds a GraphDef with one placeholder, ``image`` (float32 [N, H, W, 3], RGB 0..255), and one result,
    ``probabilities`` (float32 [N, classes]). Attributes at their defaults are left out, which converters and the
    older TensorFlows on boards need.

    A classifier that learned to be rounded has a second such graph beside it (``quantised``), in which each activation
    that an int8 file rounds passes a FakeQuantWithMinMaxVars with the range that training found.
    """

    path: Path
    contract: Contract

    def graph_def(self) -> GraphDef:
        """Read the file. Raises ModelError when it is damaged."""
        return read_graph_def(self.path)

    def quantised(self) -> ServingGraph:
        """The graph with the ranges of its activations. Raises ConversionError where there is none."""
        path = self.path.with_name(QUANTISED_FILE)
        if not path.is_file():
            raise ConversionError("This classifier has not learned to be rounded: leafport train --from RUN --qat.")
        return replace(self, path=path)

    def function(self, batch: int | None = 1) -> Any:
        """The graph as a ``tf.types.experimental.ConcreteFunction`` of float32 [batch, H, W, 3]; None: any batch."""

        return self.module(batch).serve.get_concrete_function()

    def module(self, batch: int | None = 1) -> Any:
        """The graph as a ``tf.Module`` with one signature, ``serve(image) -> {"probabilities": …}``."""
        import tensorflow as tf

        graph_def = self.graph_def()
        imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
        pruned = imported.prune(f"{INPUT}:0", f"{OUTPUT}:0")
        image = self.contract.image
        signature = tf.TensorSpec((batch, image.height, image.width, 3), tf.float32, name=INPUT)

        class Module(tf.Module):
            @tf.function(input_signature=[signature])
            def serve(self, image: Any) -> Any:
                probabilities = pruned(image)
                probabilities.set_shape((batch, classes))
                return {OUTPUT: probabilities}

        classes = len(self.contract.labels)
        return Module()


def build(classifier: Classifier, out_dir: Path) -> ServingGraph:
    """Freeze and fold a classifier into ``out_dir/serving.pb``, with its figures in ``out_dir/serving.json``.

    One that learned to be rounded also goes into ``out_dir/quantised.pb``.

    Raises:
        ConversionError: the graph would pass a protocol buffer's 2 GiB.
    """
    traced, weights = _freeze(classifier.model, classifier.contract)
    nodes_traced = len(traced.node)
    folded = _write_folded(traced, weights, out_dir / GRAPH_FILE)
    ops = Counter(node.op for node in folded.node)
    facts = {
        "nodes_traced": nodes_traced,
        "nodes": len(folded.node),
        "operations": len(folded.node) - ops["Const"],
        "ops": dict(sorted(ops.items())),
    }
    files.write_json(out_dir / FACTS_FILE, facts)
    if classifier.quantisation is not None:
        from leafport.training import fake_quantisation

        rounding = fake_quantisation.fake_quantised(classifier.model, classifier.quantisation.ranges)
        _write_folded(*_freeze(rounding, classifier.contract), out_dir / QUANTISED_FILE)
    return ServingGraph(out_dir / GRAPH_FILE, classifier.contract)


def _write_folded(traced: GraphDef, weights: dict[str, NodeDef], path: Path) -> GraphDef:
    """Fold a frozen graph and write it to ``path``; returns what was written. ``weights`` is empty then.

    ``weights`` are its large constants, by the names of the placeholders that stand for them: Grappler holds many
    copies of whatever it is given, and of these it needs the shapes only.
    """
    folded = _fold(fold_shapes(traced))
    for node in folded.node:
        if node.name in weights:
            node.CopyFrom(weights.pop(node.name))
    weights.clear()
    folded = _strip_defaults(fold_affine(folded))
    if folded.ByteSize() > MAX_GRAPH_BYTES:
        raise ConversionError(f"The serving graph would take {folded.ByteSize():,} bytes; a graph holds at most 2 GiB.")
    files.write_bytes(path, folded.SerializeToString(deterministic=True))
    return folded


def read_graph_def(path: Path) -> GraphDef:
    """Read a GraphDef of at most 2 GiB. Raises ModelError when it is missing or damaged."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework.graph_pb2 import GraphDef

    try:
        if path.stat().st_size > MAX_GRAPH_BYTES:
            raise ModelError(f"{path} is larger than 2 GiB: not a frozen graph.")
        return GraphDef.FromString(path.read_bytes())
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror}.") from None
    except DecodeError as problem:
        raise ModelError(f"{path} is not a frozen graph, or damaged: {problem}.") from None


def _freeze(model: keras.Model, contract: Contract) -> tuple[GraphDef, dict[str, NodeDef]]:
    """Trace a model for inference; its variables become constants.

    Returns:
        The graph, with a placeholder in the place of each large constant, and these constants by its name.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    image = contract.image
    signature = tf.TensorSpec((None, image.height, image.width, 3), tf.float32, name=INPUT)

    @tf.function(input_signature=[signature])
    def infer(image: Any) -> Any:
        return model(image, training=False)

    function = infer.get_concrete_function()
    graph_def = function.graph.as_graph_def()
    weights: dict[str, NodeDef] = {}
    if _reads_variables_only(graph_def, [placeholder.op.name for _, placeholder in function.graph.captures]):
        weights = _variables_to_constants(graph_def, function.graph.captures)
    else:  # A model that calls functions of its own: TensorFlow follows them, in much more memory.
        function = convert_variables_to_constants_v2(function, lower_control_flow=True)
        graph_def = function.graph.as_graph_def()
    _rename(graph_def, {function.inputs[0].op.name: INPUT, function.outputs[0].op.name: OUTPUT})
    return graph_def, weights


def _reads_variables_only(graph_def: GraphDef, captured: Collection[str]) -> bool:
    """Whether all that is done with what a traced function captured is to read it as a variable or use it as it is."""
    from tensorflow.core.framework.types_pb2 import DT_RESOURCE

    resources = {
        node.name
        for node in graph_def.node
        if node.name in captured and node.attr["dtype"].type == DT_RESOURCE  # A placeholder: it has the attribute.
    }
    users = [node for node in graph_def.node if resources & {_split_reference(each)[1] for each in node.input}]
    return not graph_def.library.function and all(node.op == "ReadVariableOp" for node in users)


def _variables_to_constants(graph_def: GraphDef, captures: Iterable[tuple[Any, Any]]) -> dict[str, NodeDef]:
    """Put values in the place of what a traced function captured; returns the large ones, whose places stay open.

    Args:
        graph_def: the function's graph, which is changed in place.
        captures: each tensor from outside, and the placeholder by which the function knows it.
    """
    import tensorflow as tf
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    nodes = {node.name: node for node in graph_def.node}
    kernels = _only_kernels(graph_def)
    reads = {_split_reference(node.input[0])[1]: node for node in graph_def.node if node.op == "ReadVariableOp"}
    large = {}
    for outer, inner in captures:
        name, read, value = inner.op.name, reads.get(inner.op.name), outer
        if outer.dtype == tf.resource and read is None:
            continue
        if read is not None:
            value = tf.raw_ops.ReadVariableOp(resource=outer, dtype=read.attr["dtype"].type)
        constant = NodeDef(name=name, op="Const")
        constant.attr["dtype"].type = value.dtype.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.numpy()))
        if constant.ByteSize() < _LARGE or read is None or read.name not in kernels:
            nodes[name].CopyFrom(constant)
            continue
        large[name] = constant
        nodes[name].ClearField("attr")
        nodes[name].attr["dtype"].type = value.dtype.as_datatype_enum
        nodes[name].attr["shape"].shape.CopyFrom(value.shape.as_proto())
    for read in (node for node in graph_def.node if node.op == "ReadVariableOp"):
        dtype = read.attr["dtype"].type
        read.op = "Identity"
        read.ClearField("attr")
        read.attr["T"].type = dtype
    return large


def _only_kernels(graph_def: GraphDef) -> set[str]:
    """The names of nodes that are nothing but kernels of layers: no folding has to know their values."""
    kernels: set[str] = set()
    others: set[str] = set()
    for node in graph_def.node:
        for place, reference in enumerate(node.input):
            control, name, _ = _split_reference(reference)
            is_kernel = place == 1 and node.op in ("Conv2D", "DepthwiseConv2dNative", "MatMul")
            if not control:
                (kernels if is_kernel else others).add(name)
    return kernels - others


def _rename(graph_def: GraphDef, names: dict[str, str]) -> None:
    """Rename nodes and what refers to them; a node that already has one of the new names makes way."""
    taken = {node.name for node in graph_def.node}
    names = {**{new: f"{new}_layer" for new in names.values() if new in taken - set(names)}, **names}
    for node in graph_def.node:
        node.name = names.get(node.name, node.name)
        for index, reference in enumerate(node.input):
            control, name, port = _split_reference(reference)
            if name in names:
                node.input[index] = f"{control}{names[name]}{port}"


def _split_reference(reference: str) -> tuple[str, str, str]:
    control = "^" if reference.startswith("^") else ""
    name, colon, port = reference.removeprefix("^").partition(":")
    return control, name, colon + port


def _fold(graph_def: GraphDef) -> GraphDef:
    """Let Grappler fold constants and batch normalisation, offline."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer

    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        # Grappler keeps what it finds in this collection; without a fetch it would prune everything.
        graph.add_to_collection("train_op", graph.get_operation_by_name(OUTPUT))
        meta_graph = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.optimizers.extend(_GRAPPLER_PASSES)
    rewrite.min_graph_nodes = -1
    rewrite.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.TWO
    return tf_optimizer.OptimizeGraph(config, meta_graph)


def _strip_defaults(graph_def: GraphDef) -> GraphDef:
    """Drop attributes that hold their default, and Grappler's and Keras's private ones (``_…``)."""
    from tensorflow.python.framework import op_def_registry

    graph_def.library.Clear()
    for node in graph_def.node:
        node.device = ""
        definition = op_def_registry.get(node.op)
        defaults = {attribute.name: attribute.default_value for attribute in definition.attr} if definition else {}
        required = {attribute.name for attribute in definition.attr if not attribute.HasField("default_value")}
        for name in list(node.attr):
            if name.startswith("_") or (name not in required and node.attr[name] == defaults.get(name)):
                del node.attr[name]
    return graph_def


def constants(nodes: Iterable[NodeDef]) -> dict[str, str]:
    """The constants among the nodes of a graph from anywhere, by their names, in few words (``targets.base.part``).

    What is stored is hashed as it is: a value that is to be repeated 10^13 times takes no memory here.
    """
    from tensorflow.core.framework.types_pb2 import DataType

    found = {}
    for node in nodes:
        if node.op == "Const":
            tensor = node.attr["value"].tensor
            shape = [dim.size for dim in tensor.tensor_shape.dim]
            if not shape and len(tensor.float_val) == 1:
                found[node.name] = part(np.array(tensor.float_val[0]))
                continue
            dtype = DataType.Name(tensor.dtype) if tensor.dtype in DataType.values() else "unknown"
            found[node.name] = f"{dtype} {shape} {fingerprint(tensor.SerializeToString(deterministic=True))}"
    return found


def read_facts(graph_dir: Path) -> dict[str, Any]:
    """The figures ``build`` wrote: nodes_traced, nodes, operations (nodes that are no constants), ops."""
    return dict(json.loads((graph_dir / FACTS_FILE).read_text()))
