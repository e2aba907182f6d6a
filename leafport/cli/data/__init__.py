"""leafport data: know your photographs before you train on them. One module per verb."""

from __future__ import annotations

import click

from leafport.cli.data import check, filter, preview, shards, split, stats, unpack


@click.group("data")
def command() -> None:
    """Look at photographs in class folders: what there is, what is wrong with it, and how it is split."""


for verb in (stats, check, filter, split, shards, unpack, preview):
    command.add_command(verb.command)
