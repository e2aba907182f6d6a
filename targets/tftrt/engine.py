"""TF-TRT engines written without TensorRT, and read back without it.

TF-TRT replaces parts of a graph, the segments, by a TRTEngineOp each, which names a function in the graph's library:
the native segment. Where ``static_engine`` is false the engine is built from that function on the device, at the first
run, and if that fails the function runs in its place. So the protocol buffers are all that has to be written.

What TF-TRT demands of them was read in its sources, of TensorFlow 1.15 to 2.17 (tf2tensorrt/kernels/trt_engine_op.cc,
tf2tensorrt/convert/convert_nodes.cc), because only a board with TensorRT would ever complain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from leafport.errors import ConversionError
from leafport.export.graph import OUTPUT
from leafport.targets.tftrt import segments

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow.core.framework.function_pb2 import FunctionDef
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

OP = "TRTEngineOp"
ENGINE = "TRTEngineOp_{}"
SEGMENT = "TRTEngineOp_{}_native_segment"

# TF-TRT knows an engine's inputs and outputs by these prefixes. Under other names a board finds none, builds no engine,
# and quietly runs the segment without TensorRT for ever.
SEGMENT_INPUT = "tensorrtinputph_{}"
SEGMENT_OUTPUT = "tensorrtoutputph_{}"


@dataclass(frozen=True)
class Settings:
    """How engines are written.

    Attributes:
        precision: "FP32" or "FP16". The weights stay 32-bit: TensorRT casts them as it builds the engine.
        workspace_bytes: what TensorRT may take as scratch space on the GPU.
        max_cached_engines: how many engines are kept, one for each batch size that is met.
        minimum_segment_size: operations that an engine has at least; fewer stay TensorFlow's.
    """

    precision: str
    workspace_bytes: int
    max_cached_engines: int
    minimum_segment_size: int


def write(graph_def: GraphDef, settings: Settings) -> GraphDef:
    """The serving graph with an engine in the place of each segment that TF-TRT converts; names stay the same.

    Raises:
        ConversionError: no part of it is large enough for an engine.
    """
    from tensorflow.core.framework.graph_pb2 import GraphDef

    graph = _imported(graph_def)
    calculated = [operation for operation in graph.get_operations() if operation.type != "Const"]
    found, reasons = segments.split(calculated, settings.minimum_segment_size)
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise ConversionError(f"TF-TRT would convert no part of this graph ({why}). Export tftrt-frozen instead.")
    nodes = {node.name: node for node in _sorted(graph_def.node)}
    written = GraphDef(versions=graph_def.versions)
    moved: dict[str, str] = {}  # Where tensors that leave an engine are found now.
    for index, segment in enumerate(found):
        inside = {operation.name for operation in segment}
        outputs = [
            tensor
            for operation in segment
            for tensor in operation.outputs
            if operation.name == OUTPUT or any(consumer.name not in inside for consumer in tensor.consumers())
        ]
        moved |= {tensor.name: f"{ENGINE.format(index)}:{place}" for place, tensor in enumerate(outputs)}
        engine, function = _engine(index, segment, outputs, nodes, graph_def, settings)
        written.node.append(engine)
        written.library.function.append(function)
    gone = {operation.name for segment in found for operation in segment}
    kept = [node for node in nodes.values() if node.op != "Const" and node.name not in gone]
    wanted = {source(reference) for node in kept for reference in node.input}
    constants = [node for node in nodes.values() if node.op == "Const" and node.name in wanted]
    written.node.extend([*constants, *kept])
    for node in written.node:
        data = [reference for reference in node.input if not reference.startswith("^")]  # It only computes.
        references = [moved.get(_whole(reference), reference) for reference in data]
        del node.input[:]
        node.input.extend(reference.removesuffix(":0") for reference in references)
    if OUTPUT in gone:
        attr = written.node.add(name=OUTPUT, op="Identity", input=[moved[f"{OUTPUT}:0"].removesuffix(":0")]).attr
        attr["T"].type = graph.get_tensor_by_name(f"{OUTPUT}:0").dtype.as_datatype_enum
    return written


def find(graph_def: GraphDef) -> list[NodeDef]:
    """The graph's engines."""
    return [node for node in graph_def.node if node.op == OP]


def is_built_on_device(engine: NodeDef, graph_def: GraphDef) -> bool:
    """Whether a board builds an engine from its native segment, and finds its inputs and outputs there.

    Attributes that are not there have TensorFlow's defaults: an engine is static, and may be built at the first run.
    """
    if "static_engine" not in engine.attr or engine.attr["static_engine"].b:
        return False
    if "_allow_build_at_runtime" in engine.attr and not engine.attr["_allow_build_at_runtime"].b:
        return False
    name = engine.attr["segment_func"].func.name
    signature = next((each.signature for each in graph_def.library.function if each.signature.name == name), None)
    return signature is not None and all(
        [argument.name.lower() for argument in arguments] == [prefix.format(place) for place in range(len(arguments))]
        for arguments, prefix in ((signature.input_arg, SEGMENT_INPUT), (signature.output_arg, SEGMENT_OUTPUT))
    )


