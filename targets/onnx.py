"""ONNX files, for ONNX Runtime anywhere and TensorRT on newer Jetsons."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import files
from leafport.contract import Contract
from leafport.errors import ConversionError, ModelError, TargetError
from leafport.targets.base import Facts, TensorFacts, Variant, carried_claims, option, part

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph

NAME = "onnx"
SUFFIX = ".onnx"
VARIANTS = {"float32": Variant("32-bit floats throughout, any batch size", also=("fp32",))}
RUNTIME = "ONNX Runtime"
MAX_FILE_BYTES = 2**31 - 1  # A protocol buffer's own limit.

_INSTALL = "pip install 'leafport[onnx]'"


@dataclass(frozen=True)
class Options:
    """How ONNX files are written."""

    opset: int = option(17, "ONNX operator set; 17 is read by ONNX Runtime 1.12 and TensorRT 8.5 or later.")


def available(variant: str) -> str | None:
    missing = [name for name in ("onnx", "tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed: {_INSTALL}" if missing else None


def convert(graph: ServingGraph, variant: str, out_dir: Path, options: Options) -> Path:
    """Write ``out_dir/NAME-float32.onnx``: image (float32 [N, H, W, 3], RGB 0..255) to probabilities [N, classes].

    Raises:
        ConversionError: tf2onnx cannot express the graph.
    """
    import onnx

    contract = graph.contract
    try:
        model = _converted(graph, options.opset)
        _name_valid_padding(model)
        onnx.checker.check_model(model)  # tf2onnx only logs what it could not express, and goes on.
    except Exception as problem:  # tf2onnx raises plain exceptions of every kind.
        raise ConversionError(f"tf2onnx refused the graph: {problem}") from problem
    model.doc_string = contract.description
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    properties = {
        "author": contract.author,
        "license": contract.license,
        "version": contract.version,
        "labels": json.dumps(contract.labels, ensure_ascii=False),
        "contract": json.dumps(contract.to_json(), ensure_ascii=False),
    }
    onnx.helper.set_model_props(model, properties)
    path = out_dir / f"{contract.name}-{variant}.onnx"
    files.write_bytes(path, model.SerializeToString(deterministic=True))
    return path


def inspect(path: Path) -> Facts:
    """Read any .onnx file with its weights inside. Raises ModelError when it is not one, or is damaged."""
    import onnx

    model = _load(path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    labels, contract = properties.pop("labels", None), properties.pop("contract", None)
    stored = {tensor.name for tensor in model.graph.initializer}  # Older files list their weights as inputs too.
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        if dtype != "int64":  # Shapes and axes, not weights.
            weights[dtype] += int(np.prod(tensor.dims))
    try:
        return Facts(
            inputs=tuple(_tensor_facts(value) for value in model.graph.input if value.name not in stored),
            outputs=tuple(_tensor_facts(value) for value in model.graph.output),
            ops=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
            weights=dict(sorted(weights.items())),
            labels=tuple(json.loads(labels)) if labels else None,
            contract=Contract.from_text(contract, where=path) if contract else None,
            parts={tensor.name: part(onnx.numpy_helper.to_array(tensor)) for tensor in model.graph.initializer},
            metadata={**properties, "description": model.doc_string},
            notes={"opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}},
        )
    except (ValueError, TypeError) as problem:
        raise ModelError(f"{path} carries damaged metadata: {problem}.") from None


def broken_claims(variant: str, facts: Facts, contract: Contract | None) -> list[str]:
    """``float32`` means that inputs, outputs and weights are float32."""
    broken = carried_claims(facts, contract)
    for tensor in (*facts.inputs, *facts.outputs):
        if tensor.dtype != "float32":
            broken.append(f"{tensor.name} is {tensor.dtype}, not float32")
    if other := set(facts.weights) - {"float32"}:
        broken.append(f"it stores {', '.join(sorted(other))} weights")
    return broken


def runner(path: Path, contract: Contract, threads: int = 1) -> ONNXRunner:
    """Open a file with ONNX Runtime on the CPU."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise TargetError(f"ONNX Runtime is not installed here: {_INSTALL}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # ONNX Runtime's exception classes are private to its extension module.
        raise ModelError(f"{path} is refused by ONNX Runtime {onnxruntime.__version__}: {problem}") from None
    return ONNXRunner(session, f"ONNX Runtime {onnxruntime.__version__}")


class ONNXRunner:
    """One .onnx file in an ONNX Runtime session."""

    untimed = None

    def __init__(self, session: Any, executes: str) -> None:
        self.executes = executes
        self._session = session
        self._input = session.get_inputs()[0].name

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (float32 [N, classes]) of images (uint8 [N, H, W, 3], RGB)."""
        probabilities: np.ndarray = self._session.run(None, {self._input: images.astype(np.float32)})[0]
        return probabilities


def _converted(graph: ServingGraph, opset: int) -> Any:
    """The graph as an ONNX model, by the parts of tf2onnx that are needed.

    ``tf2onnx.convert.from_graph_def`` would first freeze and fold what is frozen and folded, and copy the whole graph
    before each of its two dozen passes, which takes more than twice the memory.
    """
    import tensorflow as tf
    from tf2onnx import optimizer, tfonnx

    from leafport.export.graph import INPUT, OUTPUT

    contract = graph.contract
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph.graph_def(), name="")
        converted = tfonnx.process_tf_graph(
            imported,
            opset=opset,
            input_names=[f"{INPUT}:0"],
            output_names=[f"{OUTPUT}:0"],
            tensors_to_rename={f"{INPUT}:0": INPUT, f"{OUTPUT}:0": OUTPUT},
            shape_override={f"{INPUT}:0": [None, contract.image.height, contract.image.width, 3]},
        )
    return optimizer.optimize_graph(converted, catch_errors=False).make_model(contract.name, graph_name=contract.name)


def _name_valid_padding(model: Any) -> None:
    """Let a MaxPool without padding say so with ``auto_pad``, not with ``pads`` of zeros.

    ONNX Runtime (1.17 to 1.31 at least, its Pad_Fusion) moves the zeros of a Pad into the ``pads`` of the MaxPool that
    follows, where they count as minus infinity: below zero, as in ResNet50V2, the results at the border change. It
    leaves a MaxPool with ``auto_pad`` alone.
    """
    import onnx

    for node in model.graph.node:
        if node.op_type != "MaxPool":
            continue
        settings = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        if settings.get("auto_pad", b"NOTSET") == b"NOTSET" and not any(settings.get("pads", ())):
            kept = [entry for entry in node.attribute if entry.name not in ("pads", "auto_pad")]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("auto_pad", "VALID")])


def _load(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{path} is larger than 2 GiB: not a plain ONNX file.")
        model = onnx.load_model(str(path), load_external_data=False)  # External data could point anywhere.
        onnx.checker.check_model(model)
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror}.") from None
    except (DecodeError, onnx.checker.ValidationError, ValueError) as problem:
        raise ModelError(f"{path} is not an ONNX file, or damaged: {str(problem).splitlines()[0]}") from None
    return model


def _tensor_facts(value: Any) -> TensorFacts:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return TensorFacts(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)


if __name__ == "__main__":
    from leafport.cli.export import script

    script(NAME)
