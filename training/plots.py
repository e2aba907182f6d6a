"""The course of a training, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leafport.training.loop import Epoch


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
