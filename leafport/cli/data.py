"""leafport data: know your photographs before you train on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from leafport.training.data.checks import Alike, Report

PATH = click.Path(path_type=Path)
FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)
SHOWN = 8


@click.group("data")
def command() -> None:
    """Look at photographs in class folders: what there is, what is wrong with it, and how it is split."""


@command.command("stats", short_help="Count the photographs by class; sizes, brightness, balance.")
@click.argument("folder", metavar="DATA", type=PATH)
@click.option("--positive", type=PATH, help="A file with the names of positive classes: counts the two labels too.")
@click.option("--plot", type=PATH, help="Draw counts, brightness and sizes into this PNG file.")
@click.option("--json", "json_file", type=PATH, help="Also write the figures to this file.")
def stats(folder: Path, positive: Path | None, plot: Path | None, json_file: Path | None) -> None:
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


@command.command("split", short_help="Divide them into those to learn from, tune on and judge by.")
@click.argument("folder", metavar="DATA", type=PATH)
@click.option("--out", type=PATH, required=True, help="The splits file to write, for `leafport train --splits`.")
@click.option("--top", type=click.IntRange(2), metavar="N", help="Only the N classes with the most photographs.")
@click.option("--validation", type=FRACTION, default=0.1, show_default=True, help="Share to tune on.")
@click.option("--test", type=FRACTION, default=0.1, show_default=True, help="Share to judge by.")
@click.option("--seed", default=0, show_default=True, help="Another seed, another split.")
@click.option(
    "--keep-alike/--by-content",
    default=True,
    help="Keep photographs that look the same on one side, or only those whose bytes are the same.  "
    "[default: keep alike]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file at --out.")
def split(
    folder: Path,
    out: Path,
    top: int | None,
    validation: float,
    test: float,
    seed: int,
    keep_alike: bool,
    overwrite: bool,
) -> None:
    """Split the photographs in DATA into those to learn from, to tune on and to judge by.

    Every class is split in the same proportions, by the photographs' content alone: the same photographs and seed
    give the same split on any machine, whatever the files are called.
    """
    from leafport.cli import terminal
    from leafport.errors import OutputError
    from leafport.training.data import duplicates, splits

    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists. Give another --out, or --overwrite to replace it.")
    with terminal.counting("Reading photographs") as progress:
        found = splits.scan(folder, progress=progress)
    if top:
        found = splits.most_frequent(found, top)
    alike = []
    if keep_alike:
        with terminal.counting("Comparing photographs") as progress:
            alike = duplicates.find(found, progress=progress)
    made = splits.split(found, seed=seed, validation=validation, test=test, alike=alike)
    made.save(out)
    terminal.list_skipped(made.skipped)
    sizes = ", ".join(f"{len(photos):,} {side}" for side, photos in made.sides.items())
    terminal.out.print(f"{len(made.labels)} classes: {sizes} photographs.", markup=False)
    if alike:
        count = sum(map(len, alike))
        terminal.out.print(f"{count:,} photographs look like others, in {len(alike):,} groups; each is on one side.")
    terminal.out.print(f"\nNext: leafport train {folder} --splits {out} --out RUN", markup=False, soft_wrap=True)


@command.command("check", short_help="Find unreadable, repeated and doubtfully labelled ones.")
@click.argument("folder", metavar="DATA", type=PATH)
@click.option("--splits", "splits_file", type=PATH, help="A splits.json: look for pictures on two of its sides.")
@click.option("--backbone", default="mobilenet", show_default=True, help="The network that judges labels.")
@click.option("--weights", metavar="imagenet|FILE", help="Its weights; without them labels are not judged.")
@click.option("--json", "json_file", type=PATH, help="Also write all findings to this file.")
def check(folder: Path, splits_file: Path | None, backbone: str, weights: str | None, json_file: Path | None) -> None:
    """Look for unreadable photographs in DATA, for pictures that are there twice, and for doubtful labels.

    With --weights, a classifier on a pretrained network's features names the photographs whose label it is sure to
    be wrong, having learned from the others only. It may be wrong itself: look at what it names.

    The exit code is 1 when a split leaks or a picture lies in two classes.
    """
    from leafport import files
    from leafport.cli import terminal
    from leafport.training.data import checks, splits

    features = _features(backbone, weights) if weights else None
    with terminal.counting("Reading photographs") as progress:
        found = splits.scan(folder, progress=progress, disputed=True)
    divided = splits.Splits.load(splits_file) if splits_file else None
    with terminal.counting("Comparing photographs") as progress:
        report = checks.check(found, divided, features=features, progress=progress)
    _show(report, split=divided is not None)
    if json_file:
        files.write_json(json_file, report.to_json())
    if report.leaks or report.disputed:
        sys.exit(1)


def _features(backbone: str, weights: str) -> Callable[[Sequence[Path]], np.ndarray]:
    """What turns photographs into a pretrained network's features: float32 [N, channels]."""
    from leafport.cli import terminal
    from leafport.cli.train import chatter
    from leafport.contract import ImageInput
    from leafport.errors import ModelError
    from leafport.training import backbones
    from leafport.training.data import pipeline

    if weights == backbones.NO_WEIGHTS:
        raise ModelError("Labels can only be judged by a network that has learned something: give its --weights.")
    size = backbones.find(backbone).image_size
    with chatter():
        model = backbones.build(backbone, classes=2, image_size=size, weights=weights).features

    def extract(paths: Sequence[Path]) -> Any:
        with terminal.counting("Computing features") as progress:
            return pipeline.infer(model, paths, ImageInput(height=size, width=size), progress=progress)

    return extract


def _show(report: Report, *, split: bool) -> None:
    from leafport.cli import terminal

    terminal.list_skipped(report.skipped)
    say = terminal.out.print
    inside = [group for group in report.alike if len(group.classes) == 1]
    say(f"{report.photographs:,} photographs were compared.")
    _groups("Pictures that are there several times in one class", inside)
    _groups("Pictures in several classes, to be kept in one only", report.disputed)
    if split:
        _groups("Pictures on several sides of the split, where they make figures look better", report.leaks)
    if report.suspicions is None:
        say("Labels were not judged: give --weights.", style="yellow")
        return
    say(
        f"\nDoubtful labels: {len(report.suspicions)}  (says a classifier that had not seen the photographs, and is "
        f"right on {report.out_of_fold_accuracy:.1%} of them)"
    )
    rows = terminal.table("photograph", "its label>", "rather", ">")
    for doubt in report.suspicions[:SHOWN]:
        rows.add_row(doubt.path, f"{doubt.probability:.1%}", doubt.suggested, f"{doubt.suggested_probability:.1%}")
    if report.suspicions:
        say(rows)
    _more(len(report.suspicions))


def _groups(what: str, groups: Sequence[Alike]) -> None:
    from leafport.cli import terminal

    terminal.out.print(f"\n{what}: {len(groups)}", markup=False)
    for group in groups[:SHOWN]:
        sides = f"  ({', '.join(group.sides)})" if len(group.sides) > 1 else ""
        kind = "the same bytes" if group.exact else "alike"
        terminal.out.print(f"  {kind}: {', '.join(group.paths)}{sides}", markup=False, soft_wrap=True)
    _more(len(groups))


def _more(count: int) -> None:
    from leafport.cli import terminal

    if count > SHOWN:
        terminal.out.print(f"  … and {count - SHOWN} more; --json FILE lists all.")
