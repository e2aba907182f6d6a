"""Measuring one artifact in a process of its own, so that nothing else's memory or caches count.

The order matters: timed predictions first, on one photograph at a time, then the peak of memory is read, and only then
come accuracy (in batches) and the openings for the load time, neither of which may touch the figures before them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from leafport.benchmarks.kits import timing
from leafport.benchmarks.report import KERAS
from leafport.contract import Contract
from leafport.export import inspection
from leafport.export.inspection import Scaling
from leafport.process import peak_rss_bytes
from leafport.targets.base import Runner

BATCH = 32


def measure(
    target: str,
    path: str,
    contract: dict[str, Any],
    scaling: dict[str, Any] | None,
    threads: int,
    images: str,
    answers: str,
) -> dict[str, Any]:
    """Measure one artifact and save its answers.

    Args:
        target: the target that opens it, or ``keras`` for a classifier's folder.
        path: the artifact.
        contract: its contract, as JSON.
        scaling: what becomes of a pixel before the artifact takes it; None for all that leafport wrote.
        threads: the number of threads the runtime may use.
        images: a .npy file, uint8 [N, H, W, 3]; read by memory-mapping.
        answers: where to save the probabilities, a .npy file, float32 [N, classes].

    Returns:
        executes; untimed (why there is no latency, or None); samples_ms and warmup_ms (raw, in order); load_ms and
        first_ms (medians); peak_rss_bytes. Times are None where the runtime is not one a device would use.
    """
    photographs = np.load(images, mmap_mode="r")
    # Copies, since a page fault in the mapped file is not the model's doing; several, so that no photograph is special.
    singles = [np.ascontiguousarray(photographs[i : i + 1]) for i in range(min(timing.ROTATION, len(photographs)))]
    open_it = _opener(
        target, Path(path), Contract.from_json(contract), threads, Scaling(**scaling) if scaling else None
    )
    runner = open_it()
    timed = runner.untimed is None
    warmup, samples = timing.times(runner.predict, singles) if timed else ([], [])
    if not timed:
        runner.predict(singles[0])
    peak = peak_rss_bytes()
    np.save(answers, _answers(runner, photographs))
    executes, untimed = runner.executes, runner.untimed
    del runner
    load_ms, first_ms = timing.openings(lambda: open_it().predict, singles[0]) if timed else (None, None)
    return {
        "executes": executes,
        "untimed": untimed,
        "warmup_ms": warmup,
        "samples_ms": samples,
        "load_ms": load_ms,
        "first_ms": first_ms,
        "peak_rss_bytes": peak,
    }


class KerasRunner:
    """The classifier itself, as ``Classifier.predict`` runs it."""

    untimed: str | None = None

    def __init__(self, path: Path) -> None:
        import keras
        import tensorflow as tf

        from leafport.classifier import Classifier

        self._classifier = Classifier.load(path)
        self.executes = f"Keras {keras.__version__} on TensorFlow {tf.__version__}"

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self._classifier.predict(images)


def _opener(target: str, path: Path, contract: Contract, threads: int, scaling: Scaling | None) -> Callable[[], Runner]:
    if target == KERAS:
        return lambda: KerasRunner(path)
    return lambda: inspection.open_runner(target, path, contract, threads, scaling)


def _answers(runner: Runner, photographs: np.ndarray) -> np.ndarray:
    chunks = [
        np.asarray(runner.predict(np.ascontiguousarray(photographs[start : start + BATCH])), np.float32)
        for start in range(0, len(photographs), BATCH)
    ]
    return np.concatenate(chunks)
