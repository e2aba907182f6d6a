"""What a .tflite file really holds, ours or not."""

from __future__ import annotations

import importlib
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.targets.base import Facts, TensorFacts, carried_claims, part
from leafport.targets.tflite import metadata
from leafport.targets.tflite.metadata import CONTRACT_FILE, LABELS_FILE

MAX_FILE_BYTES = 2**31 - 1  # FlatBuffers' own limit.
LARGE_WEIGHTS = 1024  # Outside int8 files the converter leaves biases and constants of fewer values as they are.

_SCHEMAS = ("ai_edge_litert.schema_py_generated", "tensorflow.lite.python.schema_py_generated")
_FLEX = "Flex"  # How the names of TensorFlow's own operations begin, those of "select TF ops".


def inspect(path: Path) -> Facts:
    """Read any .tflite file, ours or not. Raises ModelError when it is not one, or is damaged.

    ``notes`` has: float_ops, the operations that take or give floats, and float_share, theirs of all; custom_ops;
    op_versions; large_weights, the dtypes of tensors of many weights, and quantised_per, whether a "channel" or a
    "tensor" of them shares a scale; normalisation, the (mean, standard deviation) that the metadata tell clients to
    apply; min_runtime_version, as the converter wrote it; schema_version.
    """
    data = read(path)
    schema = _schema()
    try:
        return _facts(schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0)), schema, path)
    except (struct.error, IndexError, TypeError, ValueError, AttributeError, OverflowError, KeyError) as problem:
        raise ModelError(f"{path} is damaged: its FlatBuffer does not hold together ({problem}).") from None


def broken_claims(variant: str, facts: Facts, contract: Contract | None) -> list[str]:
    """What is not as the variant has it.

    ``int8`` and ``int8-qat`` have no float anywhere, ``float32`` nothing else; ``float16`` and ``dynamic`` store their
    weights so; ``mixed`` has both int8 and float ones.
    """
    broken = carried_claims(facts, contract)
    variant = variant.removesuffix("-qat")
    stored = facts.weights
    interface = {"uint8"} if variant == "int8" else {"float32"}
    if variant == "int8" and contract is None:
        interface.add("int8")
    for tensor in (*facts.inputs, *facts.outputs):
        if tensor.dtype not in interface:
            broken.append(f"{tensor.name} is {tensor.dtype}, not {' or '.join(sorted(interface))}")
    if variant == "int8" and facts.notes["float_ops"]:
        broken.append(f"it has float operations: {', '.join(facts.notes['float_ops'])}")
    if variant == "mixed" and not {"int8"} < set(stored):
        broken.append(f"it stores {', '.join(stored) or 'no'} weights, not int8 and float ones")
    if variant == "float32" and (other := set(stored) & {"float16", "int8", "uint8"}):
        broken.append(f"it stores {', '.join(sorted(other))} weights")
    small = {"float16": "float16", "dynamic": "int8", "int8": "int8"}.get(variant)
    eight = {"int8", "uint8"} if small == "int8" and contract is None else {small}  # uint8 is TensorFlow 1's way.
    if small and (not eight & set(stored) or set(facts.notes["large_weights"]) - eight):
        broken.append(f"it stores {', '.join(facts.notes['large_weights']) or 'no'} weights, not {small} ones")
    scaling = facts.notes["normalisation"]
    if contract is not None and scaling is not None and (set(scaling[0]), set(scaling[1])) != ({0.0}, {1.0}):
        broken.append(
            f"its metadata tell clients to scale pixels (mean {scaling[0]}, std {scaling[1]}), and it takes them raw"
        )
    if selected := [op for op in facts.ops if op.startswith(_FLEX)]:
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


def _schema() -> Any:
    """The classes that flatc made of TFLite's schema: LiteRT's own, which load in half a second, or TensorFlow's."""
    try:
        return importlib.import_module(_SCHEMAS[0])
    except ImportError:
        return importlib.import_module(_SCHEMAS[1])


