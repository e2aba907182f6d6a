"""leafport bench: measure what was exported."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leafport.cli import lone_file

if TYPE_CHECKING:
    from leafport.benchmarks.report import Artifact, Report
    from leafport.export.inspection import Scaling


@click.command("bench")
@click.argument("source", metavar="EXPORTS|FILE", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Photographs in class folders; those seen in training are left out.  [default: the test split]",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write the report into.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 256), help="Threads a runtime may use.")
@click.option(
    "--artifact",
    "artifacts",
    multiple=True,
    metavar="NAME[-VARIANT]",
    help="Only this target, or this artifact; may be given several times.  [default: all]",
)
@click.option("--limit", type=click.IntRange(1), help="Use at most so many photographs, balanced over the folders.")
@click.option("--classifier", type=click.Path(path_type=Path), help="The classifier's folder, if it was moved.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Another file with the same labels to measure beside them; may be given several times.",
)
@click.option(
    "--kit",
    type=click.Choice(["macos", "tx2"]),
    help="Measure elsewhere: write a folder with files, photographs and one program that needs no leafport.",
)
@lone_file.labels
@lone_file.scaling
@click.option("--time-limit", default=3600.0, show_default=True, help="Seconds one artifact may take.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
def command(
    source: Path,
    data: Path | None,
    out: Path,
    threads: int,
    artifacts: tuple[str, ...],
    limit: int | None,
    classifier: Path | None,
    peers: tuple[Path, ...],
    kit: str | None,
    labels: Path | None,
    scaling: Scaling | None,
    time_limit: float,
    as_json: bool,
) -> None:
    """Measure size, latency, memory, accuracy and safety of every file in the folder EXPORTS, or of one FILE.

    Each file, and the Keras model itself, is measured in a process of its own, one after another. Writes report.json,
    report.md and report.html. FILE may be another's; then --data names its labels as folders, and --labels and
    --scaling say what the file does not.
    """
    from leafport.benchmarks import report as schema
    from leafport.benchmarks.bench import bench
    from leafport.export import manifest

    if (source / manifest.FILE).is_file():
        if labels or (scaling and not peers):
            raise click.UsageError(
                "--labels is for a FILE, and --scaling for a FILE or a --peer: exports know their own."
            )
    elif artifacts or classifier:
        raise click.UsageError("--artifact and --classifier are for an export folder.")
    if kit:
        _write_kit(kit, source, data, out, artifacts, limit, classifier, peers)
        return
    with showing() as progress:
        report = bench(
            source,
            data,
            out,
            threads=threads,
            artifacts=artifacts,
            limit=limit,
            classifier=classifier,
            peers=peers,
            labels=labels,
            scaling=scaling,
            time_limit_s=time_limit,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(schema.to_json([report]), indent=2, ensure_ascii=False))
    else:
        show(report, out)
    if any(not row.valid for row in report.rows):
        sys.exit(1)


def _write_kit(
    kind: str,
    exports: Path,
    data: Path | None,
    out: Path,
    artifacts: tuple[str, ...],
    limit: int | None,
    classifier: Path | None,
    peers: tuple[Path, ...],
) -> None:
    from leafport.benchmarks import kit
    from leafport.cli import terminal

    if peers:
        raise click.UsageError("--peer is not for a --kit.")
    with showing() as progress:
        program = kit.write(
            kind, exports, data, out, artifacts=artifacts, limit=limit, classifier=classifier, progress=progress
        )
    where = kit.KITS[kind].where
    terminal.out.print(f"Kit: {out}, to be copied to {where}. There: python3 {program.name}", markup=False)


@contextlib.contextmanager
def showing() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar fed with (what is being done, done, in all)."""
    from leafport.cli import terminal

    with terminal.progress() as display:
        task = display.add_task("Preparing", total=None)
        yield lambda what, done, total: display.update(task, description=what, completed=done, total=total)


def show(report: Report, out: Path) -> None:
    """The table at the end, what it says, and where the report is."""
    from leafport.benchmarks import verdict
    from leafport.benchmarks.views import HTML_FILE
    from leafport.cli import terminal

    safe = report.contract.safety is not None
    names = ["artifact", "size>", "zipped>", "median>", "memory>", "top-1>", "as Keras>"]
    table = terminal.table(*names, *(["recall>", "lost>"] if safe else []))
    for column in table.columns:
        column.no_wrap = True
    for row in report.rows:
        if row.valid:
            table.add_row(*_cells(row, safe))
    terminal.out.print(table)
    keys = "Median: latency of one photograph. As Keras: the same top class as the Keras model."
    if safe:
        keys += " Recall: dangerous photographs found. Lost: called dangerous by Keras and not by the file."
    terminal.out.print(f"\n{keys}", style="dim")
    for row in report.rows:
        if not row.valid:
            terminal.out.print(f"{row.name} was not measured: {row.invalid_reason}", style="red", markup=False)
    for reason, untimed in verdict.untimed(report):
        terminal.out.print(f"Not timed: {', '.join(untimed)}. {reason}", markup=False)
    for remark in verdict.remarks(report):
        terminal.out.print(remark, style="yellow", markup=False)
    terminal.out.print(f"\n{verdict.sentence(report)}", markup=False)
    terminal.out.print(f"Report: {out / HTML_FILE}", markup=False, soft_wrap=True)


def _cells(row: Artifact, safe: bool) -> list[str]:
    from leafport.wording import NONE, milliseconds, percent, size

    timing, right, same = row.latency_ms, row.accuracy, row.agreement
    cells = [
        row.name,
        size(row.size_bytes),
        size(row.zipped_bytes),
        milliseconds(timing.median if timing else None),
        size(row.peak_rss_bytes),
        percent(right.top1 if right else None),
        percent(same.top1 if same else None),
    ]
    if safe:
        lost = same.flips_to_safe if same else None
        cells += [percent(right.recall if right else None), NONE if lost is None else str(lost)]
    return cells
