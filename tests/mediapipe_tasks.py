"""What MediaPipe Tasks, a client that apps use, makes of a .tflite file: it reads scaling and labels out of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

NAME = "mediapipe-1.2"

RUN = """
import json, sys
import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
pixels, path = sys.argv[1:]
options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=path))
answers = []
with vision.ImageClassifier.create_from_options(options) as classifier:
    for pixel in np.load(pixels):
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixel))
        found = classifier.classify(image).classifications[0].categories
        answers.append({category.category_name: category.score for category in found})
print(json.dumps(answers))
"""


def answers(python: Path, path: Path, pixels: np.ndarray) -> list[dict[str, float]]:
    """The probability of each label, for every image (uint8 [N, H, W, 3], of the model's own size)."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "pixels.npy"
        np.save(given, pixels)
        command = [str(python), "-c", RUN, str(given), str(path)]
        finished = subprocess.run(command, text=True, capture_output=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{NAME} refuses {path.name}: {finished.stderr[-2000:]}")
    found: list[dict[str, float]] = json.loads(finished.stdout.splitlines()[-1])
    return found
