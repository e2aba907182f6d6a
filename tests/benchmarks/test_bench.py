"""A benchmark of real files in real runtimes, beside a target whose runners do what runners must not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from leafport import files, images
from leafport.benchmarks import report as schema
from leafport.benchmarks.bench import bench
from leafport.benchmarks.report import Artifact, Report
from leafport.classifier import Classifier
from leafport.errors import ModelError, TargetError
from leafport.export import manifest as manifests
from leafport.export.manifest import Entry
from leafport.targets import registry
from leafport.training.data.splits import Splits

REAL = ("tflite-float32", "tflite-int8", "coreml-fp16")
BROKEN = """
import os
import numpy as np
from leafport.errors import TargetError
from leafport.targets.base import Variant

NAME, SUFFIX, RUNTIME, Options = "broken", ".broken", "nothing", object
VARIANTS = {name: Variant(name) for name in ("aborts", "raises", "lies", "absent")}
available = convert = inspect = broken_claims = lambda *arguments: None


def runner(path, contract, threads):
    what = path.read_text()
    if what == "absent":
        raise TargetError(f"No runtime for {path} is installed here: pip install one")
    return Runner(what, len(contract.labels))


class Runner:
    executes, untimed = "nothing", None

    def __init__(self, what, classes):
        self.what, self.classes = what, classes

    def predict(self, images):
        if self.what == "aborts":
            os.abort()
        if self.what == "raises":
            raise RuntimeError("the accelerator in /opt/secret/place is on fire")
        return np.full((len(images), self.classes), 7.0, np.float32)
"""


@pytest.fixture(scope="module")
def broken_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A distribution with a target whose runners fail, found through its entry point."""
    site = tmp_path_factory.mktemp("site")
    (site / "leafport_broken.py").write_text(BROKEN)
    about = site / "leafport_broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: leafport-broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[leafport.targets]\nbroken = leafport_broken\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield


