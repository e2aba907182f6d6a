from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema

from leafport.classifier import Classifier
from leafport.export.graph import INPUT, ServingGraph
from leafport.targets import tflite
from leafport.targets.tflite import logits


def parsed(path: Path) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))


def logits_tensor(model: Any) -> Any:
    codes = [code.builtinCode for code in model.operatorCodes]
    graph = model.subgraphs[0]
    softmax = next(op for op in graph.operators if codes[op.opcodeIndex] == schema.BuiltinOperator.SOFTMAX)
    return graph.tensors[softmax.inputs[0]]


def error(values: np.ndarray, low: float, high: float) -> float:
    changed = logits._softmax(logits._quantised(values, low, high))
    return float(np.abs(changed - logits._softmax(values)).sum(axis=1).mean())


def test_steps_go_where_probabilities_are() -> None:
    dice = np.random.default_rng(0)
    values = dice.normal(-20, 6, size=(300, 40))
    values[np.arange(300), dice.integers(0, 40, 300)] = dice.normal(4, 3, 300)
    low, high = logits.best_range(values)
    assert values.min() < low < high <= values.max()
    assert error(values, low, high) < error(values, values.min(), values.max()) / 2


@pytest.mark.parametrize("shift", [-40.0, 40.0])
def test_zero_keeps_a_step_of_its_own(shift: float) -> None:
    """A zero point outside -128..127 cannot be written, so that logits far from zero get the converter's own range."""
    values = np.random.default_rng(0).normal(shift, 3, size=(300, 10))
    low, high = logits.best_range(values)
    assert low <= 0 <= high
    assert error(values, low, high) <= error(values, min(values.min(), 0), max(values.max(), 0))


def test_the_file_has_that_range(
    serving_graph: ServingGraph, tflite_files: dict[str, Path], photographs: tuple[Path, ...], pixels: np.ndarray
) -> None:
    found = logits.of_graph(serving_graph.graph_def(), [pixels.astype(np.float32)], INPUT)
    assert found is not None
    low, high = logits.best_range(found)
    tensor = logits_tensor(parsed(tflite_files["int8"]))
    assert float(tensor.quantization.scale[0]) == pytest.approx((high - low) / 255, rel=1e-3)
    assert int(tensor.quantization.zeroPoint[0]) == round(-128 - low / ((high - low) / 255))


def test_kernels_compute_with_it(
    serving_graph: ServingGraph,
    tflite_files: dict[str, Path],
    photographs: tuple[Path, ...],
    pixels: np.ndarray,
    classifier: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a range that holds nothing but the largest logits all others are clipped, and the answers show it."""
    monkeypatch.setattr(logits, "best_range", lambda values: (-0.01, 0.0))
    options = tflite.Options(calibration=photographs)
    flat = tflite.convert(serving_graph, "int8", tmp_path, options)
    answers = tflite.runner(flat, classifier.contract, 1).predict(pixels)
    np.testing.assert_allclose(answers, 1 / 3, atol=0.01)


def test_only_a_dense_layer_before_one_softmax(tflite_files: dict[str, Path]) -> None:
    assert logits.set_range(parsed(tflite_files["int8"]), schema, -1.0, 1.0)
    assert not logits.set_range(parsed(tflite_files["float32"]), schema, -1.0, 1.0)
    without = parsed(tflite_files["int8"])
    without.subgraphs[0].operators.pop(-2)
    assert not logits.set_range(without, schema, -1.0, 1.0)
