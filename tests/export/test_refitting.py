"""A file that rounds gets a threshold of its own, which loses no alarm of the classifier's and says what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leafport.contract import Contract, ImageInput
from leafport.export import engine, manifest
from leafport.export.refitting import margin, refitted
from leafport.targets import registry, tflite
from leafport.training import safety

LABELS = ("clover", "daisy", "hemlock")


def answers(score: np.ndarray) -> np.ndarray:
    """Probabilities with this one for hemlock: float32 [N, 3]."""
    rest = (1 - score) / 2
    return np.stack([rest, rest, score], axis=1).astype(np.float32)


def odds(probability: np.ndarray | float) -> np.ndarray:
    return np.log(probability / (1 - np.asarray(probability)))


def moved(score: np.ndarray, by: np.ndarray | float) -> np.ndarray:
    moved: np.ndarray = 1 / (1 + np.exp(-(odds(score) + by)))
    return moved


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray]:
    """Scores of 4000 photographs and their right labels; every third is a hemlock."""
    random = np.random.default_rng(3)
    truth = np.where(np.arange(4000) % 3 == 0, 2, 0)
    return moved(np.full(4000, 0.5), random.normal(np.where(truth == 2, 2.0, -2.5), 1.2)), truth


@pytest.fixture(scope="module")
def contract(seen: tuple[np.ndarray, np.ndarray]) -> Contract:
    score, truth = seen
    chosen = safety.choose(score, truth == 2, ("hemlock",), required_recall=0.9)
    image = ImageInput(height=8, width=8)
    return Contract(name="meadow", task="class", labels=LABELS, image=image, safety=chosen)


def threshold_of(contract: Contract) -> float:
    assert contract.safety is not None
    return contract.safety.threshold


def test_what_rounding_takes_is_allowed_for(contract: Contract, seen: tuple[np.ndarray, np.ndarray]) -> None:
    score, truth = seen
    noise = np.random.default_rng(4).normal(0, 0.1, 4000)
    own = refitted(contract, answers(score), answers(moved(score, noise)), truth, deviations=4)
    assert odds(threshold_of(contract)) - odds(threshold_of(own)) == pytest.approx(0.4, abs=0.1)
    again = np.random.default_rng(5).normal(0, 0.1, 4000)  # Another file that rounds as much.
    alarms = score >= threshold_of(contract)
    assert (moved(score, again)[alarms] >= threshold_of(own)).all()
    assert (moved(score, again)[alarms] < threshold_of(contract)).any()


def test_the_largest_loss_counts_where_it_is_larger(seen: tuple[np.ndarray, np.ndarray]) -> None:
    score = seen[0]
    loss = np.zeros(4000)
    loss[np.argmin(np.abs(odds(score) - odds(0.3)))] = -2.0
    assert margin(score, moved(score, loss), 0.3, 4.0) == pytest.approx(2.0)
    loss[np.argmax(score)] = -50.0  # Far from the threshold, and without weight.
    assert margin(score, moved(score, loss), 0.3, 4.0) == pytest.approx(2.0)


def test_what_it_costs_is_said(contract: Contract, seen: tuple[np.ndarray, np.ndarray]) -> None:
    score, truth = seen
    found = moved(score, np.random.default_rng(4).normal(0, 0.3, 4000))
    own = refitted(contract, answers(score), answers(found), truth, deviations=4).safety
    assert own is not None and contract.safety is not None
    assert own.recall == pytest.approx((found[truth == 2] >= own.threshold).mean())
    assert own.false_alarm_rate == pytest.approx((found[truth == 0] >= own.threshold).mean())
    assert own.false_alarm_rate > contract.safety.false_alarm_rate
    assert own.not_sure is not None and own.not_sure[0] <= own.threshold <= own.not_sure[1]
    assert own.recall_lower_bound >= own.required_recall == contract.safety.required_recall


def test_a_file_that_raises_scores_keeps_the_threshold(contract: Contract, seen: tuple[np.ndarray, np.ndarray]) -> None:
    score, truth = seen
    own = refitted(contract, answers(score), answers(moved(score, 0.01)), truth, deviations=0.5)
    assert threshold_of(own) <= threshold_of(contract)
    assert odds(threshold_of(contract)) - odds(threshold_of(own)) < 0.02


def test_without_a_margin_or_positives_nothing_changes(contract: Contract, seen: tuple[np.ndarray, np.ndarray]) -> None:
    score, truth = seen
    assert refitted(contract, answers(score), answers(score), truth, deviations=0) == contract
    plain = contract.model_copy(update={"safety": None})
    assert refitted(plain, answers(score), answers(score), truth, deviations=4) == plain
    assert refitted(contract, answers(score), answers(score), np.zeros(4000, int), deviations=4) == contract


def test_a_score_of_nothing_does_not_drag_the_threshold_to_zero() -> None:
    """An 8-bit output says 0 below half a step, which is no loss without end."""
    score = np.array([0.01, 0.02, 0.3, 0.9])
    assert margin(score, np.array([0.0, 0.0, 0.3, 0.9]), 0.02, 0.1) == pytest.approx(odds(0.02) - odds(1 / 512))


def test_exports_carry_it(exports: Path) -> None:
    state = manifest.read(exports)
    for name, entry in state.artifacts.items():
        rounds = name.partition("-")[2] in ("dynamic", "int8", "int8-qat", "w8a8", "pal6", "pal4")
        assert (entry.safety is not None) == rounds, name
    for name in ("tflite-int8", "tflite-float32", "coreml-pal6"):
        carried = registry.load(state.artifacts[name].target).inspect(state.artifact_path(exports, name)).contract
        assert carried == state.contract_of(name)
    own, whole = state.contract_of("tflite-int8").safety, state.contract.safety
    assert own is not None and whole is not None
    assert own.threshold < whole.threshold
    assert own.model_copy(update={"threshold": 0.1}) != whole.model_copy(update={"threshold": 0.1})


def test_it_can_be_turned_off(run: Path, tmp_path: Path) -> None:
    few = engine.Settings(comparison_images=9, calibration_images=9, alarm_margin=0.0)
    made = engine.export(run, tmp_path / "out", ["tflite-dynamic"], settings=few)
    assert made.artifacts["tflite-dynamic"].status == "ok"
    assert made.artifacts["tflite-dynamic"].safety is None


def test_a_contract_is_put_in_the_place_of_another(exports: Path, tmp_path: Path) -> None:
    state = manifest.read(exports)
    path = tmp_path / "shapes-int8.tflite"
    path.write_bytes(state.artifact_path(exports, "tflite-int8").read_bytes())
    other = state.contract.model_copy(update={"author": "Somebody else"})
    tflite.restate(path, other)
    facts = tflite.inspect(path)
    assert (facts.contract, facts.metadata["author"]) == (other, "Somebody else")
    tflite.restate(path, state.contract_of("tflite-int8"))
    assert tflite.inspect(path).contract == state.contract_of("tflite-int8")
    once = path.read_bytes()
    tflite.restate(path, state.contract_of("tflite-int8"))
    assert path.read_bytes() == once
