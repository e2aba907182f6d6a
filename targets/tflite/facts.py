"""What a .tflite file really holds, ours or not."""

from __future__ import annotations

import importlib
import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from leafport import files
from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.targets.base import Facts, TensorFacts, carried_claims
from leafport.targets.tflite import metadata
from leafport.targets.tflite.metadata import CONTRACT_FILE, LABELS_FILE, Metadata

MAX_FILE_BYTES = 2**31 - 1  # FlatBuffers' own limit.
LARGE_WEIGHTS = 1024  # Outside int8 files the converter leaves biases and constants of fewer values as they are.


def inspect(path: Path) -> Facts:
    """Read any .tflite file, ours or not. Raises ModelError when it is not one, or is damaged."""
    data = read(path)
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
    scaling = facts.notes["normalisation"]
    if scaling is not None and (set(scaling[0]), set(scaling[1])) != ({0.0}, {1.0}):
        broken.append(
            f"its metadata tell clients to scale pixels (mean {scaling[0]}, std {scaling[1]}), and it takes them raw"
        )
    if selected := [op for op in facts.ops if op.startswith("Flex")]:
        broken.append(f"it needs TensorFlow itself for {', '.join(selected)}")
    return broken


def read(path: Path) -> bytes:
    """The bytes of a file that is marked as a TFLite one. Raises ModelError."""
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
    ops, float_ops = _operations(model, schema, types)
    weights, large = _weights(model, types)
    graph = model.subgraphs[0]
    said = _metadata(model)
    label_files = (*said.label_files, LABELS_FILE)
    beside = metadata.read_archive(path, {*label_files, CONTRACT_FILE})
    labels = next((beside[name] for name in label_files if name in beside), None)
    contract = beside.get(CONTRACT_FILE)
    return Facts(
        inputs=tuple(_tensor_facts(graph.tensors[index], types) for index in graph.inputs),
        outputs=tuple(_tensor_facts(graph.tensors[index], types) for index in graph.outputs),
        ops=dict(sorted(ops.items())),
        weights=dict(sorted(weights.items())),
        labels=None if labels is None else tuple(labels.splitlines()),
        contract_sha256=files.sha256_json(json.loads(contract)) if contract else None,
        metadata=dict(said.texts),
        notes={
            "float_ops": sorted(float_ops),
            "large_weights": sorted(large),
            "normalisation": said.normalisation,
            "schema_version": model.version,
        },
    )


def _operations(model: Any, schema: Any, types: dict[int, str]) -> tuple[Counter[str], set[str]]:
    """How often each operation occurs, and those that touch floats."""
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    names = [
        (code.customCode or b"").decode() or codes[max(code.builtinCode, code.deprecatedBuiltinCode)]
        for code in model.operatorCodes
    ]
    ops: Counter[str] = Counter()
    float_ops: set[str] = set()
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            name = names[operator.opcodeIndex]
            ops[name] += 1
            touched = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            if any(types[tensor.type].startswith("float") for tensor in touched):
                float_ops.add(name)
    return ops, float_ops


def _weights(model: Any, types: dict[int, str]) -> tuple[Counter[str], set[str]]:
    """How many values are stored in each dtype, and the dtypes of large tensors."""
    weights: Counter[str] = Counter()
    large: set[str] = set()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            stored = model.buffers[tensor.buffer].data
            if stored is not None and len(stored) and not _is_shape(tensor, types):
                count = math.prod(int(size) for size in tensor.shape) if tensor.shape is not None else 1
                weights[types[tensor.type]] += count
                if count >= LARGE_WEIGHTS and len(tensor.shape) > 1:
                    large.add(types[tensor.type])
    return weights, large


def _metadata(model: Any) -> Metadata:
    """What the buffer says that the model's own entry for metadata names; nothing where there is no such entry."""
    for entry in model.metadata or ():
        if entry.name == metadata.ENTRY.encode():
            return metadata.read(bytes(model.buffers[entry.buffer].data))
    return Metadata()


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
