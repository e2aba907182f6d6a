"""What commands print for people. Results go to standard output, progress and complaints to standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from leafport.training.data.splits import Skipped

_WIDTH_IN_FILES = 120
out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_IN_FILES)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDTH_IN_FILES)


def size(count: int) -> str:
    """Bytes for people, in the decimal units of app stores: 24.3 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def seconds(value: float) -> str:
    """A duration for people: 4.2 s, 3 min 05 s."""
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60):02d} s"


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns whose name ends with ``>`` are right-aligned."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.endswith(">")
        made.add_column(column.removesuffix(">"), justify="right" if right else "left", no_wrap=right)
    return made


def progress() -> Progress:
    """A progress display on standard error, gone when it is done."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar fed with (done, total)."""
    with progress() as display:
        task = display.add_task(description, total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


def list_skipped(skipped: Sequence[Skipped], most: int = 5) -> None:
    """Say which photographs were not used and why, the first few by name."""
    if not skipped:
        return
    err.print(f"[yellow]{len(skipped)} photographs were skipped:[/yellow]")
    for entry in skipped[:most]:
        err.print(f"  {entry.reason}", markup=False, soft_wrap=True)
    if len(skipped) > most:
        err.print(f"  … and {len(skipped) - most} more, listed in splits.json")
