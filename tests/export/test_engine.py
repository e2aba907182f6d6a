from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from leafport import files
from leafport.cli import export
from leafport.errors import DataError, ModelError, OutputError, TargetError
from leafport.export import engine, manifest
from leafport.export.engine import Event, Settings
from leafport.export.manifest import Gate
from leafport.export.verify import verify
from leafport.targets import registry

FEW = Settings(comparison_images=12, calibration_images=12)


def test_everything_is_written_and_accounted_for(exports: Path) -> None:
    made = manifest.read(exports)
    assert list(made.artifacts) == [artifact.name for artifact in registry.select()]
    for name, entry in made.artifacts.items():
        path = made.artifact_path(exports, name)
        assert entry.sha256 == files.sha256(path)
        assert entry.bytes == files.size_bytes(path)
        assert entry.seconds and entry.peak_rss_bytes and entry.facts
        assert entry.verified and entry.verified.images == 27
        assert entry.verified.flips_to_safe is not None
    assert made.graph.nodes < made.graph.nodes_traced
    assert made.calibration and made.calibration.images == 30
    assert {"labels.txt", "contract.json", "splits.json", "golden/golden.json"} <= set(made.files)
    assert not (exports / engine.WORK).exists()


def test_float_artifacts_agree_to_rounding(exports: Path) -> None:
    for name, entry in manifest.read(exports).artifacts.items():
        assert entry.verified
        tflite = ("tflite-dynamic", "tflite-int8", "tflite-int8-qat")
        few_bits = dict.fromkeys((*tflite, "coreml-int8", "coreml-pal6"), 0.2)
        limit = {**few_bits, "tflite-float16": 0.01, "coreml-fp16": 0.02}.get(name, 1e-5)
        assert entry.verified.max_abs_diff < limit, name


def test_a_file_that_misses_the_gate_does_not_appear(run: Path, tmp_path: Path) -> None:
    asked = dataclasses.replace(FEW, gate=Gate(max_drop=-1.0))  # No file gains so much.
    made = engine.export(run, tmp_path / "out", ["tflite-float32"], settings=asked)
    entry = made.artifacts["tflite-float32"]
    assert entry.status == "failed"
    assert entry.reason and "loses 0.0 points of top-1, at most -100 allowed (--max-drop)" in entry.reason
    assert not list((tmp_path / "out").rglob("*.tflite"))
    made = engine.export(run, tmp_path / "out", ["tflite-float32"], settings=FEW)
    found = made.artifacts["tflite-float32"].verified
    assert found and found.top1 == found.reference_top1
    assert found.confidence_drift == pytest.approx(0, abs=1e-6)


def test_flips_cannot_be_asked_of_a_model_without_positives(run: Path, tmp_path: Path) -> None:
    harmless = shutil.copytree(run, tmp_path / "run")
    value = json.loads((harmless / "classifier.json").read_text())
    (harmless / "classifier.json").write_text(json.dumps({**value, "safety": None}))
    with pytest.raises(ModelError, match="names no positive labels"):
        engine.export(harmless, tmp_path / "out", settings=Settings(gate=Gate(max_flips=0)))
    assert not (tmp_path / "out").exists()


def test_calibration_and_comparison_never_meet(run: Path) -> None:
    from leafport.export import photographs
    from leafport.training.data.splits import Splits

    chosen = photographs.choose(Splits.load(run / "splits.json"), data=None, calibration=1000, comparison=1000)
    assert chosen.calibration and chosen.comparison
    assert not {p.sha256 for p in chosen.calibration} & {p.sha256 for p in (*chosen.comparison, *chosen.golden)}
    few = photographs.choose(Splits.load(run / "splits.json"), data=None, calibration=6, comparison=3)
    assert sorted(photo.folder for photo in few.calibration) == ["disc", "disc", "ring", "ring", "square", "square"]


def test_running_again_does_nothing(run: Path, exports: Path) -> None:
    before = (exports / manifest.FILE).read_bytes()
    events: list[Event] = []
    settings = Settings(comparison_images=27, calibration_images=30)
    engine.export(run, exports, settings=settings, listener=events.append)
    assert {event.step for event in events} == {"kept"}
    assert (exports / manifest.FILE).read_bytes() == before


def test_only_what_changed_is_made_again(run: Path, exports: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exports, tmp_path / "copy")
    (copy / "onnx" / "shapes-float32.onnx").write_bytes(b"overwritten by somebody")
    shutil.rmtree(copy / "savedmodel")
    steps: dict[str, str] = {}
    settings = Settings(comparison_images=27, calibration_images=30)
    engine.export(run, copy, settings=settings, listener=lambda event: steps.update({event.name: event.step}))
    assert {name for name, step in steps.items() if step == "done"} == {"onnx-float32", "savedmodel"}
    findings = verify(copy)
    assert findings and all(finding.problem is None for finding in findings)


