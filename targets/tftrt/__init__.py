"""Frozen TensorFlow graphs, plain and with TensorRT engines (TF-TRT), for NVIDIA Jetson boards."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import files
from leafport.contract import Contract
from leafport.errors import ConversionError, ModelError, UserError
from leafport.export.graph import INPUT, OUTPUT, constants
from leafport.targets.base import Facts, Variant, carried_claims, option
from leafport.targets.tftrt import converting, engine, operations, reading, saved_model

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph

NAME = "tftrt"
SAVED_MODEL = "savedmodel"
SUFFIX = (".pb", f"-{SAVED_MODEL}")
VARIANTS = {
    "frozen": Variant("the plain frozen graph, for sessions of TensorFlow 1.15 and 2.x"),
    "fp32": Variant("with TensorRT engines, built on the board, in 32 bits", also=("float32",)),
    "fp16": Variant(
        "with TensorRT engines, built on the board, in 16 bits; weights in the file stay 32-bit", also=("float16",)
    ),
    f"fp32-{SAVED_MODEL}": Variant("fp32 as a SavedModel, for tf.saved_model.load of TensorFlow 2.x", asked=True),
    f"fp16-{SAVED_MODEL}": Variant("fp16 as a SavedModel, for tf.saved_model.load of TensorFlow 2.x", asked=True),
}
RUNTIME = "TensorFlow with TensorRT"
_NO_OPERATIONS = ("Const", "Identity", "Placeholder", engine.OP)
_CHUNK = 8
_LEAST = {"workspace_bytes": 2**20, "max_cached_engines": 1, "minimum_segment_size": 1, "batch": 0}


@dataclass(frozen=True)
class Options:
    """How graphs for TensorRT are written. The defaults are small: a TX2's CPU and GPU share 8 GB."""

    workspace_bytes: int = option(2**28, "The most memory TensorRT may take as scratch space on the GPU, in bytes.")
    max_cached_engines: int = option(1, "How many engines the board keeps: it builds one for each batch size it meets.")
    minimum_segment_size: int = option(3, "How many operations an engine has at least; fewer stay TensorFlow's.")
    batch: int = option(0, "How many photographs the graph takes at once, so that no shape is open; 0: any number.")
    with_tensorrt: str = option(
        "", "A Python with TensorFlow up to 2.17 and TensorRT, whose own converter shall make the engines' graphs."
    )
    tensorflow: str = option(
        operations.OLDEST, "The oldest TensorFlow that shall read the graph: 1.15, 2.7, 2.13, 2.17."
    )


def available(variant: str) -> str | None:
    return None


def convert(graph: ServingGraph, variant: str, out_dir: Path, options: Options) -> Path:
    """Write ``out_dir/NAME-VARIANT.pb``: image (float32 [N, H, W, 3], RGB 0..255) in, probabilities [N, classes] out.

    ``frozen`` is the serving graph; ``fp32`` and ``fp16`` have engines between the same two names, one for each part
    that TF-TRT converts. Each carries the contract. ``-savedmodel`` variants are folders, ``out_dir/NAME-VARIANT``,
    with the same graph and the signature ``serving_default``.

    Raises:
        ConversionError: TF-TRT converts no part of the graph, or the TensorFlow on the board cannot read it.
        UserError: an option is out of range.
    """
    for name, least in _LEAST.items():
        if (value := getattr(options, name)) < least:
            raise UserError(f"The option {name} of {NAME} is {value}. It must be {least} or more.")
    if options.tensorflow not in operations.versions():
        known = ", ".join(operations.versions())
        raise UserError(f"The option tensorflow of {NAME} is {options.tensorflow!r}. It must be one of {known}.")
    graph_def = graph.graph_def()
    attr = reading.placeholder(graph_def, graph.path).attr
    attr["shape"].shape.dim[0].size = options.batch or -1
    attr[reading.CONTRACT_ATTRIBUTE].s = json.dumps(graph.contract.to_json(), ensure_ascii=False).encode()
    precision, _, dialect = variant.partition("-")
    if precision != "frozen":
        settings = engine.Settings(
            precision=precision.upper(),
            workspace_bytes=options.workspace_bytes,
            max_cached_engines=options.max_cached_engines,
            minimum_segment_size=options.minimum_segment_size,
        )
        if options.with_tensorrt:
            graph_def = converting.by_nvidia(options.with_tensorrt, graph_def, settings, options.batch)
        else:
            graph_def = engine.write(graph_def, settings)
    nodes = [*graph_def.node, *reading.segment_nodes(graph_def)]
    if options.with_tensorrt:  # Its engines are what its own TensorFlow knows.
        nodes = [node for node in nodes if node.op != engine.OP]
    if unknown := operations.unknown(nodes, options.tensorflow):
        known = ", ".join(operations.versions())
        raise ConversionError(
            f"{'; '.join(unknown[:5])}. Build the model without it; or, if no board of yours has that TensorFlow, name "
            f"the oldest one that has it with --{NAME}-tensorflow ({known})."
        )
    path = out_dir / f"{graph.contract.name}-{variant}{'' if dialect else '.pb'}"
    if dialect:
        saved_model.write(graph_def, path, options.tensorflow, (options.batch or None, len(graph.contract.labels)))
    else:
        files.write_bytes(path, graph_def.SerializeToString(deterministic=True))
    return path


