"""Which photographs are shown, in which order, and what is said of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leafport.classifier import Classifier
from leafport.errors import ImageError
from leafport.training.evaluation import gallery

Make = Callable[..., Any]
# Labels: a, b, and the dangerous c. Called at 0.4 of c.
PROBABILITIES = np.array(
    [
        [0.90, 0.05, 0.05],  # 0: a, rightly.
        [0.80, 0.15, 0.05],  # 1: b, called a.
        [0.98, 0.01, 0.01],  # 2: c, missed most surely.
        [0.70, 0.00, 0.30],  # 3: c, missed.
        [0.51, 0.00, 0.49],  # 4: c, called a, but found by the threshold.
        [0.10, 0.30, 0.60],  # 5: b, called c: a false alarm.
        [0.00, 0.05, 0.95],  # 6: c, rightly.
        [0.05, 0.00, 0.95],  # 7: a, called c: a surer false alarm.
    ],
    np.float32,
)
TRUTH = np.array([0, 1, 2, 2, 2, 1, 2, 0])


def decoded(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_missed_danger_comes_before_the_surest_mistakes(make_contract: Make) -> None:
    contract = make_contract(("a", "b", "c"), (2,))
    assert gallery.missed(PROBABILITIES, TRUTH, contract).tolist() == [2, 3]
    assert gallery.mistakes(PROBABILITIES, TRUTH, contract).tolist() == [2, 7, 1, 3, 5, 4]
    assert gallery.worst(PROBABILITIES, TRUTH, contract).tolist() == [2, 3, 7, 1, 5, 4]
    assert gallery.worst(PROBABILITIES, TRUTH, make_contract(("a", "b", "c"))).tolist() == [2, 7, 1, 3, 5, 4]


def test_a_photograph_on_the_threshold_is_no_miss(make_contract: Make) -> None:
    probabilities = np.array([[0.9, 0.1]], np.float32)
    contract = make_contract(("no", "yes"), (1,), threshold=float(probabilities[0, 1]), task="binary")
    assert not len(gallery.missed(probabilities, np.array([1]), contract))
    assert not len(gallery.mistakes(probabilities, np.array([1]), contract))


def test_galleries_show_photographs_with_what_is_said_of_them(make_contract: Make, photos: Path) -> None:
    contract = make_contract(("a", "b", "c"), (2,))
    paths = sorted(photos.glob("*/*.png"))[: len(TRUTH)]
    names = [f"photo {number}" for number in range(len(TRUTH))]
    missed, mistakes = gallery.galleries(names, paths, PROBABILITIES, TRUTH, contract, most=4)
    assert missed is not None
    first = missed.pictures[0]
    assert (first.path, first.truth, first.answer) == ("photo 2", "c", "a")
    assert (first.probability, first.right, first.danger) == pytest.approx((0.98, 0.01, 0.01))
    assert first.image is not None
    shown, photo = decoded(first.image), Image.open(paths[2])
    assert shown.size == photo.size
    coarse = [np.asarray(image.convert("RGB").resize((6, 5), Image.Resampling.BOX), float) for image in (shown, photo)]
    assert np.abs(coarse[0] - coarse[1]).mean() < 4 < np.abs(coarse[0] - coarse[1][:, ::-1]).mean()
    assert (missed.total, len(missed.pictures)) == (2, 2)
    assert (mistakes.total, [picture.path for picture in mistakes.pictures]) == (
        6,
        ["photo 2", "photo 7", "photo 1", "photo 3"],
    )
    without, _ = gallery.galleries(names, paths, PROBABILITIES, TRUTH, make_contract(("a", "b", "c")), most=1)
    assert without is None


def test_a_binary_tasks_mistakes_are_its_false_alarms(make_contract: Make, photos: Path) -> None:
    contract = make_contract(("no", "yes"), (1,), threshold=0.2, task="binary")
    probabilities = np.array([[0.7, 0.3], [0.9, 0.1], [0.75, 0.25], [0.4, 0.6]], np.float32)
    truth = np.array([0, 1, 1, 0])
    paths = sorted(photos.glob("*/*.png"))[:4]
    missed, alarms = gallery.galleries(list("0123"), paths, probabilities, truth, contract)
    assert missed is not None
    assert [(one.path, one.answer) for one in missed.pictures] == [("1", "no")]
    assert [(one.path, one.answer) for one in alarms.pictures] == [("3", "yes"), ("0", "yes")]
    assert alarms.pictures[1].probability == pytest.approx(0.3)


def test_a_thumbnail_is_small_and_whole(tmp_path: Path) -> None:
    wide = gallery.thumbnail(Image.new("RGB", (3000, 1000), (9, 90, 9)))
    assert wide.size == (240, 80)
    assert gallery.thumbnail(Image.new("RGB", (5000, 2))).size == (240, 1)
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    assert len(gallery.data_uri(gallery.thumbnail(Image.fromarray(noise)))) < 60_000


def test_a_photograph_that_vanished_costs_its_picture_only(make_contract: Make, tmp_path: Path) -> None:
    picture = gallery.picture("gone.jpg", tmp_path / "gone.jpg", PROBABILITIES[0], 0, make_contract(3))
    assert (picture.image, picture.answer, picture.danger) == (None, "class 0", None)


def test_explanations_are_of_the_answer_and_of_the_truth(trained: Path, photos: Path) -> None:
    classifier = Classifier.load(trained)
    labels, paths = classifier.contract.labels, sorted(photos.glob("*/*.png"))[:2]
    done: list[tuple[int, int]] = []
    asked = [("one", paths[0], None), *(("two", paths[1], truth) for truth in range(4))]
    pictures = gallery.explain(classifier, asked, progress=lambda n, total: done.append((n, total)))
    assert done == [(n, 5) for n in range(1, 6)]
    assert [name for name, *_ in pictures[0].heat] == [pictures[0].answer]
    for truth, picture in enumerate(pictures[1:]):
        expected = dict.fromkeys([picture.answer, labels[truth]])
        assert [name for name, *_ in picture.heat] == list(expected)
        assert all(decoded(image).size == Image.open(paths[1]).size for _, image, _ in picture.heat)
    with pytest.raises(ImageError, match="does not exist"):
        gallery.explain(classifier, [("gone", photos / "gone.png", None)])
