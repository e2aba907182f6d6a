"""How predictions are timed, on a host and on a device: warm-up, then single predictions, each on its own.

Copied into kits, so it needs nothing but Python.
"""

import statistics
import time
from typing import Any, Callable, List, Sequence, Tuple  # noqa: F401  # In comments: Python 3.6 reads this.

WARMUP_RUNS, WARMUP_SECONDS = 5, 0.3
MIN_RUNS, FEWEST_RUNS, MAX_RUNS = 50, 30, 1000
MIN_SECONDS, MAX_SECONDS = 1.0, 10.0
OPENINGS, OPENING_SECONDS = 5, 1.0
ROTATION = 16
"""So many photographs take turns, so that none is special."""


def times(predict, singles):
    # type: (Callable[[Any], Any], Sequence[Any]) -> Tuple[List[float], List[float]]
    """Warm-up and timed predictions, milliseconds each, in order; ``singles`` take turns."""
    warmup = []  # type: List[float]
    while len(warmup) < WARMUP_RUNS or (sum(warmup) < WARMUP_SECONDS * 1e3 and len(warmup) < MAX_RUNS):
        warmup.append(timed(predict, singles[len(warmup) % len(singles)]))
    samples = []  # type: List[float]
    total = 0.0
    while not enough(len(samples), total / 1e3):
        samples.append(timed(predict, singles[len(samples) % len(singles)]))
        total += samples[-1]
    return warmup, samples


def enough(runs, seconds):
    # type: (int, float) -> bool
    """Whether so many timed predictions, which took so long together, will do."""
    return (
        runs >= MAX_RUNS
        or (runs >= MIN_RUNS and seconds >= MIN_SECONDS)
        or (runs >= FEWEST_RUNS and seconds >= MAX_SECONDS)
    )


def timed(predict, image):
    # type: (Callable[[Any], Any], Any) -> float
    """Milliseconds that one prediction takes."""
    started = time.perf_counter()
    predict(image)
    return round((time.perf_counter() - started) * 1e3, 5)


def openings(open_it, image):
    # type: (Callable[[], Callable[[Any], Any]], Any) -> Tuple[float, float]
    """Medians of opening a file and of its first prediction, in milliseconds; its runtime's libraries are loaded."""
    loads = []  # type: List[float]
    firsts = []  # type: List[float]
    began = time.monotonic()
    while len(loads) < OPENINGS and (not loads or time.monotonic() - began < OPENING_SECONDS):
        started = time.perf_counter()
        predict = open_it()
        loads.append((time.perf_counter() - started) * 1e3)
        firsts.append(timed(predict, image))
        del predict
    return round(statistics.median(loads), 5), round(statistics.median(firsts), 5)