def swap_for_native_segment(engine: NodeDef) -> None:
    """Turn an engine, in place, into a call of the function that it would be built from."""
    attr = {"Tin": engine.attr["InT"], "Tout": engine.attr["OutT"], "f": engine.attr["segment_func"]}
    call = type(engine)(name=engine.name, op="PartitionedCall", input=engine.input, attr=attr)
    engine.CopyFrom(call)


def _imported(graph_def: GraphDef) -> tf.Graph:
    """The graph with an open batch, so that the batch can be told from other dimensions."""
    import tensorflow as tf

    copy = type(graph_def)()
    copy.CopyFrom(graph_def)  # Importing fills in attributes, which older versions do not know.
    next(node for node in copy.node if node.op == "Placeholder").attr["shape"].shape.dim[0].size = -1
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(copy, name="")
    return graph


def _engine(
    index: int,
    segment: Sequence[tf.Operation],
    outputs: Sequence[tf.Tensor],
    nodes: dict[str, NodeDef],
    graph_def: GraphDef,
    settings: Settings,
) -> tuple[NodeDef, FunctionDef]:
    """One engine and the function of its native segment."""
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    inside = {operation.name for operation in segment}
    constants = {tensor.op.name for operation in segment for tensor in operation.inputs if tensor.op.type == "Const"}
    inputs = list(
        {
            tensor.name: tensor
            for operation in segment
            for tensor in operation.inputs
            if tensor.op.name not in inside | constants
        }.values()
    )
    batch = next(node for node in graph_def.node if node.op == "Placeholder").attr["shape"].shape.dim[0].size
    engine = NodeDef(name=ENGINE.format(index), op=OP, input=[tensor.name for tensor in inputs])
    attr = engine.attr
    for types, shapes, tensors in (("InT", "input_shapes", inputs), ("OutT", "output_shapes", outputs)):
        for tensor in tensors:
            attr[types].list.type.append(tensor.dtype.as_datatype_enum)
            shape = attr[shapes].list.shape.add()
            shape.CopyFrom(tensor.shape.as_proto())
            shape.dim[0].size = batch
    attr["segment_func"].func.name = SEGMENT.format(index)
    attr["serialized_segment"].s = b""
    attr["static_engine"].b = False
    attr["_allow_build_at_runtime"].b = True
    attr["precision_mode"].s = settings.precision.encode()
    attr["use_calibration"].b = False  # Calibration is for INT8, at which a TX2 is no faster.
    attr["workspace_size_bytes"].i = settings.workspace_bytes
    attr["max_cached_engines_count"].i = settings.max_cached_engines
    members = [node for name, node in nodes.items() if name in inside | constants]
    return engine, _function(SEGMENT.format(index), members, inputs, outputs)


def _function(
    name: str, nodes: Iterable[NodeDef], inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor]
) -> FunctionDef:
    """Nodes, in an order in which they could run, as a function: in that order TF-TRT converts them.

    A function names a tensor by its operation's output (``conv:output:0``) where a graph counts (``conv``, ``conv:1``).
    """
    from tensorflow.core.framework.function_pb2 import FunctionDef

    function = FunctionDef()
    function.signature.name = name
    tensors: dict[str, str] = {}
    for place, tensor in enumerate(inputs):
        tensors[tensor.name] = SEGMENT_INPUT.format(place)
        function.signature.input_arg.add(name=tensors[tensor.name], type=tensor.dtype.as_datatype_enum)
    for node in nodes:
        tensors |= {f"{node.name}:{index}": output for index, output in enumerate(_outputs(node))}
        added = function.node_def.add()
        added.CopyFrom(node)
        added.ClearField("input")
        added.input.extend(tensors[_whole(each)] for each in node.input if not each.startswith("^"))
    for place, tensor in enumerate(outputs):
        result = SEGMENT_OUTPUT.format(place)
        function.signature.output_arg.add(name=result, type=tensor.dtype.as_datatype_enum)
        function.ret[result] = tensors[tensor.name]
    return function


def _whole(reference: str) -> str:
    """A graph's reference to a tensor with its number: ``conv:0`` for ``conv``."""
    return reference if ":" in reference else f"{reference}:0"


def source(reference: str) -> str:
    """The name of the node that a reference is to."""
    return reference.removeprefix("^").partition(":")[0]


def _sorted(nodes: Iterable[NodeDef]) -> Iterator[NodeDef]:
    by_name = {node.name: node for node in nodes}
    order = TopologicalSorter({name: [source(each) for each in node.input] for name, node in by_name.items()})
    return (by_name[name] for name in order.static_order())


def _outputs(node: NodeDef) -> Iterator[str]:
    """What a function calls each of the node's outputs, in order."""
    from tensorflow.python.framework import op_def_registry

    for output in op_def_registry.get(node.op).output_arg:
        count = node.attr[output.number_attr].i if output.number_attr else 1
        if output.type_list_attr:
            count = len(node.attr[output.type_list_attr].list.type)
        yield from (f"{node.name}:{output.name}:{index}" for index in range(count))
