"""A frozen graph as a SavedModel: the same nodes, with tags and a signature by which TensorFlow 2 finds its way in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leafport import files
from leafport.errors import ModelError
from leafport.export.graph import INPUT, MAX_GRAPH_BYTES, OUTPUT

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef

FILE = "saved_model.pb"
SIGNATURE = "serving_default"
_TAG = "serve"
_SCHEMA_VERSION = 1


def write(graph_def: GraphDef, path: Path, version: str, output_shape: tuple[int | None, ...]) -> None:
    """Write the folder ``path``, whole or not at all.

    There are no variables and no object graph, so that TensorFlow 1.15 reads it too. ``version`` is the TensorFlow
    that it says it was written by, and ``output_shape`` the shape of the probabilities, None for an open size.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel(saved_model_schema_version=_SCHEMA_VERSION)
    meta_graph = saved.meta_graphs.add()
    meta_graph.meta_info_def.tags.append(_TAG)
    meta_graph.meta_info_def.tensorflow_version = version
    meta_graph.graph_def.CopyFrom(graph_def)
    signature = meta_graph.signature_def[SIGNATURE]
    signature.method_name = "tensorflow/serving/predict"
    shape = next(node for node in graph_def.node if node.name == INPUT).attr["shape"].shape
    _describe(signature.inputs[INPUT], INPUT, [dim.size for dim in shape.dim])
    _describe(signature.outputs[OUTPUT], OUTPUT, [-1 if size is None else size for size in output_shape])
    with files.staged(path) as staging:
        staging.mkdir()
        (staging / FILE).write_bytes(saved.SerializeToString(deterministic=True))


def read(path: Path) -> GraphDef:
    """The graph of a SavedModel's folder that is one frozen graph. Raises ModelError when it is another, or damaged."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    file = path / FILE
    try:
        if file.stat().st_size > MAX_GRAPH_BYTES:
            raise ModelError(f"{file} is larger than 2 GiB: not a SavedModel.")
        saved = SavedModel.FromString(file.read_bytes())
    except OSError as problem:
        raise ModelError(f"{file} cannot be read: {problem.strerror}.") from None
    except DecodeError as problem:
        raise ModelError(f"{file} is not a SavedModel, or damaged: {problem}.") from None
    found = [(list(each.meta_info_def.tags), dict(each.signature_def)) for each in saved.meta_graphs]
    if [tags for tags, _ in found] != [[_TAG]] or SIGNATURE not in found[0][1]:
        raise ModelError(f"{path} is not a SavedModel of one frozen graph, or it is damaged.")
    signature = found[0][1][SIGNATURE]
    for tensors, name in ((signature.inputs, INPUT), (signature.outputs, OUTPUT)):
        if {key: info.name for key, info in tensors.items()} != {name: f"{name}:0"}:
            raise ModelError(f"{path} names other tensors than {name} in its signature, or it is damaged.")
    return saved.meta_graphs[0].graph_def


def _describe(info: Any, name: str, sizes: list[int]) -> None:
    from tensorflow.core.framework.types_pb2 import DT_FLOAT

    info.name, info.dtype = f"{name}:0", DT_FLOAT
    for size in sizes:
        info.tensor_shape.dim.add(size=size)
