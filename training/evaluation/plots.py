"""The course of a training and the answers of what it made, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leafport.metrics import Bin, expected_calibration_error
from leafport.training.loop import Epoch

GREEN = "#4c7d5b"


def draw_history(path: Path, history: Sequence[Epoch]) -> None:
    """Write a PNG with loss and accuracy of every epoch, a column for each stage."""
    from matplotlib.figure import Figure  # Not pyplot: no window, no global state.

    stages = list(dict.fromkeys(epoch.stage for epoch in history))
    if not stages:
        return
    figure = Figure(figsize=(5 * len(stages), 6.5), layout="constrained")
    axes = figure.subplots(2, len(stages), squeeze=False, sharex="col", sharey="row")
    for column, stage in enumerate(stages):
        lines = [epoch for epoch in history if epoch.stage == stage]
        numbers = [epoch.epoch for epoch in lines]
        marker = "o" if len(lines) < 15 else None
        for row, (name, quantity) in enumerate((("loss", "cross-entropy"), ("accuracy", "top-1 accuracy"))):
            axis = axes[row][column]
            axis.plot(numbers, [getattr(e, name) for e in lines], marker=marker, label="training")
            axis.plot(numbers, [getattr(e, f"val_{name}") for e in lines], marker=marker, label="validation")
            axis.set_ylabel(quantity if column == 0 else "")
            axis.grid(alpha=0.3)
        axes[0][column].set_title(stage)
        axes[0][column].legend()
        axes[1][column].set_xlabel("epoch")
        axes[1][column].set_ylim(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_confusion(path: Path, matrix: np.ndarray, labels: Sequence[str]) -> None:
    """Write a PNG of int [classes, classes]: what photographs of each class (row) were called (column), as shares."""
    from matplotlib.figure import Figure

    classes = len(labels)
    side = max(4.5, 0.17 * classes + 2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    totals = matrix.sum(axis=1, keepdims=True)
    axis.imshow(np.divide(matrix, totals, where=totals > 0, out=np.zeros(matrix.shape)), cmap="Greens", vmin=0, vmax=1)
    size = 9 if classes < 20 else 6
    axis.set_xticks(range(classes), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(classes), labels, fontsize=size)
    axis.set_xlabel("called")
    axis.set_ylabel("is")
    if classes <= 20:
        for row, column in np.argwhere(matrix > 0):
            dark = matrix[row, column] > totals[row, 0] / 2
            text = str(matrix[row, column])
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    figure.savefig(path, dpi=130)


def draw_reliability(path: Path, bins: Sequence[Bin]) -> None:
    """Write a PNG: how often the classifier is right when it is so sure, against the diagonal it should lie on."""
    from matplotlib.figure import Figure

    filled = [one for one in bins if one.n]
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / len(bins)
    middles = [(one.low + one.high) / 2 for one in filled]
    upper.bar(middles, [one.accuracy for one in filled], width * 0.9, color=GREEN)
    upper.plot((0, 1), (0, 1), color="0.4", linestyle="--", linewidth=1)
    error = expected_calibration_error(tuple(bins))
    upper.set_title("" if error is None else f"expected calibration error {error:.3f}", loc="left")
    upper.set_ylabel("share of right answers")
    upper.set_ylim(0, 1)
    lower.bar(middles, [one.n for one in filled], width * 0.9, color="0.6")
    lower.set_ylabel("photographs")
    lower.set_xlabel("probability of the answer")
    lower.set_xlim(0, 1)
    figure.savefig(path, dpi=110)
