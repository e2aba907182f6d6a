from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from leafport.errors import OutputError
from leafport.training.tuning.study import STUDY_FILE, Study, Trial, draw

REQUEST = {
    "objective": "loss",
    "search": "random",
    "space": {
        "head": {"values": ["gap", "dense"]},
        "dropout": {"low": 0.2, "high": 0.6, "log": False},
        "l2": {"low": 1e-6, "high": 1e-3, "log": True},
    },
    "seed": 0,
}
TRIALS = (
    Trial(0, {"head": "gap", "dropout": 0.3, "l2": 1e-4}, "done", loss=1.2, accuracy=0.5, epochs=3, seconds=8.5),
    Trial(1, {"head": "gap", "dropout": 0.5, "l2": 1e-5}, "failed", seconds=4.0, reason="the loss is not a number"),
    Trial(2, {"head": "dense", "dropout": 0.2, "l2": 1e-3}, "done", loss=0.9, accuracy=0.5, epochs=4, seconds=9.0),
    Trial(3, {"head": "dense", "dropout": 0.6, "l2": 1e-6}),
)
STUDY = Study(REQUEST, TRIALS)


def test_a_study_comes_back_from_its_file(tmp_path: Path) -> None:
    STUDY.save(tmp_path)
    assert Study(REQUEST).resumed(tmp_path) == STUDY
    value = json.loads((tmp_path / STUDY_FILE).read_text())
    assert value["best"] == 2
    assert [line["value"] for line in value["trials"]] == [1.2, None, 0.9, None]


def test_the_best_is_first() -> None:
    assert [trial.number for trial in STUDY.ranked] == [2, 0, 1, 3]
    accurate = replace(STUDY, request={**REQUEST, "objective": "accuracy"})
    assert [trial.number for trial in accurate.ranked] == [2, 0, 1, 3]  # Equally accurate: the smaller loss decides.
    better = accurate.with_trial(replace(TRIALS[3], state="done", loss=1.4, accuracy=0.75))
    assert better.best is not None
    assert better.best.number == 3
    assert better.cost(better.best) == -0.75
    assert Study(REQUEST, TRIALS[1:2]).best is None


def test_another_search_does_not_go_on_from_it(tmp_path: Path) -> None:
    STUDY.save(tmp_path)
    with pytest.raises(OutputError, match=r"asked for something else \(seed\).*--overwrite"):
        Study({**REQUEST, "seed": 1}).resumed(tmp_path)


@pytest.mark.parametrize(
    "damaged",
    [
        "no JSON",
        "[]",
        "{}",
        json.dumps({"schema_version": 1, "request": REQUEST, "trials": [{"number": 0}]}),
        json.dumps({"schema_version": 1, "request": REQUEST, "trials": [{"number": 1, "parameters": {}}]}),
        json.dumps({"schema_version": 2, "request": REQUEST, "trials": []}),
    ],
)
def test_a_damaged_file_is_said_to_be(tmp_path: Path, damaged: str) -> None:
    (tmp_path / STUDY_FILE).write_text(damaged)
    with pytest.raises(OutputError, match=r"study.json (is no study|cannot be read)"):
        Study(REQUEST).resumed(tmp_path)


def test_it_is_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "plots" / "study.png", STUDY)
    assert (tmp_path / "plots" / "study.png").read_bytes().startswith(b"\x89PNG")
    draw(tmp_path / "none.png", Study(REQUEST, TRIALS[1:2]))
    assert not (tmp_path / "none.png").exists()
