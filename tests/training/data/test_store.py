from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from leafport.training.data.store import Store


def test_what_was_put_is_got_again(tmp_path: Path) -> None:
    store = Store(tmp_path, 5, (3, 4, 2), "float32")
    arrays = np.random.default_rng(0).normal(size=(5, 3, 4, 2)).astype(np.float32)
    for index in (4, 0, 2):
        store.put(index, arrays[index])
    assert len(store) == 5
    for index in (0, 2, 4):
        assert np.array_equal(store.read(index), arrays[index])
    assert store.get(1) is None
    with pytest.raises(LookupError, match="place 3 is empty"):
        store.read(3)


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path, 1, (4,), "uint8")
    store.put(0, np.arange(4))
    assert list(tmp_path.iterdir()) == []
    store.close()


def test_a_place_that_could_not_be_written_stays_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = Store(tmp_path, 1, (4,), "uint8")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        store.put(0, np.arange(4))
    assert store.get(0) is None


def test_a_file_with_a_name_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "features", 2, (4,), "float32")
    assert store.get(0) is None
    arrays = np.arange(8, dtype=np.float32).reshape(2, 4)
    for index in range(2):
        store.put(index, arrays[index])
    store.close()
    again = Store(tmp_path / "features", 2, (4,), "float32")
    assert np.array_equal([again.read(0), again.read(1)], arrays)
