"""How often a classifier is right, on photographs it has not learned from: ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leafport import files, metrics
from leafport.classifier import Classifier
from leafport.contract import Contract
from leafport.errors import DataError
from leafport.training.data import pipeline, splits
from leafport.training.data.splits import Photo, Skipped, Splits

SPLITS_FILE = "splits.json"
EVALUATION_FILE = "evaluation.json"


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


def evaluate(
    classifier: Classifier,
    paths: Sequence[Path],
    truth: np.ndarray,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The figures of a classifier over photographs, as in evaluation.json; ``truth`` is int [N], indices of labels.

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    return figures(predict(classifier, paths, progress=progress), truth, classifier.contract)


def predict(
    classifier: Classifier, paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Probabilities (float32 [N, classes]) of photographs' files. Raises ImageError."""
    return pipeline.infer(classifier.model, paths, classifier.contract.image, progress=progress)


def figures(probabilities: np.ndarray, truth: np.ndarray, contract: Contract) -> dict[str, Any]:
    """n, top1, top3, top5, per_class and, where the contract has positive labels, binary, as JSON values.

    top3 and top5 are None where there are no more classes than that: they would say nothing. Other figures are None
    where there is nothing to divide by. ``intervals`` has the two-sided Clopper-Pearson interval of each share.
    """
    classes, n = len(contract.labels), len(truth)
    each = metrics.per_class(probabilities.argmax(axis=1), truth, classes)
    shares = {f"top{k}": metrics.top_k(probabilities, truth, k) if k == 1 or classes > k else None for k in (1, 3, 5)}
    value: dict[str, Any] = {
        "n": n,
        **shares,
        "confidence": 0.95,
        "intervals": {
            name: None if share is None else list(metrics.clopper_pearson(round(share * n), n))
            for name, share in shares.items()
        },
        "expected_calibration_error": metrics.expected_calibration_error(metrics.reliability(probabilities, truth)),
        "per_class": {
            label: {"n": one.support, "precision": one.precision, "recall": one.recall, "f1": one.f1}
            for label, one in zip(contract.labels, each, strict=True)
        },
    }
    if contract.safety:
        positive = np.isin(truth, contract.positive_indices)
        safety = contract.safety
        binary = metrics.binary_figures(
            contract.positive_score(probabilities), positive, safety.threshold, confidence=safety.confidence
        )
        value["binary"] = {
            "n": len(truth),
            "positives": binary.positives,
            "negatives": binary.negatives,
            "recall": binary.recall,
            "recall_lower_bound": binary.recall_lower_bound,
            "precision": binary.precision,
            "f1": binary.f1,
            "false_alarm_rate": binary.false_alarm_rate,
            "threshold": binary.threshold,
        }
    return value


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


def evaluate_folder(
    run: Path, data: Path, *, progress: Callable[[str, int, int, str], None] | None = None
) -> dict[str, Any]:
    """The figures of the classifier in ``run`` over the folder of class folders ``data``, and what was left out.

    Raises:
        ModelError: ``run`` is no classifier. DataError: see ``select``.
    """
    from leafport import classifier as classifiers

    def report(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(stage, done, total, "") if progress else None

    contract = classifiers.load_contract(run)
    chosen = select(run, contract, data, progress=report("Reading photographs"))
    paths = [data / photo.path for photo in chosen.photos]
    value = evaluate(Classifier.load(run), paths, chosen.truth, progress=report("Asking the classifier"))
    return {**value, **provenance(chosen.photos, chosen.skipped, chosen.seen)}


def provenance(photos: Sequence[Photo], skipped: Sequence[Skipped], seen: int) -> dict[str, Any]:
    """Which photographs the figures are of: a hash over their contents, and what was left out and why."""
    return {
        "data_sha256": files.sha256_json(sorted(photo.sha256 for photo in photos)),
        "left_out_as_seen": seen,
        "skipped": [{"path": entry.path, "reason": entry.reason} for entry in skipped],
    }
