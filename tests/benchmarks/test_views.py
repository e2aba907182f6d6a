"""The pages people read: what they say, and that nothing in them can do harm."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leafport.benchmarks import plot, verdict, views
from leafport.benchmarks.report import (
    Accuracy,
    Agreement,
    Artifact,
    Calibrated,
    ContractRecord,
    Data,
    Latency,
    Machine,
    Nodes,
    Report,
)
from leafport.benchmarks.report import read as read_report
from leafport.contract import ImageInput, Safety

EVIL = "<script>alert('1')</script>&\"|`*_[x](http://evil.example)"


def row(name: str, size: int = 0, median: float | None = None, top1: float = 0.7, **changes: Any) -> Artifact:
    target, _, variant = name.partition("-")
    samples = tuple(np.random.default_rng(len(name)).gamma(20, (median or 0) / 20, 60).round(5).tolist())
    latency = median and Latency(median=median, p90=median * 1.2, p99=median * 1.4, samples=samples, warmup=(median,))
    fields: dict[str, Any] = {
        "name": name,
        "target": target,
        "variant": variant,
        "executes": f"the {target} runtime",
        "size_bytes": size,
        "zipped_bytes": size // 2,
        "accuracy": Accuracy(n=400, top1=top1, top3=top1 + 0.1, top5=top1 + 0.15),
        "agreement": None if name == "keras" else Agreement(n=400, top1=0.995, max_abs_diff=0.01, flips_to_safe=None),
        "latency_ms": latency or None,
        "latency_reason": None if median else "there is no such runtime here.",
        "peak_rss_bytes": 300_000_000,
        "valid": True,
    }
    return Artifact(**{**fields, **changes})


def report(*rows: Artifact, safety: Safety | None = None, **changes: Any) -> Report:
    fields: dict[str, Any] = {
        "created": "2030-01-02T03:04:05+00:00",
        "machine": Machine(cpu="A processor", cores=2, memory_bytes=8 * 10**9, os="Linux", python="3.11.2", busy=0.0),
        "versions": {"leafport": "0.1.0"},
        "contract": ContractRecord(
            sha256="a" * 64,
            name="plants",
            version="1.0.0",
            task="class",
            labels=70,
            image=ImageInput(height=224, width=224),
            safety=safety,
        ),
        "data": Data(root="images", photographs=400, sha256="b" * 64, split="test", left_out=3737),
        "threads": 1,
        "artifacts": rows,
    }
    return Report(**{**fields, **changes})


@pytest.fixture
def safety() -> Safety:
    return Safety(
        positive_labels=("datura", EVIL),
        threshold=0.25,
        required_recall=0.9,
        attained=True,
        recall=0.966,
        recall_lower_bound=0.914,
        false_alarm_rate=0.12,
        positives=88,
        negatives=328,
    )


@pytest.fixture
def ordinary() -> Report:
    return report(
        row("keras", 13_000_000, 40.0, 0.718),
        row("tflite-float32", 12_900_000, 5.1, 0.718),
        row("tflite-int8", 3_400_000, 1.9, 0.712),
        row("tflite-dynamic", 3_300_000, 8.3, 0.68),
        row("tftrt-fp16", 12_950_000, None, 0.718),
    )


class _Tags(HTMLParser):
    """Every tag and attribute of a page, and what is in its tables' cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page)
    return parser.tags


def test_names_and_labels_are_text_and_never_markup(safety: Safety) -> None:
    evil = row("keras", 1000, 1.0)
    hostile = row("x", 1000, 1.0).model_copy(update={"name": EVIL, "target": EVIL, "executes": EVIL})
    untimed = row("y", 1000).model_copy(update={"name": EVIL + "2", "latency_reason": EVIL})
    failed = Artifact(name="z", target="z", variant="", valid=False, invalid_reason=EVIL)
    data = Data.model_validate(
        {
            "root": EVIL,
            "photographs": 4,
            "sha256": "b" * 64,
            "split": "test",
            "left_out": 0,
            "skipped": [{"path": EVIL, "reason": EVIL}],
        }
    )
    page = views.html([report(evil, hostile, untimed, failed, safety=safety, data=data)])
    assert "script" not in {tag for tag, _ in tags(page)}
    assert page.count("&lt;script&gt;") >= 8
    assert all(name != "onclick" and not name.startswith("on") for _, attributes in tags(page) for name in attributes)
    text = views.markdown([report(evil, hostile, failed, safety=safety, data=data)])
    assert "<script" not in text.replace("\\<", "")
    assert "](http" not in text


