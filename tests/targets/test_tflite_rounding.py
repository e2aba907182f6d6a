"""Weights that were rounded for a .tflite file: the converter rounds them no further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport.export import pixels, rounding
from leafport.export.graph import ServingGraph
from leafport.targets.tflite.facts import LARGE_WEIGHTS


@pytest.mark.parametrize("variant", ["dynamic", "int8"])
def test_the_converter_rounds_no_further(
    serving_graph: ServingGraph,
    tflite_files: dict[str, Path],
    photographs: tuple[Path, ...],
    tmp_path: Path,
    variant: str,
) -> None:
    from tensorflow.python.framework import tensor_util

    at_least = LARGE_WEIGHTS if variant == "dynamic" else 0
    source = pixels.taken_directly(serving_graph, tmp_path / "pixels.pb") if variant == "int8" else serving_graph
    made = rounding.fitted(source, photographs, tmp_path / "rounded.pb", at_least=at_least).graph_def()
    layers = list(rounding._layers(made, at_least))
    stored = weights_of(tflite_files[variant])
    assert len(layers) == (1 if variant == "dynamic" else 5)
    for layer in layers:
        weights = np.sort(tensor_util.MakeNdarray(layer.weights.attr["value"].tensor), axis=None)
        assert any(len(one) == len(weights) and np.allclose(one, weights, rtol=1e-5, atol=1e-7) for one in stored)


def weights_of(path: Path) -> list[np.ndarray]:
    """The int8 tensors that a file stores, as the floats they stand for, sorted."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    found = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.INT8 and data is not None and len(data):
            values = np.frombuffer(bytes(data), np.int8).reshape(tensor.shape).astype(np.float64)
            scale = np.asarray(tensor.quantization.scale, np.float64)
            if len(scale) > 1:
                axis = tensor.quantization.quantizedDimension
                scale = scale.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
            found.append(np.sort(values * scale, axis=None))
    return found
