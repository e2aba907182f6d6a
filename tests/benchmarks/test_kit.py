"""Kits: what is measured on another machine, with a program of its own. A fake Core ML stands in for the Mac's here."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from leafport import benchmarks, metrics
from leafport.benchmarks import accuracy, kit, views
from leafport.benchmarks import report as schema
from leafport.benchmarks.kits import figures
from leafport.cli.bench import command
from leafport.contract import Contract, ImageInput, Safety
from leafport.errors import OutputError, TargetError
from leafport.export import manifest as manifests
from tests import environments

FAKE_CORE_ML = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np

HERE = Path(sys.argv[0]).parent
KIT = json.loads((HERE / "kit.json").read_text())
ANSWERS = np.load(HERE / "answers.npy")
ComputeUnit = {"ALL": "ALL", "CPU_ONLY": "CPU_ONLY"}
known = {}

class MLModel:
    def __init__(self, path, compute_units):
        assert Path(path).exists() and compute_units in ComputeUnit
        if "fp32" in path:
            raise RuntimeError("Error compiling model")
        from PIL import Image
        for index in range(len(KIT["truth"])):
            with Image.open(HERE / "photographs" / f"{index:05}.png") as image:
                known[image.convert("RGB").tobytes()] = index

    def predict(self, inputs):
        (image,) = inputs.values()
        row = ANSWERS[known[image.tobytes()]]
        return {"classLabel": "?", "classLabel_probs": dict(reversed(list(zip(KIT["labels"], row.tolist()))))}

models = SimpleNamespace(MLModel=MLModel)
"""
Run = Callable[..., subprocess.CompletedProcess[str]]
RUN = "import sys; sys.path.insert(0, sys.argv[1]); import measure; sys.exit(measure.main(sys.argv[2:], 'darwin'))"


