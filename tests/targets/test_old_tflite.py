"""The .tflite files in the interpreter that old phones and boards have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport.export.graph import ServingGraph
from leafport.targets import tflite
from tests import environments, old_tflite


@pytest.mark.environment(old_tflite.NAME)
@pytest.mark.parametrize("variant", tflite.VARIANTS)
def test_an_old_interpreter_agrees_with_a_new_one(
    variant: str, serving_graph: ServingGraph, tflite_files: dict[str, Path], pixels: np.ndarray
) -> None:
    python = environments.required(old_tflite.NAME)
    path = tflite_files[variant]
    old = old_tflite.old_answers(python, path, pixels)
    new = tflite.runner(path, serving_graph.contract, threads=1).predict(pixels)
    np.testing.assert_array_equal(old.argmax(axis=1), new.argmax(axis=1))
    if variant.startswith("int8"):
        np.testing.assert_array_equal(old, old_tflite.new_answers(path, pixels, xnnpack=False))
