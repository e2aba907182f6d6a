"""Measuring one artifact in a process of its own, so that nothing else's memory or caches count.

The order matters: timed predictions first, on one photograph at a time, then the peak of memory is read, and only then
come accuracy (in batches) and the openings for the load time, neither of which may touch the figures before them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from leafport.benchmarks.report import KERAS
from leafport.contract import Contract
from leafport.export import inspection
from leafport.export.inspection import Scaling
from leafport.process import peak_rss_bytes
from leafport.targets.base import Runner

BATCH = 32
WARMUP_RUNS, WARMUP_SECONDS = 5, 0.3
MIN_RUNS, FEWEST_RUNS, MAX_RUNS = 50, 30, 1000
MIN_SECONDS, MAX_SECONDS = 1.0, 10.0
OPENINGS, OPENING_SECONDS = 5, 1.0
ROTATION = 16


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
    singles = [np.ascontiguousarray(photographs[i : i + 1]) for i in range(min(ROTATION, len(photographs)))]
    open_it = _opener(
        target, Path(path), Contract.from_json(contract), threads, Scaling(**scaling) if scaling else None
    )
    runner = open_it()
    timed = runner.untimed is None
    warmup, samples = _times(runner, singles) if timed else ([], [])
    if not timed:
        runner.predict(singles[0])
    peak = peak_rss_bytes()
    np.save(answers, _answers(runner, photographs))
    executes, untimed = runner.executes, runner.untimed
    del runner
    load_ms, first_ms = _openings(open_it, singles[0]) if timed else (None, None)
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


def _times(runner: Runner, singles: list[np.ndarray]) -> tuple[list[float], list[float]]:
    """Warm-up and timed predictions, milliseconds each, in order."""
    warmup: list[float] = []
    while len(warmup) < WARMUP_RUNS or (sum(warmup) < WARMUP_SECONDS * 1e3 and len(warmup) < MAX_RUNS):
        warmup.append(_time(runner.predict, singles[len(warmup) % len(singles)]))
    samples: list[float] = []
    total = 0.0
    while not _enough(len(samples), total / 1e3):
        samples.append(_time(runner.predict, singles[len(samples) % len(singles)]))
        total += samples[-1]
    return warmup, samples


def _enough(runs: int, seconds: float) -> bool:
    return (
        runs >= MAX_RUNS
        or (runs >= MIN_RUNS and seconds >= MIN_SECONDS)
        or (runs >= FEWEST_RUNS and seconds >= MAX_SECONDS)
    )


def _time(predict: Callable[[np.ndarray], Any], image: np.ndarray) -> float:
    started = time.perf_counter_ns()
    predict(image)
    return round((time.perf_counter_ns() - started) / 1e6, 5)


def _answers(runner: Runner, photographs: np.ndarray) -> np.ndarray:
    chunks = [
        np.asarray(runner.predict(np.ascontiguousarray(photographs[start : start + BATCH])), np.float32)
        for start in range(0, len(photographs), BATCH)
    ]
    return np.concatenate(chunks)


def _openings(open_it: Callable[[], Runner], image: np.ndarray) -> tuple[float, float]:
    """Medians of opening the artifact and of its first prediction; its runtime's libraries are loaded by now."""
    loads: list[float] = []
    firsts: list[float] = []
    began = time.monotonic()
    while len(loads) < OPENINGS and (not loads or time.monotonic() - began < OPENING_SECONDS):
        started = time.perf_counter_ns()
        runner = open_it()
        loads.append((time.perf_counter_ns() - started) / 1e6)
        firsts.append(_time(runner.predict, image))
        del runner
    return round(statistics.median(loads), 5), round(statistics.median(firsts), 5)
