"""Photographs to look at: what was missed, the surest mistakes, and what they rest on."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from leafport import images
from leafport.classifier import Classifier
from leafport.contract import Contract
from leafport.errors import ImageError
from leafport.training.evaluation import gradcam
from leafport.training.evaluation.figures import answers

MOST = 24
"""Photographs in one gallery; what is left out is counted in the page."""
SIDE = 240
"""Pixels of a thumbnail's longer side: about 10 kB as a JPEG."""


@dataclass(frozen=True)
class Picture:
    """A photograph in a gallery.

    Attributes:
        path: for people, relative to the photographs' folder where it lies there.
        truth: what it shows; None where nobody has said.
        answer: what the classifier says, with ``probability``.
        right: the probability of what it shows.
        danger: the probability of its being dangerous, where the classifier knows of danger.
        image: a JPEG as a data URI; None where the photograph cannot be read any more.
        heat: what speaks for classes, laid over it: label, data URI, and whether anything does.
    """

    path: str
    truth: str | None
    answer: str
    probability: float
    right: float | None
    danger: float | None
    image: str | None
    heat: tuple[tuple[str, str, bool], ...] = ()


@dataclass(frozen=True)
class Gallery:
    """The first ``pictures`` of ``total`` photographs, under a ``title``; ``note`` says which these are."""

    title: str
    note: str
    pictures: tuple[Picture, ...]
    total: int


def missed(probabilities: np.ndarray, truth: np.ndarray, contract: Contract) -> np.ndarray:
    """The dangerous photographs below the threshold, those called harmless most surely first: int [n], indices."""
    assert contract.safety is not None
    score = contract.positive_score(probabilities).astype(np.float64)
    return _ordered(np.isin(truth, contract.positive_indices) & (score < contract.safety.threshold), score)


def mistakes(probabilities: np.ndarray, truth: np.ndarray, contract: Contract) -> np.ndarray:
    """The photographs that are called what they are not, the most confident first: int [n], indices."""
    called = answers(probabilities, contract)
    return _ordered(called != truth, -probabilities[np.arange(len(truth)), called])


def worst(probabilities: np.ndarray, truth: np.ndarray, contract: Contract) -> np.ndarray:
    """What is missed or mistaken, the gravest first: missed danger, then by confidence: int [n], indices."""
    wrong = mistakes(probabilities, truth, contract)
    grave = missed(probabilities, truth, contract) if contract.safety else wrong[:0]
    return np.concatenate([grave, wrong[~np.isin(wrong, grave)]])


def _ordered(chosen: np.ndarray, order: np.ndarray) -> np.ndarray:
    indices = np.flatnonzero(chosen)
    result: np.ndarray = indices[np.argsort(order[indices], kind="stable")]
    return result


def galleries(
    names: Sequence[str],
    paths: Sequence[Path],
    probabilities: np.ndarray,
    truth: np.ndarray,
    contract: Contract,
    most: int = MOST,
) -> tuple[Gallery | None, Gallery]:
    """The missed dangerous photographs, where the classifier knows of danger, and the surest of the other mistakes.

    For a binary task these are the false alarms. One photograph is in memory at a time.
    """

    def shown(title: str, note: str, indices: np.ndarray) -> Gallery:
        pictures = [
            picture(names[index], paths[index], probabilities[index], int(truth[index]), contract)
            for index in indices[:most]
        ]
        return Gallery(title, note, tuple(pictures), len(indices))

    if contract.safety is None:
        first = None
    else:
        note = "Dangerous, and let pass as harmless: the error that matters. The surest ones come first."
        first = shown("Dangerous photographs it missed", note, missed(probabilities, truth, contract))
    wrong = mistakes(probabilities, truth, contract)
    if contract.safety and contract.task == "binary":
        wrong = wrong[~np.isin(truth[wrong], contract.positive_indices)]
        return first, shown("False alarms", "Harmless, and called dangerous. The surest ones come first.", wrong)
    note = "Answered wrongly, with the highest probabilities first. Some may be labelled wrongly."
    return first, shown("Most confident mistakes", note, wrong)


def picture(name: str, path: Path, probabilities: np.ndarray, truth: int | None, contract: Contract) -> Picture:
    """One photograph with its answer, whose probabilities are float [classes]."""
    danger = float(contract.positive_score(probabilities[None])[0]) if contract.safety else None
    answer = int(answers(probabilities[None], contract)[0])
    try:
        image = data_uri(thumbnail(images.open_rgb(path)))
    except ImageError:  # It was readable when it was asked about: not worth losing a whole evaluation for.
        image = None
    return Picture(
        path=name,
        truth=None if truth is None else contract.labels[truth],
        answer=contract.labels[answer],
        probability=float(probabilities[answer]),
        right=None if truth is None else float(probabilities[truth]),
        danger=danger,
        image=image,
    )


def explain(
    classifier: Classifier,
    photographs: Sequence[tuple[str, Path, int | None]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Picture, ...]:
    """Photographs (name, file, label or None) with what speaks for their answer and, where it is wrong, for the truth.

    Raises:
        ImageError: at the first photograph that cannot be used. ModelError: the model has no map of features.
    """
    contract = classifier.contract
    network = gradcam.network(classifier.model)
    made = []
    for number, (name, path, truth) in enumerate(photographs, 1):
        photo = images.open_rgb(path)
        pixels = images.fit(photo, contract.image)
        shown = picture(name, path, classifier.predict(pixels[None])[0], truth, contract)
        asked = dict.fromkeys([shown.answer, *([] if shown.truth is None else [shown.truth])])
        heat = {label: gradcam.heat(network, pixels, contract.labels.index(label)) for label in asked}
        small = thumbnail(photo)
        laid = [
            (label, data_uri(gradcam.overlay(small, found, contract.image)), bool(found.any()))
            for label, found in heat.items()
        ]
        made.append(replace(shown, heat=tuple(laid)))
        if progress:
            progress(number, len(photographs))
    return tuple(made)


def thumbnail(photo: Image.Image, side: int = SIDE) -> Image.Image:
    """A small copy, at most ``side`` pixels wide and high."""
    scale = min(1, side / max(photo.size))
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def data_uri(image: Image.Image) -> str:
    """An image as a JPEG within the page."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=78, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
