"""Reading a frozen graph that may come from anywhere: what it holds, and whether it does nothing but compute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.export.graph import INPUT, OUTPUT, read_graph_def
from leafport.targets.base import TensorFacts
from leafport.targets.tftrt import engine, saved_model

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

# The contract is an attribute of the placeholder. TensorFlow keeps attributes with a leading underscore and ignores
# them, where a node would be one more thing to place on a GPU, and a file beside the graph would get lost.
CONTRACT_ATTRIBUTE = "_leafport_contract"


def read(path: Path) -> GraphDef:
    """Read any frozen graph, with or without engines, from a file or a SavedModel's folder.

    Raises:
        ModelError: the file is missing or damaged, or holds no graph.
    """
    graph_def = saved_model.read(path) if path.is_dir() else read_graph_def(path)
    if not graph_def.node:
        raise ModelError(f"{path} holds no graph, or is damaged.")
    return graph_def


def read_runnable(path: Path) -> GraphDef:
    """Read a graph from ``image`` to ``probabilities`` that may be run.

    Raises:
        ModelError: the file is missing, damaged or another graph, or an operation in it does more than arithmetic.
            A graph is a program: one that reads files, calls back or calls functions of its own is not run.
    """
    graph_def = read(path)
    if found := more_than_arithmetic(graph_def):
        raise ModelError(f"{path} holds the operation {found[0]!r}, which no frozen classifier has. Do not use it.")
    placeholder(graph_def, path)
    return graph_def


def more_than_arithmetic(graph_def: GraphDef) -> list[str]:
    """The operations with state, text (paths, code), resources or functions of their own; engines have but one."""
    outer = (node for node in graph_def.node if node.op != engine.OP)
    nodes = (*outer, *segment_nodes(graph_def))
    return sorted({node.op for node in nodes if not _only_computes(node)})


def placeholder(graph_def: GraphDef, path: Path) -> NodeDef:
    """The graph's one input. Raises ModelError when it is not ``image``, float32 [N, H, W, 3]."""
    from tensorflow.core.framework.types_pb2 import DT_FLOAT

    found = [node for node in graph_def.node if node.op == "Placeholder"]
    if [node.name for node in found] == [INPUT] and OUTPUT in {node.name for node in graph_def.node}:
        attr = found[0].attr
        if attr["dtype"].type == DT_FLOAT and len(attr["shape"].shape.dim) == 4:
            return found[0]
    raise ModelError(f"{path} is not a graph from {INPUT!r}, float32 [N, H, W, 3], to {OUTPUT!r}; or it is damaged.")


def interface(graph_def: GraphDef, path: Path) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    """Inputs and outputs: placeholders, and the first result of what nothing else uses, as TensorFlow infers them.

    Raises:
        ModelError: TensorFlow cannot import the graph.
    """
    import tensorflow as tf

    used = {engine.source(reference) for node in graph_def.node for reference in node.input}
    inputs = [node.name for node in graph_def.node if node.op.startswith("Placeholder")]
    last = [node for node in graph_def.node if node.name not in {*used, *inputs} and node.op != "Const"]
    outputs = [_stand_in(node.name) if node.op == engine.OP else node.name for node in last]
    try:
        graph = _imported(graph_def)
        results = [graph.get_operation_by_name(name).outputs for name in (*inputs, *outputs)]
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, tf.errors.OpError) as problem:
        raise ModelError(f"{path} is damaged: TensorFlow {tf.__version__} cannot import it ({problem}).") from None
    facts = [_tensor_facts(tensors[0]) for tensors in results if tensors]
    return tuple(facts[: len(inputs)]), tuple(facts[len(inputs) :])


def carried_contract(graph_def: GraphDef, path: Path) -> Contract | None:
    """The contract that the graph carries, if it carries one. Raises ModelError for a damaged one."""
    for node in graph_def.node:
        if node.op == "Placeholder" and CONTRACT_ATTRIBUTE in node.attr:
            return Contract.from_text(node.attr[CONTRACT_ATTRIBUTE].s, where=path)
    return None


def segments(graph_def: GraphDef) -> list[Sequence[NodeDef]]:
    """The nodes of each engine's native segment. An engine whose function is missing has none."""
    functions = {function.signature.name: function.node_def for function in graph_def.library.function}
    return [functions.get(each.attr["segment_func"].func.name, []) for each in engine.find(graph_def)]


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


def _imported(graph_def: GraphDef) -> tf.Graph:
    """The graph in TensorFlow, with an identity of each engine's result in that engine's place.

    TensorFlow here does not know engines. The shapes of their results are inferred from their native segments.
    """
    import tensorflow as tf
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    functions = {function.signature.name: function for function in graph_def.library.function}
    flat = type(graph_def)(versions=graph_def.versions)
    for node in graph_def.node:
        if node.op != engine.OP:
            flat.node.add().CopyFrom(node)
            continue
        segment = functions[node.attr["segment_func"].func.name]
        shapes = [tf.TensorShape(shape) for shape in node.attr["input_shapes"].list.shape] or None
        results = function_def_to_graph(segment, input_shapes=shapes).outputs
        for place, result in enumerate(results):
            stand_in = flat.node.add(name=_stand_in(f"{node.name}:{place}"), op="Placeholder")
            stand_in.attr["dtype"].type = result.dtype.as_datatype_enum
            stand_in.attr["shape"].shape.CopyFrom(result.shape.as_proto())
    engines = {node.name for node in engine.find(graph_def)}
    for node in flat.node:
        references = [_stand_in(each) if engine.source(each) in engines else each for each in node.input]
        del node.input[:]
        node.input.extend(references)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(flat, name="")
    return graph


def _stand_in(reference: str) -> str:
    """The name of the node that stands in for an engine's result; for what waits for an engine, its first."""
    control = "^" if reference.startswith("^") else ""
    name, _, place = reference.removeprefix("^").partition(":")
    return f"{control}{name}/result_{place or 0}"


def _tensor_facts(tensor: Any) -> TensorFacts:
    shape = () if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorFacts(tensor.op.name, tensor.dtype.name, shape)


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
