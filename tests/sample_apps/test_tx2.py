from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leafport import images
from leafport.classifier import Classifier
from leafport.contract import ImageInput
from leafport.export.graph import ServingGraph
from leafport.targets import tftrt
from tests import environments

APP = Path(__file__).resolve().parents[2] / "sample_apps" / "tx2" / "classify.py"
SAFETY = {"positive_labels": ["ring"], "threshold": 0.3, "not_sure": None}
LABELS = ["disc", "ring", "square"]


@pytest.fixture(scope="module")
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("classify", APP)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def board(serving_graph: ServingGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it would be copied to a board: the graphs and the contract."""
    folder = tmp_path_factory.mktemp("board")
    for variant in ("frozen", "fp16"):
        tftrt.convert(serving_graph, variant, folder, tftrt.Options())
    (folder / "contract.json").write_text(json.dumps(serving_graph.contract.to_json()))
    return folder


def classify(*arguments: Any, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in (python, APP, *arguments)]
    return subprocess.run(command, text=True, capture_output=True, check=False)


def read_answers(printed: str) -> list[list[tuple[str, float]]]:
    """For each photograph, its labels and probabilities, best first."""
    answers: list[list[tuple[str, float]]] = []
    for line in printed.splitlines():
        if not line.startswith(" "):
            answers.append([])
        elif line.split()[0].rstrip(".").isdigit():
            _, probability, label = line.split()
            answers[-1].append((label, float(probability)))
    return answers


@pytest.mark.parametrize(
    "name",
    [None, *(pytest.param(name, marks=pytest.mark.environment(name)) for name in ("tensorflow-1.15",))],
)
def test_the_app_says_what_the_classifier_says(
    name: str | None, board: Path, photographs: tuple[Path, ...], classifier: Classifier, pixels: np.ndarray
) -> None:
    python = environments.required(name) if name else sys.executable
    finished = classify(board / "shapes-frozen.pb", board / "contract.json", *photographs, python=python)
    assert finished.returncode == 0, finished.stderr[-2000:]
    answers = read_answers(finished.stdout)
    probabilities = classifier.predict(pixels)
    assert [answer[0][0] for answer in answers] == [LABELS[index] for index in probabilities.argmax(axis=1)]
    for answer, expected in zip(answers, probabilities, strict=True):
        for label, probability in answer:
            assert probability == pytest.approx(expected[LABELS.index(label)], abs=1e-3 if name else 1e-4)
    dangerous = classifier.contract.positive_score(probabilities) >= SAFETY["threshold"]
    assert finished.stdout.count("  ring: do not eat") == dangerous.sum() > 0
    assert finished.stdout.count("but do not eat on this app's word") == (~dangerous).sum() > 0


def test_the_app_is_written_in_the_boards_python() -> None:
    ast.parse(APP.read_text(), feature_version=(3, 6))


def test_nothing_is_ever_called_safe(app: ModuleType) -> None:
    for probabilities in np.eye(3):
        assert "do not eat" in app.verdict(probabilities, LABELS, SAFETY)
    assert app.verdict(np.array([0.65, 0.35, 0.0]), LABELS, SAFETY).startswith("ring: do not eat")
    assert app.verdict(np.array([0.9, 0.1, 0.0]), LABELS, SAFETY).startswith("looks like disc, but do not eat")
    unsure = {**SAFETY, "not_sure": [0.1, 0.5]}
    for score in (0.1, 0.2, 0.5):
        assert app.verdict(np.array([1 - score, score, 0.0]), LABELS, unsure).startswith("not sure")
    assert app.verdict(np.array([0.4, 0.6, 0.0]), LABELS, unsure).startswith("ring: do not eat")
    saturated = np.array([2**-22, 1.0, 0.0], np.float32)  # Their sum is above 1, where no score may lie.
    never_sure = {"positive_labels": ["disc", "ring"], "threshold": 0.3, "not_sure": [0.0, 1.0]}
    assert app.verdict(saturated, LABELS, never_sure).startswith("not sure")


def odd_photographs(folder: Path) -> list[Path]:
    pixels = np.random.default_rng(3).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    grey = (pixels[..., 0].astype(np.uint16) << 8) + pixels[..., 1]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(folder / "rotated.jpg", exif=exif)
    Image.fromarray(pixels).save(folder / "transparent.png")
    Image.fromarray(pixels[..., :3]).quantize(16).save(folder / "palette.png", transparency=3)
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    Image.fromarray(grey).save(folder / "sixteen.png")
    Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk.jpg")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    "rule",
    [
        ImageInput(height=24, width=32),
        ImageInput(height=32, width=24, fit="crop", kernel="bicubic"),
        ImageInput(height=40, width=24, fit="crop", kernel="area"),
        ImageInput(height=24, width=24, fit="crop", antialias=False),
        ImageInput(height=90, width=64, kernel="nearest"),
    ],
)
def test_the_app_sees_the_same_pixels(app: ModuleType, rule: ImageInput, tmp_path: Path) -> None:
    for path in odd_photographs(tmp_path):
        np.testing.assert_array_equal(app.read_image(path, rule.model_dump()), images.read(path, rule), str(path))


def test_the_users_mistakes_are_explained(board: Path, photographs: tuple[Path, ...], tmp_path: Path) -> None:
    frozen, contract, photograph = board / "shapes-frozen.pb", board / "contract.json", photographs[0]
    other = tmp_path / "other.json"
    other.write_text(contract.read_text().replace("square", "cube"))
    broken = tmp_path / "broken.pb"
    broken.write_bytes(frozen.read_bytes()[:-1000])
    text = tmp_path / "text.jpg"
    text.write_text("not a photograph")
    for arguments, code, words in (
        ((frozen, other, photograph), 2, "another contract"),
        ((broken, contract, photograph), 2, "damaged"),
        ((frozen, tmp_path / "none.json", photograph), 2, "none.json cannot be read"),
        ((frozen, contract, text, photograph), 1, "text.jpg cannot be read"),
        ((board / "shapes-fp16.pb", contract, photograph), 2, "use the frozen graph"),
    ):
        finished = classify(*arguments)
        assert (finished.returncode, words in finished.stderr) == (code, True), finished.stderr
        assert "Traceback" not in finished.stderr
        assert finished.stdout.count("1.") == (code == 1)
