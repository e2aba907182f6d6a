from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leafport import files, images
from leafport.contract import ImageInput
from leafport.errors import DataError, ImageError, OutputError
from leafport.training.data import splits
from leafport.training.data.augment import Augmentation
from leafport.training.data.pipeline import Pixels, naming_photographs, training_batches
from leafport.training.data.shards import RecordPixels, Shards, read, read_record, unpack, write
from leafport.training.data.splits import Splits

RULE = ImageInput(height=24, width=32, fit="crop")


@pytest.fixture(scope="module")
def split(photos: Path) -> Splits:
    return splits.split(splits.scan(photos), validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def written(split: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "shards"
    write(split, folder, per_shard=8)
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def test_pixels_and_labels_are_those_of_the_files(split: Splits, written: Path) -> None:
    for side, photos in split.sides.items():
        pairs = list(read(written, side, RULE).as_numpy_iterator())
        expected = {images.read(split.file(p), RULE).tobytes(): split.label_index(p) for p in photos}
        assert len(pairs) == len(photos)
        assert {pixels.tobytes(): label for pixels, label in pairs} == expected


def test_training_takes_photographs_from_shards_as_from_files(split: Splits, written: Path) -> None:
    made = Shards.load(written)
    records = made.records("train")
    paths = [split.file(record.photo) for record in records]
    feeds = [
        training_batches(source, made.truth(records), classes=4, batch_size=8, seed=3, augmentation=Augmentation())
        for source in (RecordPixels(records, RULE), Pixels(paths, RULE))
    ]
    for one, other in zip(*(feed.take(3).as_numpy_iterator() for feed in feeds), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_tensorflow_reads_the_files_itself(split: Splits, written: Path) -> None:
    import tensorflow as tf

    paths = sorted(map(str, written.glob("train-*-of-*.tfrecord")))
    examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(paths)]
    found = {
        example.features.feature["image/filename"].bytes_list.value[0].decode(): example.features.feature[
            "image/encoded"
        ].bytes_list.value[0]
        for example in examples
    }
    assert found == {photo.path: split.file(photo).read_bytes() for photo in split.train}


def test_shards_are_even_and_mixed(split: Splits, written: Path) -> None:
    parts = [len(shard.photos) for shard in Shards.load(written).sides["train"]]
    assert sum(parts) == len(split.train)
    assert max(parts) <= 8
    assert max(parts) - min(parts) <= 1
    first = Shards.load(written).sides["train"][0]
    assert len({photo.folder for photo in first.photos}) > 1
    index = json.loads((written / "shards.json").read_text())
    assert [entry["photographs"] for entry in index["sides"]["train"]] == parts
    assert index["sides"]["train"][0]["sha256"] == files.sha256(written / index["sides"]["train"][0]["file"])


def test_every_process_reads_shards_of_its_own(split: Splits, written: Path) -> None:
    made = Shards.load(written)
    shares = [made.records("train", process=process, processes=3) for process in range(3)]
    assert sorted(record.photo.path for share in shares for record in share) == [photo.path for photo in split.train]
    places = [{record.shard for record in share} for share in shares]
    assert not places[0] & places[1]
    assert not places[1] & places[2]
    assert len(list(read(written, "train", RULE, process=1, processes=3))) == len(shares[1])
    with pytest.raises(DataError, match=r"1 shards of test, too few for 3 processes.*--per-shard"):
        read(written, "test", RULE, processes=3)


def test_the_same_split_gives_the_same_files(split: Splits, written: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write(split, tmp_path / "again", per_shard=8, progress=lambda done, total: told.append((done, total)))
    assert files.sha256(tmp_path / "again") == files.sha256(written)
    assert told[-1] == (48, 48)
    Shards.load(written).verify()


def test_a_changed_photograph_is_named_when_it_is_read(copy: Path) -> None:
    record = Shards.load(copy).records("train")[3]
    data = bytearray(record.shard.read_bytes())
    data[record.offset + record.length // 2] ^= 1
    record.shard.write_bytes(data)
    message = rf"{record.shard.name}/{record.photo.path} (is not the photograph|cannot be read)"
    with pytest.raises(ImageError, match=message):
        read_record(record, RULE)
    with pytest.raises(ImageError, match=message), naming_photographs():
        list(read(copy, "train", RULE))
    with pytest.raises(DataError, match=rf"{record.shard.name} has changed"):
        Shards.load(copy).verify()


def test_a_length_that_leads_out_of_the_file_is_not_believed(copy: Path) -> None:
    record = Shards.load(copy).records("train")[2]
    data = bytearray(record.shard.read_bytes())
    for length in (2**62, 0, record.shard.stat().st_size):
        data[record.offset - 12 : record.offset - 4] = length.to_bytes(8, "little")
        record.shard.write_bytes(data)
        with pytest.raises(DataError, match=rf"{record.shard.name} is damaged at record 2 \({record.photo.path}\)"):
            read(copy, "train", RULE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "shards.json").unlink(), r"shards\.json does not exist"),
        (lambda folder: (folder / "shards.json").write_text("{}"), "not written by leafport"),
        (lambda folder: (folder / "splits.json").unlink(), r"splits\.json does not exist"),
        (lambda folder: next(folder.glob("train-00001*")).unlink(), "train-00001-of-00004.tfrecord is missing"),
        (lambda folder: shutil.copy(*sorted(folder.glob("t*.tfrecord"))[:2]), "bytes, not"),
        (lambda folder: reseed(folder / "splits.json"), r"splits\.json has changed since"),
        (lambda folder: escape(folder / "shards.json"), "does not fit"),
    ],
)
def test_a_folder_that_is_not_as_it_was_written_is_refused(
    copy: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(copy)
    with pytest.raises(DataError, match=message):
        read(copy, "train", RULE)


def reseed(path: Path) -> None:
    replace(Splits.load(path), seed=99).save(path)


def escape(path: Path) -> None:
    index = json.loads(path.read_text())
    index["sides"]["train"][0]["file"] = "../../elsewhere.tfrecord"
    path.write_text(json.dumps(index))


def test_photographs_that_changed_after_the_split_are_not_written(split: Splits, photos: Path, tmp_path: Path) -> None:
    moved = replace(split, root=shutil.copytree(photos, tmp_path / "photos"))
    moved.file(split.train[0]).write_bytes(b"another")
    with pytest.raises(DataError, match="has changed since the split was made"):
        write(moved, tmp_path / "out")
    moved.file(split.train[0]).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        write(moved, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists"):
        write(split, tmp_path / "out")


def test_small_parts_and_one_large_part(split: Splits, tmp_path: Path) -> None:
    for per_shard, count in ((1, len(split.test)), (1000, 1)):
        write(split, tmp_path / str(per_shard), per_shard=per_shard)
        assert len(Shards.load(tmp_path / str(per_shard)).sides["test"]) == count


def test_photographs_are_unpacked_as_they_were(split: Splits, written: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    again = unpack(written, out)
    assert again.sides == split.sides
    for photos in split.sides.values():
        for photo in photos:
            assert again.file(photo).read_bytes() == split.file(photo).read_bytes()
    assert splits.scan(out).photos == splits.scan(split.root).photos
    with pytest.raises(OutputError, match="exists"):
        unpack(written, out)


def test_a_damaged_shard_unpacks_to_nothing(copy: Path, tmp_path: Path) -> None:
    shard = next(copy.glob("train-*.tfrecord"))
    data = bytearray(shard.read_bytes())
    data[data.index(b"\x89PNG") + 60] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ImageError, match="Copy the shard again"):
        unpack(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
