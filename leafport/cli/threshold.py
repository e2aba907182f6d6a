"""leafport threshold: what other thresholds of a trained classifier would promise, and taking one."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from leafport.training.threshold import Validated


@click.command("threshold")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="The photographs it was trained and tuned on."
)
@click.option(
    "--required-recall",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Take the threshold that promises this.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the classifier with that threshold.")
@click.option("--overwrite", is_flag=True, help="Replace a classifier that stands at --out.")
def command(run: Path, data: Path, required_recall: float | None, out: Path | None, overwrite: bool) -> None:
    """Show what other thresholds of the classifier in RUN would promise and cost, or take another.

    All figures are those of its validation photographs. Its test photographs are not asked before a threshold is
    taken: choose by the validation ones, and the test stays a test.

    With --required-recall and --out the same classifier is written again with that threshold, and judged by its test
    photographs. RUN stays as it is.
    """
    from leafport import files
    from leafport.cli.train import chatter, show, stages, suggest_export
    from leafport.training import threshold
    from leafport.training.evaluation.evaluate import EVALUATION_FILE

    if (required_recall is None) != (out is None):
        raise click.UsageError(
            "--required-recall and --out belong together: give both, or neither to see what there is."
        )
    if required_recall is None or out is None:
        with chatter(), stages() as progress:
            found = threshold.validated(run, data, progress=progress)
        _show(run, data, found)
        return
    with chatter(), stages() as progress:
        threshold.retake(run, data, required_recall, out, overwrite=overwrite, progress=progress)
    show(files.read_json(out / EVALUATION_FILE), out / "classifier.json")
    suggest_export(out)


def _show(run: Path, data: Path, found: Validated) -> None:
    from leafport.cli import terminal
    from leafport.wording import bound, level, percent

    now = found.now
    table = terminal.table(
        *("--required-recall>", f"with {level(now.confidence)} confidence>", f"missed of {now.positives:,}>"),
        *(f"false alarms of {now.negatives:,}>", "threshold>", ""),
    )
    for one in found.choices():
        missed, alarms = round((1 - one.recall) * one.positives), round(one.false_alarm_rate * one.negatives)
        note = "" if one.attained else "so few photographs cannot show that"
        if math.isclose(one.threshold, now.threshold, rel_tol=0.005):  # It was rounded to three digits.
            note = "the threshold now"
        table.add_row(
            *(f"{one.required_recall:g}", f"at least {bound(one.recall_lower_bound)}", f"{missed:,}"),
            *(f"{alarms:,} ({percent(one.false_alarm_rate)})", f"{one.threshold:g}", note),
        )
    terminal.out.print(table)
    given = f"{shlex.quote(str(run))} --data {shlex.quote(str(data))}"
    terminal.out.print(
        "\nChoose by what must be promised, before a test is looked at. Take one with:\n"
        f"leafport threshold {given} --required-recall X --out NEW",
        markup=False,
        soft_wrap=True,
    )
