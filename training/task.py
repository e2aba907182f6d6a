"""What a classifier is asked: which class folder has which label, and which labels are positive (dangerous)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leafport.errors import DataError

GENERIC_NAMES = frozenset({"data", "dataset", "images", "photographs", "photos", "pictures", "train", "training"})


@dataclass(frozen=True)
class Task:
    """``label_of`` maps class folders to labels, in the order of the model's outputs; see ``splits.Splits``."""

    kind: Literal["class", "binary"]
    label_of: dict[str, str]
    positive_labels: tuple[str, ...]


def define(
    kind: Literal["class", "binary"],
    folders: tuple[str, ...],
    positive: Path | None,
    *,
    negative_name: str | None = None,
    positive_name: str | None = None,
) -> Task:
    """The task over ``folders``, of which the file ``positive`` names the positive ones, one a line.

    A binary task's labels are (``negative_name``, ``positive_name``): ``not_poisonous`` and ``poisonous`` for a file
    ``poisonous.txt`` if not given.

    Raises:
        DataError: a binary task without the file, a file that cannot be read, that names unknown folders, none or all.
    """
    if positive is None:
        if kind == "binary":
            raise DataError("A binary task needs --positive FILE: the names of the positive class folders, one a line.")
        return Task(kind, {folder: folder for folder in folders}, ())
    chosen = _read_names(positive)
    if unknown := [name for name in chosen if name not in folders]:
        raise DataError(
            f"{positive} names {', '.join(map(repr, unknown))}, but there are no such class folders with photographs. "
            f"There are: {', '.join(folders)}."
        )
    if not chosen or len(chosen) == len(folders):
        raise DataError(f"{positive} names {'all' if chosen else 'none'} of the class folders. Name some, and not all.")
    if kind == "class":
        return Task(kind, {folder: folder for folder in folders}, tuple(f for f in folders if f in chosen))
    yes = positive_name or positive.stem
    no = negative_name or f"not_{positive.stem}"
    if yes == no:
        raise DataError(f"Both labels are called {yes!r}. Give --negative-name and --positive-name that differ.")
    negatives = {folder: no for folder in folders if folder not in chosen}
    return Task(kind, {**negatives, **{folder: yes for folder in folders if folder in chosen}}, (yes,))


def default_name(data: Path) -> str:
    """A contract's name made from the data's folder; from its parent where it is just called "images" or the like."""
    data = data.resolve()
    source = data.parent if data.name.lower() in GENERIC_NAMES else data
    slug = re.sub(r"[^a-z0-9]+", "-", source.name.lower()).strip("-")[:64].strip("-")
    return slug or "classifier"


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(
            f"{path} cannot be read ({problem}). Give a text file, one class folder's name a line."
        ) from None
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
