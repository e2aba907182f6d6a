"""What MediaPipe Tasks, a client that apps use, makes of a .tflite file: it reads scaling and labels out of it.

    python tests/mediapipe_tasks.py EXPORTS…

Prints, for every .tflite file of each export folder, the share of its test photographs to which MediaPipe gives the
label that LiteRT's first largest answer stands for, and the share to which it gives one of the largest: two labels may
have the same of an 8-bit answer's 256 values, and MediaPipe puts such in no order.
"""

from __future__ import annotations

import json
import subprocess
import sys
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


def main() -> int:
    from environments import interpreter
    from old_tflite import new_answers, some_photographs, tflite_files

    python = interpreter(NAME)
    if python is None or len(sys.argv) < 2:
        print("usage: python tests/mediapipe_tasks.py EXPORTS…   (after make environments)", file=sys.stderr)
        return 2
    for folder in map(Path, sys.argv[1:]):
        pixels, labels = some_photographs(folder, 10_000)
        for variant, path in tflite_files(folder).items():
            ours = new_answers(path, pixels, xnnpack=True)
            named = [labels.index(max(each, key=lambda label: each[label])) for each in answers(python, path, pixels)]
            same = np.mean(ours.argmax(1) == named)
            largest = np.mean(ours[np.arange(len(ours)), named] == ours.max(1))
            print(f"{folder.name} {variant}, {len(pixels)} photographs: {same:.1%}; one of the largest: {largest:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
