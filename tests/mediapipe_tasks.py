"""What MediaPipe Tasks, a client that apps use, makes of a .tflite file: it reads scaling and labels out of it.

    python tests/mediapipe_tasks.py EXPORTS…

Prints, for every .tflite file of each export folder, the share of its test photographs to which MediaPipe gives the
label that LiteRT's largest answer stands for.
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
            expected = [labels[index] for index in new_answers(path, pixels, xnnpack=True).argmax(1)]
            found = [max(scores, key=lambda label: scores[label]) for scores in answers(python, path, pixels)]
            same = np.mean([one == other for one, other in zip(found, expected, strict=True)])
            print(f"{folder.name} {variant}, {len(pixels)} photographs: {same:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