@pytest.fixture(scope="module")
def some_exports(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the exports with a few of the artifacts, and some that a broken target, and a failure, left."""
    folder = tmp_path_factory.mktemp("some") / "exports"
    shutil.copytree(exports, folder)
    manifest = manifests.read(folder)
    entries = {name: manifest.artifacts[name] for name in REAL}
    (folder / "broken").mkdir()
    for variant in ("aborts", "raises", "lies", "absent"):
        path = folder / "broken" / variant
        path.write_text(variant)
        entries[f"broken-{variant}"] = Entry(
            target="broken",
            variant=variant,
            status="ok",
            path=f"broken/{variant}",
            sha256=files.sha256(path),
            fingerprint="",
        )
    reason = f"it crashed (log: {folder / 'logs' / 'x.log'})"
    entries["onnx-float32"] = Entry(target="onnx", variant="float32", status="failed", reason=reason, fingerprint="")
    manifest.model_copy(update={"artifacts": entries}).save(folder)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def report(broken_target: None, some_exports: Path, photo_folder: Path, out: Path) -> Report:
    return bench(some_exports, photo_folder, out, threads=1)


@pytest.fixture(scope="module")
def rows(report: Report) -> dict[str, Artifact]:
    return {row.name: row for row in report.artifacts}


def test_every_artifact_has_a_row_and_keras_is_first(report: Report, rows: dict[str, Artifact], out: Path) -> None:
    assert report.artifacts[0].name == "keras"
    assert len(rows) == 9
    assert [name for name, row in rows.items() if row.valid] == ["keras", *REAL]
    assert schema.read(out / "report.json") == (report,)
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / "report.md").read_text().count("\n| tflite-int8 |") >= 2


@pytest.mark.parametrize("name", ["keras", "tflite-float32", "tflite-int8"])
def test_what_a_device_would_run_is_timed(rows: dict[str, Artifact], name: str) -> None:
    row = rows[name]
    assert row.latency_ms is not None
    assert 30 <= len(row.latency_ms.samples) <= 1000
    assert len(row.latency_ms.warmup) >= 5
    assert row.latency_ms.median == pytest.approx(np.median(row.latency_ms.samples), abs=1e-4)
    assert row.latency_ms.p99 == pytest.approx(np.percentile(row.latency_ms.samples, 99), abs=1e-4)
    assert row.latency_ms.median <= row.latency_ms.p90 <= row.latency_ms.p99
    assert row.load_ms is not None
    assert row.first_ms is not None
    assert row.peak_rss_bytes is not None
    assert row.peak_rss_bytes > 20 * 2**20


def test_what_a_stand_in_runs_is_not_timed(rows: dict[str, Artifact]) -> None:
    row = rows["coreml-fp16"]
    assert row.latency_ms is row.load_ms is row.first_ms is None
    assert row.latency_reason == "Core ML runs only on Apple devices; measure its latency there."
    assert "reference evaluator" in (row.executes or "")
    assert row.accuracy is not None
    assert row.agreement is not None


def test_figures_are_of_the_written_file_on_unseen_photographs(
    report: Report, rows: dict[str, Artifact], run: Path, some_exports: Path
) -> None:
    splits, classifier = Splits.load(run / "splits.json"), Classifier.load(run)
    assert report.data.left_out == len(splits.train) + len(splits.validation)
    assert report.data.photographs == len(splits.test)
    pixels = np.stack([images.read(splits.file(photo), classifier.contract.image) for photo in splits.test])
    truth = np.array([splits.label_index(photo) for photo in splits.test])
    expected = classifier.predict(pixels)
    path = manifests.read(some_exports).artifact_path(some_exports, "tflite-int8")
    answers = registry.load("tflite").runner(path, classifier.contract, 1).predict(pixels)
    keras, int8 = rows["keras"].accuracy, rows["tflite-int8"]
    assert keras is not None
    assert int8.accuracy is not None
    assert int8.agreement is not None
    assert keras.top1 == (expected.argmax(1) == truth).mean()
    assert int8.accuracy.top1 == (answers.argmax(1) == truth).mean()
    assert int8.agreement.top1 == (answers.argmax(1) == expected.argmax(1)).mean()
    assert int8.agreement.max_abs_diff == pytest.approx(float(np.abs(answers - expected).max()), abs=1e-5)
    score, reference = (classifier.contract.positive_score(given) for given in (answers, expected))
    lost = (reference >= 0.3) & (score < 0.3)
    ring = truth == classifier.contract.labels.index("ring")
    assert int8.agreement.flips_to_safe == lost.sum()
    assert int8.agreement.dangerous_flips == (lost & ring).sum()
    assert int8.accuracy.recall == (score[ring] >= 0.3).mean()
    assert rows["keras"].agreement is None and rows["keras"].needs is None
    assert rows["coreml-fp16"].needs == "iOS15"
    assert (rows["tflite-int8"].needs or "").startswith("TFLite ")
    assert rows["tflite-int8"].size_bytes == path.stat().st_size


def test_a_failure_costs_its_own_row_and_says_why(rows: dict[str, Artifact]) -> None:
    reasons = {name: row.invalid_reason or "" for name, row in rows.items()}
    assert "SIGABRT" in reasons["broken-aborts"]
    assert "on fire" in reasons["broken-raises"]
    assert "range from 7 to 7: no probabilities" in reasons["broken-lies"]
    assert reasons["broken-absent"].startswith("No runtime for")
    assert reasons["onnx-float32"].startswith("not exported: it crashed")
    assert all(rows[name].latency_ms is None for name in rows if not rows[name].valid)


def test_a_report_tells_nobody_where_anything_lay(out: Path, some_exports: Path, run: Path, photo_folder: Path) -> None:
    for name in ("report.json", "report.md", "report.html"):
        text = (out / name).read_text()
        for place in (out, some_exports, run, photo_folder, Path.home(), Path("/opt/secret"), Path("/tmp")):
            assert f"{place}/" not in text, (name, place)


def test_another_classifier_is_refused(some_exports: Path, run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    value = json.loads((other / "classifier.json").read_text())
    (other / "classifier.json").write_text(json.dumps({**value, "version": "2.0.0"}))
    with pytest.raises(ModelError, match="is not the classifier these files were made from"):
        bench(some_exports, None, tmp_path / "out", classifier=other)
    assert not (tmp_path / "out").exists()


def test_a_classifier_that_was_moved_is_asked_for(some_exports: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(some_exports, tmp_path / "exports")
    manifest = manifests.read(folder)
    gone = manifest.classifier.model_copy(update={"path": str(tmp_path / "gone")})
    manifest.model_copy(update={"classifier": gone}).save(folder)
    with pytest.raises(ModelError, match="--classifier RUN"):
        bench(folder, None, tmp_path / "out")


def test_an_artifact_that_is_not_there_is_named(some_exports: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no artifact 'tflite-int4'. It holds: tflite-float32"):
        bench(some_exports, None, tmp_path / "out", artifacts=["tflite-int4"])


def test_the_command_line_measures_prints_and_merges(exports: Path, tmp_path: Path) -> None:
    from leafport.cli.bench import command as bench_command
    from leafport.cli.report import command as report_command

    folder = shutil.copytree(exports, tmp_path / "exports")
    path = manifests.read(folder).artifact_path(folder, "tflite-float16")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    arguments = [str(folder), "--out", str(tmp_path / "a"), "--artifact", "onnx", "--artifact", "tflite-float16"]
    result = CliRunner().invoke(bench_command, [*arguments, "--limit", "6", "--json"])
    assert result.exit_code == 1  # One of the files is not the one that was exported.
    (printed,) = json.loads(result.stdout)["reports"]
    rows = {row["name"]: row for row in printed["artifacts"]}
    assert list(rows) == ["keras", "tflite-float16", "onnx-float32"]
    assert "is not the file the manifest describes" in rows["tflite-float16"]["invalid_reason"]
    assert rows["onnx-float32"]["accuracy"]["n"] == 6
    merged = CliRunner().invoke(
        report_command, [str(tmp_path / "a" / "report.json")] * 2 + ["--out", str(tmp_path / "b")]
    )
    assert merged.exit_code == 0
    assert (tmp_path / "b" / "report.html").is_file()
    assert len(schema.read(tmp_path / "b" / "report.json")) == 1