def test_the_page_asks_nothing_of_any_network(ordinary: Report) -> None:
    page = views.html([ordinary])
    assert not re.findall(r"https?://|//[a-z0-9-]+\.[a-z]|url\(|@import", page)
    for tag, attributes in tags(page):
        assert tag not in {"script", "iframe", "object", "embed", "img", "base"}
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
        assert "src" not in attributes
    assert "default-src 'none'" in page


def test_an_unmeasured_latency_is_said_and_has_no_place_on_the_axis(ordinary: Report) -> None:
    page = views.html([ordinary])
    assert "not measured here" in page
    assert "There is no such runtime here." in page
    drawn = plot.plot(ordinary)
    assert drawn is not None
    marks = {mark.name: mark for mark in drawn.marks}
    assert marks["tftrt-fp16"].y < drawn.strip < drawn.top <= marks["keras"].y
    assert all(mark.y >= drawn.top for name, mark in marks.items() if name != "tftrt-fp16")
    strips = plot.strips(ordinary)
    assert strips is not None
    assert "tftrt-fp16" not in [strip.name for strip in strips.rows]
    line = next(line for line in views.markdown([ordinary]).splitlines() if line.startswith("| tftrt-fp16"))
    assert "not measured" in line


def test_smaller_is_left_and_faster_is_lower(ordinary: Report) -> None:
    drawn = plot.plot(ordinary)
    assert drawn is not None
    marks = {mark.name: mark for mark in drawn.marks}
    assert marks["tflite-int8"].x < marks["tflite-float32"].x
    assert marks["tflite-int8"].y > marks["tflite-float32"].y > marks["keras"].y
    assert (marks["tflite-dynamic"].solid, marks["tflite-int8"].solid) == (False, True)
    assert all(drawn.left <= mark.x <= drawn.right and mark.y <= drawn.bottom for mark in drawn.marks)


def test_labels_do_not_cover_one_another() -> None:
    crowded = report(*(row(f"tflite-{kind}", 12_900_000 + i, 5.1 + i / 100) for i, kind in enumerate("abcdefg")))
    drawn = plot.plot(crowded)
    assert drawn is not None
    lines = sorted((mark.text_y, mark.text_x, mark.anchor) for mark in drawn.marks)
    assert len(set(lines)) == 7
    for (y, x, anchor), (other_y, other_x, other_anchor) in itertools.pairwise(lines):
        assert abs(y - other_y) >= 10 or anchor != other_anchor or abs(x - other_x) > 60


def test_the_verdict_follows_from_the_figures(ordinary: Report) -> None:
    answers = {finding.question: finding.answer for finding in verdict.findings(ordinary)}
    assert answers["Smallest within 1 point of the Keras model"] == "tflite-int8"  # -dynamic is smaller, and worse.
    assert answers["Fastest timed here"] == "tflite-int8"
    assert answers["Same answers as Keras"] == "4 of 4"
    assert "Alarms lost" not in answers
    assert "tflite-int8 is the smallest" in verdict.sentence(ordinary)


def test_lost_alarms_are_the_loudest_thing_on_the_page(safety: Safety) -> None:
    flips = Agreement(n=400, top1=0.9, max_abs_diff=0.3, flips_to_safe=3, dangerous_flips=1)
    lossy = report(row("keras", 100, 9.0), row("tflite-int8", 10, 1.0, agreement=flips), safety=safety)
    finding = next(finding for finding in verdict.findings(lossy) if finding.question == "Alarms lost")
    assert (finding.answer, finding.tone) == ("3", "bad")
    assert "calls 3 photographs harmless that the Keras model calls dangerous, 1 of them rightly" in verdict.sentence(
        lossy
    )
    none = flips.model_copy(update={"flips_to_safe": 0, "dangerous_flips": 0})
    both = lossy.model_copy(update={"artifacts": (*lossy.artifacts, row("onnx-float32", 50, 2.0, agreement=none))})
    assert "the smallest that loses no alarm is onnx-float32" in verdict.sentence(both)


def test_what_must_be_read_with_care_is_said(ordinary: Report) -> None:
    busy = ordinary.machine.model_copy(update={"busy": 0.5})
    shaky = Latency(median=1.0, p90=4.0, p99=5.0, samples=(1.0, 1.0, 5.0))
    odd = ordinary.model_copy(
        update={
            "machine": busy,
            "data": ordinary.data.model_copy(update={"split": "unknown"}),
            "artifacts": (row("onnx-float32", 100, latency_ms=shaky, latency_reason=None), row("tflite-int8", 10, 1.0)),
        }
    )
    said = " ".join(verdict.remarks(odd))
    assert "upper bounds" in said
    assert "onnx-float32 was unsteady" in said
    assert "no record" in said
    assert "Keras model itself could not be measured" in said
    assert verdict.remarks(ordinary) == []


