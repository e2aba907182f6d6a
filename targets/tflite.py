"""TFLite (LiteRT) files, for Android, iOS, browsers and small Linux boards."""

from __future__ import annotations

import importlib
import io
import json
import math
import struct
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import files, images
from leafport.contract import Contract
from leafport.errors import ConversionError, ModelError, TargetError
from leafport.targets.base import Facts, TensorFacts, Variant, carried_claims, option

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph

NAME = "tflite"
VARIANTS = {
    "float32": Variant("32-bit floats throughout"),
    "float16": Variant("16-bit weights, computed in 32 bits on a CPU and in 16 on a GPU: half the size"),
    "dynamic": Variant("8-bit weights, activations quantised as they come: a quarter of the size", 0.93),
    "int8": Variant("8-bit integers throughout, uint8 in and out: a quarter of the size, fastest", 0.88),
}
RUNTIME = "LiteRT"
LABELS_FILE = "labels.txt"
CONTRACT_FILE = "contract.json"
MAX_FILE_BYTES = 2**31 - 1  # FlatBuffers' own limit.

LARGE_WEIGHTS = 1024  # Outside int8 files the converter leaves biases and constants of fewer values as they are.

_RUNTIMES = ("ai_edge_litert", "tflite_runtime")


@dataclass(frozen=True)
class Options:
    """How TFLite files are written."""

    calibration: tuple[Path, ...] = ()
    per_channel_dense: bool = option(
        False, "Quantise dense layers per output channel: needs LiteRT; tflite-runtime 2.14 refuses or misreads it."
    )


def available(variant: str) -> str | None:
    return None


def convert(graph: ServingGraph, variant: str, out_dir: Path, options: Options) -> Path:
    """Write ``out_dir/NAME-VARIANT.tflite``: raw RGB [1, H, W, 3] in, probabilities [1, classes] out.

    Input and output are float32; for ``int8`` they are uint8, where an input of scale 1 and zero point 0 is the raw
    pixel. Labels and contract are appended as associated files (a ZIP archive behind the model, as TFLite has it).

    Raises:
        ConversionError: an operation has no TFLite builtin (select-TF operations never slip in), or there are no
            photographs to calibrate ``int8`` on.
    """
    import tensorflow as tf

    module = graph.module(batch=1)
    with tempfile.TemporaryDirectory(dir=out_dir) as saved_model:
        tf.saved_model.save(module, saved_model, signatures=module.serve)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if variant != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if variant == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if variant in ("dynamic", "int8"):
            converter._experimental_disable_per_channel_quantization_for_dense_layers = not options.per_channel_dense
        if variant == "int8":
            if not options.calibration:
                raise ConversionError("int8 needs photographs of the training split to calibrate on, and got none.")
            converter.representative_dataset = lambda: _calibration(options.calibration, graph.contract)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        try:
            model = converter.convert()
        except Exception as problem:  # The converter raises its own kinds and plain ones alike.
            raise ConversionError(f"The TFLite converter refused the graph: {problem}") from problem
    path = out_dir / f"{graph.contract.name}-{variant}.tflite"
    files.write_bytes(path, model + _associated_files(graph.contract))
    return path


def inspect(path: Path) -> Facts:
    """Read any .tflite file, ours or not. Raises ModelError when it is not one, or is damaged."""
    data = _read(path)
    schema = importlib.import_module("tensorflow.lite.python.schema_py_generated")
    try:
        return _facts(schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0)), schema, path)
    except (struct.error, IndexError, TypeError, ValueError, AttributeError, OverflowError, KeyError) as problem:
        raise ModelError(f"{path} is damaged: its FlatBuffer does not hold together ({problem}).") from None


def broken_claims(variant: str, facts: Facts, contract: Contract) -> list[str]:
    """``int8`` has no float anywhere, ``float32`` nothing else; ``float16`` and ``dynamic`` store their weights so."""
    broken = carried_claims(facts, contract)
    stored = facts.weights
    interface = "uint8" if variant == "int8" else "float32"
    for tensor in (*facts.inputs, *facts.outputs):
        if tensor.dtype != interface:
            broken.append(f"{tensor.name} is {tensor.dtype}, not {interface}")
    if variant == "int8" and facts.notes["float_ops"]:
        broken.append(f"it has float operations: {', '.join(facts.notes['float_ops'])}")
    if variant == "float32" and (other := set(stored) & {"float16", "int8", "uint8"}):
        broken.append(f"it stores {', '.join(sorted(other))} weights")
    small = {"float16": "float16", "dynamic": "int8", "int8": "int8"}.get(variant)
    if small and (small not in stored or set(facts.notes["large_weights"]) - {small}):
        broken.append(f"it stores {', '.join(facts.notes['large_weights']) or 'no'} weights, not {small} ones")
    if selected := [op for op in facts.ops if op.startswith("Flex")]:
        broken.append(f"it needs TensorFlow itself for {', '.join(selected)}")
    return broken


def runner(path: Path, contract: Contract, threads: int = 1) -> TFLiteRunner:
    """Open a file with LiteRT, or with tflite-runtime where only that is installed."""
    for package in _RUNTIMES:
        try:
            interpreter = importlib.import_module(f"{package}.interpreter").Interpreter
        except ImportError:
            continue
        version = importlib.import_module(package).__version__
        _read(path)
        try:
            return TFLiteRunner(interpreter(model_path=str(path), num_threads=threads), f"{package} {version}")
        except (ValueError, RuntimeError) as problem:
            raise ModelError(f"{path} is refused by {package} {version}: {problem}") from None
    raise TargetError("No TFLite runtime is installed here: pip install ai-edge-litert")