def inspect(path: Path) -> Facts:
    """Read a frozen graph, anybody's, with or without engines. Raises ModelError when it is none, or is damaged."""
    graph_def = reading.read(path)
    contract = reading.carried_contract(graph_def, path)
    inputs, outputs = reading.interface(graph_def, path)
    segment = reading.segment_nodes(graph_def)
    outer_ops = Counter(node.op for node in graph_def.node)
    segment_ops = Counter(node.op for node in segment)
    notes: dict[str, Any] = {"nodes": len(graph_def.node), "engines": outer_ops[engine.OP]}
    if engines := engine.find(graph_def):
        notes |= {
            "outer_ops": dict(sorted(outer_ops.items())),
            "segment_nodes": len(segment),
            "segment_operations": [sum(node.op != "Const" for node in nodes) for nodes in reading.segments(graph_def)],
            "segment_ops": dict(sorted(segment_ops.items())),
            "precision": "/".join(sorted({_text(each, "precision_mode") for each in engines})),
            "built_on_device": all(engine.is_built_on_device(each, graph_def) for each in engines),
            "workspace_bytes": max(each.attr["workspace_size_bytes"].i for each in engines),
            "max_cached_engines": max(each.attr["max_cached_engines_count"].i for each in engines),
        }
    if found := reading.more_than_arithmetic(graph_def):
        notes["does_more_than_compute"] = found
    nodes = [*graph_def.node, *segment]
    notes["oldest_tensorflow"] = next(
        (version for version in operations.versions() if not operations.unknown(nodes, version)), None
    )
    return Facts(
        inputs=inputs,
        outputs=outputs,
        ops=dict(sorted((outer_ops + segment_ops).items())),
        weights=reading.weights(nodes),
        labels=contract.labels if contract else None,
        contract=contract,
        parts=constants(nodes),
        notes=notes,
    )


def broken_claims(variant: str, facts: Facts, contract: Contract | None) -> list[str]:
    """``fp32``, ``fp16``: engines of that precision, which a board builds, hold most operations; ``frozen``: none."""
    broken = carried_claims(facts, contract)
    if contract is not None:
        image = contract.image
        for tensors, name, shape in (
            (facts.inputs, INPUT, (image.height, image.width, 3)),
            (facts.outputs, OUTPUT, (len(contract.labels),)),
        ):
            if [(tensor.name, tensor.dtype, tensor.shape[1:]) for tensor in tensors] != [(name, "float32", shape)]:
                found = ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in tensors) or "nothing"
                broken.append(f"it has {found} in the place of {name} float32 {(None, *shape)}")
        if set(facts.weights) != {"float32"}:
            broken.append(f"its weights are {', '.join(facts.weights) or 'missing'}, not float32")
    notes = facts.notes
    if more := notes.get("does_more_than_compute"):
        broken.append(f"it does more than compute: {', '.join(more)}")
    precision = variant.partition("-")[0]
    if precision == "frozen" or not notes["engines"]:
        wrong = (precision == "frozen") == bool(notes["engines"])
        return [*broken, f"it has {notes['engines']} engines (operations {engine.OP})"] if wrong else broken
    if notes["precision"] != precision.upper():
        broken.append(f"its engines compute in {notes['precision']}, not {precision.upper()}")
    outside = sum(notes["outer_ops"].values()) - sum(notes["outer_ops"].get(op, 0) for op in _NO_OPERATIONS)
    if outside > (within := sum(notes["segment_operations"])):
        broken.append(f"{outside} operations are outside its engines, and {within} within")
    if not notes["built_on_device"]:
        broken.append("its engines are none that a board builds itself")
    return broken


def runner(path: Path, contract: Contract, threads: int = 1) -> GraphRunner:
    """Open a graph in a TensorFlow session on the CPU. Of engines, it is the native segments that run."""
    import tensorflow as tf

    graph_def = reading.read_runnable(path)
    batch, *sizes = (dim.size for dim in reading.placeholder(graph_def, path).attr["shape"].shape.dim)
    if sizes != [contract.image.height, contract.image.width, 3]:
        raise ModelError(f"{path} takes images of {sizes}, and the contract names others: it is another model's.")
    executes, untimed = f"TensorFlow {tf.__version__}", None
    for found in engine.find(graph_def):
        engine.swap_for_native_segment(found)
        executes = f"native segments of the TF-TRT engines in TensorFlow {tf.__version__} (no TensorRT here)"
        untimed = "the engines are built and run by TensorRT on an NVIDIA board; here their operations run one by one"
    config = tf.compat.v1.ConfigProto(
        device_count={"GPU": 0}, intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1
    )
    config.graph_options.rewrite_options.disable_meta_optimizer = bool(untimed)  # It copies functions again and again.
    try:
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
        session = tf.compat.v1.Session(graph=graph, config=config)
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as problem:
        raise ModelError(f"{path} is damaged: TensorFlow {tf.__version__} cannot import it ({problem}).") from None
    return GraphRunner(session, batch if batch > 0 else None, len(contract.labels), executes, untimed)


def _text(node: Any, attribute: str) -> str:
    return str(node.attr[attribute].s.decode(errors="replace"))


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
