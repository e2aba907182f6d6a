"""Where things lie in a report's pictures: the size-latency plot and the strips of latencies. Templates draw them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from leafport.benchmarks.report import Artifact, Report
from leafport.benchmarks.verdict import near
from leafport.wording import digits, percent

SLOTS = ("tflite", "coreml", "onnx", "tftrt", "savedmodel", "keras")
SHAPES = (
    "M0-5.6A5.6 5.6 0 1 1 0 5.6A5.6 5.6 0 1 1 0-5.6Z",  # circle
    "M-5-5H5V5H-5Z",  # square
    "M0-6.6L6.2 4.6H-6.2Z",  # triangle
    "M0-7L7 0L0 7L-7 0Z",  # diamond
    "M0 6.6L6.2-4.6H-6.2Z",  # triangle on its tip
    "M-2.2-6.2H2.2V-2.2H6.2V2.2H2.2V6.2H-2.2V2.2H-6.2V-2.2H-2.2Z",  # cross
    "M-3.2-6H3.2L6.6 0L3.2 6H-3.2L-6.6 0Z",  # hexagon
)
COLOURS = 7
BINS = 120
_CHARACTER, _LINE = 6.5, 15.0
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_BOTTOM, _STRIP_ROW = 58.0, 12.0, 46.0, 22.0


@dataclass(frozen=True)
class Mark:
    """An artifact in the plot. ``slot`` chooses colour and shape; ``solid``: top-1 within a point of Keras's."""

    name: str
    target: str
    slot: int
    solid: bool
    top1: str
    x: float
    y: float
    text_x: float
    text_y: float
    anchor: str
    leader: bool


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A plot of ``width`` x ``height``: the field (left, top, right, bottom), its ticks and marks.

    ``strip`` is the height of the band above the field for artifacts whose latency was not measured; 0 for none.
    """

    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    strip: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Strip:
    """One artifact's latencies along the common axis, all in percent of its length."""

    name: str
    slot: int
    bars: tuple[tuple[float, float, float], ...]
    median: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Strips:
    ticks: tuple[Tick, ...]
    rows: tuple[Strip, ...]


Box = tuple[float, float, float, float]


def slot(target: str, targets: Iterable[str] = ()) -> int:
    """The colour and shape of a target: the built-in ones always have their own."""
    if target in SLOTS:
        return SLOTS.index(target)
    others = sorted(set(targets) - set(SLOTS))
    return len(SLOTS) + (others.index(target) if target in others else 0) % (COLOURS - len(SLOTS))


def plot(report: Report, width: float = 1160.0, field_height: float = 400.0) -> Plot | None:
    """The size-latency plot of a report, both axes logarithmic; None when there is nothing to show."""
    rows = [row for row in report.artifacts if row.valid and row.accuracy and row.size_bytes]
    if not rows:
        return None
    left, right = _MARGIN_LEFT, width - _MARGIN_RIGHT
    x_axis = _Axis([row.size_bytes / 1e6 for row in rows if row.size_bytes], left, right, spacing=52)
    timed = [row for row in rows if row.latency_ms]
    lanes = _lanes([row for row in rows if not row.latency_ms], x_axis, report)
    strip = (max((lane for *_, lane in lanes), default=-1) + 1) * _STRIP_ROW + (26.0 if lanes else 0.0)
    top = strip + (14.0 if lanes else 8.0)
    bottom = top + field_height
    y_axis = _Axis([row.latency_ms.median for row in timed if row.latency_ms] or [1.0], bottom, top, spacing=26)
    places = [
        (row, x_axis.at((row.size_bytes or 1) / 1e6), y_axis.at(row.latency_ms.median))
        for row in timed
        if row.latency_ms
    ]
    marks = [*_labelled(report, places, (left, top, right, bottom))]
    for row, text_x, anchor, lane in lanes:
        y = 26.0 + lane * _STRIP_ROW + _STRIP_ROW / 2
        x = x_axis.at((row.size_bytes or 1) / 1e6)
        marks.append(_mark(report, row, (x, y), (text_x, y + 4, anchor), leader=False))
    height = bottom + _MARGIN_BOTTOM
    y_ticks = y_axis.ticks("ms") if timed else ()
    return Plot(width, height, left, top, right, bottom, strip, x_axis.ticks("MB"), y_ticks, tuple(marks))


def strips(report: Report) -> Strips | None:
    """Every timed artifact's latencies along one logarithmic axis; None when nothing was timed."""
    timed = [row for row in report.rows if row.valid and row.latency_ms]
    if not timed:
        return None
    axis = _Axis(
        [value for row in timed if row.latency_ms for value in row.latency_ms.samples], 0.0, 100.0, spacing=12, pad=1.1
    )
    return Strips(axis.ticks("ms"), tuple(_strip(report, row, axis) for row in timed))


