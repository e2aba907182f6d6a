from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leafport.errors import DataError
from leafport.training.data.splits import Photo, PhotoFolder, Splits, apply, most_frequent, scan, split


def folder_of(counts: dict[str, int]) -> PhotoFolder:
    photos = tuple(
        Photo(f"{name}/{number}.jpg", name, f"{index:032x}{number:032x}")
        for index, (name, count) in enumerate(sorted(counts.items()))
        for number in range(count)
    )
    return PhotoFolder(Path("/photos"), photos, ())


def bomb(path: Path, side: int = 30_000) -> None:
    """A PNG that claims side x side pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


counts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(3, 60), min_size=2)


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(0, 5), st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_every_photograph_is_on_one_side_and_every_class_on_all(
    counts: dict[str, int], seed: int, validation: float, test: float
) -> None:
    folder = folder_of(counts)
    divided = split(folder, seed=seed, validation=validation, test=test)
    sides = (divided.train, divided.validation, divided.test)
    assert sorted(photo.path for side in sides for photo in side) == sorted(photo.path for photo in folder.photos)
    for side in sides:
        assert {photo.folder for photo in side} == set(counts)
    for name, count in counts.items():
        tested = sum(photo.folder == name for photo in divided.test)
        assert abs(tested - test * count) <= 1


@settings(max_examples=30, deadline=None)
@given(counts, st.randoms())
def test_the_split_depends_on_contents_and_seed_alone(counts: dict[str, int], random: object) -> None:
    folder = folder_of(counts)
    renamed = [Photo(f"{p.folder}/{i}-renamed.jpg", p.folder, p.sha256) for i, p in enumerate(folder.photos)]
    random.shuffle(renamed)  # type: ignore[attr-defined]
    one, other = split(folder, seed=3), split(PhotoFolder(folder.root, tuple(renamed), ()), seed=3)
    assert [{p.sha256 for p in side} for side in (one.train, one.validation, one.test)] == [
        {p.sha256 for p in side} for side in (other.train, other.validation, other.test)
    ]


def test_another_seed_gives_another_split() -> None:
    folder = folder_of({"a": 40, "b": 40})
    assert split(folder, seed=0).test != split(folder, seed=1).test


def test_known_split_never_moves() -> None:
    divided = split(folder_of({"a": 10, "b": 12}), seed=0)
    assert [photo.path for photo in divided.test] == ["a/6.jpg", "b/11.jpg"]


def test_copies_share_a_side(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    root = make_photos(tmp_path / "plants", count=10, classes=2)
    for number in range(10):
        shutil.copy(root / "clover" / f"{number:03}.png", root / "clover" / f"copy-{number}.png")
    divided = split(scan(root), validation=0.3, test=0.3)
    for side in (divided.train, divided.validation, divided.test):
        assert set(Counter(p.sha256 for p in side if p.folder == "clover").values()) == {2}


def test_good_photographs_of_every_kind_are_used_and_bad_ones_listed(
    tmp_path: Path, make_photos: Callable[..., Path]
) -> None:
    root = make_photos(tmp_path / "plants", count=3, classes=2)
    clover = root / "clover"
    rgb = Image.open(clover / "000.png")
    rgb.convert("CMYK").save(clover / "cmyk.jpg")
    rgb.convert("L").save(clover / "grey.jpg")
    rgb.convert("RGBA").save(clover / "alpha.png")
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16).save(clover / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(clover / "turned.jpg", exif=exif)
    rgb.save(clover / "moving.gif", save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)])
    good = {"cmyk.jpg", "grey.jpg", "alpha.png", "sixteen.png", "turned.jpg", "moving.gif"}

    (clover / "text.jpg").write_text("no photograph")
    whole = (clover / "grey.jpg").read_bytes()
    (clover / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (clover / "nothing.png").touch()
    bomb(clover / "bomb.png")
    bad = {"text.jpg", "half.jpg", "nothing.png", "bomb.png"}

    (clover / ".hidden.jpg").write_text("ignored")
    (clover / "notes.txt").write_text("ignored")
    (clover / "deeper").mkdir()
    (root / ".cache").mkdir()

    seen: list[tuple[int, int]] = []
    folder = scan(root, progress=lambda done, total: seen.append((done, total)))
    assert good <= {Path(photo.path).name for photo in folder.photos}
    assert {Path(entry.path).name for entry in folder.skipped} == bad
    assert len(folder.photos) == 6 + len(good)
    for entry in folder.skipped:
        assert str(root / entry.path) in entry.reason
    assert seen[-1] == (len(folder.photos) + len(bad),) * 2
    assert split(folder).skipped == folder.skipped


def test_the_same_photograph_in_two_classes_is_left_out(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    root = make_photos(tmp_path / "plants", count=4, classes=2)
    shutil.copy(root / "clover" / "000.png", root / "daisy" / "same.png")
    folder = scan(root)
    assert [entry.path for entry in folder.skipped] == ["clover/000.png", "daisy/same.png"]
    assert "is the same photograph as" in folder.skipped[0].reason
    assert not {"clover/000.png", "daisy/same.png"} & {photo.path for photo in folder.photos}


def test_a_name_that_is_no_text_is_skipped(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    root = make_photos(tmp_path / "plants", count=4, classes=2)
    try:
        shutil.copy(root / "daisy" / "000.png", os.fsdecode(os.fsencode(root / "daisy") + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    folder = scan(root)
    assert "UTF-8" in folder.skipped[0].reason
    split(folder).save(tmp_path / "splits.json")


def test_folders_that_cannot_be_learned_from(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    def refused(root: Path, *words: str) -> None:
        with pytest.raises(DataError) as caught:
            split(scan(root))
        for word in (str(root), *words):
            assert word in str(caught.value)

    refused(tmp_path / "missing", "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no photographs")
    refused(make_photos(tmp_path / "one", count=3, classes=1), "clover", "two or more")

    hollow = make_photos(tmp_path / "hollow", count=3, classes=2)
    (hollow / "nothing").mkdir()
    refused(hollow, "nothing", "Remove it or add photographs")

    spoilt = make_photos(tmp_path / "spoilt", count=3, classes=2)
    (spoilt / "bad").mkdir()
    (spoilt / "bad" / "a.jpg").write_text("text")
    refused(spoilt, "bad", "a.jpg is not an image")

    few = make_photos(tmp_path / "few", count=3, classes=2)
    (few / "daisy" / "000.png").unlink()
    refused(few, "daisy", "at least 3")


def test_a_folder_to_be_judged_by_may_have_one_class(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    root = make_photos(tmp_path / "one", count=2, classes=1)
    assert len(scan(root, learn=False).photos) == 2


def test_fractions_that_leave_nothing() -> None:
    with pytest.raises(DataError, match="leave nothing"):
        split(folder_of({"a": 9, "b": 9}), validation=0.5, test=0.5)


def test_splits_are_read_as_they_were_written(tmp_path: Path, photos: Path) -> None:
    labels = {"daisy": "safe", "clover": "safe", "foxglove": "poisonous", "nightshade": "poisonous"}
    divided = split(scan(photos), label_of=labels)
    divided.save(tmp_path / "splits.json")
    read = Splits.load(tmp_path / "splits.json")
    assert read == divided
    assert read.labels == ("safe", "poisonous")
    assert {read.label_index(p) for p in read.test if p.folder == "foxglove"} == {1}
    assert all(read.file(photo).is_file() for photo in read.test)


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "/etc/passwd", "clover/../../x.jpg", "clover/a/b.jpg", "clover/..", ""]
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, photos: Path, path: str) -> None:
    file = tmp_path / "splits.json"
    split(scan(photos)).save(file)
    value = json.loads(file.read_text())
    value["train"][0]["path"] = path
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match="not a photograph in a class folder"):
        Splits.load(file)


def test_damaged_splits_are_refused(tmp_path: Path, photos: Path) -> None:
    file = tmp_path / "splits.json"
    with pytest.raises(DataError, match="does not exist"):
        Splits.load(file)
    split(scan(photos)).save(file)
    value = json.loads(file.read_text())
    file.write_text(json.dumps({**value, "test": value["train"]}))
    with pytest.raises(DataError, match="on two sides"):
        Splits.load(file)
    file.write_text(json.dumps({**value, "seed": "none"}))
    with pytest.raises(DataError, match="seed"):
        Splits.load(file)


@settings(max_examples=40, deadline=None)
@given(counts, st.integers(0, 5), st.data())
def test_photographs_that_look_alike_share_a_side(counts: dict[str, int], seed: int, data: st.DataObject) -> None:
    folder = folder_of({name: count + 5 for name, count in counts.items()})  # All five may be taken from one class.
    indices = data.draw(st.permutations(range(len(folder.photos))))
    groups = [[folder.photos[i] for i in indices[:2]], [folder.photos[i] for i in indices[2:5]]]
    divided = split(folder, seed=seed, validation=0.3, test=0.3, alike=groups)
    assert sorted(p.path for side in divided.sides.values() for p in side) == sorted(p.path for p in folder.photos)
    for group in groups:
        on = {side for side, photos in divided.sides.items() for photo in group if photo in photos}
        assert len(on) == 1
        if len({photo.folder for photo in group}) > 1:
            assert on == {"train"}


def test_a_split_is_applied_to_photographs_that_lie_elsewhere(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    made = split(scan(make_photos(tmp_path / "here", count=6)), seed=3)
    made.save(tmp_path / "splits.json")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.copy(tmp_path / "there" / "clover" / "000.png", tmp_path / "there" / "clover" / "new.png")
    label_of = {"clover": "edible", "daisy": "edible", "foxglove": "poisonous", "nightshade": "poisonous"}
    moved = apply(Splits.load(tmp_path / "splits.json"), scan(tmp_path / "there"), label_of=label_of)
    assert moved.root == (tmp_path / "there").resolve()
    assert moved.labels == ("edible", "poisonous")
    assert moved.sides == made.sides

    gone = made.test[0]
    (tmp_path / "there" / gone.path).unlink()
    with pytest.raises(DataError, match=rf"1 photographs of the split are missing .* {gone.path}.*data split"):
        apply(made, scan(tmp_path / "there"), label_of=label_of)


def test_the_most_frequent_classes() -> None:
    folder = folder_of({"a": 4, "b": 9, "c": 6, "d": 6, "e": 3})
    assert most_frequent(folder, 3).folders == ("b", "c", "d")
    assert most_frequent(folder, 9) == folder
