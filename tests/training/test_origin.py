"""Going on from a finished classifier: what is settled stays, what is not can be said anew."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from leafport import files
from leafport.classifier import Classifier
from leafport.cli.train import command
from leafport.errors import ModelError, TargetError
from leafport.export import engine
from leafport.export.graph import read_graph_def
from leafport.export.manifest import Gate
from leafport.targets import tflite
from leafport.training import origin
from leafport.training.config import Config
from leafport.training.data.splits import Splits
from leafport.training.train import check, train


def stages(run: Path) -> list[str]:
    with (run / "history.csv").open(encoding="utf-8") as stream:
        return [line["stage"] for line in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def rounded(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same classifier after two steps of quantisation-aware training."""
    out = tmp_path_factory.mktemp("rounded") / "run"
    return train(origin.settings(trained, photos, out, {"quantise": True, "max_steps": 2}))


def test_what_is_not_said_is_as_it_was(trained: Path, photos: Path, tmp_path: Path) -> None:
    config = origin.settings(trained, photos, tmp_path / "out", {"batch_size": 4, "author": "Grace"})
    assert (config.backbone, config.image_size, config.task) == ("mobilenet", 32, "class")
    assert (config.batch_size, config.author, config.license) == (4, "Grace", "CC0-1.0")
    assert (config.epochs, config.learning_rate, config.max_steps) == (None, None, None)
    contract = Classifier.load(trained).contract
    assert contract.safety is not None and config.required_recall == contract.safety.required_recall


@pytest.mark.parametrize("name", origin.SETTLED)
def test_what_is_settled_cannot_be_said_anew(trained: Path, photos: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"--{name.replace('_', '-')} cannot be given with --from"):
        origin.settings(trained, photos, tmp_path / "out", {name: "anything"})


def test_going_on_begins_with_the_classifier_and_not_with_its_head(trained: Path, photos: Path, tmp_path: Path) -> None:
    config = origin.settings(trained, photos, tmp_path / "out", {"max_steps": 1, "learning_rate": 1e-12})
    train(config)
    assert stages(tmp_path / "out")[0] == "Fine-tuning"
    before, after = Classifier.load(trained), Classifier.load(tmp_path / "out")
    assert after.contract.labels == before.contract.labels
    assert after.contract.safety and before.contract.safety
    assert after.contract.safety.positive_labels == before.contract.safety.positive_labels
    kernels = [np.asarray(each.model.get_layer("mobilenet").weights[0]) for each in (before, after)]
    np.testing.assert_allclose(*kernels, atol=1e-6)
    assert Splits.load(tmp_path / "out" / "splits.json").sides == Splits.load(trained / "splits.json").sides


def test_quantisation_aware_training_leaves_ranges_and_weights_on_steps(rounded: Path) -> None:
    assert set(stages(rounded)) == {"Quantisation-aware training"}
    classifier = Classifier.load(rounded)
    assert classifier.quantisation is not None
    kernel = np.asarray(classifier.model.get_layer("mobilenet").get_layer("conv1").kernel)
    steps = kernel / np.abs(kernel).max(axis=(0, 1, 2)) * 127
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_its_export_has_a_file_with_these_ranges(rounded: Path, trained: Path, photos: Path, tmp_path: Path) -> None:
    settings = engine.Settings(gate=Gate(min_agreement=0.0))  # Two steps make no classifier: nothing to agree on.
    made = engine.export(rounded, tmp_path / "exports", ["tflite-int8-qat"], data=photos, settings=settings)
    assert made.artifacts["tflite-int8-qat"].status == "ok", made.artifacts["tflite-int8-qat"].reason
    assert "graph/quantised.pb" in made.files
    facts = tflite.inspect(made.artifact_path(tmp_path / "exports", "tflite-int8-qat"))
    assert facts.notes["float_ops"] == []
    plain, quantised = (
        read_graph_def(tmp_path / "exports" / "graph" / f"{name}.pb") for name in ("serving", "quantised")
    )
    assert not any(node.op.startswith("FakeQuant") for node in plain.node)
    assert any(node.op.startswith("FakeQuant") for node in quantised.node)


def test_a_classifier_that_has_not_learned_it_is_exported_without(trained: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"tflite-int8-qat cannot be written: .*--qat"):
        engine.export(trained, tmp_path / "exports", ["tflite-int8-qat"], data=photos)
    assert {"int8", "int8-qat"} & {artifact.variant for artifact in engine.wanted(trained, ["tflite"])} == {"int8"}


def test_a_record_of_another_network_is_refused(trained: Path, photos: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    record = files.read_json(other / "training.json")
    record["request"]["head"]["units"] = [7]
    files.write_json(other / "training.json", record)
    with pytest.raises(ModelError, match=r"not the network that its training\.json describes"):
        train(origin.settings(other, photos, tmp_path / "out", {"max_steps": 1}))
    files.write_json(other / "training.json", {"request": {"head": 5}})
    with pytest.raises(ModelError, match=r"training.json does not say how a network was trained \(head"):
        origin.settings(other, photos, tmp_path / "out", {})
    files.write_json(other / "training.json", {"ensemble": []})
    with pytest.raises(ModelError, match=r"An ensemble cannot learn on"):
        origin.settings(other, photos, tmp_path / "out", {})


def test_a_classifier_without_positives_has_no_safety_loss(trained: Path, photos: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    contract = files.read_json(other / "classifier.json")
    files.write_json(other / "classifier.json", {**contract, "safety": None})
    with pytest.raises(ModelError, match="no positive labels"):
        origin.settings(other, photos, tmp_path / "out", {"safety_loss": 1.0})


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"quantise": True, "fine_tuning_size": 32}, "--fine-tuning-size"),
        ({"quantise": True, "precision": "mixed"}, "--precision"),
        ({"epochs": 0}, "--epochs 0"),
    ],
)
def test_what_makes_no_sense_is_refused(trained: Path, photos: Path, tmp_path: Path, given: dict, fault: str) -> None:
    with pytest.raises(ModelError, match=fault):
        check(origin.settings(trained, photos, tmp_path / "out", given))


def test_quantising_takes_a_classifier(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--from RUN"):
        check(Config(photos, tmp_path / "out", quantise=True))


def test_the_command_passes_on_what_was_said_and_no_more(trained: Path, photos: Path, tmp_path: Path) -> None:
    def run(*more: str) -> str:
        arguments = [str(photos), "--from", str(trained), "--out", str(tmp_path / "out"), *more]
        result = CliRunner().invoke(command, arguments)
        return result.output if result.exit_code else str(result.exception or "")

    outcome = CliRunner().invoke(command, [str(photos), "--from", str(trained), "--out", "x", "--backbone", "vgg16"])
    assert "--backbone cannot be given with --from" in str(outcome.exception)
    assert "one machine" in run("--hosts", "127.0.0.1")
    assert run("--qat", "--max-steps", "1") == ""
    assert (tmp_path / "out" / "quantisation.json").is_file()
