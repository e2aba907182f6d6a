"""leafport data unpack: shards as photographs again."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)


@click.command("unpack", short_help="Write the photographs in shards as files again.")
@click.argument("shards_folder", metavar="SHARDS", type=PATH)
@click.option("--out", type=PATH, required=True, help="The folder of class folders to write.")
@click.option("--splits", "splits_file", type=PATH, required=True, help="The split to write, for `leafport train`.")
def command(shards_folder: Path, out: Path, splits_file: Path) -> None:
    """Write the photographs in SHARDS, from `leafport data shards`, as files again, each held against its hash.

    For a machine that was sent the shards: a few large files travel better than many small ones.
    """
    from leafport.cli import terminal
    from leafport.errors import OutputError
    from leafport.training.data import shards

    if splits_file.exists():
        raise OutputError(f"{splits_file} exists. Give another --splits, or remove it.")
    with terminal.counting("Writing photographs") as progress:
        divided = shards.unpack(shards_folder, out, progress=progress)
    divided.save(splits_file)
    count = sum(map(len, divided.sides.values()))
    terminal.out.print(f"{count:,} photographs in {len(divided.folders)} classes.")
    terminal.out.print(f"\nNext: leafport train {out} --splits {splits_file} --out RUN", markup=False, soft_wrap=True)
