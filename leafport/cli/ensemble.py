"""leafport ensemble: several classifiers as one."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("ensemble")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN…", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The photographs they were trained on.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The classifier's folder to write.")
@click.option(
    "--required-recall",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="What the threshold should promise.  [default: as the first one's]",
)
@click.option("--name", help="What it is called: a-z, 0-9, - and _.  [default: as the first one]")
@click.option("--overwrite", is_flag=True, help="Replace a classifier that stands at --out.")
def command(
    runs: tuple[Path, ...], data: Path, out: Path, required_recall: float | None, name: str | None, overwrite: bool
) -> None:
    """Average the classifiers in RUN RUN… into one, which is more often right than each of them.

    It is a classifier like any other, calibrated on the validation photographs and judged by the test ones, and takes
    a device the time and the memory of all of them together. They must have been trained on the same split (`leafport
    train --splits`) with the same input; two backbones that differ gain more than one trained twice.
    """
    from leafport import files
    from leafport.cli.train import chatter, show, stages, suggest_export
    from leafport.training import ensemble
    from leafport.training.evaluation.evaluate import EVALUATION_FILE

    with chatter(), stages() as progress:
        ensemble.combine(
            runs, data, out, required_recall=required_recall, name=name, overwrite=overwrite, progress=progress
        )
    show(files.read_json(out / EVALUATION_FILE), out / "classifier.json")
    suggest_export(out)
