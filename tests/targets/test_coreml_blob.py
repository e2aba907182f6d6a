"""Weights files: what is written is read back, by our reader and by coremltools' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport.errors import ModelError
from leafport.targets.coreml.blob import Blob, BlobWriter, Record

FLOATS = np.random.default_rng(0).normal(size=77).astype(np.float16)
BYTES = np.arange(200, dtype=np.int8)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[int]]:
    writer = BlobWriter()
    records = [Record(1, FLOATS.tobytes(), 0), Record(4, BYTES.tobytes(), 0), Record(13, b"\x05" * 48, 0)]
    offsets = [writer.add(record) for record in (*records, records[0])]
    writer.write(tmp_path / "weight.bin")
    return tmp_path / "weight.bin", offsets


def test_arrays_come_back(written: tuple[Path, list[int]]) -> None:
    path, (floats, signed, packed, again) = written
    blob = Blob(path)
    np.testing.assert_array_equal(blob.read(floats, "float16", 77), FLOATS)
    np.testing.assert_array_equal(blob.read(signed, "int8", 200), BYTES)
    assert blob.read(packed, "uint6", 64).shape == (64,)
    assert again == floats, "an equal array is stored once"
    assert blob.record(signed) == Record(4, BYTES.tobytes(), 0)


def test_coremltools_reads_them_too(written: tuple[Path, list[int]]) -> None:
    storage = pytest.importorskip("coremltools.libmilstoragepython")
    path, (floats, signed, *_) = written
    reader = storage._BlobStorageReader(str(path))
    np.testing.assert_array_equal(np.array(reader.read_fp16_data(floats), np.uint16).view(np.float16), FLOATS)
    np.testing.assert_array_equal(np.array(reader.read_int8_data(signed), np.int8), BYTES)


def test_every_array_is_aligned(written: tuple[Path, list[int]]) -> None:
    path, offsets = written
    assert all(offset % 64 == 0 for offset in offsets)
    assert path.stat().st_size % 64 == 0


@pytest.mark.parametrize("offset", [8, 64 * 1000, 2**60])
def test_an_offset_to_nothing_is_damage(written: tuple[Path, list[int]], offset: int) -> None:
    with pytest.raises(ModelError, match="damaged"):
        Blob(written[0]).record(offset)
