"""Mixed files: nearly all in 8 bits, and the worst of it in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport.errors import ConversionError
from leafport.export.graph import ServingGraph
from leafport.targets import tflite
from leafport.targets.tflite import mixed
from leafport.targets.tflite.mixed import search


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ten operations, of which a "file" holds the names of those that stay float."""
    found = [f"operation {index}" for index in range(10)]
    monkeypatch.setattr(mixed, "_operations", lambda calibrated: found)
    monkeypatch.setattr(mixed, "quantise", lambda calibrated, kept, per_channel_dense: "|".join(kept).encode())
    return found


TRUE = np.eye(4)[np.arange(100) % 4]


def spoilt(kept: bytes, worst: dict[str, int]) -> np.ndarray:
    """Answers of which each operation in 8 bits turns some, in turn, into another class."""
    found, start = TRUE.copy(), 0
    for name, count in worst.items():
        if name not in kept.decode().split("|"):
            found[start : start + count] = np.roll(found[start : start + count], 1, axis=1)
        start += count
    return found


@pytest.mark.parametrize(("goal", "kept"), [(0.8, 1), (0.9, 2), (0.95, 3), (0.97, 4), (1.0, 5)])
def test_the_fewest_that_help_most_stay_float(names: list[str], goal: float, kept: int) -> None:
    worst = {"operation 7": 12, "operation 2": 6, "operation 9": 5, "operation 0": 3, "operation 4": 2}
    found = search(b"", TRUE, lambda model: spoilt(model, worst), goal=goal, per_channel_dense=False)
    assert found.kept == tuple(worst)[:kept]
    assert found.agreement >= goal


def test_what_needs_no_float_is_refused(names: list[str]) -> None:
    with pytest.raises(ConversionError, match=r"already agrees on 100\.0% of 100 .*tflite-int8"):
        search(b"", TRUE, lambda model: TRUE, goal=0.98, per_channel_dense=False)


def test_what_float_does_not_help_is_refused(names: list[str]) -> None:
    with pytest.raises(ConversionError, match=r"every operation in float it agrees on 0\.0% only, not 98\.0%"):
        search(b"", TRUE, lambda model: np.roll(TRUE, 1, axis=1), goal=0.98, per_channel_dense=False)


def test_a_file_is_int8_and_float(
    serving_graph: ServingGraph, tflite_files: dict[str, Path], pixels: np.ndarray
) -> None:
    contract, facts = serving_graph.contract, tflite.inspect(tflite_files["mixed"])
    assert tflite.broken_claims("mixed", facts, contract) == []
    assert facts.weights["int8"] > 0 and facts.weights["float32"] > 0
    assert 0 < facts.notes["float_share"] < 1
    assert facts.inputs[0].dtype == facts.outputs[0].dtype == "float32"
    found = tflite.runner(tflite_files["mixed"], contract, 1).predict(pixels)
    true = serving_graph.function(batch=None)(image=pixels.astype(np.float32))["probabilities"].numpy()
    assert np.abs(found - true).max() < 0.2
    broken = tflite.broken_claims("mixed", tflite.inspect(tflite_files["int8"]), contract)
    assert "it stores int8 weights, not int8 and float ones" in broken


def test_the_search_runs_on_photographs(
    serving_graph: ServingGraph, photographs: tuple[Path, ...], tmp_path: Path
) -> None:
    """The small network loses nothing in 8 bits, and the refusal says so with real answers."""
    options = tflite.Options(calibration=photographs, validation=photographs, mixed_agreement=0.5)
    with pytest.raises(ConversionError, match=rf"already agrees on .* of {len(photographs)} validation photographs"):
        tflite.convert(serving_graph, "mixed", tmp_path, options)
    with pytest.raises(ConversionError, match="photographs of the validation split"):
        tflite.convert(serving_graph, "mixed", tmp_path, tflite.Options(calibration=photographs))
    with pytest.raises(ConversionError, match="photographs of the training split"):
        tflite.convert(serving_graph, "mixed", tmp_path, tflite.Options())
