"""What is wrong with a folder of photographs: unreadable ones, pictures that are there twice, doubtful labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leafport.training.data import duplicates
from leafport.training.data.splits import Photo, PhotoFolder, Skipped, Splits

CONFIDENT = 0.9
UNLIKELY = 0.05
FOLDS = 5
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Alike:
    """Photographs that show the same picture. ``exact`` when their bytes are the same.

    ``sides`` are those of the split they lie on, where there is one: more than one means that the split leaks.
    """

    paths: tuple[str, ...]
    exact: bool
    classes: tuple[str, ...]
    sides: tuple[str, ...]


@dataclass(frozen=True)
class Suspicion:
    """A photograph that a classifier which never saw it is sure belongs to another class."""

    path: str
    label: str
    probability: float
    suggested: str
    suggested_probability: float


@dataclass(frozen=True)
class Report:
    """All that was found. ``suspicions`` is None where labels were not judged; ``alike`` has exact copies first."""

    root: Path
    photographs: int
    skipped: tuple[Skipped, ...]
    alike: tuple[Alike, ...]
    suspicions: tuple[Suspicion, ...] | None
    out_of_fold_accuracy: float | None

    @property
    def leaks(self) -> list[Alike]:
        """Those alike that lie on more than one side of the split."""
        return [group for group in self.alike if len(group.sides) > 1]

    @property
    def disputed(self) -> list[Alike]:
        """Those alike that lie in more than one class."""
        return [group for group in self.alike if len(group.classes) > 1]

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return {**asdict(self), "root": str(self.root)}


def describe(groups: Sequence[Sequence[Photo]], splits: Splits | None = None) -> tuple[Alike, ...]:
    """What is to be said of groups of photographs that show the same picture (``duplicates.find``)."""
    side_of = {photo.sha256: side for side, photos in splits.sides.items() for photo in photos} if splits else {}
    found = [
        Alike(
            paths=tuple(photo.path for photo in group),
            exact=len({photo.sha256 for photo in group}) == 1,
            classes=tuple(sorted({photo.folder for photo in group})),
            sides=tuple(sorted({side_of[photo.sha256] for photo in group if photo.sha256 in side_of})),
        )
        for group in groups
    ]
    return tuple(sorted(found, key=lambda group: (not group.exact, group.paths)))


def suspect(
    photos: Sequence[Photo], features: np.ndarray, alike: Sequence[Sequence[Photo]] = (), *, seed: int = 0
) -> tuple[tuple[Suspicion, ...], float]:
    """Photographs whose label a classifier is sure to be wrong, the surest first, and that classifier's accuracy.

    It is a logistic regression on a pretrained network's features, asked only about photographs it was not fitted to
    (5 folds; those alike share a fold), with the regularisation whose answers fit best. It suspects where another
    class gets at least 0.9 and the label at most 0.05.

    Args:
        photos: N photographs.
        features: float [N, channels].
        alike: groups of ``photos`` that show the same picture.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes, truth = np.unique([photo.folder for photo in photos], return_inverse=True)
    number = {photo.path: index for index, photo in enumerate(photos)}
    unit = np.arange(len(photos))
    for group in alike:
        unit[[number[photo.path] for photo in group]] = min(number[photo.path] for photo in group)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    answers = (
        cross_val_predict(
            make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300)),
            features,
            truth,
            groups=unit,
            cv=folds,
            method="predict_proba",
        )
        for strength in STRENGTHS
    )
    probabilities = min(answers, key=lambda answer: log_loss(truth, answer, labels=range(len(classes))))
    guess = probabilities.argmax(axis=1)
    found = [
        Suspicion(
            path=photos[i].path,
            label=str(classes[truth[i]]),
            probability=round(float(probabilities[i, truth[i]]), 6),
            suggested=str(classes[guess[i]]),
            suggested_probability=round(float(probabilities[i, guess[i]]), 6),
        )
        for i in range(len(photos))
        if probabilities[i, guess[i]] >= CONFIDENT and probabilities[i, truth[i]] <= UNLIKELY
    ]
    found.sort(key=lambda suspicion: (suspicion.probability - suspicion.suggested_probability, suspicion.path))
    return tuple(found), float((guess == truth).mean())


def check(
    folder: PhotoFolder,
    splits: Splits | None = None,
    *,
    features: Callable[[Sequence[Path]], np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look for all of it.

    Args:
        folder: what ``scan`` found, with ``disputed=True`` if copies in several classes are to be found.
        splits: a split of these photographs, to be searched for pictures on two of its sides.
        features: turns photographs into features (float [N, channels]), to judge labels by; without it none are judged.

    Raises:
        ImageError: a photograph has changed or gone since it was scanned.
    """
    groups = duplicates.find(folder, progress=progress)
    suspicions, accuracy = None, None
    if features is not None:
        paths = [folder.root / photo.path for photo in folder.photos]
        suspicions, accuracy = suspect(folder.photos, features(paths), groups)
    return Report(folder.root, len(folder.photos), folder.skipped, describe(groups, splits), suspicions, accuracy)
