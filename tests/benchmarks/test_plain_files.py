from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from leafport.classifier import Classifier
from leafport.export import inspection
from leafport.targets import tflite


def test_four_files_that_answer_as_the_model_does(
    run: Path, classifier: Classifier, pixels: np.ndarray, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "leafport.benchmarks.plain_files", str(run), "--out", str(tmp_path / "plain")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = sorted((tmp_path / "plain").glob("*.tflite"))
    assert [path.stem for path in written] == ["keras-float32", "plain-dynamic", "plain-float32", "plain-int8"]
    expected = classifier.predict(pixels)
    for path in written:
        found = inspection.inspect(path)
        assert found.broken == ()
        found.require(classifier.contract)
        answers = tflite.runner(path, classifier.contract, 1).predict(pixels)
        assert (answers.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert "--peer" in done.stdout and "--scaling 0,1" in done.stdout
