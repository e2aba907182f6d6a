"""Frozen TensorFlow graphs, plain and with a TensorRT engine (TF-TRT), for NVIDIA Jetson boards."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import files
from leafport.contract import Contract
from leafport.errors import ModelError, UserError
from leafport.export.graph import INPUT, OUTPUT, constants
from leafport.targets.base import Facts, Variant, carried_claims, option
from leafport.targets.tftrt import engine, reading

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph

NAME = "tftrt"
SUFFIX = ".pb"
VARIANTS = {
    "frozen": Variant("the plain frozen graph, for sessions of TensorFlow 1.15 and 2.x"),
    "fp32": Variant("one TensorRT engine, built on the board, in 32 bits", also=("float32",)),
    "fp16": Variant(
        "one TensorRT engine, built on the board, in 16 bits; weights in the file stay 32-bit", also=("float16",)
    ),
}
RUNTIME = "TensorFlow with TensorRT"
_CHUNK = 32
_LEAST = {"workspace_bytes": 2**20, "max_cached_engines": 1, "batch": 0}


@dataclass(frozen=True)
class Options:
    """How graphs for TensorRT are written. The defaults are small: a TX2's CPU and GPU share 8 GB."""

    workspace_bytes: int = option(2**28, "The most memory TensorRT may take as scratch space on the GPU, in bytes.")
    max_cached_engines: int = option(1, "How many engines the board keeps: it builds one for each batch size it meets.")
    batch: int = option(0, "How many photographs the graph takes at once; 0: any number.")


def available(variant: str) -> str | None:
    return None


def convert(graph: ServingGraph, variant: str, out_dir: Path, options: Options) -> Path:
    """Write ``out_dir/NAME-VARIANT.pb``: image (float32 [N, H, W, 3], RGB 0..255) in, probabilities [N, classes] out.

    ``frozen`` is the serving graph; ``fp32`` and ``fp16`` have one engine between the same two names. Each carries the
    contract.

    Raises:
        ConversionError: TF-TRT converts one of the graph's operations into nothing.
        UserError: an option is out of range.
    """
    for name, least in _LEAST.items():
        if (value := getattr(options, name)) < least:
            raise UserError(f"The option {name} of {NAME} is {value}. It must be {least} or more.")
    graph_def = graph.graph_def()
    attr = reading.placeholder(graph_def, graph.path).attr
    attr["shape"].shape.dim[0].size = options.batch or -1
    attr[reading.CONTRACT_ATTRIBUTE].s = json.dumps(graph.contract.to_json(), ensure_ascii=False).encode()
    if variant != "frozen":
        graph_def = engine.write(
            graph_def,
            precision=variant.upper(),
            classes=len(graph.contract.labels),
            workspace_bytes=options.workspace_bytes,
            max_cached_engines=options.max_cached_engines,
        )
    path = out_dir / f"{graph.contract.name}-{variant}.pb"
    files.write_bytes(path, graph_def.SerializeToString(deterministic=True))
    return path


def inspect(path: Path) -> Facts:
    """Read a frozen graph, with or without engines. Raises ModelError when it is neither, or is damaged."""
    graph_def = reading.read(path)
    contract = reading.carried_contract(graph_def, path)
    segment = reading.segment_nodes(graph_def)
    outer_ops = Counter(node.op for node in graph_def.node)
    segment_ops = Counter(node.op for node in segment)
    engines = engine.find(graph_def)
    notes: dict[str, Any] = {"nodes": len(graph_def.node), "engines": len(engines)}
    if engines:
        attr = engines[0].attr
        notes |= {
            "outer_ops": dict(sorted(outer_ops.items())),
            "segment_nodes": len(segment),
            "segment_ops": dict(sorted(segment_ops.items())),
            "precision": attr["precision_mode"].s.decode(errors="replace"),
            "built_on_device": attr["_allow_build_at_runtime"].b and not attr["static_engine"].b,
            "workspace_bytes": attr["workspace_size_bytes"].i,
            "max_cached_engines": attr["max_cached_engines_count"].i,
        }
    return Facts(
        inputs=(reading.input_facts(graph_def, path),),
        outputs=(reading.output_facts(graph_def, path),),
        ops=dict(sorted((outer_ops + segment_ops).items())),
        weights=reading.weights([*graph_def.node, *segment]),
        labels=contract.labels if contract else None,
        contract=contract,
        parts=constants([*graph_def.node, *segment]),
        notes=notes,
    )


