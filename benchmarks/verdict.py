"""What a report's figures say, in words. Everything here is derived; nothing is decided beforehand."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from leafport.benchmarks.report import KERAS, Artifact, Report
from leafport.wording import count, digits, level, listed, milliseconds, percent, size
from leafport.wording import sentence as sentence_of

NEAR = 0.01
SAME = 0.99
UNSTEADY = 1.5
SLOWER = 1.1
BUSY = 0.1

BEFORE_LEAFPORT = "leafport's forerunner had 2,475 nodes of a ResNet50, 990 after TF-TRT, and 59 engines."
"""What such a network came to when it was converted as it was, to compare counts of nodes with."""

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
    compared = [_smallest(report), _fastest(report)] if len(report.artifacts) > 1 else []
    found = [*compared, _slower(report), _same_answers(report), _alarms_lost(report), _unmeasured(report)]
    return [finding for finding in found if finding]


def sentence(report: Report) -> str:
    """The report in a few sentences."""
    small, fast = smallest(report), fastest(report)
    if small is None or small.accuracy is None:
        return "No artifact keeps the model's accuracy." if measured(report) else "No artifact could be measured."
    if len(report.artifacts) == 1:
        return _alone(report, small)
    text = (
        f"{small.name} is the smallest file within 1 point of {_reference_name(report)}'s top-1: "
        f"{size(small.size_bytes)}, right on {percent(small.accuracy.top1)} of {count(small.accuracy.n, 'photograph')}."
    )
    if fast and fast.latency_ms:
        same = fast.name == small.name
        text += " It is also the fastest timed here" if same else f" {fast.name} is the fastest timed here"
        text += f", {milliseconds(fast.latency_ms.median)} a photograph on {count(report.threads, 'thread')}."
    if lost := _lost(small):
        text += f" But it calls {count(lost, 'photograph')} harmless that the Keras model calls dangerous, "
        text += f"{_dangerous(small) or 'none'} of them rightly"
        faithful = smallest(report, [row for row in measured(report) if _lost(row) == 0])
        text += (
            f"; the smallest that loses no alarm is {faithful.name}, {size(faithful.size_bytes)}." if faithful else "."
        )
    return text


def _alone(report: Report, row: Artifact) -> str:
    """The sentence about an only file, which is neither the smallest nor the fastest of anything."""
    assert row.accuracy is not None
    text = f"{row.name}: {size(row.size_bytes)}, right on {percent(row.accuracy.top1)} of "
    text += count(row.accuracy.n, "photograph")
    if row.latency_ms:
        text += f", {milliseconds(row.latency_ms.median)} a photograph on {count(report.threads, 'thread')}"
    return f"{text}."


def measured(report: Report) -> list[Artifact]:
    """The artifacts, without the Keras model, that have figures to believe."""
    return [row for row in report.artifacts if row.name != KERAS and row.valid and row.accuracy]


def reference_top1(report: Report) -> float:
    """What an artifact's top-1 is held against: the Keras model's, or where that is missing the best artifact's."""
    if report.keras and report.keras.accuracy:
        top1: float = report.keras.accuracy.top1
        return top1
    return max((row.accuracy.top1 for row in measured(report) if row.accuracy), default=0.0)


def near(report: Report, row: Artifact) -> bool:
    """Whether an artifact's top-1 is at most a point below the reference."""
    return row.accuracy is not None and row.accuracy.top1 >= reference_top1(report) - NEAR - 1e-9


def smallest(report: Report, among: list[Artifact] | None = None) -> Artifact | None:
    """The smallest artifact whose top-1 is near the reference."""
    rows = measured(report) if among is None else among
    candidates = [row for row in rows if near(report, row) and row.size_bytes is not None]
    return min(candidates, key=lambda row: row.size_bytes or 0, default=None)


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
    if shaky := [row.name for row in report.rows if unsteady(row)]:
        found.append(
            f"The latency of {listed(shaky)} was unsteady: a tenth of it was over {UNSTEADY} times the median."
        )
    if report.data.split == "unknown":
        found.append("There is no record of what this model was trained on: some of these photographs may have been.")
    if len(report.artifacts) > 1 and report.keras is None:
        found.append("The Keras model itself could not be measured, so no artifact could be compared with it.")
    return found


