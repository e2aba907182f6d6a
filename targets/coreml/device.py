"""Core ML itself, on a Mac."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.export.graph import INPUT
from leafport.targets.coreml.program import read_model


def present() -> bool:
    """Whether this machine has Core ML."""
    return sys.platform == "darwin"


class CoreMLRunner:
    """A Runner that lets Core ML choose among CPU, GPU and neural engine, as it does in an app.

    ``compute_units`` is a name of coremltools.ComputeUnit: ALL, CPU_ONLY, CPU_AND_GPU, CPU_AND_NE.
    """

    untimed = None

    def __init__(self, path: Path, contract: Contract, compute_units: str = "ALL"):
        """Compile and load the package. Raises ModelError when Core ML refuses it."""
        import coremltools

        _, saved = read_model(path)
        self._input = saved.description.input[0].name if saved.description.input else INPUT
        outputs = [feature.name for feature in saved.description.output]
        self._output = saved.description.predictedProbabilitiesName or next(iter(outputs), "")
        self.executes = f"Core ML, macOS {platform.mac_ver()[0]}, {compute_units}"
        self._labels = contract.labels
        try:
            self._model: Any = coremltools.models.MLModel(
                str(path), compute_units=coremltools.ComputeUnit[compute_units]
            )
        except Exception as problem:  # Core ML's errors arrive as plain Exceptions and RuntimeErrors.
            raise ModelError(f"Core ML cannot load {path}: {problem}") from problem

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (float32 [N, classes], the contract's order) of images (uint8 [N, H, W, 3], RGB)."""
        asked = [{self._input: Image.fromarray(image)} for image in images]
        answers = self._model.predict(asked) if asked else []
        rows = [self._in_order(answer[self._output]) for answer in answers]
        return np.array(rows, np.float32).reshape(len(images), len(self._labels))

    def _in_order(self, answer: Any) -> Any:
        """The probabilities of one photograph: by label, or as an array where the file names no labels."""
        return [answer[label] for label in self._labels] if isinstance(answer, dict) else np.ravel(answer)
