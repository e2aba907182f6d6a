"""Another threshold for a classifier that is trained already: what others promise and cost, and taking one.

Only the validation photographs are asked. Who chooses by the test split has nothing left to judge the choice by.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leafport import files
from leafport.classifier import Classifier
from leafport.contract import Safety
from leafport.errors import DataError
from leafport.training import origin, safety, stages, train
from leafport.training.data import splits
from leafport.training.data.splits import Splits
from leafport.training.evaluation import evaluate
from leafport.training.evaluation.learning import HISTORY_FILE
from leafport.training.evaluation.selection import SPLITS_FILE
from leafport.training.loop import Progress

LEVELS = (0.999, 0.995, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91, 0.9, 0.85, 0.8)
KEPT = (origin.RECORD_FILE, HISTORY_FILE, train.LOG_FILE)


@dataclass(frozen=True)
class Validated:
    """A classifier, and what it says of the photographs its threshold is chosen on.

    Attributes:
        now: what its contract says.
        score: float [N], the positive labels' share of each validation photograph's probabilities.
        positive: bool [N], which of them are positive.
    """

    classifier: Classifier
    now: Safety
    divided: Splits
    score: np.ndarray
    positive: np.ndarray

    def choose(self, required_recall: float) -> Safety:
        """What the contract says when so much is required."""
        return safety.choose(self.score, self.positive, self.now.positive_labels, required_recall=required_recall)

    def choices(self) -> list[Safety]:
        """One for each threshold that the LEVELS lead to, the lowest first.

        Where several lead to the same it is that of the highest these photographs can show, or, if they can show none
        of them, that of the highest.
        """
        found: dict[float, Safety] = {}
        for chosen in map(self.choose, LEVELS):
            if chosen.threshold not in found or (chosen.attained and not found[chosen.threshold].attained):
                found[chosen.threshold] = chosen
        return list(found.values())


def validated(run: Path, data: Path, *, progress: Progress) -> Validated:
    """Ask the classifier in ``run`` about its own validation photographs, which lie in ``data``.

    Raises:
        ModelError: ``run`` is no classifier, or one without positive labels.
        DataError: it does not say what it was tuned on, or these photographs are not in ``data``.
    """
    classifier = Classifier.load(run)
    contract = classifier.contract
    positives, now = contract.positive_indices, contract.safety
    assert now is not None  # Else there were no positives.
    record = run / SPLITS_FILE
    if not record.is_file():
        raise DataError(f"{run} has no {SPLITS_FILE}, which says what the classifier was tuned on.")
    known = Splits.load(record)
    folder = splits.scan(
        data, progress=lambda done, total: progress("Reading photographs", done, total, ""), learn=False
    )
    divided = splits.apply(known, folder, label_of=known.label_of)
    paths, truth = stages.side(divided, divided.validation)
    probabilities = evaluate.predict(
        classifier, paths, progress=lambda done, total: progress("Asking about validation photographs", done, total, "")
    )
    return Validated(classifier, now, divided, contract.positive_score(probabilities), np.isin(truth, positives))


def retake(run: Path, data: Path, required_recall: float, out: Path, *, overwrite: bool, progress: Progress) -> Path:
    """Write the classifier in ``run``, with the threshold that promises so much, to ``out``, judged anew; ``out``.

    Raises:
        OutputError: ``out`` cannot be written, or is something already. Also what ``validated`` raises.
    """
    train.check_out(out, data, overwrite=overwrite)
    found = validated(run, data, progress=progress)
    contract = found.classifier.contract.model_copy(update={"safety": found.choose(required_recall)})
    with files.staged(out) as staging:
        staging.mkdir()
        for name in KEPT:
            if (run / name).is_file():
                shutil.copyfile(run / name, staging / name)
        classifier = dataclasses.replace(found.classifier, contract=contract)
        classifier.save(staging)
        found.divided.save(staging / SPLITS_FILE)
        train.judge(classifier, found.divided, staging, progress)
    return out
