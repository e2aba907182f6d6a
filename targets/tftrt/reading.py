"""Reading a frozen graph that may come from anywhere: what it holds, and that it does nothing but compute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.export.graph import INPUT, OUTPUT, read_graph_def
from leafport.targets.base import TensorFacts
from leafport.targets.tftrt import engine

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

# The contract is an attribute of the placeholder. TensorFlow keeps attributes with a leading underscore and ignores
# them, where a node would be one more thing to place on a GPU, and a file beside the graph would get lost.
CONTRACT_ATTRIBUTE = "_leafport_contract"


def read(path: Path) -> GraphDef:
    """Read a graph from ``image`` to ``probabilities``, with or without engines.

    Raises:
        ModelError: the file is missing, damaged or another graph, or an operation in it does more than arithmetic.
            A graph is a program: one that reads files, calls back or calls functions of its own is not run.
    """
    graph_def = read_graph_def(path)
    outer = [node for node in graph_def.node if node.op != engine.OP]
    for node in (*outer, *segment_nodes(graph_def)):
        if not _only_computes(node):
            raise ModelError(f"{path} holds the operation {node.op!r}, which no frozen classifier has. Do not use it.")
    placeholder(graph_def, path)
    return graph_def


def placeholder(graph_def: GraphDef, path: Path) -> NodeDef:
    """The graph's one input. Raises ModelError when it is not ``image``, float32 [N, H, W, 3]."""
    from tensorflow.core.framework.types_pb2 import DT_FLOAT

    found = [node for node in graph_def.node if node.op == "Placeholder"]
    if [node.name for node in found] == [INPUT] and OUTPUT in {node.name for node in graph_def.node}:
        attr = found[0].attr
        if attr["dtype"].type == DT_FLOAT and len(attr["shape"].shape.dim) == 4:
            return found[0]
    raise ModelError(f"{path} is not a graph from {INPUT!r}, float32 [N, H, W, 3], to {OUTPUT!r}; or it is damaged.")


def input_facts(graph_def: GraphDef, path: Path) -> TensorFacts:
    """The input's name, dtype and shape; None for a size that is left open."""
    dims = placeholder(graph_def, path).attr["shape"].shape.dim
    return TensorFacts(INPUT, "float32", tuple(None if dim.size < 0 else dim.size for dim in dims))


def output_facts(graph_def: GraphDef, path: Path) -> TensorFacts:
    """The result's name, dtype and shape, as TensorFlow infers them from the operations, inside an engine too."""
    import tensorflow as tf
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    functions = {function.signature.name: function for function in graph_def.library.function}
    try:
        if engines := engine.find(graph_def):
            segment = functions[engines[0].attr["segment_func"].func.name]
            shape = input_facts(graph_def, path).shape
            result = function_def_to_graph(segment, input_shapes=[tf.TensorShape(shape)]).outputs[0]
        else:
            with tf.Graph().as_default() as graph:
                tf.graph_util.import_graph_def(graph_def, name="")
            result = graph.get_tensor_by_name(f"{OUTPUT}:0")
        return TensorFacts(OUTPUT, result.dtype.name, tuple(result.shape.as_list()))
    except (ValueError, KeyError, TypeError, IndexError, tf.errors.OpError) as problem:
        raise ModelError(f"{path} is damaged: TensorFlow {tf.__version__} cannot import it ({problem}).") from None


def carried_contract(graph_def: GraphDef, path: Path) -> Contract | None:
    """The contract that the graph carries, if it carries one. Raises ModelError for a damaged one."""
    attr = placeholder(graph_def, path).attr
    if CONTRACT_ATTRIBUTE not in attr:
        return None
    return Contract.from_text(attr[CONTRACT_ATTRIBUTE].s, where=path)


def segment_nodes(graph_def: GraphDef) -> list[NodeDef]:
    """The nodes of every function in the graph's library."""
    return [node for function in graph_def.library.function for node in function.node_def]


def weights(nodes: Iterable[NodeDef]) -> dict[str, int]:
    """Stored values by dtype. Integers are arguments (axes, paddings, shapes), not weights, and are left out."""
    from tensorflow.core.framework.types_pb2 import DT_BFLOAT16, DT_DOUBLE, DT_FLOAT, DT_HALF

    names = {DT_FLOAT: "float32", DT_HALF: "float16", DT_DOUBLE: "float64", DT_BFLOAT16: "bfloat16"}
    found: Counter[str] = Counter()
    for node in nodes:
        if node.op == "Const" and (name := names.get(node.attr["dtype"].type)):
            found[name] += math.prod(dim.size for dim in node.attr["value"].tensor.tensor_shape.dim)
    return dict(sorted(found.items()))


def _only_computes(node: NodeDef) -> bool:
    """Whether a node has no state, no text (paths, code), no resources and no functions of its own."""
    from tensorflow.core.framework.types_pb2 import DT_RESOURCE, DT_STRING, DT_VARIANT
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(node.op)
    if definition is None or definition.is_stateful:
        return False
    types = {argument.type for argument in (*definition.input_arg, *definition.output_arg)}
    for value in node.attr.values():
        if value.HasField("func"):
            return False
        types |= {value.type, *value.list.type}
    return not types & {DT_STRING, DT_RESOURCE, DT_VARIANT}
