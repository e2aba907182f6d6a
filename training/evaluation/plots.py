"""The pictures of an evaluation: each drawn once, kept as a PNG file and put into the page as SVG.

They are drawn in the light colours of the page's style sheet. In the page each of these becomes the style sheet's own
variable, so that pictures turn dark with it.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport.training.evaluation.learning import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#1d2419",
    "muted": "#5c6455",
    "line": "#dfdccf",
    "surface": "#fffefa",
    "leaf": "#2f6b3a",
    "bad": "#b3261e",
    "t0": "#0072b2",
    "t1": "#d55e00",
}
"""Names and values of ``page.css``."""

RIGHT, WRONG = "#3a9a58", "#d9483b"
"""Of confusion matrices: between the light and the dark page's green and red, as the picture of the cells has one."""
INK, MUTED, LINE, SURFACE, LEAF, BAD, BLUE, ORANGE = COLOURS.values()
STYLE: Any = {
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "figure.facecolor": SURFACE,
    "font.size": 9.0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.facecolor": SURFACE,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.color": MUTED,
    "ytick.major.size": 0.0,
}
SIZE = (4.2, 3.4)
"""Inches: a third of the page's width, and the whole of a phone's."""
MOST_COUNTED, MOST_NAMED = 20, 150
"""Up to so many classes a confusion matrix has its counts written in, and its rows and columns named."""


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn


@_styled
def learning(history: Sequence[Point], quantity: str) -> Figure:
    """The ``loss`` or ``accuracy`` of every epoch, on training and validation photographs, stage after stage."""
    figure, axis = _figure()
    values = {
        "training": (BLUE, [getattr(epoch, quantity) for epoch in history]),
        "validation": (ORANGE, [getattr(epoch, f"val_{quantity}") for epoch in history]),
    }
    numbers = np.arange(1, len(history) + 1)
    stages = list(dict.fromkeys(epoch.stage for epoch in history))
    starts = [next(i for i, epoch in enumerate(history) if epoch.stage == stage) for stage in stages]
    for name, (colour, line) in values.items():
        for start, end in zip(starts, [*starts[1:], len(history)], strict=True):
            marker = "o" if end - start == 1 else None
            label = name if start == 0 else None
            axis.plot(numbers[start:end], line[start:end], color=colour, marker=marker, linewidth=1.6, label=label)
    for number, (start, stage) in enumerate(zip(starts, stages, strict=True)):
        # Above the field: the first from the left, the last to the right, where the next one's name has room too.
        last = number and number == len(stages) - 1
        place = len(history) if last else start + 1
        above = ("data", "axes fraction")
        align = "right" if last else "left"
        axis.annotate(stage, (place, 1.02), xycoords=above, ha=align, color=MUTED, fontsize=8)
        if start:
            axis.axvline(start + 0.5, color=MUTED, linestyle=":", linewidth=1)
    axis.set_xlabel("epoch")
    axis.set_ylabel({"loss": "cross-entropy, nats", "accuracy": "top-1 accuracy"}[quantity])
    if quantity == "accuracy":
        axis.set_ylim(0, 1)
    axis.legend(loc="best")
    return figure


@_styled
def confusion(matrix: np.ndarray, labels: Sequence[str]) -> Figure:
    """int [classes, classes]: of each class (row) the share that was called each class (column).

    Right answers are green, wrong ones red, the deeper the larger their share of the row.
    """
    classes = len(labels)
    side = min(max(SIZE[0], 0.155 * classes + 2.2), 40)
    figure, axis = _figure((side, side))
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, where=totals > 0, out=np.zeros(matrix.shape))
    shown = np.zeros((classes, classes, 4))
    for colour, where in ((RIGHT, np.eye(classes, dtype=bool)), (WRONG, ~np.eye(classes, dtype=bool))):
        shown[where, :3] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    shown[..., 3] = shares
    axis.grid(False)
    axis.imshow(shown, interpolation="none", aspect="equal")
    if classes <= MOST_NAMED:
        size = 9 if classes <= MOST_COUNTED else 7
        axis.set_xticks(range(classes), labels, rotation=90, fontsize=size, parse_math=False)
        axis.set_yticks(range(classes), labels, fontsize=size, parse_math=False)
    for edge in np.arange(classes + 1) - 0.5 if classes <= MOST_NAMED else ():
        axis.axhline(edge, color=LINE, linewidth=0.4)
        axis.axvline(edge, color=LINE, linewidth=0.4)
    axis.set_xlabel("called")
    axis.set_ylabel("is")
    for row, column in np.argwhere(matrix > 0) if classes <= MOST_COUNTED else ():
        colour = SURFACE if shares[row, column] > 0.55 else INK
        axis.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour)
    return figure


