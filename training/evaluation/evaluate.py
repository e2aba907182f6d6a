"""From a classifier and photographs to its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leafport.classifier import Classifier
from leafport.training.data import pipeline
from leafport.training.evaluation.figures import figures
from leafport.training.evaluation.selection import select

EVALUATION_FILE = "evaluation.json"


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
    value = evaluate(Classifier.load(run), chosen.paths, chosen.truth, progress=report("Asking the classifier"))
    return {**value, **chosen.provenance()}
