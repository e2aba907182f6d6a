from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from leafport.errors import OutputError
from leafport.training.checkpoint import Checkpoint, Checkpoints, folder_for, working

STATE = {"history": [{"epoch": 1, "loss": 0.5}], "best": 0.4, "done": False}
ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8], np.uint32), np.array(3, np.int64)]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    assert kept.load("Fine-tuning") is None
    kept.save("Fine-tuning", Checkpoint(STATE, ARRAYS, ARRAYS[::-1], ARRAYS[:1]))
    found = Checkpoints(tmp_path).load("Fine-tuning")
    assert found is not None
    assert found.state == STATE
    for group, expected in (("model", ARRAYS), ("optimiser", ARRAYS[::-1]), ("best", ARRAYS[:1])):
        for array, wanted in zip(getattr(found, group), expected, strict=True):
            assert array.dtype == wanted.dtype
            assert np.array_equal(array, wanted)
    assert kept.load("Training the head") is None


@pytest.mark.parametrize("damage", ["cut", "text", "pickle"])
def test_a_damaged_one_is_left_aside(tmp_path: Path, damage: str) -> None:
    kept = Checkpoints(tmp_path)
    kept.save("Head", Checkpoint(STATE, ARRAYS))
    path = tmp_path / "head.npz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("not an archive")
    else:
        np.savez(path, state=np.array({"any": "object"}, dtype=object))
    assert kept.load("Head") is None


def test_what_was_learned_stays_until_it_is_of_use(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), working(out) as work:
        work.checkpoints({"epochs": 3}, drop=False).save("Head", Checkpoint(STATE, ARRAYS))
        raise KeyboardInterrupt
    assert folder_for(out).is_dir()
    with working(out) as work:
        assert work.checkpoints({"epochs": 3}, drop=False).load("Head") is not None
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_where_nothing_was_learned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="early"), working(tmp_path / "run") as work:
        work.checkpoints({"epochs": 3}, drop=False)
        raise ValueError("early")
    assert list(tmp_path.iterdir()) == []


def test_another_request_does_not_go_on_from_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), working(out) as work:
        work.checkpoints({"epochs": 3, "seed": 0}, drop=False).save("Head", Checkpoint(STATE, ARRAYS))
        raise KeyboardInterrupt
    with pytest.raises(OutputError, match=r"asked for something else \(epochs\).*--overwrite"), working(out) as work:
        work.checkpoints({"epochs": 4, "seed": 0}, drop=False)
    with working(out) as work:
        assert work.checkpoints({"epochs": 4, "seed": 0}, drop=True).load("Head") is None


def test_two_trainings_do_not_write_the_same_classifier(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from leafport.training.checkpoint import working
        with working(Path({str(tmp_path / "run")!r})):
            print("in", flush=True)
            input()
        """
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(OutputError, match="Another training is writing"), working(tmp_path / "run"):
            pass
        other.stdin.write("\n")
    assert list(tmp_path.iterdir()) == []
