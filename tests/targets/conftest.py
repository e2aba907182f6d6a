from __future__ import annotations

from pathlib import Path

import pytest

from leafport.export.graph import ServingGraph
from leafport.targets import tflite
from leafport.targets.tflite import conversion, mixed


@pytest.fixture(scope="session")
def tflite_files(
    serving_graph: ServingGraph, photographs: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The serving graph as a .tflite file of each variant; two operations of the mixed one stay float."""
    out = tmp_path_factory.mktemp("tflite")
    options = tflite.Options(calibration=photographs)

    def two_in_float(calibrated: bytes, *_: object) -> bytes:
        return mixed.quantise(calibrated, mixed._operations(calibrated)[2:4], per_channel_dense=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "_mixed", two_in_float)  # The search would find that none need stay so.
        return {variant: tflite.convert(serving_graph, variant, out, options) for variant in tflite.VARIANTS}
