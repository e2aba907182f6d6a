"""The 256 steps of an int8 file's logits, put where they decide something.

A converter spreads them from the smallest to the largest logit that it has seen. Logits far below the largest of their
photograph have no probability to speak of, wherever they lie; without them the steps become finer. The range of
a tensor is two numbers beside it in the file, and every kernel computes with those it finds there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensorflow.core.framework.graph_pb2 import GraphDef

_STEPS = 255
_LOWEST = -128
_CANDIDATES = 24


def of_graph(graph_def: GraphDef, photographs: Iterable[np.ndarray], feed: str) -> np.ndarray | None:
    """The logits of photographs (float32 [N, H, W, 3] each): float32 [N, classes]; None without one softmax."""
    import tensorflow as tf

    softmax = [node for node in graph_def.node if node.op == "Softmax"]
    if len(softmax) != 1:
        return None
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        wanted = graph.get_operation_by_name(softmax[0].name).inputs[0]
        with tf.compat.v1.Session(graph=graph) as session:
            rows = [session.run(wanted, {f"{feed}:0": batch}) for batch in photographs]
    logits = np.concatenate(rows)
    return logits if logits.ndim == 2 else None


def best_range(logits: np.ndarray) -> tuple[float, float]:
    """From where to where 256 steps should go, so that probabilities change the least.

    The upper end is at the largest logit or a little below it, the lower one anywhere, and zero between them, since it
    has a step of its own in every file. Of all pairs tried this is the one whose probabilities differ the least from
    the true ones, summed over the classes, on average.
    """
    true = _softmax(logits)
    highest, lowest = float(logits.max()), float(logits.min())
    median = float(np.median(logits.max(axis=1)))
    pairs = [
        (min(low, 0.0), max(high, 0.0))
        for high in np.linspace(highest, median, _CANDIDATES // 3, endpoint=False)
        for low in np.linspace(lowest, high, _CANDIDATES, endpoint=False)
    ]
    errors = [float(np.abs(_softmax(_quantised(logits, low, high)) - true).sum(axis=1).mean()) for low, high in pairs]
    return pairs[int(np.argmin(errors))]


def set_range(model: Any, schema: Any, low: float, high: float) -> bool:
    """Let the steps of a parsed int8 file's logits go from ``low`` to ``high``.

    Returns:
        Whether it was done: only where a dense layer or a convolution writes what one softmax reads, since other
        operations may want the same scale at both their ends.
    """
    graph = model.subgraphs[0]
    kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    softmax = [
        operator for operator in graph.operators if kinds[operator.opcodeIndex] == schema.BuiltinOperator.SOFTMAX
    ]
    if len(softmax) != 1:
        return False
    logits = softmax[0].inputs[0]
    writers = [operator for operator in graph.operators if logits in operator.outputs]
    readers = [operator for operator in graph.operators if logits in operator.inputs]
    layers = (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.CONV_2D)
    tensor = graph.tensors[logits]
    if tensor.type != schema.TensorType.INT8 or len(readers) != 1:
        return False
    if not writers or kinds[writers[0].opcodeIndex] not in layers:
        return False
    scale = np.float32((high - low) / _STEPS)
    tensor.quantization.scale = np.array([scale], np.float32)
    tensor.quantization.zeroPoint = np.array([round(float(_LOWEST - low / scale))], np.int64)
    tensor.quantization.min = tensor.quantization.max = None
    return True


def _quantised(logits: np.ndarray, low: float, high: float) -> np.ndarray:
    scale = (high - low) / _STEPS
    zero = np.round(_LOWEST - low / scale)
    steps = np.clip(np.round(logits / scale + zero), _LOWEST, _LOWEST + _STEPS)
    real: np.ndarray = (steps - zero) * scale
    return real


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return shares
