from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from leafport.classifier import Classifier
from leafport.cli.predict import command, interpret
from leafport.contract import Contract


@pytest.fixture
def with_band(classifier: Classifier) -> Contract:
    value = classifier.contract.to_json()
    band = {"not_sure": [0.1, 0.6], "not_sure_coverage": 0.95}
    return Contract.from_json({**value, "safety": {**value["safety"], **band}})


def test_the_band_holds_its_ends_and_comes_before_the_threshold(with_band: Contract, classifier: Classifier) -> None:
    def verdict(contract: Contract, score: float) -> str | None:
        answer = interpret(contract, np.array([[1 - score, score, 0]]), 1)["verdict"]
        assert answer is None or isinstance(answer, str)
        return answer

    scores = (0.0, 0.099, 0.1, 0.299, 0.3, 0.6, 0.601, 1.0)
    found = [verdict(with_band, score) for score in scores]
    assert found == [None, None, "not sure", "not sure", "not sure", "not sure", "positive", "positive"]
    assert [verdict(classifier.contract, score) for score in scores] == [None] * 4 + ["positive"] * 4


def test_photographs_in_the_band_are_shown_as_not_sure(
    with_band: Contract, run: Path, photographs: tuple[Path, ...], pixels: np.ndarray, tmp_path: Path
) -> None:
    loaded = Classifier.load(run)
    score = loaded.contract.positive_score(loaded.predict(pixels))
    low, high = 1e-4, 0.9999
    below, above = int((score < low).sum()), int((score > high).sum())
    assert 0 < below < len(score) - above < len(score)
    folder = shutil.copytree(run, tmp_path / "run")
    value = with_band.to_json()
    value["safety"]["not_sure"] = [low, high]
    (folder / "classifier.json").write_text(json.dumps(value))
    said = CliRunner().invoke(command, [str(folder), *map(str, photographs)]).output
    assert said.count("not sure: treat as dangerous") == len(score) - below - above
    assert said.count(": treat as dangerous") == len(score) - below
    assert said.count("no alarm, which is no proof") == below
    answers = json.loads(CliRunner().invoke(command, [str(folder), str(photographs[0]), "--json"]).output)
    assert answers[0]["not_sure"] == value["safety"]["not_sure"]
