from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leafport import files
from leafport.classifier import Classifier
from leafport.contract import Contract
from leafport.errors import ModelError


@pytest.fixture
def value(classifier: Classifier) -> dict[str, Any]:
    return classifier.contract.to_json()


def test_a_contract_survives_json_and_keeps_its_hash(value: dict[str, Any], classifier: Classifier) -> None:
    again = Contract.from_json(value)
    assert again == classifier.contract
    assert again.sha256 == classifier.contract.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["disc", "disc", "ring"]}, "differ"),
        ({"labels": ["disc"]}, "labels"),
        ({"task": "binary"}, "2 labels"),
        ({"name": "../escape"}, "name"),
        ({"surprise": 1}, "surprise"),
        ({"schema_version": 2}, "schema_version"),
        ({"image": {"height": 0, "width": 32}}, "height"),
        ({"image": {"height": 32, "width": 32, "kernel": "area", "antialias": False}}, "antialias"),
    ],
)
def test_a_bad_contract_says_what_is_wrong(value: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Contract.from_json({**value, **change})


def test_positive_labels_must_be_among_the_labels(value: dict[str, Any]) -> None:
    value["safety"]["positive_labels"] = ["unicorn"]
    with pytest.raises(ModelError, match="positive_labels"):
        Contract.from_json(value)


def test_every_change_changes_the_hash(value: dict[str, Any], classifier: Classifier) -> None:
    value["safety"]["threshold"] = 0.31
    assert Contract.from_json(value).sha256 != classifier.contract.sha256


def test_the_positive_score_sums_the_positive_labels(value: dict[str, Any]) -> None:
    value["safety"]["positive_labels"] = ["disc", "square"]
    contract = Contract.from_json(value)
    score = contract.positive_score(np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]], np.float32))
    np.testing.assert_allclose(score, [0.8, 0.75], rtol=1e-6)


def test_without_positive_labels_there_is_no_score(value: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="--positive"):
        Contract.from_json({**value, "safety": None}).positive_score(np.zeros((1, 3)))


def test_a_band_adds_to_a_contract_and_older_ones_keep_their_hash(
    value: dict[str, Any], classifier: Classifier
) -> None:
    assert "not_sure_coverage" not in value["safety"]  # As contracts were written before there were bands.
    assert files.sha256_json(value) == classifier.contract.sha256
    band = {"not_sure": [0.1, 0.6], "not_sure_coverage": 0.95, "not_sure_share_of_positives": 0.0}
    with_band = Contract.from_json({**value, "safety": {**value["safety"], **band}})
    assert with_band.sha256 != classifier.contract.sha256
    assert with_band.to_json()["safety"]["not_sure_coverage"] == 0.95
    assert with_band.to_json()["safety"]["not_sure_share_of_positives"] == 0.0
    assert Contract.from_json(with_band.to_json()) == with_band


def test_the_threshold_lies_in_the_band(value: dict[str, Any]) -> None:
    for band in ([0.4, 0.6], [0.1, 0.2], [0.6, 0.1]):
        with pytest.raises(ModelError, match="band"):
            Contract.from_json({**value, "safety": {**value["safety"], "not_sure": band}})


def test_the_band_holds_both_its_ends(value: dict[str, Any], classifier: Classifier) -> None:
    safety = Contract.from_json({**value, "safety": {**value["safety"], "not_sure": [0.1, 1.0]}}).safety
    assert safety and classifier.contract.safety
    score = np.array([0.0999, 0.1, 0.5, 1.0])
    assert safety.unsure(score).tolist() == [False, True, True, True]
    assert not classifier.contract.safety.unsure(score).any()


def test_no_score_passes_one(value: dict[str, Any]) -> None:
    value["safety"]["positive_labels"] = ["disc", "square"]
    saturated = np.array([[1.0, 0.0, 2**-22]], np.float32)
    assert saturated.sum() > 1
    assert Contract.from_json(value).positive_score(saturated) == [1]


def test_the_labels_language_is_in_the_contract_only_where_it_was_said(value: dict[str, Any]) -> None:
    assert "locale" not in value
    said = Contract.from_json({**value, "locale": "pt-BR"})
    assert said.to_json()["locale"] == "pt-BR"
    assert said.sha256 != Contract.from_json(value).sha256
    with pytest.raises(ModelError, match="locale"):
        Contract.from_json({**value, "locale": "Portuguese, of Brazil"})