@_styled
def reliability(bins: Sequence[dict[str, Any]]) -> Figure:
    """How often the answers of each level of confidence are right, with intervals, beside the diagonal they should
    lie on. ``bins`` are those of evaluation.json."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    filled = [one for one in bins if one["n"]]
    width = 0.9 / len(bins)
    middles = [(one["low"] + one["high"]) / 2 for one in filled]
    right = np.array([one["accuracy"] for one in filled])
    ends = np.array([one["interval"] for one in filled]).T
    upper.plot((0, 1), (0, 1), color=MUTED, linestyle="--", linewidth=1)
    upper.bar(middles, right, width, color=LEAF, alpha=0.75)
    upper.errorbar(middles, right, np.abs(ends - right), fmt="none", ecolor=INK, elinewidth=0.9)
    upper.set_ylabel("share right")
    upper.set_ylim(0, 1)
    lower.bar(middles, [one["n"] for one in filled], width, color=MUTED)
    lower.set_ylabel("number")
    lower.set_xlabel("probability of the answer")
    lower.set_xlim(0, 1)
    figure.align_ylabels()
    return figure


@_styled
def roc(score: np.ndarray, positive: np.ndarray, chosen: dict[str, Any]) -> Figure:
    """The share of dangerous photographs found (score float [N], positive bool [N]) against that of false alarms.

    ``chosen`` is ``binary`` of evaluation.json, whose threshold is marked.
    """
    from sklearn.metrics import roc_curve

    alarms, found, _ = roc_curve(positive, score)
    figure, axis = _figure()
    axis.plot((0, 1), (0, 1), color=MUTED, linestyle="--", linewidth=1)
    axis.plot(alarms, found, color=BLUE, linewidth=1.6)
    _mark(axis, chosen["false_alarm_rate"], chosen["recall"], chosen["threshold"])
    axis.set_xlabel("harmless ones called dangerous")
    axis.set_ylabel("dangerous ones found")
    return figure


@_styled
def precision_recall(score: np.ndarray, positive: np.ndarray, chosen: dict[str, Any]) -> Figure:
    """The share of alarms that are right against that of dangerous photographs found; arguments as of ``roc``."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(positive, score, drop_intermediate=True)
    figure, axis = _figure()
    axis.axhline(positive.mean(), color=MUTED, linestyle="--", linewidth=1)
    axis.plot(recall, precision, color=BLUE, linewidth=1.6, drawstyle="steps-post")
    if chosen["precision"] is not None:
        _mark(axis, chosen["recall"], chosen["precision"], chosen["threshold"])
    axis.set_xlabel("dangerous ones found")
    axis.set_ylabel("alarms that are right")
    return figure


@_styled
def scores(
    score: np.ndarray, positive: np.ndarray, chosen: dict[str, Any], band: tuple[float, float] | None = None
) -> Figure:
    """How the scores of dangerous (upwards) and harmless photographs are spread, and the threshold between them.

    ``band`` is the contract's not-sure band, which is shaded.
    """
    figure, axis = _figure()
    clipped = np.clip(score.astype(np.float64), 1e-5, 1 - 1e-5)
    edges = 1 / (1 + np.exp(-np.linspace(-1, 1, 37) * np.log(1e5)))
    middles, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    for kind, colour, sign, name in ((positive, BAD, 1, "dangerous"), (~positive, LEAF, -1, "harmless")):
        counts = np.histogram(clipped[kind], edges)[0]
        axis.bar(middles, sign * counts, widths, color=colour, alpha=0.75, label=name)
    axis.set_xscale("logit")
    if band:
        low, high = np.clip(band, edges[0], edges[-1])
        axis.axvspan(low, high, color=MUTED, alpha=0.15, linewidth=0)
    axis.set_xlim(edges[0], edges[-1])
    ticks = {1e-5: "0", 1e-3: "0.1 %", 0.1: "10 %", 0.5: "50 %", 0.9: "90 %", 1 - 1e-3: "99.9 %", 1 - 1e-5: "100 %"}
    axis.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.axvline(np.clip(chosen["threshold"], 1e-5, 1 - 1e-5), color=INK, linestyle="--", linewidth=1.2)
    axis.set_xlabel("probability of danger; dashed: the threshold")
    axis.set_ylabel("photographs")
    axis.legend(loc="lower right")
    return figure


def png(figure: Figure) -> bytes:
    """The picture as a PNG file."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()


def svg(figure: Figure, name: str, description: str) -> str:
    """The picture as an ``svg`` element for the page: no size of its own, no colours but the page's.

    Args:
        name: differs from that of every other picture of the page, so that their inner names differ too.
        description: what it shows, for those who cannot see it.
    """
    import matplotlib
    from markupsafe import escape

    buffer = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=unsaid, transparent=True)
    text = buffer.getvalue()
    view = re.search(r'<svg[^>]* (viewBox="[^"]*")', text)
    assert view is not None
    body = text[text.index(">", view.start()) + 1 :]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    for variable, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    return f'<svg class="drawn" {view[1]} role="img" aria-label="{escape(description)}">{body}'


def _figure(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # Not pyplot: no window, no global state.

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _mark(axis: Axes, x: float, y: float, threshold: float) -> None:
    """The point that was chosen, and its threshold beside it, on the side that has room."""
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.plot([x], [y], "o", color=BAD, markersize=7, zorder=3)
    left = x > 0.6
    axis.annotate(
        f"threshold {threshold:g}",
        (x, y),
        xytext=(-9 if left else 9, -14),
        textcoords="offset points",
        ha="right" if left else "left",
        color=BAD,
    )
