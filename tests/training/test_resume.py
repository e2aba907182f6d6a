"""A training that is killed, however often and whenever, ends as an undisturbed one does."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leafport.classifier import Classifier

KILLS = 10

PROGRAM = """
import sys
from pathlib import Path
from leafport.training.config import Config
from leafport.training.train import train

data, out, weights = sys.argv[1:]
config = Config(
    Path(data), Path(out), backbone="mobilenet", weights=weights, image_size=32, batch_size=8,
    head_epochs=6, epochs=12, patience=12, learning_rate=3e-4, schedule="plateau", balance="over",
)
train(config, progress=lambda stage, done, total, note: print(stage, done, flush=True))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> Path:
    return make_photos(tmp_path_factory.mktemp("few") / "plants", count=10)


def train(photos: Path, out: Path, weights: Path, *, lines: int | None = None) -> bool:
    """Train, or kill -9 the training after it has taken so many steps; says whether it came to its end."""
    command = [sys.executable, "-c", PROGRAM, str(photos), str(out), str(weights)]
    steps = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            steps += line.startswith(("Training the head", "Fine-tuning", "Refitting the head"))
            if steps == lines:
                process.kill()
                return False
    assert process.returncode == 0
    return True


@pytest.mark.timeout(1500)  # Twelve processes, each of which imports TensorFlow; minutes on a busy machine.
def test_killed_ten_times_it_ends_with_the_same_weights(tmp_path: Path, photos: Path, mobilenet_weights: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert train(photos, undisturbed, mobilenet_weights)
    moments = random.Random(0)
    kills = sum(not train(photos, killed, mobilenet_weights, lines=moments.randint(1, 12)) for _ in range(KILLS))
    assert kills == KILLS
    assert not killed.exists()
    assert train(photos, killed, mobilenet_weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "undisturbed"]

    one, other = (Classifier.load(run).model.get_weights() for run in (undisturbed, killed))
    for expected, found in zip(one, other, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    histories = [list(csv.DictReader((run / "history.csv").open())) for run in (undisturbed, killed)]
    assert [line["epoch"] for line in histories[0]] == [line["epoch"] for line in histories[1]]
    for name in ("loss", "val_loss"):
        expected, found = ([float(line[name]) for line in history] for history in histories)
        np.testing.assert_allclose(found, expected, rtol=1e-3)