def _strip(report: Report, row: Artifact, axis: _Axis) -> Strip:
    assert row.latency_ms is not None
    where = [axis.at(value) for value in row.latency_ms.samples]
    counts, edges = np.histogram(where, bins=BINS, range=(0, 100))
    top = max(1, int(counts.max()))
    bars = tuple(
        (round(float(edge), 3), round(100 / BINS, 3), round(0.15 + 0.85 * math.sqrt(n / top), 3))
        for n, edge in zip(counts, edges, strict=False)
        if n
    )
    middle, p90, p99 = (
        round(axis.at(value), 3) for value in (row.latency_ms.median, row.latency_ms.p90, row.latency_ms.p99)
    )
    return Strip(row.name, _slot(report, row), bars, middle, p90, p99)


class _Axis:
    """A logarithmic axis from ``start`` to ``end``, either the larger, that shows all of ``values``.

    ``spacing`` is the least distance of two ticks.
    """

    def __init__(self, values: list[float], start: float, end: float, *, spacing: float, pad: float = 1.45) -> None:
        low, high = max(min(values), 1e-6) / pad, max(*values, 1e-6, 0) * pad
        if high / low < 4:  # Nearly equal values must not look far apart.
            middle = math.sqrt(low * high)
            low, high = middle / 2, middle * 2
        self.low, self.high, self.start, self.end, self.spacing = low, high, start, end, spacing

    def at(self, value: float) -> float:
        share = math.log(max(value, 1e-6) / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, unit: str) -> tuple[Tick, ...]:
        """Round values, as many as have room."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks: tuple[Tick, ...] = ()
        for steps in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
            values = [step * 10.0**power for power in powers for step in steps]
            ticks = tuple(Tick(self.at(v), f"{_short(v)} {unit}") for v in values if self.low < v < self.high)
            if all(abs(b.at - a.at) >= self.spacing for a, b in itertools.pairwise(ticks)):
                break
        return ticks


def _short(value: float) -> str:
    return f"{value:g}" if value >= 1e-4 else digits(value)


def _lanes(rows: list[Artifact], axis: _Axis, report: Report) -> list[tuple[Artifact, float, str, int]]:
    """Text position, anchor and lane in the strip of each untimed artifact, so that none covers another."""
    ends: list[list[tuple[float, float]]] = []
    placed = []
    for row in sorted(rows, key=lambda row: row.size_bytes or 0):
        x, width = axis.at((row.size_bytes or 1) / 1e6), _text_width(row)
        fits_right = x + 12 + width <= max(axis.start, axis.end)
        text_x, anchor = (x + 12, "start") if fits_right else (x - 12, "end")
        span = (x - 9, text_x + width) if fits_right else (text_x - width, x + 9)
        for lane in itertools.count():
            if lane == len(ends):
                ends.append([])
            if all(span[1] + 4 < other[0] or other[1] + 4 < span[0] for other in ends[lane]):
                ends[lane].append(span)
                placed.append((row, text_x, anchor, lane))
                break
    return placed


def _labelled(report: Report, places: list[tuple[Artifact, float, float]], field: Box) -> Iterable[Mark]:
    """Marks whose names stand beside them and, where there is room, cover nothing."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for _, x, y in places]
    for row, x, y in sorted(places, key=lambda place: (place[2], place[1])):
        best = min(_candidates(x, y, _text_width(row)), key=lambda option: (_cost(option[1], taken, field), option[2]))
        (text_x, text_y, anchor), box, distance = best
        taken.append(box)
        yield _mark(report, row, (x, y), (text_x, text_y, anchor), leader=distance > 20)


def _candidates(x: float, y: float, width: float) -> Iterable[tuple[tuple[float, float, str], Box, float]]:
    """Places for a name near (x, y): text position and anchor, the box it fills, and how far away that is."""
    for distance in (11, 20, 32, 46, 62, 80, 100):
        for degrees in (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90):
            angle = math.radians(degrees)
            text_x, middle = x + distance * math.cos(angle), y + distance * math.sin(angle)
            if abs(degrees) == 90:
                anchor, left = "middle", text_x - width / 2
            elif abs(degrees) < 90:
                anchor, left = "start", text_x
            else:
                anchor, left = "end", text_x - width
            box = (left, middle - _LINE / 2, left + width, middle + _LINE / 2)
            yield (round(text_x, 2), round(middle + 4, 2), anchor), box, distance + abs(math.sin(angle))


def _cost(box: Box, taken: list[Box], field: Box) -> float:
    """How much of a box is covered or outside the field, in square pixels."""
    inside = _overlap(box, field)
    return round((box[2] - box[0]) * (box[3] - box[1]) - inside + sum(_overlap(box, other) for other in taken), 3)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _mark(
    report: Report, row: Artifact, at: tuple[float, float], text: tuple[float, float, str], *, leader: bool
) -> Mark:
    assert row.accuracy is not None
    return Mark(
        name=row.name,
        target=row.target,
        slot=_slot(report, row),
        solid=near(report, row),
        top1=percent(row.accuracy.top1),
        x=at[0],
        y=at[1],
        text_x=text[0],
        text_y=text[1],
        anchor=text[2],
        leader=leader,
    )


def _slot(report: Report, row: Artifact) -> int:
    return slot(row.target, [other.target for other in report.rows])


def _text_width(row: Artifact) -> float:
    return _CHARACTER * (len(row.name) + 8)
