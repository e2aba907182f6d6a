"""leafport data split: those to learn from, to tune on and to judge by."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command("split", short_help="Divide them into those to learn from, tune on and judge by.")
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
def command(
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