def test_another_classifiers_exports_are_not_overwritten(run: Path, exports: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    contract = json.loads((other / "classifier.json").read_text())
    (other / "classifier.json").write_text(json.dumps({**contract, "version": "2.0.0"}))
    copy = shutil.copytree(exports, tmp_path / "copy")
    with pytest.raises(OutputError, match="--overwrite"):
        engine.export(other, copy, ["onnx"], settings=FEW)
    assert files.sha256(copy) == files.sha256(exports)
    made = engine.export(other, copy, ["onnx"], settings=FEW, overwrite=True)
    assert list(made.artifacts) == ["onnx-float32"]
    assert not list((copy / "tflite").glob("*"))


def test_foreign_files_are_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        engine.export(run, tmp_path, ["onnx"], settings=FEW)
    assert [path.name for path in tmp_path.iterdir() if path.name != engine.LOCK] == ["thesis.tex"]


def test_moved_photographs(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        engine.export(run, tmp_path / "out", ["onnx"], data=tmp_path / "nowhere", settings=FEW)
    elsewhere = shutil.copytree(photo_folder, tmp_path / "elsewhere")
    for path in elsewhere.glob("ring/*"):
        path.write_bytes(b"changed")
    made = engine.export(run, tmp_path / "out", ["onnx"], data=elsewhere, settings=FEW)
    assert made.artifacts["onnx-float32"].status == "ok"


def test_unknown_things_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"'tflight'.*tflite-int8"):
        engine.export(run, tmp_path / "out", ["tflight"])
    with pytest.raises(ModelError, match="not a classifier"):
        engine.export(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_asking_for_a_missing_library_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leafport.targets import onnx

    monkeypatch.setattr(onnx, "available", lambda variant: "onnx is not installed: pip install 'leafport[onnx]'")
    with pytest.raises(TargetError, match=r"onnx-float32 cannot be written here.*pip install"):
        engine.export(run, tmp_path / "out", ["onnx"], settings=FEW)


def test_the_curve_says_what_other_numbers_of_photographs_would_make_of_a_file(run: Path, tmp_path: Path) -> None:
    asked = dataclasses.replace(FEW, calibration_curve=(24,))
    made = engine.export(run, tmp_path / "out", ["tflite-int8", "tflite-float32"], settings=asked)
    points = made.artifacts["tflite-int8"].calibration_curve
    assert [point.images for point in points] == [24]
    assert all(0 <= point.top1_agreement <= 1 and point.top1 is not None for point in points)
    assert made.artifacts["tflite-float32"].calibration_curve == ()
    assert made.calibration and (made.calibration.images, made.calibration.classes) == (12, 3)
    assert sorted(path.name for path in (tmp_path / "out" / "tflite").iterdir()) == [
        "shapes-float32.tflite",
        "shapes-int8.tflite",
    ]


def test_photographs_that_show_too_few_classes_are_warned_of(run: Path, tmp_path: Path) -> None:
    few = ["--comparison-images", "12", "--calibration-images", "2", "--calibration-curve", "4"]
    arguments = [str(run), "--out", str(tmp_path / "out"), "--target", "tflite-int8", *few, "--min-agreement", "0"]
    outcome = CliRunner().invoke(export.command, arguments)
    assert outcome.exit_code == 0, outcome.output
    said = " ".join(outcome.output.split())
    assert "The 2 calibration photographs show 2 of 3 classes" in said
    assert "calibrated on" in said


def export_command(run: Path, out: Path, *arguments: str) -> list[str]:
    few = ["--comparison-images", "12", "--calibration-images", "12"]
    return [sys.executable, "-m", "leafport", "export", str(run), "--out", str(out), *few, *arguments]


def test_rogue_converters_cost_only_themselves(run: Path, third_party: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(third_party)}
    limits = ["--time-limit", "60", "--memory-limit", "1.5", "--target", "rogue", "--target", "pbtxt"]
    done = subprocess.run(
        [*export_command(run, tmp_path / "out", *limits), "--pbtxt-comment", "made by a third party"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    made = json.loads((tmp_path / "out" / manifest.FILE).read_text())["artifacts"]
    reasons = {name: entry["reason"] for name, entry in made.items() if entry["status"] == "failed"}
    for variant, reason in {
        "aborts": "killed by SIGABRT",
        "sleeps": "still running after the 60 seconds allowed",
        "eats": "GiB of memory, 1.5 allowed",
        "lies": "not what its name claims: it holds floats",
        "escapes": "not in the folder it was given",
        "misclassifies": "names another class than the classifier",
        "crashes-later": "killed by SIGABRT",
    }.items():
        assert reason in reasons.pop(f"rogue-{variant}")
        assert f"rogue-{variant}" in done.stdout
    assert reasons == {}
    assert made["pbtxt-text"]["status"] == "ok"
    assert made["pbtxt-text"]["facts"]["notes"]["comment"] == "# made by a third party"
    assert not (tmp_path / "out" / "rogue").exists() or not list((tmp_path / "out" / "rogue").iterdir())


def test_a_third_partys_target_is_listed(third_party: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "leafport", "targets"],
        env={**os.environ, "PYTHONPATH": str(third_party)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pbtxt-text" in listed
    assert "the serving graph, readable by people" in listed


@pytest.mark.parametrize("after", [1.0, 6.0, 12.0])
def test_a_killed_export_is_finished_by_the_next(run: Path, tmp_path: Path, after: float) -> None:
    out = tmp_path / "out"
    command = export_command(run, out, "--target", "onnx", "--target", "tflite-float32")
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    first.send_signal(signal.SIGKILL)
    first.wait()
    if (out / manifest.FILE).exists():
        assert not [found.problem for found in verify(out) if found.problem]
    subprocess.run(command, check=True, capture_output=True)
    findings = verify(out)
    assert [finding.name for finding in findings] == ["contract", "tflite-float32", "onnx-float32"]
    assert not [finding.problem for finding in findings if finding.problem]
    assert not (out / engine.WORK).exists()