@pytest.fixture(scope="module")
def written(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kit") / "kit"
    arguments = [str(exports), "--kit", "macos", "--out", str(out), "--artifact", "coreml-fp16"]
    result = CliRunner().invoke(command, [*arguments, "--artifact", "coreml-fp32", "--limit", "12"])
    assert result.exit_code == 0, result.output
    assert "python3 measure.py" in result.output
    return out


@pytest.fixture
def on_a_mac(tmp_path: Path) -> Run:
    """Run a kit's program as its user does, but for Core ML and the system's name."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "coremltools.py").write_text(FAKE_CORE_ML)
    environment = {**os.environ, "PYTHONPATH": str(fake)}

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", RUN, str(folder), *arguments]
        return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)

    return run


def test_it_measures_and_its_report_merges(written: Path, on_a_mac: Run, exports: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    finished = on_a_mac(written, "--out", str(out), "--compute-units", "ALL", "CPU_ONLY")
    assert finished.returncode == 1, finished.stderr  # One file does not compile there.
    (report,) = schema.read(out)
    rows = {row.name: row for row in report.artifacts}
    assert list(rows) == ["coreml-fp16", "coreml-fp16 CPU_ONLY", "coreml-fp32", "coreml-fp32 CPU_ONLY"]
    for name in ("coreml-fp16", "coreml-fp16 CPU_ONLY"):
        row = rows[name]
        assert row.valid
        assert row.latency_ms and row.accuracy and row.agreement and row.load_ms and row.first_ms and row.peak_rss_bytes
        assert len(row.latency_ms.samples) >= 50
        assert (row.agreement.top1, row.agreement.flips_to_safe, row.accuracy.n) == (1, 0, 12)
    assert "Error compiling model" in (rows["coreml-fp32"].invalid_reason or "")
    assert rows["coreml-fp16"].needs == "iOS15"
    manifest = manifests.read(exports)
    assert report.contract.sha256 == manifest.contract.sha256
    assert rows["coreml-fp16"].sha256 == manifest.artifacts["coreml-fp16"].sha256
    page = views.render([report], tmp_path / "page")
    assert "coreml-fp16" in page.read_text()


@pytest.fixture(scope="module")
def for_the_board(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("board") / "kit"
    result = CliRunner().invoke(command, [str(exports), "--kit", "tx2", "--out", str(out), "--limit", "12"])
    assert result.exit_code == 0, result.output
    assert "python3 bench.py" in result.output
    return out


@pytest.mark.parametrize(
    "name", [None, pytest.param("tensorflow-1.15", marks=pytest.mark.environment("tensorflow-1.15"))]
)
def test_a_boards_report_merges_with_the_hosts(
    name: str | None, for_the_board: Path, exports: Path, tmp_path: Path
) -> None:
    """In the board's Python and TensorFlow too. Engines are simulated where there is no GPU, and the report says so."""
    python = environments.required(name) if name else Path(sys.executable)
    out = tmp_path / "report.json"
    program = [str(python), str(for_the_board / "bench.py"), "--out", str(out)]
    finished = subprocess.run(program, capture_output=True, text=True, check=False)
    assert finished.returncode == 1, finished.stdout + finished.stderr  # There is no TensorRT for the ONNX file.
    (report,) = schema.read(out)
    rows = {row.name: row for row in report.artifacts}
    assert list(rows) == ["tftrt-frozen", "tftrt-fp32", "tftrt-fp16", "onnx-float32"]
    assert "needs TensorRT" in (rows.pop("onnx-float32").invalid_reason or "")
    for row in rows.values():
        assert row.valid, row.invalid_reason
        assert row.agreement
        assert (row.agreement.top1, row.agreement.flips_to_safe) == (1, 0)
        assert row.peak_rss_bytes
    assert rows["tftrt-frozen"].latency_ms
    assert len(rows["tftrt-frozen"].latency_ms.samples) >= 50
    for simulated in (rows["tftrt-fp32"], rows["tftrt-fp16"]):
        assert simulated.latency_ms is None
        assert "says nothing of their speed" in (simulated.latency_reason or "")
        assert "simulated" in (simulated.executes or "")
    host = report.model_copy(update={"machine": report.machine.model_copy(update={"state": ("NV Power Mode: MAXN",)})})
    page = views.render([host, report], tmp_path / "page")
    assert page.read_text().count("tftrt-fp16") > 1
    assert "NV Power Mode: MAXN" in page.read_text()


def test_a_file_that_answers_otherwise_is_not_measured(for_the_board: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(for_the_board, tmp_path / "copy")
    golden = json.loads((copy / "golden" / "golden.json").read_text())
    for record in golden["images"]:
        record["probabilities"] = record["probabilities"][::-1]
    (copy / "golden" / "golden.json").write_text(json.dumps(golden))
    kit_of = json.loads((copy / "kit.json").read_text())
    kit_of["files"] = kit_of["files"][:1]
    (copy / "kit.json").write_text(json.dumps(kit_of))
    finished = subprocess.run([sys.executable, str(copy / "bench.py")], capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    (report,) = schema.read(copy / "report.json")
    assert "does not answer as its classifier" in (report.artifacts[0].invalid_reason or "")


def test_it_holds_what_it_needs_and_no_place_of_this_machine(written: Path, exports: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert names == {
        *("README.md", "measure.py", "timing.py", "figures.py", "kit.json", "answers.npy", "photographs", "files"),
    }
    assert len(list((written / "photographs").iterdir())) == 12
    texts = [path.read_text() for path in written.iterdir() if path.suffix in (".json", ".md", ".py")]
    assert not [text for text in texts if str(exports) in text or str(Path.home()) in text]


def test_its_program_needs_no_leafport_and_an_old_python_reads_it() -> None:
    folder = Path(str(benchmarks.__file__)).parent / "kits"
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9) if path.name == "macos.py" else (3, 6))
        imported = {
            name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        allowed = {"numpy", "PIL", "coremltools", "timing", "figures", "classify", *sys.stdlib_module_names}
        assert imported <= allowed


def test_elsewhere_it_says_where_it_belongs(written: Path) -> None:
    program = [sys.executable, str(written / "measure.py")]
    finished = subprocess.run(program, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "Macs only" in finished.stderr


def test_answers_that_are_no_numbers_are_no_figures(written: Path, on_a_mac: Run, tmp_path: Path) -> None:
    broken = shutil.copytree(written, tmp_path / "broken")
    np.save(broken / "answers.npy", np.full_like(np.load(broken / "answers.npy"), np.nan))
    assert on_a_mac(broken).returncode == 1
    (report,) = schema.read(broken / "report.json")
    assert "not numbers" in (report.artifacts[0].invalid_reason or "")


def test_what_cannot_be_a_kit_is_said(exports: Path, written: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there already"):
        kit.write("macos", exports, None, written)
    with pytest.raises(TargetError, match="measures coreml; onnx-float32 is none"):
        kit.write("macos", exports, None, tmp_path / "kit", artifacts=["onnx-float32"])
    with pytest.raises(TargetError, match="no kit 'tx3'"):
        kit.write("tx3", exports, None, tmp_path / "kit")
    assert not (tmp_path / "kit").exists()


SAFETY = Safety(
    positive_labels=("b", "d"),
    threshold=0.4,
    required_recall=0.9,
    attained=True,
    recall=1,
    recall_lower_bound=0.9,
    false_alarm_rate=0.1,
    positives=30,
    negatives=30,
    not_sure=(0.3, 0.6),
    not_sure_coverage=0.9,
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 60), classes=st.integers(4, 7), safe=st.booleans())
def test_its_figures_are_those_of_a_report(seed: int, n: int, classes: int, safe: bool) -> None:
    random = np.random.default_rng(seed)
    labels = tuple("abcdefg"[:classes])
    contract = Contract(
        name="x", task="class", labels=labels, image=ImageInput(height=8, width=8), safety=SAFETY if safe else None
    )
    own = contract.model_copy(update={"safety": SAFETY.model_copy(update={"threshold": 0.35})}) if safe else contract
    truth = random.integers(0, classes, n)
    reference = (random.dirichlet(np.ones(classes) / 2, n) * 16).round().astype(np.float32) / 16  # With ties.
    answers = np.clip(reference + random.choice([0, 0, 0.25], reference.shape), 0, 1).astype(np.float32)
    given: dict[str, Any] = {"truth": truth.tolist(), "positive_indices": contract.positive_indices if safe else []}
    here, there = (one.safety.model_dump(mode="json") if one.safety else None for one in (contract, own))
    wanted: Any = accuracy.accuracy(answers, truth, own).model_dump()
    found = schema.Accuracy(**figures.accuracy(answers, given, there)).model_dump()
    assert found == pytest.approx(wanted, abs=1e-9)
    wanted = accuracy.agreement(reference, answers, truth, contract, own).model_dump()
    found = schema.Agreement(**figures.agreement(reference, answers, given, here, there)).model_dump()
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("hits", "positives"), [(0, 5), (5, 5), (1, 1), (83, 89), (400, 421), (1500, 3000)])
def test_its_lower_bound_is_exact(hits: int, positives: int) -> None:
    wanted = metrics.clopper_pearson_lower(hits, positives, 0.95)
    assert figures.recall_lower_bound(hits, positives, 0.95) == pytest.approx(wanted, abs=1e-9)


def test_a_kit_says_what_it_is_to_be_measured_with(written: Path) -> None:
    value = json.loads((written / "kit.json").read_text())
    assert [file["name"] for file in value["files"]] == ["coreml-fp16", "coreml-fp32"]
    assert all((written / file["path"]).is_dir() for file in value["files"])
