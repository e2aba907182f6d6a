"""A split data set in a few large files, for disks and networks that dislike many small ones, and for many readers.

OUT/train-00000-of-00004.tfrecord and so on hold the photographs' files, byte for byte, as TFRecord files of
``tf.train.Example`` messages with the usual names of features (``image/encoded``, ``image/class/text`` …), so that
other tools read them too. OUT/splits.json says which photographs they are, OUT/shards.json counts and hashes the files.

Photographs lie in the order of their hashes, classes mixed, so that splits.json alone says which record is which
photograph. They are read by their places, in any order, and each is held against its hash.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leafport import files, images
from leafport.contract import ImageInput
from leafport.errors import DataError, ImageError, OutputError
from leafport.training.data.splits import Photo, Splits

if TYPE_CHECKING:
    import tensorflow as tf

INDEX_FILE, SPLITS_FILE = "shards.json", "splits.json"
PER_SHARD = 512
IMAGE, CLASS, NAME, SHA256 = "image/encoded", "image/class/text", "image/filename", "image/key/sha256"
_HEAD, _TAIL = 12, 4
"""A record is its length (8 bytes), a checksum of that (4), itself, and a checksum of it (4)."""
_MAX_RECORD_BYTES = images.MAX_FILE_BYTES + 2**16


@dataclass(frozen=True)
class Record:
    """One photograph in a shard: where its message begins, and how long it is."""

    photo: Photo
    shard: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Shard:
    """One file, and what ought to be in it."""

    path: Path
    photos: tuple[Photo, ...]
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Shards:
    """A folder that ``write`` made. ``sides`` are train, validation and test."""

    splits: Splits
    sides: dict[str, tuple[Shard, ...]]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read shards.json and splits.json; of the shards themselves only sizes are looked at.

        Raises:
            DataError: a file is missing, damaged, or not of this set.
        """
        value, splits = files.read_json(folder / INDEX_FILE, error=DataError), Splits.load(folder / SPLITS_FILE)
        try:
            index = _Index.model_validate(value)
        except ValidationError as problem:
            first = problem.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(f"{folder / INDEX_FILE} was not written by leafport ({where}: {first['msg']}).") from None
        if index.splits_sha256 != files.sha256(folder / SPLITS_FILE):
            raise DataError(f"{folder / SPLITS_FILE} has changed since the shards were written. Write them again.")
        sides = {}
        for side, photos in splits.sides.items():
            entries = index.sides.get(side, ())
            parts = _divide(photos, index.per_shard)
            names = [_name(side, number, len(parts)) for number in range(len(parts))]
            if [entry.file for entry in entries] != names or [e.photographs for e in entries] != [*map(len, parts)]:
                raise DataError(f"{folder / INDEX_FILE} does not fit {folder / SPLITS_FILE}. Write the shards again.")
            sides[side] = tuple(
                Shard(folder / entry.file, part, entry.bytes, entry.sha256)
                for entry, part in zip(entries, parts, strict=True)
            )
        for shard in (shard for shards in sides.values() for shard in shards):
            found = shard.path.stat().st_size if shard.path.is_file() else None
            if found != shard.size_bytes:
                what = "is missing" if found is None else f"has {found:,} bytes, not {shard.size_bytes:,}"
                raise DataError(f"{shard.path} {what}. Copy it again, or write the shards again.")
        return cls(splits, sides)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Hash every shard. Raises DataError at the first that is not what was written."""
        shards = [shard for side in self.sides.values() for shard in side]
        for done, shard in enumerate(shards, 1):
            if files.sha256(shard.path) != shard.sha256:
                raise DataError(f"{shard.path} has changed since it was written. Copy it again, or write it again.")
            if progress:
                progress(done, len(shards))

    def records(self, side: str, *, process: int = 0, processes: int = 1) -> tuple[Record, ...]:
        """Where the photographs of a side lie that are one process's: those of every ``processes``-th shard.

        Raises:
            DataError: there are fewer shards than processes, or one is damaged.
        """
        shards = self.sides[side]
        if len(shards) < processes:
            raise DataError(
                f"{shards[0].path.parent} has {len(shards)} shards of {side}, too few for {processes} processes. "
                "Write them again with a smaller --per-shard."
            )
        return tuple(record for shard in shards[process::processes] for record in _places(shard))

    def truth(self, records: Sequence[Record]) -> np.ndarray:
        """Which output is right for each record: int32 [N]."""
        outputs = {folder: self.splits.labels.index(label) for folder, label in self.splits.label_of.items()}
        return np.array([outputs[record.photo.folder] for record in records], np.int32)


def write(
    splits: Splits,
    out: Path,
    *,
    per_shard: int = PER_SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the photographs of a split, whole or not at all.

    Args:
        per_shard: most photographs in a file; all files of a side hold as many, give or take one.
        progress: called with (photographs written, photographs in all).

    Raises:
        DataError: a photograph is missing, or is another one now.
        OutputError: ``out`` exists or cannot be written.
    """
    if out.exists():
        raise OutputError(f"{out} exists. Give another --out, or remove it.")
    total, done = sum(map(len, splits.sides.values())), 0
    with files.staged(out) as staging:
        staging.mkdir(parents=True)
        splits.save(staging / SPLITS_FILE)
        sides: dict[str, list[dict[str, Any]]] = {}
        for side, photos in splits.sides.items():
            parts = _divide(photos, per_shard)
            sides[side] = []
            for number, part in enumerate(parts):
                path = staging / _name(side, number, len(parts))
                _write_shard(path, out / path.name, part, splits)
                entry = {"file": path.name, "photographs": len(part), "bytes": path.stat().st_size}
                sides[side].append({**entry, "sha256": files.sha256(path)})
                done += len(part)
                if progress:
                    progress(done, total)
        head = {"schema_version": 1, "per_shard": per_shard, "splits_sha256": files.sha256(staging / SPLITS_FILE)}
        files.write_json(staging / INDEX_FILE, {**head, "sides": sides})