class TFLiteRunner:
    """One .tflite file in an interpreter, one photograph at a time, as on a device."""

    untimed = None

    def __init__(self, interpreter: Any, executes: str) -> None:
        interpreter.allocate_tensors()
        self.executes = executes
        self._interpreter = interpreter
        self._input = interpreter.get_input_details()[0]
        self._output = interpreter.get_output_details()[0]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (float32 [N, classes]) of images (uint8 [N, H, W, 3], RGB)."""
        rows = []
        for index in range(len(images)):
            self._interpreter.set_tensor(self._input["index"], _quantise(images[index : index + 1], self._input))
            self._interpreter.invoke()
            rows.append(_dequantise(self._interpreter.get_tensor(self._output["index"]), self._output))
        return np.concatenate(rows) if rows else np.empty((0, self._output["shape"][-1]), np.float32)


def _quantise(pixels: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    dtype = tensor["dtype"]
    scale, zero_point = tensor["quantization"]
    if np.issubdtype(dtype, np.floating) or (scale, zero_point, dtype) == (1.0, 0, np.uint8):
        return pixels.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    quantised: np.ndarray = np.round(pixels / scale + zero_point).clip(limits.min, limits.max).astype(dtype)
    return quantised


def _dequantise(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    if np.issubdtype(tensor["dtype"], np.floating):
        return values.astype(np.float32)
    real: np.ndarray = ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)
    return real


def _calibration(photographs: tuple[Path, ...], contract: Contract) -> Iterator[list[np.ndarray]]:
    """Photographs one at a time, after one with a black and a white pixel: the input's range is then 0..255 exactly."""
    for index, pixels in enumerate(images.batches(photographs, contract.image, batch_size=1)):
        if index == 0:
            pixels[0, 0, :2] = [[0], [255]]
        yield [pixels.astype(np.float32)]


def _associated_files(contract: Contract) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, text in (
            (LABELS_FILE, "\n".join(contract.labels) + "\n"),
            (CONTRACT_FILE, json.dumps(contract.to_json(), ensure_ascii=False)),
        ):
            packed.writestr(zipfile.ZipInfo(name), text)  # ZipInfo's fixed date keeps equal models equal bytes.
    return archive.getvalue()


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror}.") from None
    if size > MAX_FILE_BYTES:
        raise ModelError(f"{path} is larger than 2 GiB: not a TFLite file.")
    if data[4:8] != b"TFL3":
        raise ModelError(f"{path} is not a TFLite file (it lacks the mark TFL3).")
    return data


def _facts(model: Any, schema: Any, path: Path) -> Facts:
    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    names = [
        (code.customCode or b"").decode() or codes[max(code.builtinCode, code.deprecatedBuiltinCode)]
        for code in model.operatorCodes
    ]
    ops: Counter[str] = Counter()
    float_ops: set[str] = set()
    weights: Counter[str] = Counter()
    large: set[str] = set()
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            name = names[operator.opcodeIndex]
            ops[name] += 1
            touched = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            if any(types[tensor.type].startswith("float") for tensor in touched):
                float_ops.add(name)
        for tensor in subgraph.tensors:
            stored = model.buffers[tensor.buffer].data
            if stored is not None and len(stored) and not _is_shape(tensor, types):
                count = math.prod(int(size) for size in tensor.shape) if tensor.shape is not None else 1
                weights[types[tensor.type]] += count
                if count >= LARGE_WEIGHTS and len(tensor.shape) > 1:
                    large.add(types[tensor.type])
    graph = model.subgraphs[0]
    carried = _read_associated_files(path)
    contract = carried.get(CONTRACT_FILE)
    return Facts(
        inputs=tuple(_tensor_facts(graph.tensors[index], types) for index in graph.inputs),
        outputs=tuple(_tensor_facts(graph.tensors[index], types) for index in graph.outputs),
        ops=dict(sorted(ops.items())),
        weights=dict(sorted(weights.items())),
        labels=tuple(carried[LABELS_FILE].splitlines()) if LABELS_FILE in carried else None,
        contract_sha256=files.sha256_json(json.loads(contract)) if contract else None,
        metadata={"description": (model.description or b"").decode(errors="replace")},
        notes={"float_ops": sorted(float_ops), "large_weights": sorted(large), "schema_version": model.version},
    )


def _is_shape(tensor: Any, types: dict[int, str]) -> bool:
    """Whether a constant is an argument (a shape, paddings, axes) or a 32-bit bias, not a weight."""
    return types[tensor.type] in ("int32", "int64")


def _tensor_facts(tensor: Any, types: dict[int, str]) -> TensorFacts:
    quantization = tensor.quantization
    quantised = quantization is not None and quantization.scale is not None and len(quantization.scale) == 1
    return TensorFacts(
        name=tensor.name.decode(errors="replace"),
        dtype=types[tensor.type],
        shape=tuple(int(size) for size in tensor.shape),
        scale=float(quantization.scale[0]) if quantised else None,
        zero_point=int(quantization.zeroPoint[0]) if quantised else None,
    )


def _read_associated_files(path: Path) -> dict[str, str]:
    """Labels and contract from the archive behind the model; empty where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [member for member in archive.infolist() if member.filename in (LABELS_FILE, CONTRACT_FILE)]
            if any(member.file_size > files.MAX_JSON_BYTES for member in wanted):
                raise ModelError(f"{path} carries associated files of more than 64 MiB: refused.")
            return {member.filename: archive.read(member).decode() for member in wanted}
    except zipfile.BadZipFile:
        return {}
    except (OSError, UnicodeDecodeError, NotImplementedError) as problem:
        raise ModelError(f"{path} carries damaged associated files: {problem}.") from None


if __name__ == "__main__":
    from leafport.cli.export import script

    script(NAME)
