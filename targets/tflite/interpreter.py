"""Running .tflite files."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from leafport.contract import Contract
from leafport.errors import ModelError, TargetError
from leafport.targets.tflite.facts import read

_RUNTIMES = ("ai_edge_litert", "tflite_runtime")


def runner(path: Path, contract: Contract, threads: int = 1) -> TFLiteRunner:
    """Open a file with LiteRT, or with tflite-runtime where only that is installed."""
    for package in _RUNTIMES:
        try:
            interpreter = importlib.import_module(f"{package}.interpreter").Interpreter
        except ImportError:
            continue
        version = importlib.import_module(package).__version__
        read(path)
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
    if np.issubdtype(dtype, np.floating) or dtype == np.uint8:
        return pixels.astype(
            dtype, copy=False
        )  # uint8 is fed with pixels as they are, whatever they mean to the model.
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(dtype)
    quantised: np.ndarray = np.round(pixels / scale + zero_point).clip(limits.min, limits.max).astype(dtype)
    return quantised


def _dequantise(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    if np.issubdtype(tensor["dtype"], np.floating):
        return values.astype(np.float32)
    real: np.ndarray = ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)
    return real