def read_record(record: Record, rule: ImageInput) -> np.ndarray:
    """The pixels of one photograph, those of its file: uint8 [height, width, 3].

    Raises:
        ImageError: the record does not hold the photograph that was written.
    """
    return images.read(record.shard / record.photo.path, rule, original(record))


def original(record: Record) -> bytes:
    """The file of one photograph, as it was. Raises ImageError as ``read_record`` does."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    name = record.shard / record.photo.path
    try:
        with record.shard.open("rb") as stream:
            stream.seek(record.offset)
            features = tf.train.Example.FromString(stream.read(record.length)).features.feature
    except (OSError, DecodeError) as problem:
        raise ImageError(f"{name} cannot be read ({problem}). Copy the shard again, or write it again.") from None
    data: bytes = features[IMAGE].bytes_list.value[0] if features[IMAGE].bytes_list.value else b""
    if hashlib.sha256(data).hexdigest() != record.photo.sha256:
        raise ImageError(f"{name} is not the photograph that was written. Copy the shard again, or write it again.")
    return data


def unpack(folder: Path, out: Path, *, progress: Callable[[int, int], None] | None = None) -> Splits:
    """Write the photographs of shards as files again, in class folders, whole or not at all; returns their split.

    Args:
        progress: called with (photographs written, photographs in all).

    Raises:
        DataError: the folder is damaged. ImageError: a record is.
        OutputError: ``out`` exists or cannot be written.
    """
    if out.exists():
        raise OutputError(f"{out} exists. Give another --out, or remove it.")
    made = Shards.load(folder)
    records = [record for side in made.sides for record in made.records(side)]
    with files.staged(out) as staging:
        for done, record in enumerate(records, 1):
            path = staging / record.photo.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(original(record))
            if progress:
                progress(done, len(records))
    return replace(made.splits, root=out.resolve())


@dataclass(frozen=True)
class RecordPixels:
    """Photographs in shards by number, as ``pipeline.training_batches`` takes them: uint8 [H, W, 3] each."""

    records: Sequence[Record]
    rule: ImageInput
    dtype = np.dtype("uint8")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rule.height, self.rule.width, 3)

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> np.ndarray:
        """Raises ImageError as ``read_record`` does."""
        return read_record(self.records[index], self.rule)


def read(folder: Path, side: str, rule: ImageInput, *, process: int = 0, processes: int = 1) -> tf.data.Dataset:
    """The photographs of a side that are one process's, once, in order: (uint8 [H, W, 3], int32 label).

    Only those being decoded are in memory.

    Raises:
        DataError: the folder is damaged, or has fewer shards than there are processes.
        ImageError: while it is read, at the first record that is (see ``pipeline.naming_photographs``).
    """
    import tensorflow as tf

    shards = Shards.load(folder)
    source = RecordPixels(shards.records(side, process=process, processes=processes), rule)

    def load(index: Any, label: Any) -> tuple[Any, Any]:
        pixels = tf.numpy_function(lambda number: source.read(int(number)), [index], tf.uint8, stateful=False)
        return tf.ensure_shape(pixels, source.shape), label

    numbered = tf.data.Dataset.from_tensor_slices((np.arange(len(source)), shards.truth(source.records)))
    return numbered.map(load, num_parallel_calls=os.cpu_count() or 1, deterministic=True)


def _divide(photos: Sequence[Photo], per_shard: int) -> list[tuple[Photo, ...]]:
    """Photographs in the order of their hashes, in parts as even as can be."""
    ordered = sorted(photos, key=lambda photo: (photo.sha256, photo.path))
    count = -(-len(ordered) // per_shard)
    cuts = [len(ordered) * number // count for number in range(count + 1)]
    return [tuple(ordered[start:end]) for start, end in itertools.pairwise(cuts)]


def _name(side: str, number: int, count: int) -> str:
    return f"{side}-{number:05}-of-{count:05}.tfrecord"


def _write_shard(path: Path, shown: Path, photos: Sequence[Photo], splits: Splits) -> None:
    import tensorflow as tf

    def feature(value: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for photo in photos:
                features = {
                    IMAGE: feature(_original(splits, photo)),
                    CLASS: feature(photo.folder.encode()),
                    NAME: feature(photo.path.encode()),
                    SHA256: feature(photo.sha256.encode()),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    except tf.errors.OpError as problem:
        raise OutputError(
            f"{shown} cannot be written ({problem.message}). Free some space or write elsewhere."
        ) from None


def _original(splits: Splits, photo: Photo) -> bytes:
    path = splits.file(photo)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= images.MAX_FILE_BYTES else b""
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}). Put it back, or split anew.") from None
    if hashlib.sha256(data).hexdigest() != photo.sha256:
        raise DataError(f"{path} has changed since the split was made. Put it back, or split anew.")
    return data


def _places(shard: Shard) -> Iterator[Record]:
    """Where the records of a shard lie, going by their lengths, each of which is checked before it is believed."""
    try:
        with shard.path.open("rb") as stream:
            offset = 0
            for number, photo in enumerate(shard.photos):
                stream.seek(offset)
                length = int.from_bytes(stream.read(_HEAD)[:8], "little")
                end = offset + _HEAD + length + _TAIL
                if not 0 < length <= _MAX_RECORD_BYTES or end > shard.size_bytes:
                    raise DataError(
                        f"{shard.path} is damaged at record {number} ({photo.path}). Copy it again, or write it again."
                    )
                yield Record(photo, shard.path, offset + _HEAD, length)
                offset = end
    except OSError as problem:
        raise DataError(f"{shard.path} cannot be read ({problem.strerror}). Copy it again.") from None
    if offset != shard.size_bytes:
        raise DataError(f"{shard.path} holds more than its {len(shard.photos)} photographs. Copy it again.")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _ShardEntry(_Strict):
    file: str
    photographs: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Index(_Strict):
    schema_version: Literal[1]
    per_shard: int = Field(ge=1)
    splits_sha256: str
    sides: dict[str, tuple[_ShardEntry, ...]]