def test_a_report_in_which_everything_failed_is_still_a_page(tmp_path: Path) -> None:
    failed = report(Artifact(name="keras", target="keras", variant="", valid=False, invalid_reason="it crashed"))
    page = views.render([failed], tmp_path).read_text()
    assert "No artifact could be measured." in page
    assert "it crashed" in page
    assert plot.plot(failed) is None


def test_several_models_share_a_page(ordinary: Report, tmp_path: Path, safety: Safety) -> None:
    other = report(row("keras", 100, 9.0), row("x-y", 50, 2.0), safety=safety)
    other = other.model_copy(update={"contract": other.contract.model_copy(update={"name": "poison"})})
    page = views.render([ordinary, other], tmp_path).read_text()
    ids = [attributes["id"] for _, attributes in tags(page) if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "#model-1" in page
    assert ">poison</h1>" in page
    assert "88 positive and 328 other photographs" in page
    assert "permission to eat" in page
    assert read_report(tmp_path / "report.json") == (ordinary, other)
    assert "## poison" in (tmp_path / "report.md").read_text()


def test_the_page_can_be_read_by_machines(ordinary: Report, safety: Safety) -> None:
    page = views.html([ordinary.model_copy(update={"contract": report(*ordinary.artifacts, safety=safety).contract})])
    found = tags(page)
    assert all("scope" in attributes for tag, attributes in found if tag == "th")
    named = [attributes for tag, attributes in found if tag == "svg"]
    assert all({"aria-label", "aria-labelledby", "aria-hidden"} & set(attributes) for attributes in named)
    for drawing in re.findall(r"<svg class=\"plot\".*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(drawing)
    widths: list[int] = []
    for tag, attributes in found[[tag for tag, _ in found].index("tbody") :]:
        if tag == "table":
            break
        if tag == "tr":
            widths.append(0)
        elif tag in ("th", "td"):
            widths[-1] += int(attributes.get("colspan") or 1)
    assert widths == [15] * 5


def test_markdown_tables_have_as_many_cells_as_columns(ordinary: Report, safety: Safety) -> None:
    band = safety.model_copy(update={"not_sure": (0.1, 0.4), "not_sure_coverage": 0.95})
    text = views.markdown([ordinary, *(report(*ordinary.artifacts, safety=one) for one in (safety, band))])
    assert text.count("| not sure |") == 1
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 6
    for lines in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, lines


def test_a_calibration_curve_is_shown(ordinary: Report) -> None:
    curve = (Calibrated(images=8, top1_agreement=0.9, top1=0.7), Calibrated(images=128, top1_agreement=0.97))
    first, *rest = ordinary.artifacts
    drawn = ordinary.model_copy(update={"artifacts": (first.model_copy(update={"calibration_curve": curve}), *rest)})
    for view in (views.html, views.markdown):
        assert "128" in view([drawn]) and "97.0" in view([drawn])
    assert "Calibration photographs" in views.html([drawn])
    assert "Calibration photographs" not in views.html([ordinary])


def test_what_became_of_a_graphs_nodes_is_shown(ordinary: Report) -> None:
    nodes = Nodes(traced=1835, folded=295, operations=182, engines=1, in_engines=181, outside=2)
    first, *rest = ordinary.artifacts
    drawn = ordinary.model_copy(update={"artifacts": (first.model_copy(update={"nodes": nodes}), *rest)})
    for view in (views.html, views.markdown):
        assert "1,835" in view([drawn]) and "59 engines" in view([drawn])
        assert "59 engines" not in view([ordinary])


def test_a_small_file_that_costs_time_is_said(ordinary: Report) -> None:
    rows = (
        row("keras", 90, 50.0),
        row("tflite-float32", 80, 10.0),
        row("tflite-dynamic", 20, 15.2),
        row("tflite-int8", 21, 5.0),
        row("tflite-float16", 40, 10.4),
    )
    finding = next(one for one in verdict.findings(report(*rows)) if one.question == "Slower than in 32 bits")
    assert (finding.answer, finding.tone) == ("tflite-dynamic", "bad")
    assert "1.52 times as long as float32 here" in finding.detail
    steady = report(*(one for one in rows if one.name != "tflite-dynamic"))
    assert "Slower than in 32 bits" not in [one.question for one in verdict.findings(steady)]
