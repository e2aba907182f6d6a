"""The course of a training, read back from its ``history.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path

from leafport.errors import DataError

HISTORY_FILE = "history.csv"
MAX_BYTES = 2**24


@dataclass(frozen=True)
class Point:
    """One epoch: its stage, and loss and top-1 accuracy on what was learned from and on validation photographs."""

    stage: str
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


def read(path: Path) -> tuple[Point, ...]:
    """The epochs in a history.csv, in order; none where there is no such file.

    Raises:
        DataError: the file is larger than 16 MiB or not one that leafport wrote.
    """
    if not path.is_file():
        return ()
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES >> 20} MiB: this is not a file leafport wrote. Remove it.")
    quantities = [field.name for field in fields(Point)][1:]
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return tuple(
                Point(line["stage"], *(float(line[name]) for name in quantities)) for line in csv.DictReader(stream)
            )
    except (KeyError, TypeError, ValueError, csv.Error) as problem:
        raise DataError(f"{path} is no history leafport wrote ({problem!r}). Remove it, or train again.") from None
