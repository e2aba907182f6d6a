from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from leafport import files, images
from leafport.classifier import MODEL_FILE, Classifier, load_contract
from leafport.cli import threshold as verb
from leafport.errors import DataError, ModelError, OutputError
from leafport.training import threshold
from leafport.training.data.splits import Splits


def nobody(stage: str, done: int, total: int, note: str) -> None:
    pass


@pytest.fixture(scope="module")
def found(trained: Path, photos: Path) -> threshold.Validated:
    return threshold.validated(trained, photos, progress=nobody)


def test_the_validation_photographs_are_asked_and_no_others(trained: Path, found: threshold.Validated) -> None:
    divided, classifier = Splits.load(trained / "splits.json"), Classifier.load(trained)
    pixels = np.stack([images.read(divided.file(photo), classifier.contract.image) for photo in divided.validation])
    np.testing.assert_allclose(found.score, classifier.predict(pixels)[:, 2:].sum(axis=1), rtol=1e-4)
    assert found.positive.tolist() == [photo.folder in ("foxglove", "nightshade") for photo in divided.validation]


def test_what_training_chose_is_chosen_again(trained: Path, found: threshold.Validated) -> None:
    now = load_contract(trained).safety
    assert now is not None
    again = found.choose(now.required_recall)
    assert again.threshold == pytest.approx(now.threshold, rel=0.005)
    assert again.model_dump(include={"recall", "false_alarm_rate", "positives"}) == now.model_dump(
        include={"recall", "false_alarm_rate", "positives"}
    )


def test_every_choice_is_another_and_the_next_promises_less(found: threshold.Validated) -> None:
    positive = np.arange(200) < 100
    random = np.random.default_rng(0)
    score = np.where(positive, random.beta(4, 2, 200), random.beta(2, 6, 200))
    many = threshold.Validated(found.classifier, found.now, found.divided, score, positive).choices()
    assert [one.required_recall for one in many] == [0.97, 0.95, 0.93, 0.92, 0.91, 0.85, 0.8]
    assert all(one.attained and one.recall_lower_bound >= one.required_recall for one in many)
    assert np.all(np.diff([one.threshold for one in many]) > 0)
    assert np.all(np.diff([one.false_alarm_rate for one in many]) <= 0)
    few = found.choices()  # Two positives show nothing.
    assert [one.attained for one in few] == [False]


def test_another_threshold_is_written_and_judged(trained: Path, photos: Path, tmp_path: Path) -> None:
    before = {path.name: files.sha256(path) for path in trained.iterdir() if path.is_file()}
    out = threshold.retake(trained, photos, 0.2, tmp_path / "new", overwrite=False, progress=nobody)
    assert {path.name for path in out.iterdir()} == {path.name for path in trained.iterdir()}
    assert {path.name: files.sha256(path) for path in trained.iterdir() if path.is_file()} == before
    old, new = load_contract(trained), load_contract(out)
    assert old.safety is not None
    assert new.safety is not None
    assert (new.safety.required_recall, new.safety.attained) == (0.2, True)
    assert new.model_copy(update={"safety": None}) == old.model_copy(update={"safety": None})
    one, other = Classifier.load(trained).model.get_weights(), Classifier.load(out).model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    figures = files.read_json(out / "evaluation.json")
    assert figures["contract_sha256"] == new.sha256
    assert figures["data_sha256"] == files.read_json(trained / "evaluation.json")["data_sha256"]
    with pytest.raises(OutputError, match="--overwrite"):
        threshold.retake(trained, photos, 0.3, out, overwrite=False, progress=nobody)
    with pytest.raises(OutputError, match="inside the photographs' folder"):
        threshold.retake(trained, photos, 0.3, photos / "new", overwrite=False, progress=nobody)
    threshold.retake(trained, photos, 0.3, out, overwrite=True, progress=nobody)
    again = load_contract(out).safety
    assert again is not None
    assert again.required_recall == 0.3


def test_a_folder_that_does_not_say_what_it_was_tuned_on_is_refused(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "splits.json").unlink()
    with pytest.raises(DataError, match=r"has no splits\.json"):
        threshold.validated(copy, photos, progress=nobody)
    (copy / MODEL_FILE).unlink()
    with pytest.raises(ModelError):
        threshold.validated(copy, photos, progress=nobody)


def test_a_classifier_without_positive_labels_is_refused(trained: Path, photos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    contract = load_contract(copy).model_copy(update={"safety": None})
    files.write_json(copy / "classifier.json", contract.to_json())
    with pytest.raises(ModelError, match="train with --positive FILE"):
        threshold.validated(copy, photos, progress=nobody)


def test_photographs_that_are_not_there_are_refused(trained: Path, photo_folder: Path) -> None:
    with pytest.raises(DataError, match="photographs of the split are missing"):
        threshold.validated(trained, photo_folder, progress=nobody)


def test_the_command_line_shows_and_takes(trained: Path, photos: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(verb.command, [str(trained), "--data", str(photos)])
    assert shown.exit_code == 0, shown.output
    assert "the threshold now" in shown.output
    assert f"--data {photos} --required-recall X --out NEW" in shown.output.replace("\n", " ")
    out = tmp_path / "new"
    taken = CliRunner().invoke(
        verb.command, [str(trained), "--data", str(photos), "--required-recall", "0.2", "--out", str(out)]
    )
    assert taken.exit_code == 0, taken.output
    assert "it has not learned from" in taken.output
    assert f"Next: leafport export {out}" in taken.output.replace("\n", " ")
    half = CliRunner().invoke(verb.command, [str(trained), "--data", str(photos), "--out", str(out)])
    assert half.exit_code == 2
    assert "belong together" in half.output