def _facts(model: Any, schema: Any, path: Path) -> Facts:
    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    ops, calculating = _operations(model, schema, types)
    weights, scales = _weights(model, types)
    graph = model.subgraphs[0]
    entries = _metadata(model)
    said = metadata.read(entries[metadata.ENTRY]) if metadata.ENTRY in entries else metadata.Metadata()
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
        contract=Contract.from_text(contract, where=path) if contract else None,
        parts=_parts(model),
        metadata=dict(said.texts),
        notes={
            "float_ops": sorted(calculating),
            "float_share": calculating.total() / max(ops.total(), 1),
            "custom_ops": sorted((code.customCode or b"").decode() for code in model.operatorCodes if code.customCode),
            "op_versions": dict(sorted((_name(code, schema), code.version) for code in model.operatorCodes)),
            "large_weights": sorted({dtype for dtype, _ in scales}),
            "quantised_per": sorted({per for _, per in scales if per}),
            "normalisation": said.normalisation,
            "min_runtime_version": entries.get("min_runtime_version", b"").rstrip(b"\0").decode() or None,
            "schema_version": model.version,
        },
    )


def _name(code: Any, schema: Any) -> str:
    """What an operation is called, custom ones by their own name."""
    if code.customCode:
        return str(code.customCode.decode())
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    return str(codes[max(code.builtinCode, code.deprecatedBuiltinCode)])


def _operations(model: Any, schema: Any, types: dict[int, str]) -> tuple[Counter[str], Counter[str]]:
    """How often each operation occurs, and how often with floats."""
    names = [_name(code, schema) for code in model.operatorCodes]
    ops: Counter[str] = Counter()
    calculating: Counter[str] = Counter()
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            name = names[operator.opcodeIndex]
            ops[name] += 1
            touched = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            calculating[name] += any(types[tensor.type].startswith("float") for tensor in touched)
    return ops, +calculating


def _weights(model: Any, types: dict[int, str]) -> tuple[Counter[str], set[tuple[str, str]]]:
    """How many values are stored in each dtype, and of the large tensors the dtypes and what shares a scale."""
    weights: Counter[str] = Counter()
    large: set[tuple[str, str]] = set()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            stored = model.buffers[tensor.buffer].data
            if stored is not None and len(stored) and not _is_shape(tensor, types):
                count = math.prod(int(size) for size in tensor.shape) if tensor.shape is not None else 1
                weights[types[tensor.type]] += count
                if count >= LARGE_WEIGHTS and len(tensor.shape) > 1:
                    scales = len(_scales(tensor))
                    large.add((types[tensor.type], "channel" if scales > 1 else "tensor" if scales else ""))
    return weights, large


def _parts(model: Any) -> dict[str, str]:
    """The constants and all scales, by their tensors' names; an operation's other settings are not among them."""
    found = {}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        name, stored, scales = tensor.name.decode(errors="replace"), model.buffers[tensor.buffer].data, _scales(tensor)
        if stored is not None and len(stored):
            found[name] = part(np.asarray(stored))
        if len(scales):
            found[f"{name}, scale"] = part(np.asarray(scales))
    return found


def _metadata(model: Any) -> dict[str, bytes]:
    """The model's named buffers: what its converter and others wrote down beside the graph."""
    entries = model.metadata or ()
    return {entry.name.decode(errors="replace"): bytes(model.buffers[entry.buffer].data) for entry in entries}


def _is_shape(tensor: Any, types: dict[int, str]) -> bool:
    """Whether a constant is an argument (a shape, paddings, axes) or a 32-bit bias, not a weight."""
    return types[tensor.type] in ("int32", "int64")


def _scales(tensor: Any) -> Any:
    """A tensor's scales: none, one, or one a channel."""
    quantization = tensor.quantization
    return () if quantization is None or quantization.scale is None else quantization.scale


def _tensor_facts(tensor: Any, types: dict[int, str]) -> TensorFacts:
    quantised = len(_scales(tensor)) == 1
    return TensorFacts(
        name=tensor.name.decode(errors="replace"),
        dtype=types[tensor.type],
        shape=tuple(int(size) for size in tensor.shape),
        scale=float(tensor.quantization.scale[0]) if quantised else None,
        zero_point=int(tensor.quantization.zeroPoint[0]) if quantised else None,
    )
