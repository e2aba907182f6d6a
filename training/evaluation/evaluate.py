"""From a classifier and photographs to its evaluation: figures, and a folder with pictures and a page."""

from __future__ import annotations

import csv
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import __version__, files
from leafport import classifier as classifiers
from leafport.classifier import Classifier
from leafport.contract import Contract
from leafport.errors import OutputError
from leafport.training.data import pipeline
from leafport.training.evaluation import figures, gallery, learning, page, plots, tta
from leafport.training.evaluation.learning import HISTORY_FILE
from leafport.training.evaluation.selection import Selection, select
from leafport.training.loop import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVALUATION_FILE = "evaluation.json"
PAGE_FILE = "evaluation.html"
CONFUSION_FILE = "confusion.csv"
ANSWERS_FILE = "answers.csv"
PLOTS = "plots"
ASKING = "Asking the classifier"


def judge(
    classifier: Classifier,
    chosen: Selection,
    out: Path | None = None,
    *,
    history: Path | None = None,
    several_views: bool = False,
    explain: Sequence[Path] = (),
    explain_worst: int = 0,
    stage: str = ASKING,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The figures of a classifier over photographs, as JSON values; with ``out`` its whole evaluation, written there.

    That is evaluation.json, evaluation.html, confusion.csv, answers.csv (a line for each photograph) and plots/.

    Args:
        history: the history.csv of its training, for the learning curves.
        several_views: also ask about several views of each photograph (``tta``), and report that beside the rest.
        explain: photographs, of the chosen ones or others, to show what the answer rests on (Grad-CAM).
        explain_worst: the same for so many of the gravest mistakes.
        stage: what to call the asking when reporting progress.

    Raises:
        ImageError: at the first photograph that cannot be used. DataError: ``history`` cannot be read.
        ModelError: what an answer rests on cannot be shown for this model.
        OutputError: ``out`` cannot be written to, or lies among the photographs.
    """
    if out is not None:
        _refuse_photographs(out, chosen.root)
    contract = classifier.contract
    probabilities = predict(classifier, chosen.paths, progress=_report(progress, stage))
    value = figures.figures(probabilities, chosen.truth, contract)
    if several_views:
        others = tta.predict(classifier, chosen.paths, progress=_report(progress, "Asking about several views"))
        compared = figures.beside(others, probabilities, chosen.truth, contract)
        value["test_time_augmentation"] = {"views": [view.name for view in tta.VIEWS], **compared}
    value |= chosen.provenance() | {"contract_sha256": contract.sha256, "versions": _versions()}
    if out is not None:
        looking = _report(progress, "Looking where it looked")
        worst = gallery.worst(probabilities, chosen.truth, contract)[:explain_worst]
        explained = gallery.explain(classifier, _to_explain(chosen, explain, worst), progress=looking)
        _write(out, value, probabilities, chosen, contract, learning.read(history) if history else (), explained)
    return value


def predict(
    classifier: Classifier, paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Probabilities (float32 [N, classes]) of photographs' files. Raises ImageError."""
    return pipeline.infer(classifier.model, paths, classifier.contract.image, progress=progress)


def evaluate_folder(
    run: Path,
    data: Path,
    out: Path | None = None,
    *,
    several_views: bool = False,
    explain: Sequence[Path] = (),
    explain_worst: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """``judge`` for the classifier in ``run`` and the photographs of ``data``, class folders, it did not learn from.

    Raises:
        ModelError: ``run`` is no classifier. DataError: see ``select``. Also what ``judge`` raises.
    """
    contract = classifiers.load_contract(run)
    chosen = select(run, contract, data, progress=_report(progress, "Reading photographs"))
    return judge(
        Classifier.load(run),
        chosen,
        out,
        history=run / HISTORY_FILE,
        several_views=several_views,
        explain=explain,
        explain_worst=explain_worst,
        progress=progress,
    )


def _to_explain(chosen: Selection, asked: Sequence[Path], worst: np.ndarray) -> list[tuple[str, Path, int | None]]:
    """Name, file and label of each photograph to explain, once; of those that were not chosen, no label is known."""
    known = {path.resolve(): index for index, path in enumerate(chosen.paths)}
    indices = dict.fromkeys([known.get(path.resolve(), path) for path in asked] + [int(index) for index in worst])
    return [
        (str(index), index, None)
        if isinstance(index, Path)
        else (chosen.photos[index].path, chosen.paths[index], int(chosen.truth[index]))
        for index in indices
    ]


def _write(
    out: Path,
    value: dict[str, Any],
    probabilities: np.ndarray,
    chosen: Selection,
    contract: Contract,
    history: Sequence[learning.Point],
    explained: Sequence[gallery.Picture],
) -> None:
    names, called = [photo.path for photo in chosen.photos], figures.answers(probabilities, contract)
    matrix = figures.confusion(called, chosen.truth, len(contract.labels))
    files.write_json(out / EVALUATION_FILE, value)  # First, as figures take long to measure.
    _write_confusion(out / CONFUSION_FILE, matrix, contract.labels)
    _write_answers(out / ANSWERS_FILE, names, probabilities, chosen.truth, contract)
    drawn = draw(value, probabilities, chosen.truth, matrix, contract, history)
    for name, picture in drawn.items():
        files.write_bytes(out / PLOTS / f"{name}.png", plots.png(picture))
    galleries = gallery.galleries(names, chosen.paths, probabilities, chosen.truth, contract)
    files.write_text(out / PAGE_FILE, page.html(contract, value, matrix, drawn, galleries, explained))


def draw(
    value: dict[str, Any],
    probabilities: np.ndarray,
    truth: np.ndarray,
    matrix: np.ndarray,
    contract: Contract,
    history: Sequence[learning.Point],
) -> dict[str, Figure]:
    """The pictures there is something to draw for, by name."""
    drawn = {
        "confusion": plots.confusion(matrix, contract.labels),
        "reliability": plots.reliability(value["reliability"]),
    }
    if history:
        drawn |= {quantity: plots.learning(history, quantity) for quantity in ("loss", "accuracy")}
    binary = value.get("binary")
    if contract.safety and binary and binary["positives"] and binary["negatives"]:
        score, positive = contract.positive_score(probabilities), np.isin(truth, contract.positive_indices)
        drawn |= {
            "roc": plots.roc(score, positive, binary),
            "precision_recall": plots.precision_recall(score, positive, binary),
            "scores": plots.scores(score, positive, binary, contract.safety.not_sure),
        }
    return drawn


def _write_confusion(path: Path, matrix: np.ndarray, labels: Sequence[str]) -> None:
    """Write int [classes, classes] as CSV: a row for each class that is right, a column for each that was answered."""
    with files.staged(path) as staging, staging.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["is", *labels])
        writer.writerows([label, *map(int, row)] for label, row in zip(labels, matrix, strict=True))


def _write_answers(
    path: Path, names: Sequence[str], probabilities: np.ndarray, truth: np.ndarray, contract: Contract
) -> None:
    """Write a line for each photograph: what it is, what it was called, and the probabilities of both and of danger."""
    called = figures.answers(probabilities, contract)
    rows = np.arange(len(truth))
    columns = {"probability": probabilities[rows, called], "probability_of_is": probabilities[rows, truth]}
    if contract.safety:
        columns["danger"] = contract.positive_score(probabilities)
    labels = contract.labels
    with files.staged(path) as staging, staging.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "is", "called", *columns])
        for name, right, answer, *values in zip(names, truth, called, *columns.values(), strict=True):
            # Nine digits are a float32 as it stands: a score on the threshold stays on it.
            writer.writerow([name, labels[right], labels[answer], *(f"{value:.9g}" for value in values)])


def _versions() -> dict[str, str]:
    names = ("keras", "tensorflow", "numpy", "pillow", "scikit-learn", "scipy")
    return {"leafport": __version__, **{name: importlib.metadata.version(name) for name in names}}


def _refuse_photographs(out: Path, root: Path) -> None:
    if out.resolve().is_relative_to(root.resolve()):
        raise OutputError(f"{out} lies inside the photographs' folder {root}. Write elsewhere.")


def _report(progress: Progress | None, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total, "") if progress else None
