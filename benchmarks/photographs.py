"""Which photographs a benchmark may judge by: none that the model has learned from or was tuned on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from leafport import files, images
from leafport.benchmarks.report import Data, SkippedPhoto
from leafport.contract import Contract, ImageInput
from leafport.errors import DataError
from leafport.export.photographs import balanced
from leafport.training.data.splits import Photo, Skipped, Splits, scan

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Photographs:
    """Photographs to judge by: where they lie, which label (an index) is right for each, and how they were chosen."""

    paths: tuple[Path, ...]
    truth: np.ndarray
    data: Data


def choose(
    data: Path | None, splits: Splits | None, contract: Contract, *, limit: int | None = None, progress: Progress
) -> Photographs:
    """The photographs under ``data`` that the model has not seen; without ``data``, the test split.

    Args:
        data: a folder of class folders. A folder is known by the name it had in training, or by a label.
        splits: what the model has seen; None where there is no record of it.
        limit: at most so many, balanced over the folders; the same ones each time.
        progress: called with (what is done, done, in all).

    Raises:
        DataError: no photographs are left, a folder is none of the model's classes, or neither ``data`` nor ``splits``
            is given.
    """
    skipped: tuple[Skipped, ...] = ()
    left_out = 0
    if data is None:
        if splits is None:
            raise DataError(
                "There is no record of the photographs this model was trained on. Say which to use: --data DIR."
            )
        root, photos = splits.root, splits.test
        if missing := [photo for photo in photos if not splits.file(photo).is_file()]:
            raise DataError(
                f"{splits.file(missing[0])}, of the test split, is not there any more. Say where it is: --data DIR."
            )
    else:
        folder = scan(data, progress=lambda done, total: progress("Reading photographs", done, total), learn=False)
        seen = {photo.sha256 for photo in (*splits.train, *splits.validation)} if splits else set()
        root, skipped = folder.root, folder.skipped
        photos = tuple(photo for photo in folder.photos if photo.sha256 not in seen)
        left_out = len(folder.photos) - len(photos)
        if not photos:
            raise DataError(
                f"All {left_out} photographs of {data} were seen in training. Accuracy must be measured on others."
            )
    label_of = _labels(root, photos, splits, contract)
    photos = _distinct(photos)
    used = balanced(photos)[:limit] if limit else photos
    return Photographs(
        paths=tuple(root / photo.path for photo in used),
        truth=np.array([contract.labels.index(label_of[photo.folder]) for photo in used], dtype=np.int64),
        data=Data(
            root=root.resolve().name,
            photographs=len(used),
            sha256=files.sha256_json(sorted(photo.sha256 for photo in used)),
            split=_split_name(photos, splits),
            left_out=left_out,
            limit=limit if limit and limit < len(photos) else None,
            skipped=tuple(SkippedPhoto(path=s.path, reason=_relative(s, root)) for s in skipped),
        ),
    )


def decode(paths: Sequence[Path], rule: ImageInput, into: Path, *, progress: Progress) -> None:
    """Decode photographs once for all artifacts: ``into`` becomes a .npy file, uint8 [N, height, width, 3].

    Raises:
        ImageError: a photograph cannot be used any more.
        OutputError: there is no room for the file.
    """
    with files.writable(into):
        pixels = np.lib.format.open_memmap(into, "w+", np.uint8, (len(paths), rule.height, rule.width, 3))
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the GIL.
            for index, image in enumerate(pool.map(lambda path: images.read(path, rule), paths)):
                pixels[index] = image
                progress("Decoding photographs", index + 1, len(paths))
        pixels.flush()


def _labels(root: Path, photos: Sequence[Photo], splits: Splits | None, contract: Contract) -> dict[str, str]:
    """The label of each folder in use."""
    trained = splits.label_of if splits else {}
    label_of = {}
    for folder in sorted({photo.folder for photo in photos}):
        label = trained.get(folder, folder)
        if label not in contract.labels:
            known = sorted({*trained, *contract.labels})
            shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
            raise DataError(
                f"{root / folder} is none of the classes of {contract.name!r} ({shown}). Rename or remove the folder."
            )
        label_of[folder] = label
    return label_of


def _distinct(photos: Sequence[Photo]) -> tuple[Photo, ...]:
    """Each photograph once: copies would count one answer several times."""
    return tuple({photo.sha256: photo for photo in reversed(photos)}.values())[::-1]


def _split_name(photos: Sequence[Photo], splits: Splits | None) -> Literal["test", "unseen", "unknown"]:
    if splits is None:
        return "unknown"
    tested = {photo.sha256 for photo in splits.test}
    return "test" if all(photo.sha256 in tested for photo in photos) else "unseen"


def _relative(skipped: Skipped, root: Path) -> str:
    reason: str = skipped.reason
    return reason.replace(f"{root}/", "")
