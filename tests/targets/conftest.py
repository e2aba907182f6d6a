from __future__ import annotations

from pathlib import Path

import pytest

from leafport.export.graph import ServingGraph
from leafport.targets import tflite


@pytest.fixture(scope="session")
def tflite_files(
    serving_graph: ServingGraph, photographs: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The serving graph as a .tflite file of each variant, but those that are made only when asked for."""
    out = tmp_path_factory.mktemp("tflite")
    options = tflite.Options(calibration=photographs)
    return {
        variant: tflite.convert(serving_graph, variant, out, options)
        for variant, facts in tflite.VARIANTS.items()
        if not facts.asked
    }
