"""leafport app: a sample app with a model's files dropped in."""

from __future__ import annotations

from pathlib import Path

import click

KINDS = ("tx2",)


@click.command("app")
@click.argument("kind", metavar="KIND", type=click.Choice(KINDS))
@click.argument("exports", metavar="EXPORTS", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write the app into.")
def command(kind: str, exports: Path, out: Path) -> None:
    """Write a sample app with the files of EXPORTS in it. KIND is tx2: programs for a Jetson TX2's Python.

    The folder holds all that the device needs: the files, the contract, the labels, golden images with which the app
    checks itself, and programs that need no leafport.
    """
    from leafport import sample_apps
    from leafport.cli import terminal

    names = sample_apps.write(kind, exports, out)
    terminal.out.print(f"{out}: {', '.join(names)}", markup=False)
    build = "python3 build_engines.py, then " if {"tftrt-fp16", "tftrt-fp32"} & {*names} else ""
    terminal.out.print(f"Copy it to the board. There: {build}python3 classify.py PHOTO", markup=False)
