"""Histories as they were written, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from leafport.errors import DataError
from leafport.training import loop
from leafport.training.evaluation import learning
from leafport.training.evaluation.learning import Point


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    epochs = [
        loop.Epoch("head", n, 1 / n, n / 10, 2 / n, n / 20, seconds=3.0, images_per_second=9.0) for n in range(1, 4)
    ]
    loop.write_history(tmp_path / "history.csv", epochs)
    found = learning.read(tmp_path / "history.csv")
    assert [point.stage for point in found] == ["head"] * 3
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert [getattr(p, name) for p in found] == pytest.approx([getattr(e, name) for e in epochs], rel=1e-5)


def test_a_classifier_without_a_history_has_none(tmp_path: Path) -> None:
    assert learning.read(tmp_path / "history.csv") == ()


@pytest.mark.parametrize(
    "text",
    [
        "stage,epoch\nhead,1\n",
        "stage,loss,accuracy,val_loss,val_accuracy\nhead,1,x,1,1\n",
        "stage,loss,accuracy,val_loss,val_accuracy\nhead,1\n",
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(DataError, match="no history leafport wrote"):
        learning.read(tmp_path / "history.csv")


def test_columns_of_later_versions_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("new,stage,loss,accuracy,val_loss,val_accuracy\n?,head,1,0.5,2,0.25\n")
    assert learning.read(tmp_path / "history.csv") == (Point("head", 1, 0.5, 2, 0.25),)
