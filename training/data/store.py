"""Arrays too many for memory, in a file without a name.

Decoded photographs and a frozen network's features are asked for again every epoch. They are kept on the disk the run
is written to, where the operating system holds as many of them in memory as it can spare. The file is unlinked as soon
as it is open: however the process ends, nothing is left of it. Only a file that was given a name stays.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np


class Store:
    """``count`` places for arrays of one shape and dtype, all empty at first.

    Places may be filled and read from several threads; filling one twice must be with the same array.

    Args:
        place: a folder, for a file without a name; or a file, which stays. Of one that is there every place is full:
            move it to where others look for it when it is.
    """

    def __init__(self, place: Path, count: int, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.item_bytes = int(np.prod(shape)) * self.dtype.itemsize
        there = place.is_file()
        # Both are closed with the store.
        self._file = tempfile.TemporaryFile(dir=place) if place.is_dir() else place.open("r+b" if there else "w+b")  # noqa: SIM115
        self._filled = np.full(count, there)

    def __len__(self) -> int:
        return len(self._filled)

    def get(self, index: int) -> np.ndarray | None:
        """The array at a place, read-only, or None while it is empty."""
        if not self._filled[index]:
            return None
        data = os.pread(self._file.fileno(), self.item_bytes, index * self.item_bytes)
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def read(self, index: int) -> np.ndarray:
        """The array at a place. Raises LookupError while it is empty."""
        found = self.get(index)
        if found is None:
            raise LookupError(f"place {index} is empty")
        return found

    def put(self, index: int, array: np.ndarray) -> None:
        """Fill a place.

        Raises:
            OSError: the disk is full, say. The place is then still empty.
        """
        data = memoryview(np.ascontiguousarray(array, self.dtype).tobytes())
        offset = index * self.item_bytes
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written
        self._filled[index] = True

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
