from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.contract import ImageInput
from leafport.errors import ImageError
from leafport.training.data import shares
from leafport.training.data.augment import Augmentation
from leafport.training.data.pipeline import Pixels, batches, naming_photographs, read_ahead, training_batches
from leafport.training.data.shares import Share
from leafport.training.data.store import Store

RULE = ImageInput(height=24, width=32)
CLASSES = 20


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    return sorted(photos.glob("*/*.png"))[:CLASSES]


def learned(paths: list[Path], count: int, **options: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    settings = {"classes": CLASSES, "batch_size": 8, "seed": 0, **options}
    endless = training_batches(Pixels(paths, RULE), np.arange(len(paths)), **settings)  # type: ignore[arg-type]
    return endless.take(count).as_numpy_iterator()


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_every_way_gives_the_pixels_of_images_read(paths: list[Path], tmp_path: Path, fit: str) -> None:
    rule = RULE.model_copy(update={"fit": fit})
    expected = np.stack([images.read(path, rule) for path in paths])
    truth = np.arange(len(paths))
    source = Pixels(paths, rule, cache=tmp_path)
    ordered = list(batches(source, truth, classes=CLASSES, batch_size=8).as_numpy_iterator())
    assert np.array_equal(np.concatenate([pixels for pixels, _ in ordered]), expected)
    assert np.array_equal(np.concatenate([label for _, label in ordered]), np.eye(CLASSES))
    assert np.array_equal(np.concatenate(list(read_ahead(source, 8))), expected)  # Now from the cache.

    endless = training_batches(source, truth, classes=CLASSES, batch_size=8, seed=0)
    for pixels, label in endless.take(3).as_numpy_iterator():
        assert np.array_equal(pixels, expected[label.argmax(axis=1)].astype(np.float32))


def test_a_photograph_is_decoded_once(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Pixels(paths, RULE, cache=tmp_path)
    first = source.read(3)
    monkeypatch.setattr(images, "open_rgb", lambda path: pytest.fail("decoded again"))
    assert np.array_equal(source.read(3), first)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_the_cache_only(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "put", full)
    source = Pixels(paths, RULE, cache=tmp_path)
    for _ in range(2):
        assert np.array_equal(source.read(3), images.read(paths[3], RULE))


def test_each_time_round_every_photograph_comes_once(paths: list[Path]) -> None:
    labels = np.concatenate([label.argmax(axis=1) for _, label in learned(paths, 5)])
    assert sorted(labels[:20]) == sorted(labels[20:]) == list(range(20))
    assert list(labels[:20]) != list(labels[20:])


def test_a_seed_gives_the_same_batches_again_from_any_batch_on(paths: list[Path]) -> None:
    def some(**options: object) -> np.ndarray:
        return np.stack([pixels for pixels, _ in learned(paths, 4, augmentation=Augmentation(), **options)])

    whole = some()
    assert np.array_equal(some(), whole)
    assert np.array_equal(some(start=2)[:2], whole[2:])
    assert not np.array_equal(some(seed=2), whole)


def test_a_photograph_that_vanished_is_named(paths: list[Path], tmp_path: Path) -> None:
    source = Pixels([*paths[:3], tmp_path / "gone.jpg"], RULE)
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
        list(read_ahead(source, 2))
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"), naming_photographs():
        list(batches(source, np.zeros(4, int), classes=2, batch_size=2).as_numpy_iterator())


def test_each_way_to_shrink_a_photograph_is_drawn(paths: list[Path], tmp_path: Path) -> None:
    rules = (RULE, RULE.model_copy(update={"kernel": "nearest"}))
    expected = np.stack([[images.read(path, rule) for rule in rules] for path in paths]).astype(np.float32)
    source = Pixels(paths, *rules, cache=tmp_path)
    still = Augmentation(flip=False, rotation=0, zoom=0, shift=0, brightness=0, contrast=0)
    drawn = set()
    truth = np.arange(len(paths))
    endless = training_batches(source, truth, classes=CLASSES, batch_size=8, seed=0, augmentation=still)
    for batch, labels in endless.take(10).as_numpy_iterator():
        for pixels, label in zip(batch, labels.argmax(axis=1), strict=True):
            gaps = np.abs(expected[label] - pixels).mean(axis=(1, 2, 3))
            assert gaps.min() < 0.01
            drawn.add((int(label), int(gaps.argmin())))
    assert len(drawn) > 30  # Of twenty photographs in two ways each.


@pytest.mark.parametrize("augmentation", [None, Augmentation(mixup=0.4, cutmix=0.4, randaugment=2)])
def test_processes_that_share_a_batch_read_it_whole(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, augmentation: Augmentation | None
) -> None:
    rules = (RULE, RULE.model_copy(update={"kernel": "nearest"})) if augmentation else (RULE,)
    source, truth = Pixels(paths, *rules), np.arange(len(paths))

    def some() -> list[tuple[np.ndarray, np.ndarray]]:
        endless = training_batches(
            source, truth, classes=CLASSES, batch_size=8, seed=0, augmentation=augmentation, start=2
        )
        return list(endless.take(4).as_numpy_iterator())

    whole, parts = some(), []
    for index in range(4):
        monkeypatch.setattr(shares, "own", lambda index=index: Share(index, processes=4, devices=8))
        parts.append(some())
    for step, expected in enumerate(whole):
        for found, wanted in zip(zip(*(part[step] for part in parts), strict=True), expected, strict=True):
            np.testing.assert_allclose(np.concatenate(found), wanted, atol=1e-3)


def test_what_fills_the_last_batch_of_several_devices_weighs_nothing(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, truth, seen, weighs = Pixels(paths, RULE), np.arange(len(paths)), [], 0.0
    for index in range(2):
        monkeypatch.setattr(shares, "own", lambda index=index: Share(index, processes=2, devices=4))
        for values, labels, weights in batches(source, truth, classes=CLASSES, batch_size=8).as_numpy_iterator():
            assert len(values) == 4
            seen += labels.argmax(axis=1)[weights == 1].tolist()
            weighs += weights.sum()
    assert sorted(seen) == list(range(CLASSES))
    assert weighs == CLASSES


def test_a_batch_has_as_many_rows_for_each_device() -> None:
    share = Share(1, processes=2, devices=6)
    assert [share.batch_size(wanted) for wanted in (32, 30, 5)] == [30, 30, 6]
    assert share.rows(12) == range(6, 12)
    assert Share().batch_size(7) == 7
    assert list(Share().places(5, 3)) == list(range(5))
