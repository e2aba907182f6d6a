"""leafport data shards: a split data set in a few large files."""

from __future__ import annotations

from pathlib import Path

import click

from leafport.training.data.shards import PER_SHARD

PATH = click.Path(path_type=Path)


@click.command("shards", short_help="Write a split data set as TFRecord files.")
@click.argument("folder", metavar="DATA", type=PATH)
@click.option("--splits", "splits_file", type=PATH, required=True, help="The split, from `leafport data split`.")
@click.option("--out", type=PATH, required=True, help="The folder to write.")
@click.option(
    "--per-shard",
    type=click.IntRange(1),
    default=PER_SHARD,
    show_default=True,
    metavar="N",
    help="Most photographs in a file. Every process that trains needs a file of its own at least.",
)
def command(folder: Path, splits_file: Path, out: Path, per_shard: int) -> None:
    """Write the photographs in DATA that a split names as TFRecord files, for each of its sides.

    They hold the photographs' files as they are. Large data sets are read faster so from slow disks and networks, and
    processes that train together read different files.
    """
    from dataclasses import replace

    from leafport import files
    from leafport.cli import terminal
    from leafport.training.data import shards, splits

    divided = replace(splits.Splits.load(splits_file), root=folder.resolve())
    with terminal.counting("Writing photographs") as progress:
        shards.write(divided, out, per_shard=per_shard, progress=progress)
    made = shards.Shards.load(out)
    rows = terminal.table("side", "photographs>", "files>", "size>")
    for side, parts in made.sides.items():
        size = terminal.size(sum(part.size_bytes for part in parts))
        rows.add_row(side, f"{sum(len(part.photos) for part in parts):,}", f"{len(parts):,}", size)
    terminal.out.print(rows)
    terminal.out.print(f"\n{out}: {terminal.size(files.size_bytes(out))}.", markup=False, soft_wrap=True)
