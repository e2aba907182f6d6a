"""leafport report: one report out of several."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("reports", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write the report into.")
def command(reports: tuple[Path, ...], out: Path) -> None:
    """Merge report.json files, of several models or devices, into one report.json, report.md and report.html."""
    from leafport.benchmarks import views
    from leafport.benchmarks.report import read_all
    from leafport.cli import terminal

    page = views.render(read_all(reports), out)
    terminal.out.print(f"Report: {page}", markup=False, soft_wrap=True)
