"""leafport evaluate: measure a classifier on photographs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Photographs in class folders.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def command(run: Path, data: Path, json_file: Path | None) -> None:
    """Measure the classifier in the folder RUN on the photographs in --data, named as those it learned from.

    Photographs it learned from or was tuned on, known by their content, are left out: over its own photographs the
    figures are those of its test split.
    """
    from leafport import files
    from leafport.classifier import CONTRACT_FILE
    from leafport.cli import terminal
    from leafport.cli.train import chatter, show, stages
    from leafport.training.data.splits import Skipped
    from leafport.training.evaluation.evaluate import evaluate_folder

    with chatter(), stages() as progress:
        value = evaluate_folder(run, data, progress=progress)
    if json_file:
        files.write_json(json_file, value)
    terminal.list_skipped([Skipped(entry["path"], entry["reason"]) for entry in value["skipped"]])
    if value["left_out_as_seen"]:
        terminal.out.print(f"{value['left_out_as_seen']} photographs were left out: it learned from them.")
    show(value, run / CONTRACT_FILE)
