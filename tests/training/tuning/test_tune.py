"""Whole searches, of trials that train a tiny network for a few steps, each in a process of its own."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leafport.errors import DataError, ModelError, OutputError, UserError
from leafport.training.config import Config
from leafport.training.data.splits import Splits
from leafport.training.train import train
from leafport.training.tuning.search import Choices, Parameters, Range
from leafport.training.tuning.study import Study
from leafport.training.tuning.tune import Configure, tune

DROPOUTS = {"dropout": Choices((0.2, 0.5))}


def settings(data: Path, **options: Any) -> Configure:
    """Settings for a head that is trained for an epoch, with a trial's parameters in them."""
    small = {"backbone": "mobilenet", "image_size": 32, "head_epochs": 1, "unfreeze": "none", **options}

    def configure(parameters: Parameters) -> Config:
        return Config(data, Path("unused"), **{**small, **parameters})

    return configure


def forget(photographs: Path, divided: Splits) -> None:
    """Move the test photographs away."""
    for photo in divided.test:
        moved = photographs.with_name("test") / photo.path
        moved.parent.mkdir(parents=True, exist_ok=True)
        (photographs / photo.path).rename(moved)


def test_a_grid_to_its_end_without_the_test_photographs(
    tmp_path: Path, make_photos: Callable[..., Path], mobilenet_weights: Path
) -> None:
    data, out = make_photos(tmp_path / "plants"), tmp_path / "study"
    configure = settings(data, weights=str(mobilenet_weights))
    stages: list[str] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        stages.append(stage)

    first = tune(configure, DROPOUTS, out, trials=1, search="grid", progress=progress)
    assert [trial.state for trial in first.trials] == ["done"]
    assert "Computing features" in stages
    divided = Splits.load(out / "splits.json")
    assert len(divided.test) >= 4
    forget(data, divided)

    seen: list[str] = []
    study = tune(configure, DROPOUTS, out, trials=9, search="grid", watch=lambda s: seen.append(s.trials[-1].state))
    assert seen == ["running", "done"]
    assert {trial.parameters["dropout"] for trial in study.trials} == {0.2, 0.5}
    assert study.trials[0] == first.trials[0]
    assert study.best is not None
    assert all(trial.loss and trial.seconds > 0 and trial.epochs == 1 for trial in study.trials)
    assert {path.name for path in out.iterdir()} == {"study.json", "splits.json", "plots", "logs"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    known = json.loads((out / "study.json").read_text())
    assert known["best"] == study.best.number
    assert not {"test", "top1", "evaluation"} & {name for trial in known["trials"] for name in trial}
    assert "test: top-1" not in (out / "logs" / "trial-001.log").read_text()

    _refuses_what_differs(configure, data, out, study)

    shutil.copytree(tmp_path / "test", data, dirs_exist_ok=True)
    run = train(replace(configure(study.best.parameters), out=tmp_path / "run", splits=out / "splits.json"))
    with (run / "history.csv").open() as stream:
        losses = [float(line["val_loss"]) for line in csv.DictReader(stream)]
    assert min(losses) == pytest.approx(study.best.loss, rel=1e-4)


def _refuses_what_differs(configure: Configure, data: Path, out: Path, study: Study) -> None:
    before = (out / "study.json").read_bytes()
    for space, search, objective in (
        ({"dropout": Range(0.2, 0.5)}, "grid", "loss"),
        (DROPOUTS, "random", "loss"),
        (DROPOUTS, "grid", "accuracy"),
    ):
        with pytest.raises(OutputError, match="asked for something else"):
            tune(configure, space, out, search=search, objective=objective)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=r"something else \(seed\)"):
        tune(lambda parameters: replace(configure(parameters), seed=3), DROPOUTS, out, search="grid")
    photograph = data / Splits.load(out / "splits.json").validation[0].path
    kept = photograph.read_bytes()
    photograph.write_bytes(kept + b"another")
    with pytest.raises(DataError, match="changed since the study began"):
        tune(configure, DROPOUTS, out, search="grid")
    photograph.write_bytes(kept)
    assert tune(configure, DROPOUTS, out, trials=1, search="grid") == study
    assert (out / "study.json").read_bytes() == before


def test_a_trial_that_diverges_costs_only_itself(tmp_path: Path, photos: Path, poisonous: Path) -> None:
    options = {"task": "binary", "positive": poisonous, "weights": "none", "backbone": "small"}
    configure = settings(photos, unfreeze="all", max_steps=4, batch_size=16, augmentation=None, **options)
    space = {"learning_rate": Choices((1e-3, 1e30))}
    study = tune(configure, space, tmp_path / "study", search="grid", objective="false-alarms")
    done, failed = sorted(study.trials, key=lambda trial: trial.state)
    assert (done.state, failed.state) == ("done", "failed")
    assert failed.parameters["learning_rate"] == 1e30
    assert "not a number" in failed.reason
    assert study.best == done
    assert done.false_alarm_rate is not None
    assert 0 <= done.false_alarm_rate <= 1
    assert study.value(done) == done.false_alarm_rate


PROGRAM = """
import sys
from pathlib import Path
from leafport.training.config import Config
from leafport.training.tuning.search import Range
from leafport.training.tuning.tune import tune

data, out = map(Path, sys.argv[1:])
def configure(parameters):
    settings = {"augmentation": None, **parameters}
    return Config(data, Path("unused"), backbone="small", weights="none", batch_size=16, epochs=12, **settings)

study = tune(
    configure, {"dropout": Range(0.1, 0.6)}, out, trials=1,
    progress=lambda stage, done, total, note: print(stage, done, note, flush=True),
)
print("parameters", study.trials[0].parameters["dropout"], study.trials[0].epochs)
"""


def test_a_search_that_was_killed_goes_on_after_the_last_epoch(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "study"
    command = [sys.executable, "-c", PROGRAM, str(photos), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if "epoch" in line and "epoch 1/" not in line:
                killed.kill()
    running = json.loads((out / "study.json").read_text())["trials"]
    assert [trial["state"] for trial in running] == ["running"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"parameters {running[0]['parameters']['dropout']} 12"
    assert "going on after epoch" in (out / "logs" / "trial-000.log").read_text()
    assert [trial["state"] for trial in json.loads((out / "study.json").read_text())["trials"]] == ["done"]


def test_a_search_that_cannot_begin_leaves_nothing(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "study"
    with pytest.raises(DataError, match="is not a folder"):
        tune(settings(tmp_path / "nowhere", weights="imagenet"), DROPOUTS, out)
    with pytest.raises(DataError, match="need positive photographs"):
        tune(settings(photos), DROPOUTS, out, objective="false-alarms")
    with pytest.raises(UserError, match="seed must be the same in all trials"):
        tune(settings(photos), {"seed": Choices((1, 2))}, out)
    with pytest.raises(UserError, match="nothing to vary"):
        tune(settings(photos), {}, out)
    with pytest.raises(ModelError, match="There is no backbone 'alexnet'"):
        tune(settings(photos), {"backbone": Choices(("mobilenet", "alexnet"))}, out)
    with pytest.raises(ModelError, match="There is no weights file"):
        tune(settings(photos, weights=str(tmp_path / "none.h5")), DROPOUTS, out)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(OutputError, match="is no study"):
        tune(settings(photos), DROPOUTS, tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="inside the photographs' folder"):
        tune(settings(photos), DROPOUTS, photos / "study")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
