"""The .tflite files in the interpreter that old phones and boards have."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from leafport.export.graph import ServingGraph
from leafport.targets import tflite
from tests import environments

NAME = "tflite-runtime-2.14"

RUN = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
pixels, answers, path = sys.argv[1:]
interpreter = Interpreter(model_path=path, num_threads=1)
interpreter.allocate_tensors()
image, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
rows = []
for pixel in np.load(pixels):
    interpreter.set_tensor(image["index"], pixel[None].astype(image["dtype"]))
    interpreter.invoke()
    rows.append(interpreter.get_tensor(result["index"])[0])
np.save(answers, rows)
"""


@pytest.mark.environment(NAME)
@pytest.mark.parametrize("variant", tflite.VARIANTS)
def test_an_old_interpreter_agrees_with_a_new_one(
    variant: str, serving_graph: ServingGraph, photographs: tuple[Path, ...], pixels: np.ndarray, tmp_path: Path
) -> None:
    python = environments.required(NAME)
    path = tflite.convert(serving_graph, variant, tmp_path, tflite.Options(calibration=photographs))
    np.save(tmp_path / "pixels.npy", pixels)
    answers = tmp_path / "answers.npy"
    command = [str(python), "-c", RUN, str(tmp_path / "pixels.npy"), str(answers), str(path)]
    finished = subprocess.run(command, text=True, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    new = tflite.runner(path, serving_graph.contract, threads=1).predict(pixels)
    np.testing.assert_array_equal(np.load(answers).argmax(axis=1), new.argmax(axis=1))
