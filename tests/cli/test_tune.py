from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from leafport.cli import train, tune
from leafport.errors import UserError
from leafport.training.config import Config
from leafport.training.tuning.search import Choices, Range
from leafport.training.tuning.study import Trial


def space(*varied: str, given: frozenset[str] = frozenset(), **options: Any) -> Any:
    return tune.read_space(varied, Config(Path("photos"), Path("study"), **options), given)


def test_five_things_are_varied_by_default() -> None:
    found = space()
    assert found.keys() == {"head", "dropout", "learning-rate", "augment", "unfreeze"}
    assert found["head"] == Choices(("gap", "dense", "conv", "residual"))
    assert found["learning-rate"] == Range(9e-6, 9e-5, log=True)
    assert space(given=frozenset({"dropout", "backbone"})).keys() == found.keys() - {"dropout"}


def test_what_makes_no_difference_is_not_varied() -> None:
    assert space(given=frozenset({"unfreeze"}), unfreeze="none").keys() == {"head", "dropout"}
    assert space(epochs=0).keys() == {"head", "dropout"}
    scratch = space(weights="none", backbone="small")
    assert scratch.keys() == {"head", "dropout", "learning-rate", "augment"}
    assert scratch["learning-rate"] == Range(1.2e-3, 1.2e-2, log=True)


def test_what_to_vary_can_be_said() -> None:
    assert space(
        "head", "learning_rate=1e-4..1e-2:log", "label-smoothing=0..0.2", "filters=64..256:log", "units=256,128/512"
    ) == {
        "head": Choices(("gap", "dense", "conv", "residual")),
        "learning-rate": Range(1e-4, 1e-2, log=True),
        "label-smoothing": Range(0.0, 0.2),
        "filters": Range(64, 256, log=True),
        "units": Choices(("256,128", "512")),
    }
    assert isinstance(space("filters=64..256")["filters"].low, int)


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        (["dropuot=0.1/0.2"], "'dropuot' cannot be varied. Did you mean dropout?"),
        (["seed=1/2"], "'seed' cannot be varied. There are: head"),
        (["batch-size"], "say between what: --vary batch-size=ONE/ANOTHER"),
        (["dropout=0.1..x"], "a range is two numbers: dropout=LOW..HIGH"),
        (["dropout=0.1..0.2:ln"], "a range is two numbers"),
        (["filters=0.5..2"], "a range is two whole numbers"),
        (["dropout=0.1..0.2..0.3"], "a range is two numbers"),
        (["dropout", "dropout=0.1/0.2"], "dropout is given as --vary twice. Give it once."),
        (["epochs=5/10"], "epochs is given as --epochs and --vary. Give it once."),
    ],
)
def test_mistakes_are_named(varied: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        space(*varied, given=frozenset({"epochs"}))
    assert message in str(caught.value)


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(tune.command, list(map(str, arguments)))


def test_mistakes_are_found_before_anything_is_read(tmp_path: Path, photo_folder: Path) -> None:
    out = tmp_path / "study"
    for arguments, message in (
        (["--vary", "dropout=0.5/1.5"], "1.5 is not in the range"),
        (["--vary", "head=gap/gpa"], "'gpa' is not one of"),
        (["--vary", "augment=light/rotatoin=3"], "Did you mean rotation?"),
        (["--vary", "head=gap/conv", "--filters", "64"], "A gap head has no blocks"),
        (["--vary", "unfreeze=none/all", "--weights", "none"], "takes pretrained weights"),
        (["--no-such-option"], "No such option"),
        (["--objective", "beauty"], "'beauty' is not one of"),
    ):
        done = invoke(photo_folder, "--out", out, *arguments)
        assert message in done.output + str(done.exception)
        assert done.exit_code == 2 or isinstance(done.exception, UserError)
    assert "Missing argument 'DATA'" in invoke("--out", out).output
    assert list(tmp_path.iterdir()) == []


def test_the_command_at_the_end_trains_with_the_best_settings(tmp_path: Path, photo_folder: Path) -> None:
    out = tmp_path / "my study"
    fixed = ["--backbone", "small", "--image-size", "32", "--weights=none", "--max-steps", "2", "--name", "the-best"]
    varied = ["--vary", "augment=strong,mixup=0.2", "--vary", "dropout=0.25", "--vary", "head=conv"]
    done = invoke(*fixed, photo_folder, "--out", out, *varied, "--trials", "2", "--search", "random")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "strong,mixup=0.2" in done.output
    assert "Trial 0, the best so far: loss " in done.stderr
    command = shlex.split(done.stdout.splitlines()[-1])
    assert command[:2] == ["leafport", "train"]

    found = train.configuration(**train.command.make_context("leafport train", command[2:]).params)
    assert found.splits == out / "splits.json"
    assert found.out == tmp_path / "my study-best"
    assert (found.backbone, found.weights, found.max_steps, found.name) == ("small", "none", 2, "the-best")
    assert (found.head.kind, found.augmentation and found.augmentation.mixup) == ("conv", 0.2)
    assert found.dropout == 0.25
    assert "nothing is left to try" in done.stdout


def test_every_parameter_comes_back_out_of_its_command() -> None:
    arguments = ["my photos", "--seed", "3", "--weights", "a file.h5"]
    parameters = {"head": "conv", "dropout": 0.312, "learning-rate": 3.07e-5, "filters": 1048576, "unfreeze": "4"}
    command = tune.best_command(arguments, Trial(0, {**parameters}), Path("study"), splits=True)
    again = train.command.make_context("leafport train", shlex.split(shlex.join(command))[2:])
    expected = Config(
        Path("my photos"),
        Path("study-best"),
        head=replace(Config(Path(), Path()).head, kind="conv", filters=1048576),
        dropout=0.312,
        learning_rate=3.07e-5,
        unfreeze=4,
        seed=3,
        weights="a file.h5",
        splits=Path("study/splits.json"),
    )
    assert train.configuration(**again.params) == expected