def broken_claims(variant: str, facts: Facts, contract: Contract | None) -> list[str]:
    """``fp32`` and ``fp16``: one engine of that precision, built on the board, and nothing beside; ``frozen``: none."""
    broken = carried_claims(facts, contract)
    if contract is not None:
        image = contract.image
        for tensors, shape in (
            (facts.inputs, (image.height, image.width, 3)),
            (facts.outputs, (len(contract.labels),)),
        ):
            if [(tensor.dtype, tensor.shape[1:]) for tensor in tensors] != [("float32", shape)]:
                found = f"{tensors[0].name} is {tensors[0].dtype} {tensors[0].shape}"
                broken.append(f"{found}, not float32 {(None, *shape)}")
    if set(facts.weights) != {"float32"}:
        broken.append(f"its weights are {', '.join(facts.weights) or 'missing'}, not float32")
    notes = facts.notes
    engines = 0 if variant == "frozen" else 1
    if notes["engines"] != engines:
        return [*broken, f"it has {notes['engines']} operations {engine.OP}, not {engines}"]
    if variant == "frozen":
        return broken
    if notes["precision"] != variant.upper():
        broken.append(f"its engine computes in {notes['precision']}, not {variant.upper()}")
    if notes["outer_ops"] != {"Identity": 1, "Placeholder": 1, engine.OP: 1}:
        broken.append(f"it has operations outside its engine: {notes['outer_ops']}")
    if foreign := sorted(set(notes["segment_ops"]) - engine.CONVERTIBLE):
        broken.append(f"TF-TRT converts no {', '.join(foreign)}")
    if not notes["built_on_device"]:
        broken.append("its engine is not one that a board builds itself")
    return broken


def runner(path: Path, contract: Contract, threads: int = 1) -> GraphRunner:
    """Open a graph in a TensorFlow session on the CPU. Of an engine, it is the native segment that runs."""
    import tensorflow as tf

    graph_def = reading.read(path)
    batch = reading.input_facts(graph_def, path).shape[0]
    executes, untimed = f"TensorFlow {tf.__version__}", None
    for found in engine.find(graph_def):
        engine.swap_for_native_segment(found)
        executes = f"native segment of the TF-TRT engine in TensorFlow {tf.__version__} (no TensorRT here)"
        untimed = "the engine is built and run by TensorRT on an NVIDIA board; here its operations run one by one"
    config = tf.compat.v1.ConfigProto(
        device_count={"GPU": 0}, intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1
    )
    try:
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
        session = tf.compat.v1.Session(graph=graph, config=config)
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as problem:
        raise ModelError(f"{path} is damaged: TensorFlow {tf.__version__} cannot import it ({problem}).") from None
    return GraphRunner(session, batch, len(contract.labels), executes, untimed)


class GraphRunner:
    """One frozen graph in a session, in batches of ``batch`` photographs where the graph insists on a number."""

    def __init__(self, session: Any, batch: int | None, classes: int, executes: str, untimed: str | None) -> None:
        self.executes = executes
        self.untimed = untimed
        self._session = session
        self._batch = batch
        self._classes = classes

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (float32 [N, classes]) of images (uint8 [N, H, W, 3], RGB)."""
        size = self._batch or _CHUNK
        rows = [np.empty((0, self._classes), np.float32)]
        for start in range(0, len(images), size):
            chunk = images[start : start + size].astype(np.float32)
            missing = size - len(chunk) if self._batch else 0
            fed = np.pad(chunk, ((0, missing), (0, 0), (0, 0), (0, 0)))
            rows.append(self._session.run(f"{OUTPUT}:0", {f"{INPUT}:0": fed})[: len(chunk)])
        return np.concatenate(rows)
