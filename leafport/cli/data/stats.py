"""leafport data stats: how many photographs of each class, and what they are like."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)


@click.command("stats", short_help="Count the photographs by class; sizes, brightness, balance.")
@click.argument("folder", metavar="DATA", type=PATH)
@click.option("--positive", type=PATH, help="A file with the names of positive classes: counts the two labels too.")
@click.option("--plot", type=PATH, help="Draw counts, brightness and sizes into this PNG file.")
@click.option("--json", "json_file", type=PATH, help="Also write the figures to this file.")
def command(folder: Path, positive: Path | None, plot: Path | None, json_file: Path | None) -> None:
    """Count the photographs in DATA by class, and say how large, bright and balanced they are."""
    from leafport import files
    from leafport.cli import terminal
    from leafport.training import task
    from leafport.training.data import splits, statistics

    with terminal.counting("Reading photographs") as progress:
        found = splits.scan(folder, progress=progress)
    label_of = task.define("binary", found.folders, positive).label_of if positive else None
    with terminal.counting("Measuring") as progress:
        measured = statistics.measure(found, label_of, progress=progress)
    value = measured.to_json()
    terminal.list_skipped(found.skipped)
    rows = terminal.table("class", "photographs>", "share>")
    for name, count in value["classes"].items():
        rows.add_row(name, f"{count:,}", f"{count / value['photographs']:.1%}")
    terminal.out.print(rows)
    if positive:
        counts = ", ".join(f"{count:,} {label}" for label, count in value["labels"].items())
        terminal.out.print(f"\nLabels: {counts}.", markup=False)
    formats = ", ".join(f"{count:,} {name}" for name, count in value["formats"].items())
    terminal.out.print(f"\n{value['photographs']:,} photographs in {len(value['classes'])} classes; {formats}.")
    for what, unit in (("width", "pixels"), ("height", "pixels"), ("brightness", "of 255")):
        spread = value[what]
        terminal.out.print(
            f"{what.capitalize()}: {spread['median']:.0f} {unit} in the middle; nine in ten between "
            f"{spread['p5']:.0f} and {spread['p95']:.0f}, all between {spread['min']:.0f} and {spread['max']:.0f}."
        )
    for warning in value["warnings"]:
        terminal.out.print(warning, style="yellow", markup=False, soft_wrap=True)
    if plot:
        with files.staged(plot) as staging:
            statistics.draw(staging, measured)
    if json_file:
        files.write_json(json_file, value)
