"""Which photographs a classifier may be judged by: none that it learned from or was tuned on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leafport import files
from leafport.contract import Contract
from leafport.errors import DataError
from leafport.training.data import splits
from leafport.training.data.splits import Photo, Skipped, Splits

SPLITS_FILE = "splits.json"


@dataclass(frozen=True)
class Selection:
    """The photographs of a folder that a classifier may be judged by.

    Attributes:
        truth: int32 [N], which of the labels is right for each of ``photos``.
        seen: how many photographs were left out because the classifier learned from them or was tuned on them.
    """

    root: Path
    photos: tuple[Photo, ...]
    truth: np.ndarray
    skipped: tuple[Skipped, ...]
    seen: int

    @property
    def paths(self) -> list[Path]:
        """Where the photographs lie, in the order of ``truth``."""
        return [self.root / photo.path for photo in self.photos]

    def provenance(self) -> dict[str, Any]:
        """Which photographs figures are of: a hash over their contents, and what was left out and why."""
        return {
            "data_sha256": files.sha256_json(sorted(photo.sha256 for photo in self.photos)),
            "left_out_as_seen": self.seen,
            "skipped": [{"path": entry.path, "reason": entry.reason} for entry in self.skipped],
        }


def test_split(divided: Splits) -> Selection:
    """The photographs that were set aside for judging."""
    index = {label: position for position, label in enumerate(divided.labels)}
    truth = np.array([index[divided.label_of[photo.folder]] for photo in divided.test], np.int32)
    return Selection(divided.root, divided.test, truth, divided.skipped, len(divided.train) + len(divided.validation))


def select(
    run: Path, contract: Contract, data: Path, *, progress: Callable[[int, int], None] | None = None
) -> Selection:
    """The photographs of ``data`` that the classifier in ``run`` did not learn from, known by their content.

    Over the run's own photographs these are its test split; over others, all of them.

    Raises:
        DataError: no photographs, folders the classifier has no label for, or none it has not learned from.
    """
    record = run / SPLITS_FILE
    known = Splits.load(record) if record.is_file() else None
    label_of = known.label_of if known else {label: label for label in contract.labels}
    learned = {photo.sha256 for photo in (*known.train, *known.validation)} if known else set()
    folder = splits.scan(data, progress=progress, learn=False)
    if unknown := [name for name in folder.folders if name not in label_of]:
        raise DataError(
            f"{data} has folders the classifier has no label for: {', '.join(unknown)}. Name them as the folders it "
            f"learned from, or leave them out: {', '.join(label_of)}."
        )
    photos = tuple(photo for photo in folder.photos if photo.sha256 not in learned)
    if not photos:
        raise DataError(f"The classifier has learned from every photograph of {data}. Give others, to judge it by.")
    index = {label: position for position, label in enumerate(contract.labels)}
    truth = np.array([index[label_of[photo.folder]] for photo in photos], np.int32)
    return Selection(data, photos, truth, folder.skipped, len(folder.photos) - len(photos))
