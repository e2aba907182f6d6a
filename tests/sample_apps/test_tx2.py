from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from leafport import images, sample_apps
from leafport.classifier import Classifier
from leafport.cli.app import command
from leafport.contract import ImageInput
from leafport.errors import ModelError, OutputError
from tests import environments

APP = Path(__file__).resolve().parents[2] / "sample_apps" / "tx2" / "classify.py"
SAFETY = {"positive_labels": ["ring"], "threshold": 0.3, "not_sure": None}
LABELS = ["disc", "ring", "square"]

FAKE_OPENCV = """
import numpy as np
from PIL import Image

PATHS = {paths}
CAP_GSTREAMER = 1800

class VideoCapture:
    def __init__(self, source):
        assert source == 0
        self.left = list(PATHS)
    def isOpened(self):
        return True
    def read(self):
        if not self.left:
            return False, None
        with Image.open(self.left.pop(0)) as image:
            return True, np.asarray(image.convert("RGB"))[:, :, ::-1]
    def release(self):
        pass
"""

STORING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import classify
import tensorflow as tf

graph = tf.Graph()
for operation in (
    *classify.restore_operations(graph, ["TRTEngineOp_0"], Path("engines")),
    *classify.store_operations(graph, {"TRTEngineOp_0": Path("engines/TRTEngineOp_0")}),
):
    print(operation.type)
"""

# Only what onnx_engine.py calls, with the arguments that TensorRT's own Python module demands.
FAKE_TENSORRT = """
import ctypes

__version__ = "8.6.1"

class Logger:
    WARNING = 2
    def __init__(self, level):
        pass

class Context:
    def __init__(self):
        self.addresses = {}
    def set_input_shape(self, name, shape):
        assert (name, shape) == ("image", (1, 32, 32, 3))
    def get_tensor_shape(self, name):
        return {"image": (1, 32, 32, 3), "probabilities": (1, 3)}[name]
    def set_tensor_address(self, name, address):
        self.addresses[name] = address
    def execute_async_v3(self, stream):
        fed = ctypes.cast(self.addresses["image"], ctypes.POINTER(ctypes.c_float))
        answers = ctypes.cast(self.addresses["probabilities"], ctypes.POINTER(ctypes.c_float))
        answers[0], answers[1], answers[2] = 0.25, 0.5, 0.25
        Context.fed = fed[32 * 32 * 3 - 1]
        return True

class Engine:
    num_io_tensors = 2
    def get_tensor_name(self, index):
        return ("image", "probabilities")[index]
    def get_tensor_shape(self, name):
        return {"image": (-1, 32, 32, 3), "probabilities": (-1, 3)}[name]
    def create_execution_context(self):
        return Context()

class Runtime:
    def __init__(self, logger):
        pass
    def deserialize_cuda_engine(self, data):
        return Engine() if data == b"engine" else None
"""

DRIVING = """
import ctypes, json, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import numpy as np
import onnx_engine, tensorrt

class Cuda(onnx_engine.Cuda):  # Memory of this process for that of a GPU.
    def __init__(self):
        self.kept = []
    def allocate(self, count):
        self.kept.append(ctypes.create_string_buffer(count))
        return ctypes.addressof(self.kept[-1])
    def copy(self, target, source, count, kind):
        assert kind in (onnx_engine.TO_DEVICE, onnx_engine.TO_HOST)
        ctypes.memmove(target, source, count)
    def synchronize(self):
        pass

