"""leafport data check: what is unreadable, there twice, or doubtfully labelled."""

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
SHOWN = 8


@click.command("check", short_help="Find unreadable, repeated and doubtfully labelled ones.")
@click.argument("folder", metavar="DATA", type=PATH)
@click.option("--splits", "splits_file", type=PATH, help="A splits.json: look for pictures on two of its sides.")
@click.option("--backbone", default="mobilenet", show_default=True, help="The network that judges labels.")
@click.option("--weights", metavar="imagenet|FILE", help="Its weights; without them labels are not judged.")
@click.option("--json", "json_file", type=PATH, help="Also write all findings to this file.")
def command(folder: Path, splits_file: Path | None, backbone: str, weights: str | None, json_file: Path | None) -> None:
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
