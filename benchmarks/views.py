"""Views of reports: report.json, report.md and one self-contained report.html, which asks nothing of any network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leafport import files, pages, promise
from leafport.benchmarks import plot, verdict
from leafport.benchmarks import report as schema
from leafport.benchmarks.report import JSON_FILE, Report

if TYPE_CHECKING:
    import jinja2

MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
MOST_WINNERS = 3


def render(reports: Sequence[Report], out: Path) -> Path:
    """Write report.json, report.md and report.html of one or more reports into ``out``; returns the page's path.

    Raises:
        OutputError: ``out`` cannot be written to.
    """
    schema.write(out / JSON_FILE, reports)  # First, as figures take long to measure and views can be made again.
    files.write_text(out / MARKDOWN_FILE, markdown(reports))
    files.write_text(out / HTML_FILE, html(reports))
    return out / HTML_FILE


def html(reports: Sequence[Report]) -> str:
    """The page: one section per report."""
    return _template("report.html.j2").render(_context(reports))


def markdown(reports: Sequence[Report]) -> str:
    """The same in Markdown, without the pictures."""
    return _template("report.md.j2").render(_context(reports))


def _context(reports: Sequence[Report]) -> dict[str, Any]:
    return {
        "reports": reports,
        "titles": _titles(reports),
        "verdict": verdict,
        "plot": plot,
        "best": best,
        "promise": promise,
    }


def _titles(reports: Sequence[Report]) -> list[str]:
    """Each report's name; with its machine's where models repeat."""
    names = [report.contract.name for report in reports]
    return [
        f"{report.contract.name} on {report.machine.cpu}" if names.count(report.contract.name) > 1 else name
        for report, name in zip(reports, names, strict=True)
    ]


def best(report: Report) -> dict[str, set[str]]:
    """The artifacts with the best value of each column, unless many share it; the Keras model does not compete."""
    rows = verdict.measured(report)
    timed = [row for row in rows if row.latency_ms]
    return {
        "size": _least({row.name: row.size_bytes for row in rows}),
        "zipped": _least({row.name: row.zipped_bytes for row in rows}),
        "median": _least({row.name: row.latency_ms.median for row in timed if row.latency_ms}),
        "load": _least({row.name: row.load_ms for row in timed}),
        "memory": _least({row.name: row.peak_rss_bytes for row in timed}),
        "top1": _least({row.name: -row.accuracy.top1 for row in rows if row.accuracy}),
    }


def _least(values: dict[str, Any]) -> set[str]:
    known = {name: value for name, value in values.items() if value is not None}
    least = {name for name, value in known.items() if value == min(known.values())}
    return least if len(least) <= MOST_WINNERS < len(known) else set()


def _template(name: str) -> jinja2.Template:
    environment = pages.environment("leafport.benchmarks")
    environment.globals["shape"] = lambda slot: plot.SHAPES[slot]
    return environment.get_template(name)