onnx_engine.Cuda = Cuda
assert onnx_engine.available()
classifier = onnx_engine.OnnxClassifier(Path(sys.argv[3]), (32, 32, 3), 3)
answers = classifier.predict(np.full((32, 32, 3), 7, np.uint8)).tolist()
print(json.dumps({"executes": classifier.executes, "probabilities": answers, "fed": tensorrt.Context.fed}))
"""


@pytest.fixture(scope="module")
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("classify", APP)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def board(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is copied to a board, written by the command."""
    folder = tmp_path_factory.mktemp("board") / "shapes"
    result = CliRunner().invoke(command, ["tx2", str(exports), "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert "python3 build_engines.py" in result.output
    return folder


def run(program: Path, *arguments: Any, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in (python, program, *arguments)]
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
    [
        None,
        *(
            pytest.param(name, marks=pytest.mark.environment(name))
            for name in ("tensorflow-1.15", "tensorflow-2.7", "tensorflow-2.17")
        ),
    ],
)
def test_the_app_says_what_the_classifier_says(
    name: str | None, board: Path, photographs: tuple[Path, ...], classifier: Classifier, pixels: np.ndarray
) -> None:
    python = environments.required(name) if name else sys.executable
    finished = run(board / "classify.py", *photographs, python=python)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "Using shapes-frozen.pb" in finished.stderr  # There is no GPU here.
    answers = read_answers(finished.stdout)
    probabilities = classifier.predict(pixels)
    assert [answer[0][0] for answer in answers] == [LABELS[index] for index in probabilities.argmax(axis=1)]
    for answer, expected in zip(answers, probabilities, strict=True):
        for label, probability in answer:
            assert probability == pytest.approx(expected[LABELS.index(label)], abs=1e-3 if name else 1e-4)
    dangerous = classifier.contract.positive_score(probabilities) >= SAFETY["threshold"]
    assert finished.stdout.count("  ring: do not eat") == dangerous.sum() > 0
    assert finished.stdout.count("but do not eat on this app's word") == (~dangerous).sum() > 0


@pytest.mark.parametrize("program", sorted(APP.parent.glob("*.py")), ids=lambda path: path.name)
def test_the_app_is_written_in_the_boards_python(program: Path) -> None:
    tree = ast.parse(program.read_text(), feature_version=(3, 6))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    beside = {path.stem for path in APP.parent.glob("*.py")}
    allowed = {"numpy", "PIL", "tensorflow", "tensorrt", "google", "cv2", *beside, *sys.stdlib_module_names}
    assert imported <= allowed


def test_the_folder_holds_what_the_board_needs(board: Path, exports: Path) -> None:
    assert {path.name for path in board.iterdir()} == {
        *("README.md", "classify.py", "build_engines.py", "onnx_engine.py"),
        *("files", "golden", "contract.json", "labels.txt"),
    }
    for path in (board / "files").iterdir():
        (exported,) = exports.rglob(path.name)
        assert path.read_bytes() == exported.read_bytes()
    readme = (board / "README.md").read_text()
    assert "files/shapes-float32.onnx" in readme
    assert "image:1x32x32x3" in readme


def test_an_app_of_what_is_not_there_is_refused(exports: Path, board: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there already"):
        sample_apps.write("tx2", exports, board)
    copy = shutil.copytree(exports, tmp_path / "copy")
    (path,) = copy.rglob("shapes-fp16.pb")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not the file that was exported"):
        sample_apps.write("tx2", copy, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_the_app_checks_itself_with_golden_images(board: Path, photographs: tuple[Path, ...], tmp_path: Path) -> None:
    copy = shutil.copytree(board, tmp_path / "copy")
    golden = json.loads((copy / "golden" / "golden.json").read_text())
    for record in golden["images"]:
        record["probabilities"] = record["probabilities"][::-1]
    (copy / "golden" / "golden.json").write_text(json.dumps(golden))
    finished = run(copy / "classify.py", photographs[0])
    assert finished.returncode == 2
    assert "does not answer as its classifier" in finished.stderr
    shutil.rmtree(copy / "golden")
    finished = run(copy / "classify.py", photographs[0])
    assert finished.returncode == 0
    assert "its answers were not checked" in finished.stderr


def test_a_camera_is_classified(board: Path, photographs: tuple[Path, ...], tmp_path: Path) -> None:
    """A fake OpenCV, whose camera shows two photographs and ends: its pictures have blue first."""
    (tmp_path / "cv2.py").write_text(FAKE_OPENCV.format(paths=[str(path) for path in photographs[:2]]))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = [sys.executable, str(board / "classify.py"), "--camera", "0"]
    finished = subprocess.run(program, env=environment, text=True, capture_output=True, check=False)
    assert (finished.returncode, "gives no more pictures" in finished.stderr) == (2, True)
    seen, photographed = read_answers(finished.stdout), run(board / "classify.py", *photographs[:2])
    assert seen == read_answers(photographed.stdout)
    assert finished.stdout.count("do not eat") == 2


def test_engines_are_not_built_where_there_is_nothing_to_build_them_with(board: Path) -> None:
    finished = run(board / "build_engines.py")
    assert finished.returncode == 2
    assert "nothing to build engines with" in finished.stderr


@pytest.mark.parametrize("built", [b"an engine", b""])
def test_an_engine_that_was_not_built_is_not_stored(
    app: ModuleType, built: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow runs a segment without TensorRT that it cannot build, and stores nothing for it."""
    classifier = app.Classifier.__new__(app.Classifier)
    classifier.engines, classifier._errors = ["scope/TRTEngineOp_0"], OSError
    classifier._session = SimpleNamespace(graph=None, run=lambda parts: [part.write_bytes(built) for part in parts])
    monkeypatch.setattr(app, "store_operations", lambda graph, parts: parts.values())
    if built:
        classifier.store_engines(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"TRTEngineOp_0", "built-by.txt"}
        assert (tmp_path / "built-by.txt").read_text() == app.board_and_tensorrt()
    else:
        with pytest.raises(app.AppError, match="built no engine for scope/TRTEngineOp_0"):
            classifier.store_engines(tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"tensorflow-{version}", marks=pytest.mark.environment(f"tensorflow-{version}"))
        for version in ("1.15", "2.7", "2.17")
    ],
)
def test_the_operations_that_store_engines_are_the_tensorflows(name: str, board: Path) -> None:
    """They only run on a board. Here they are put into a graph, which TensorFlow refuses when an argument is wrong."""
    finished = run(Path("-c"), STORING, board, python=environments.required(name))
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.split() == ["InitializeTRTResource", "SerializeTRTResource"]


def test_an_onnx_file_runs_in_tensorrt_alone(board: Path, classifier: Classifier, tmp_path: Path) -> None:
    """A fake TensorRT and CUDA runtime, which hold the program to the calls it must make; they compute nothing."""
    onnx = tmp_path / "shapes-float32.onnx"
    (tmp_path / "shapes-fp16.engine").write_bytes(b"engine")
    (tmp_path / "tensorrt.py").write_text(FAKE_TENSORRT)
    program = [sys.executable, "-c", DRIVING, str(board), str(tmp_path), str(onnx)]
    finished = subprocess.run(program, text=True, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    answers = json.loads(finished.stdout)
    assert answers == {"executes": "TensorRT 8.6.1", "probabilities": [0.25, 0.5, 0.25], "fed": 7.0}


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


def test_the_users_mistakes_are_explained(
    app: ModuleType,
    board: Path,
    photographs: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(app, "HERE", board)
    frozen, contract, photograph = board / "files" / "shapes-frozen.pb", board / "contract.json", photographs[0]
    other = tmp_path / "other.json"
    other.write_text(contract.read_text().replace("square", "cube"))
    broken = tmp_path / "broken.pb"
    broken.write_bytes(frozen.read_bytes()[:-1000])
    text = tmp_path / "text.jpg"
    text.write_text("not a photograph")
    for arguments, code, words in (
        (("--graph", frozen, "--contract", other, photograph), 2, "another contract"),
        (("--graph", broken, photograph), 2, "damaged"),
        (("--graph", frozen, "--contract", tmp_path / "none.json", photograph), 2, "none.json cannot be read"),
        ((text, photograph), 1, "text.jpg cannot be read"),
        (("--graph", board / "files" / "shapes-fp16.pb", photograph), 2, "use the frozen graph"),
        (("--graph", board / "files" / "shapes-float32.onnx", photograph), 2, "needs TensorRT 8.5"),
        (("--camera", "0"), 2, "needs OpenCV"),
        ((), 2, "name photographs"),
    ):
        monkeypatch.setattr(sys, "argv", ["classify.py", *map(str, arguments)])
        try:
            returned = app.main()
        except SystemExit as ended:
            returned = ended.code
        said = capsys.readouterr()
        assert (returned, words in said.err) == (code, True), said.err
        assert said.out.count("1.") == (code == 1)
