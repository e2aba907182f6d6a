"""A package's weights file, read and written: a blob of arrays that the model refers to by offsets.

The format is coremltools' MIL storage, version 2: a header, then for each array 64 bytes of metadata and, elsewhere,
its data, both at multiples of 64.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leafport.errors import ModelError
from leafport.targets.coreml.compressed import unpacked

_ALIGNED = 64
_HEADER = struct.Struct("<II")  # number of values, version
_METADATA = struct.Struct("<IIQQQ")  # sentinel, type, bytes of data, offset of the data, bits of padding
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_TYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32", 15: "uint32"}
_TYPES |= {8: "int4", 9: "uint1", 10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6"}
_PACKED = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}  # Bits of each value.

NUMPY_TYPES = {
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}


@dataclass(frozen=True)
class Record:
    """An array as it is stored: the number of its type, its bytes, and how many bits at their end mean nothing."""

    kind: int
    data: bytes
    padding_bits: int


class Blob:
    """A weights file, mapped into memory."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as stream:
                self.data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as problem:  # ValueError: an empty file cannot be mapped.
            raise ModelError(f"{path} cannot be read: {problem}. Export the package again.") from None
        if len(self.data) < _HEADER.size or _HEADER.unpack_from(self.data)[1] != _VERSION:
            raise self._damaged("it has not the header of a weights file")

    def read(self, offset: int, dtype: str, count: int) -> np.ndarray:
        """The ``count`` values whose metadata stands at ``offset``, as a flat array, which is not to be written to.

        Values of less than 8 bits come as bytes.
        """
        kind, size_bytes, start, _ = self._metadata(offset)
        if _TYPES.get(kind) != dtype:
            raise self._damaged(f"there are no {dtype} weights at byte {offset:,}")
        bits = _PACKED.get(dtype) or 8 * np.dtype(NUMPY_TYPES[dtype]).itemsize
        if size_bytes != -(-count * bits // 8):
            raise self._damaged(f"the weights at byte {offset:,} are not whole")
        if dtype not in _PACKED:
            return np.frombuffer(self.data, NUMPY_TYPES[dtype], count, start)
        found = unpacked(np.frombuffer(self.data, np.uint8, size_bytes, start), bits, count)
        return found if dtype != "int4" else (found.astype(np.int8) ^ 8) - 8

    def record(self, offset: int) -> Record:
        """What stands at ``offset``, whole and as it is stored."""
        kind, size_bytes, start, padding_bits = self._metadata(offset)
        return Record(kind, bytes(self.data[start : start + size_bytes]), padding_bits)

    def _metadata(self, offset: int) -> tuple[int, int, int, int]:
        """Of the array whose metadata stands at ``offset``: type, bytes, where they begin, and bits of padding."""
        if offset + _METADATA.size > len(self.data):
            raise self._damaged(f"it ends before byte {offset:,}, where weights are to be")
        sentinel, kind, size_bytes, start, padding_bits = _METADATA.unpack_from(self.data, offset)
        if sentinel != _SENTINEL or start + size_bytes > len(self.data):
            raise self._damaged(f"the weights at byte {offset:,} are missing or not whole")
        return kind, size_bytes, start, padding_bits

    def _damaged(self, why: str) -> ModelError:
        return ModelError(f"{self.path} is damaged: {why}. Export the package again.")


class BlobWriter:
    """A weights file to be: records are added, equal ones once, and then all are written."""

    def __init__(self) -> None:
        self._offsets: dict[Record, int] = {}
        self._end = _ALIGNED

    def add(self, record: Record) -> int:
        """The offset of the record's metadata."""
        if record not in self._offsets:
            self._offsets[record] = self._end
            self._end += _ALIGNED + _aligned(len(record.data))
        return self._offsets[record]

    def write(self, path: Path) -> None:
        with path.open("wb") as stream:
            stream.write(_HEADER.pack(len(self._offsets), _VERSION).ljust(_ALIGNED, b"\0"))
            for record, offset in self._offsets.items():
                start = offset + _ALIGNED
                metadata = _METADATA.pack(_SENTINEL, record.kind, len(record.data), start, record.padding_bits)
                stream.write(metadata.ljust(_ALIGNED, b"\0"))
                stream.write(record.data.ljust(_aligned(len(record.data)), b"\0"))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
