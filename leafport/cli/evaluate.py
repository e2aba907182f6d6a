"""leafport evaluate: measure a classifier on photographs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Photographs in class folders.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to this file.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write evaluation.html and all it shows, and holds, into this folder.",
)
@click.option("--tta", is_flag=True, help="Also ask about four views of each photograph and average the answers.")
@click.option(
    "--explain",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PHOTO",
    help="Show in the page what the answer to this photograph rests on; may be given several times.",
)
@click.option(
    "--explain-worst", type=click.IntRange(0, 200), default=0, help="The same for so many of the worst mistakes."
)
def command(
    run: Path,
    data: Path,
    json_file: Path | None,
    out: Path | None,
    tta: bool,
    explain: tuple[Path, ...],
    explain_worst: int,
) -> None:
    """Measure the classifier in the folder RUN on the photographs in --data, named as those it learned from.

    Photographs it learned from or was tuned on, known by their content, are left out: over its own photographs the
    figures are those of its test split.
    """
    from leafport import files
    from leafport.classifier import CONTRACT_FILE
    from leafport.cli import terminal
    from leafport.cli.train import chatter, show, stages
    from leafport.training.data.splits import Skipped
    from leafport.training.evaluation.evaluate import PAGE_FILE, evaluate_folder

    if out is None and (explain or explain_worst):
        raise click.UsageError("What an answer rests on is shown in a page. Say where to write it: --out DIR.")
    with chatter(), stages() as progress:
        value = evaluate_folder(
            run, data, out, several_views=tta, explain=explain, explain_worst=explain_worst, progress=progress
        )
    if json_file:
        files.write_json(json_file, value)
    terminal.list_skipped([Skipped(entry["path"], entry["reason"]) for entry in value["skipped"]])
    if value["left_out_as_seen"]:
        terminal.out.print(f"{value['left_out_as_seen']} photographs were left out: it learned from them.")
    show(value, run / CONTRACT_FILE)
    if several := value.get("test_time_augmentation"):
        low, high = several["intervals"]["top1"]
        views = len(several["views"])
        terminal.out.print(f"Averaged over {views} views: top-1 {several['top1']:.1%} ({low:.1%} to {high:.1%}).")
    if out:
        terminal.out.print(f"\nThe whole evaluation: {out / PAGE_FILE}", markup=False, soft_wrap=True)
