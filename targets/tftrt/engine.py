"""A TF-TRT engine written without TensorRT, and read back without it.

TF-TRT replaces a part of a graph, the segment, by one TRTEngineOp, which names a function in the graph's library: the
native segment. Where ``static_engine`` is false the engine is built from that function on the device, at the first
run, and if that fails the function runs in its place. So the protocol buffers are all that has to be written.

What TF-TRT demands of them was read in its sources, of TensorFlow 1.15 to 2.17 (tf2tensorrt/kernels/trt_engine_op.cc,
tf2tensorrt/convert/convert_nodes.cc), because only a board with TensorRT would ever complain.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from leafport.errors import ConversionError
from leafport.export.graph import INPUT, OUTPUT

if TYPE_CHECKING:
    from tensorflow.core.framework.function_pb2 import FunctionDef
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

OP = "TRTEngineOp"
ENGINE = "TRTEngineOp_0"
SEGMENT = "TRTEngineOp_0_native_segment"

# TF-TRT knows an engine's inputs and outputs by these prefixes. Under other names a board finds none, builds no engine,
# and quietly runs the segment without TensorRT for ever.
SEGMENT_INPUT = "tensorrtinputph_0"
SEGMENT_OUTPUT = "tensorrtoutputph_0"

# What the TF-TRT of TensorFlow 1.15, the oldest on a Jetson TX2, converts.
_CONVERTIBLE = """
    Abs Add AddN AddV2 ArgMax ArgMin AvgPool BatchMatMul BatchMatMulV2 BiasAdd ClipByValue ConcatV2 Const Conv2D
    Conv2DBackpropInput DepthToSpace DepthwiseConv2dNative Div Elu Exp ExpandDims FloorDiv FusedBatchNorm
    FusedBatchNormV2 FusedBatchNormV3 GatherV2 Identity LeakyRelu Log MatMul Max MaxPool Maximum Mean Min Minimum Mul
    Neg Pack Pad Pow Prod RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor Rsqrt Selu
    Sigmoid Slice Snapshot Softmax Softplus Softsign SpaceToDepth Split Sqrt Square SquaredDifference Squeeze
    StopGradient StridedSlice Sub Sum Tanh Transpose Unpack
"""
CONVERTIBLE = frozenset(_CONVERTIBLE.split())


def write(
    graph_def: GraphDef, *, precision: str, classes: int, workspace_bytes: int, max_cached_engines: int
) -> GraphDef:
    """The serving graph as placeholder, one engine of everything else, and an identity with the old result's name.

    ``precision`` is "FP32" or "FP16". The weights stay 32-bit: TensorRT casts them as it builds the engine.

    Raises:
        ConversionError: TF-TRT converts one of the operations into nothing.
    """
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.types_pb2 import DT_FLOAT

    placeholder = next(node for node in graph_def.node if node.name == INPUT)
    segment = [node for node in graph_def.node if node.name != INPUT]
    if refused := {node.op: node.name for node in segment if node.op not in CONVERTIBLE}:
        found = ", ".join(f"{op} ({name!r})" for op, name in sorted(refused.items()))
        raise ConversionError(
            f"TF-TRT converts no {found}. Build the model without it, or export tftrt-frozen, which has no engine."
        )
    written = GraphDef(versions=graph_def.versions)
    written.node.append(placeholder)
    engine = written.node.add(name=ENGINE, op=OP, input=[INPUT])
    attr = engine.attr
    attr["InT"].list.type.append(DT_FLOAT)
    attr["OutT"].list.type.append(DT_FLOAT)
    attr["input_shapes"].list.shape.append(placeholder.attr["shape"].shape)
    result_shape = attr["output_shapes"].list.shape.add()
    result_shape.dim.add(size=placeholder.attr["shape"].shape.dim[0].size)
    result_shape.dim.add(size=classes)
    attr["segment_func"].func.name = SEGMENT
    attr["serialized_segment"].s = b""
    attr["static_engine"].b = False
    attr["_allow_build_at_runtime"].b = True
    attr["precision_mode"].s = precision.encode()
    attr["use_calibration"].b = False  # Calibration is for INT8, at which a TX2 is no faster.
    attr["workspace_size_bytes"].i = workspace_bytes
    attr["max_cached_engines_count"].i = max_cached_engines
    written.node.add(name=OUTPUT, op="Identity", input=[ENGINE]).attr["T"].type = DT_FLOAT
    written.library.function.append(_function(segment))
    return written


def find(graph_def: GraphDef) -> list[NodeDef]:
    """The graph's engines."""
    return [node for node in graph_def.node if node.op == OP]


def swap_for_native_segment(engine: NodeDef) -> None:
    """Turn an engine, in place, into a call of the function that it would be built from."""
    attr = {"Tin": engine.attr["InT"], "Tout": engine.attr["OutT"], "f": engine.attr["segment_func"]}
    call = type(engine)(name=engine.name, op="PartitionedCall", input=engine.input, attr=attr)
    engine.CopyFrom(call)


def _function(nodes: list[NodeDef]) -> FunctionDef:
    """The nodes as a function of one float tensor, in the order in which TF-TRT converts them: topological.

    A function names a tensor by its operation's output (``conv:output:0``) where a graph counts (``conv``, ``conv:1``).
    """
    from tensorflow.core.framework.function_pb2 import FunctionDef
    from tensorflow.core.framework.types_pb2 import DT_FLOAT

    function = FunctionDef()
    function.signature.name = SEGMENT
    function.signature.input_arg.add(name=SEGMENT_INPUT, type=DT_FLOAT)
    function.signature.output_arg.add(name=SEGMENT_OUTPUT, type=DT_FLOAT)
    tensors = {f"{INPUT}:0": SEGMENT_INPUT}
    for node in nodes:
        tensors |= {f"{node.name}:{index}": output for index, output in enumerate(_outputs(node))}
    for node in _sorted(nodes):
        added = function.node_def.add()
        added.CopyFrom(node)
        added.ClearField("input")
        for reference in node.input:
            if not reference.startswith("^"):
                added.input.append(tensors[reference if ":" in reference else f"{reference}:0"])
            elif reference != f"^{INPUT}":  # A function's argument is there before anything runs.
                added.input.append(reference)
    function.ret[SEGMENT_OUTPUT] = tensors[f"{OUTPUT}:0"]
    return function


def _sorted(nodes: list[NodeDef]) -> Iterator[NodeDef]:
    by_name = {node.name: node for node in nodes}
    order: TopologicalSorter[str] = TopologicalSorter()
    for node in nodes:
        sources = (reference.removeprefix("^").partition(":")[0] for reference in node.input)
        order.add(node.name, *(source for source in sources if source != INPUT))
    return (by_name[name] for name in order.static_order())


def _outputs(node: NodeDef) -> Iterator[str]:
    """What a function calls each of the node's outputs, in order."""
    from tensorflow.python.framework import op_def_registry

    for output in op_def_registry.get(node.op).output_arg:
        count = node.attr[output.number_attr].i if output.number_attr else 1
        if output.type_list_attr:
            count = len(node.attr[output.type_list_attr].list.type)
        yield from (f"{node.name}:{output.name}:{index}" for index in range(count))
