"""Which photographs an export uses: to calibrate on, to compare on, and to send along as golden images."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leafport import files
from leafport.errors import DataError
from leafport.training.data.splits import Photo, Splits

GOLDEN_IMAGES = 8
VALIDATION_IMAGES = 1000


@dataclass(frozen=True)
class Photographs:
    """The photographs of one export, each list balanced over the classes.

    Attributes:
        calibration: from the training split only, so that accuracy is never measured on them.
        validation: from the validation split, as many as there are up to VALIDATION_IMAGES, drawn by their hashes.
        comparison: from the test split.
        golden: a few of the test split.
        missing: photographs of the splits file that are gone or have changed, and are not used.
    """

    root: Path
    calibration: tuple[Photo, ...]
    validation: tuple[Photo, ...]
    comparison: tuple[Photo, ...]
    golden: tuple[Photo, ...]
    missing: tuple[Photo, ...]

    def paths(self, photos: Iterable[Photo]) -> list[str]:
        """Where these photographs lie."""
        return [str(self.root / photo.path) for photo in photos]


def choose(splits: Splits, *, data: Path | None, calibration: int, comparison: int) -> Photographs:
    """Choose an export's photographs, and check that they still are what the classifier's run saw.

    Args:
        splits: the run's ``splits.json``.
        data: where the photographs lie now, if they were moved.
        calibration, comparison: how many to use at most.

    Raises:
        DataError: none of the photographs are there.
    """
    root = data or splits.root
    if not root.is_dir():
        raise DataError(f"The photographs this classifier was trained on are not at {root}. Give --data DIR.")
    missing: list[Photo] = []
    unchanged = _Unchanged(root, missing)
    chosen = Photographs(
        root,
        calibration=tuple(itertools.islice(filter(unchanged, balanced(splits.train)), calibration)),
        validation=tuple(itertools.islice(filter(unchanged, _by_hash(splits.validation)), VALIDATION_IMAGES)),
        comparison=tuple(itertools.islice(filter(unchanged, balanced(splits.test)), comparison)),
        golden=tuple(itertools.islice(filter(unchanged, balanced(splits.test)), GOLDEN_IMAGES)),
        missing=tuple(dict.fromkeys(missing)),
    )
    if not chosen.comparison or not chosen.calibration:
        raise DataError(
            f"{root} does not hold the photographs this classifier was trained and tested on "
            f"({len(missing)} are gone or have changed). Give --data DIR."
        )
    return chosen


def balanced(photos: Iterable[Photo]) -> list[Photo]:
    """The photographs in rounds: the first of every class, then the second of every class, and so on."""
    by_folder: defaultdict[str, list[Photo]] = defaultdict(list)
    for photo in _by_hash(photos):
        by_folder[photo.folder].append(photo)
    rounds = itertools.zip_longest(*(by_folder[folder] for folder in sorted(by_folder)))
    return [photo for photo in itertools.chain.from_iterable(rounds) if photo is not None]


def _by_hash(photos: Iterable[Photo]) -> list[Photo]:
    return sorted(photos, key=lambda photo: photo.sha256)


def list_sha256(photos: Iterable[Photo]) -> str:
    """The hash of a list of photographs, by their contents."""
    return files.sha256_json([photo.sha256 for photo in photos])


@dataclass(frozen=True)
class _Unchanged:
    """Whether a photograph is still the one the splits name; those that are not are noted."""

    root: Path
    missing: list[Photo]

    def __call__(self, photo: Photo) -> bool:
        path = files.inside(self.root, photo.path)
        if path.is_file() and files.sha256(path) == photo.sha256:
            return True
        self.missing.append(photo)
        return False
