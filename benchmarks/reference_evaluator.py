"""How long Core ML's reference evaluator takes for photographs, beside the Keras model, in one process and one run.

    python -m leafport.benchmarks.reference_evaluator EXPORTS

They take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from leafport import images
from leafport.benchmarks import bench
from leafport.benchmarks.photographs import choose
from leafport.classifier import Classifier
from leafport.cli import run, terminal
from leafport.targets import coreml

ROUNDS = 5
Predict = Callable[[np.ndarray], np.ndarray]


@click.command()
@click.argument("exports", metavar="EXPORTS", type=click.Path(path_type=Path))
@click.option("--limit", default=96, show_default=True, type=click.IntRange(1), help="Photographs a round.")
def command(exports: Path, limit: int) -> None:
    """Time the reference evaluator with each Core ML file in the folder EXPORTS, beside the Keras model."""
    subject = bench.exported(exports, ["coreml"], None)
    contract, (keras, *candidates) = subject.contract, subject.candidates
    photographs = choose(None, subject.splits, contract, limit=limit, progress=lambda what, done, total: None)
    pixels = np.concatenate(list(images.batches(photographs.paths, contract.image)))
    assert keras.path is not None
    predictors: dict[str, Predict] = {"keras": Classifier.load(keras.path).predict}
    for one in candidates:
        if one.path is not None:
            predictors[one.head["name"]] = coreml.runner(one.path, contract, 1).predict
    seconds = compared(predictors, pixels)
    table = terminal.table("file", "seconds>", "times Keras>")
    for name, taken in seconds.items():
        table.add_row(name, f"{taken:.2f}", f"{taken / seconds['keras']:.2f}")
    terminal.out.print(table)
    terminal.out.print(f"Median of {ROUNDS} rounds of {len(pixels)} photographs.")


def compared(predictors: dict[str, Predict], pixels: np.ndarray) -> dict[str, float]:
    """Median seconds that each takes for photographs (uint8 [N, H, W, 3]), taking turns; the first does not count."""
    taken: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(1 + ROUNDS):
        for name, predict in predictors.items():
            started = time.perf_counter()
            predict(pixels)
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


if __name__ == "__main__":
    run(command, sys.argv[1:], "python -m leafport.benchmarks.reference_evaluator")
