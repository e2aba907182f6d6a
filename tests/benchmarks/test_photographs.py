"""Which photographs a model may be judged by."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.benchmarks.photographs import choose, decode
from leafport.contract import Contract
from leafport.errors import DataError
from leafport.training.data.splits import Splits


def quiet(what: str, done: int, total: int) -> None:
    """No progress display."""


@pytest.fixture
def splits(run: Path) -> Splits:
    return Splits.load(run / "splits.json")


@pytest.fixture
def contract(run: Path) -> Contract:
    from leafport.classifier import load_contract

    return load_contract(run)


@pytest.fixture
def folder(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy of the photographs that a test may change."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def test_by_default_it_is_the_test_split(splits: Splits, contract: Contract) -> None:
    chosen = choose(None, splits, contract, progress=quiet)
    assert chosen.paths == tuple(splits.file(photo) for photo in splits.test)
    assert [contract.labels[i] for i in chosen.truth] == [photo.folder for photo in splits.test]
    assert (chosen.data.split, chosen.data.photographs, chosen.data.left_out) == ("test", len(splits.test), 0)


def test_what_training_saw_is_left_out_by_content(splits: Splits, contract: Contract, folder: Path) -> None:
    seen = splits.train[0]
    (folder / seen.path).rename(folder / seen.folder / "renamed.png")
    chosen = choose(folder, splits, contract, progress=quiet)
    assert {path.relative_to(folder).as_posix() for path in chosen.paths} == {photo.path for photo in splits.test}
    assert chosen.data.left_out == len(splits.train) + len(splits.validation)
    assert chosen.data.split == "test"
    assert chosen.data.sha256 == choose(None, splits, contract, progress=quiet).data.sha256


def test_other_photographs_are_used_and_bad_ones_listed(splits: Splits, contract: Contract, folder: Path) -> None:
    image = images.open_rgb(folder / splits.test[0].path).rotate(90)
    image.save(folder / "ring" / "new.png")
    (folder / "ring" / "broken.jpg").write_text("not a photograph")
    chosen = choose(folder, splits, contract, progress=quiet)
    assert (chosen.data.split, chosen.data.photographs) == ("unseen", len(splits.test) + 1)
    assert [photo.path for photo in chosen.data.skipped] == ["ring/broken.jpg"]
    assert str(folder) not in chosen.data.model_dump_json()


def test_copies_count_once(splits: Splits, contract: Contract, folder: Path) -> None:
    photo = splits.test[0]
    shutil.copy(folder / photo.path, folder / photo.folder / "copy.png")
    assert choose(folder, splits, contract, progress=quiet).data.photographs == len(splits.test)


def test_a_limit_is_balanced_and_repeatable(splits: Splits, contract: Contract) -> None:
    chosen = choose(None, splits, contract, limit=6, progress=quiet)
    assert np.bincount(chosen.truth).tolist() == [2, 2, 2]
    assert chosen.data.limit == 6
    assert choose(None, splits, contract, limit=6, progress=quiet).paths == chosen.paths
    assert choose(None, splits, contract, limit=1000, progress=quiet).data.limit is None


def test_a_folder_the_model_does_not_know_is_named(splits: Splits, contract: Contract, folder: Path) -> None:
    (folder / "ring").rename(folder / "hexagon")
    splits = Splits(folder, 0, splits.label_of, splits.train[:1], splits.validation[:1], splits.test, ())
    with pytest.raises(DataError, match=r"hexagon is none of the classes of 'shapes' \(disc, ring, square\)"):
        choose(folder, splits, contract, progress=quiet)


def test_nothing_unseen_is_an_error(splits: Splits, contract: Contract, folder: Path) -> None:
    for photo in splits.test:
        (folder / photo.path).unlink(missing_ok=True)
    with pytest.raises(DataError, match="seen in training"):
        choose(folder, splits, contract, progress=quiet)


def test_without_a_record_folders_are_labels_and_the_report_says_so(contract: Contract, photo_folder: Path) -> None:
    chosen = choose(photo_folder, None, contract, progress=quiet)
    assert (chosen.data.split, chosen.data.photographs, chosen.data.left_out) == ("unknown", 90, 0)
    with pytest.raises(DataError, match="--data"):
        choose(None, None, contract, progress=quiet)


def test_a_test_photograph_that_is_gone_is_named(splits: Splits, contract: Contract, folder: Path) -> None:
    moved = Splits(folder, 0, splits.label_of, splits.train, splits.validation, splits.test, ())
    (folder / splits.test[0].path).unlink()
    with pytest.raises(DataError, match="--data DIR"):
        choose(None, moved, contract, progress=quiet)


def test_pixels_are_those_every_other_stage_sees(splits: Splits, contract: Contract, tmp_path: Path) -> None:
    paths = [splits.file(photo) for photo in splits.test[:5]]
    heard: list[tuple[int, int]] = []
    decode(paths, contract.image, tmp_path / "i.npy", progress=lambda what, done, total: heard.append((done, total)))
    pixels = np.load(tmp_path / "i.npy")
    assert pixels.dtype == np.uint8
    assert (pixels == np.stack([images.read(path, contract.image) for path in paths])).all()
    assert heard[-1] == (5, 5)
