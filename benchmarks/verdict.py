"""What a report's figures say, in words. Everything here is derived; nothing is decided beforehand."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from leafport.benchmarks.figures import count, digits, listed, milliseconds, percent, size
from leafport.benchmarks.report import KERAS, Artifact, Report

NEAR = 0.01
SAME = 0.99
UNSTEADY = 1.5
BUSY = 0.1

Tone = Literal["good", "plain", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing the figures say: a question, its answer and what the answer rests on."""

    question: str
    answer: str
    detail: str
    tone: Tone = "plain"


def findings(report: Report) -> list[Finding]:
    """What to know before choosing a file, most wanted first."""
    found = [_smallest(report), _fastest(report), _same_answers(report), _alarms_lost(report), _unmeasured(report)]
    return [finding for finding in found if finding]


def sentence(report: Report) -> str:
    """The report in a sentence or two."""
    small, fast = smallest(report), fastest(report)
    if small is None or small.accuracy is None:
        return "No artifact could be measured."
    text = (
        f"{small.name} is the smallest file within 1 point of the best top-1: "
        f"{size(small.size_bytes)}, right on {percent(small.accuracy.top1)} of {count(small.accuracy.n, 'photograph')}."
    )
    if fast and fast.latency_ms:
        same = fast.name == small.name
        text += " It is also the fastest timed here" if same else f" {fast.name} is the fastest timed here"
        text += f", {milliseconds(fast.latency_ms.median)} a photograph on {count(report.threads, 'thread')}."
    if small.agreement and small.agreement.flips_to_safe:
        lost = count(small.agreement.flips_to_safe, "photograph")
        text += f" But it calls {lost} harmless that the Keras model calls dangerous."
    return text


def measured(report: Report) -> list[Artifact]:
    """The artifacts, without the Keras model, that have figures to believe."""
    return [row for row in report.artifacts if row.name != KERAS and row.valid and row.accuracy]


def best_top1(report: Report) -> float:
    """The best top-1 among the artifacts."""
    return max((row.accuracy.top1 for row in measured(report) if row.accuracy), default=0.0)


def near_best(report: Report, row: Artifact) -> bool:
    """Whether an artifact's top-1 is within a point of the best."""
    return bool(row.accuracy) and row.accuracy.top1 >= best_top1(report) - NEAR - 1e-9


def smallest(report: Report) -> Artifact | None:
    """The smallest artifact within a point of the best top-1."""
    near = [row for row in measured(report) if near_best(report, row) and row.size_bytes is not None]
    return min(near, key=lambda row: row.size_bytes or 0, default=None)


def fastest(report: Report) -> Artifact | None:
    """The artifact with the lowest median latency."""
    timed = [row for row in measured(report) if row.latency_ms]
    return min(timed, key=lambda row: row.latency_ms.median if row.latency_ms else 0, default=None)


def unsteady(row: Artifact) -> bool:
    """Whether a tenth of the timed predictions took far longer than the median one."""
    return row.latency_ms is not None and row.latency_ms.p90 > UNSTEADY * row.latency_ms.median


def remarks(report: Report) -> list[str]:
    """Why some figures should be read with care."""
    found = []
    if report.machine.busy is not None and report.machine.busy > BUSY:
        found.append(
            f"Other work used {percent(report.machine.busy)} of the processors when measuring began: "
            "latencies are upper bounds."
        )
    if shaky := [row.name for row in report.artifacts if unsteady(row)]:
        found.append(
            f"The latency of {listed(shaky)} was unsteady: a tenth of the predictions took over {UNSTEADY} times the median."
        )
    if report.data.split == "unknown":
        found.append("There is no record of what this model was trained on: some of these photographs may have been.")
    if len(report.artifacts) > 1 and report.keras is None:
        found.append("The Keras model itself could not be measured, so no artifact could be compared with it.")
    return found


def untimed(report: Report) -> list[tuple[str, list[str]]]:
    """Why latency is missing, and of which artifacts."""
    why: dict[str, list[str]] = defaultdict(list)
    for row in report.artifacts:
        if row.valid and row.latency_ms is None:
            why[(row.latency_reason or "").rstrip(".")].append(row.name)
    return list(why.items())


def _smallest(report: Report) -> Finding | None:
    row = smallest(report)
    if row is None or row.accuracy is None:
        return None
    best = max(measured(report), key=lambda other: other.accuracy.top1 if other.accuracy else 0)
    detail = f"{size(row.size_bytes)} ({size(row.zipped_bytes)} zipped), top-1 {percent(row.accuracy.top1)}"
    if best.accuracy and best.accuracy.top1 > row.accuracy.top1:
        detail += f"; the best is {best.name}, {percent(best.accuracy.top1)}"
    return Finding("Smallest within 1 point of the best top-1", row.name, f"{detail}.")


def _fastest(report: Report) -> Finding | None:
    row = fastest(report)
    if row is None or row.latency_ms is None:
        return None
    detail = f"{milliseconds(row.latency_ms.median)} median on {count(report.threads, 'thread')} of this machine"
    if report.keras and report.keras.latency_ms:
        ratio = report.keras.latency_ms.median / max(row.latency_ms.median, 1e-6)
        detail += f", {digits(ratio)} times as fast as Keras"
    if not near_best(report, row) and row.accuracy:
        detail += f"; but more than a point below the best top-1, at {percent(row.accuracy.top1)}"
    return Finding("Fastest timed here", row.name, f"{detail}.")


def _same_answers(report: Report) -> Finding | None:
    compared = [(row.agreement.top1, row.name) for row in measured(report) if row.agreement]
    if not compared:
        return None
    same = sum(share >= SAME for share, _ in compared)
    least, name = min(compared)
    detail = f"name the Keras model's first class on at least {percent(SAME)} of the photographs"
    detail += f"; the least is {name}, {percent(least)}." if least < 1 else "; all of them on every one."
    return Finding("Same answers as Keras", f"{same} of {len(compared)}", detail)


def _alarms_lost(report: Report) -> Finding | None:
    compared = [row for row in measured(report) if row.agreement and row.agreement.flips_to_safe is not None]
    if not compared:
        return None
    lost = {row.name: row.agreement.flips_to_safe for row in compared if row.agreement and row.agreement.flips_to_safe}
    if not lost:
        return Finding(
            "Alarms lost",
            "none",
            "Whatever the Keras model calls dangerous here, every artifact calls dangerous.",
            "good",
        )
    named = listed([f"{name} {flips}" for name, flips in lost.items()])
    return Finding(
        "Alarms lost",
        f"up to {max(lost.values())}" if len(lost) > 1 else str(*lost.values()),
        f"Photographs the Keras model calls dangerous and a file does not: {named}.",
        "bad",
    )


def _unmeasured(report: Report) -> Finding | None:
    invalid = [row.name for row in report.artifacts if not row.valid]
    if not invalid:
        return None
    answer = f"{len(invalid)} of {len(report.artifacts)}"
    return Finding("Could not be measured", answer, f"{listed(invalid)}; the reasons are below.", "bad")