def untimed(report: Report) -> list[tuple[str, list[str]]]:
    """Why latency is missing, and of which artifacts."""
    why: dict[str, list[str]] = defaultdict(list)
    for row in report.rows:
        if row.valid and row.latency_ms is None:
            why[sentence_of(row.latency_reason or "No reason is given")].append(row.name)
    return list(why.items())


def _smallest(report: Report) -> Finding | None:
    row = smallest(report)
    if row is None or row.accuracy is None:
        return None
    detail = f"{size(row.size_bytes)} ({size(row.zipped_bytes)} zipped), top-1 {percent(row.accuracy.top1)}"
    if report.keras:
        detail += f"; Keras: {percent(reference_top1(report))}"
    return Finding(f"Smallest within 1 point of {_reference_name(report)}", row.name, f"{detail}.")


def _fastest(report: Report) -> Finding | None:
    row = fastest(report)
    if row is None or row.latency_ms is None:
        return None
    detail = f"{milliseconds(row.latency_ms.median)} median on {count(report.threads, 'thread')} of this machine"
    if report.keras and report.keras.latency_ms:
        ratio = report.keras.latency_ms.median / max(row.latency_ms.median, 1e-6)
        detail += f", {digits(ratio)} times as fast as Keras"
    if not near(report, row) and row.accuracy:
        detail += f"; but its top-1 is more than a point lower, {percent(row.accuracy.top1)}"
    return Finding("Fastest timed here", row.name, f"{detail}.")


def _slower(report: Report) -> Finding | None:
    """Smaller files that cost time: 8-bit weights over float activations do, in networks of depthwise layers."""
    timed = {row.name: row.latency_ms.median for row in measured(report) if row.latency_ms}
    whole = {row.target: timed[row.name] for row in measured(report) if row.variant == "float32" and row.name in timed}
    slower = {
        row.name: timed[row.name] / whole[row.target]
        for row in measured(report)
        if row.name in timed and row.target in whole and timed[row.name] > SLOWER * whole[row.target]
    }
    if not slower:
        return None
    named = listed([f"{name} takes {digits(times)} times as long" for name, times in slower.items()])
    return Finding("Slower than in 32 bits", listed(list(slower)), f"{named} as float32 here.", "bad")


def _same_answers(report: Report) -> Finding | None:
    compared = [(row.agreement.top1, row.name) for row in measured(report) if row.agreement]
    if not compared:
        return None
    same = sum(share >= SAME for share, _ in compared)
    least, name = min(compared)
    detail = f"name the Keras model's first class on at least {level(SAME)} of the photographs"
    detail += f"; the least is {name}, {percent(least)}." if least < 1 else "; all of them on every one."
    return Finding("Same answers as Keras", f"{same} of {len(compared)}", detail)


def _alarms_lost(report: Report) -> Finding | None:
    compared = {row.name: lost for row in measured(report) if (lost := _lost(row)) is not None}
    if not compared:
        return None
    losing = {name: lost for name, lost in compared.items() if lost}
    if not losing:
        detail = "Whatever the Keras model calls dangerous here, every artifact calls dangerous."
        return Finding("Alarms lost", "none", detail, "good")
    most = max(losing.values())
    dangerous = {row.name: _dangerous(row) for row in measured(report)}
    named = listed([f"{name} {lost} ({dangerous[name] or 'none'} rightly)" for name, lost in losing.items()])
    return Finding(
        "Alarms lost",
        f"up to {most}" if len(losing) > 1 else str(most),
        f"Photographs the Keras model calls dangerous and a file does not: {named}.",
        "bad" if any(dangerous.values()) else "plain",
    )


def _unmeasured(report: Report) -> Finding | None:
    invalid = [row.name for row in report.artifacts if not row.valid]
    if not invalid:
        return None
    answer = f"{len(invalid)} of {len(report.artifacts)}"
    return Finding("Could not be measured", answer, f"{listed(invalid)}; the reasons are below.", "bad")


def _lost(row: Artifact) -> int | None:
    return row.agreement.flips_to_safe if row.agreement else None


def _dangerous(row: Artifact) -> int:
    """How many of the lost alarms were right: dangerous plants that the artifact lets pass."""
    return (row.agreement.dangerous_flips or 0) if row.agreement else 0


def _reference_name(report: Report) -> str:
    return "the Keras model" if report.keras else "the best artifact"
