"""What tflite-runtime 2.14, which old phones and boards have, makes of exported files, beside LiteRT.

    python tests/old_tflite.py EXPORTS…

Prints, for every .tflite file of each export folder, the share of 200 test photographs with the same top class: with
LiteRT's own kernels, and with XNNPACK, its default.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

NAME = "tflite-runtime-2.14"
PHOTOGRAPHS = 200

RUN = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
pixels, answers, path = sys.argv[1:]
interpreter = Interpreter(model_path=path, num_threads=1)
interpreter.allocate_tensors()
image, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
rows = []
for pixel in np.load(pixels):
    interpreter.set_tensor(image["index"], pixel[None].astype(image["dtype"]))
    interpreter.invoke()
    rows.append(interpreter.get_tensor(result["index"])[0])
np.save(answers, rows)
"""


def old_answers(python: Path, path: Path, pixels: np.ndarray) -> np.ndarray:
    """Raw outputs ([N, classes], in the file's dtype) of tflite-runtime 2.14 for pixels (uint8 [N, H, W, 3])."""
    with tempfile.TemporaryDirectory() as folder:
        given, answers = Path(folder) / "pixels.npy", Path(folder) / "answers.npy"
        np.save(given, pixels)
        command = [str(python), "-c", RUN, str(given), str(answers), str(path)]
        finished = subprocess.run(command, text=True, capture_output=True, check=False)
        if finished.returncode:
            raise RuntimeError(f"{NAME} refuses {path.name}: {finished.stderr[-2000:]}")
        return np.load(answers)


def new_answers(path: Path, pixels: np.ndarray, *, xnnpack: bool) -> np.ndarray:
    """The same of LiteRT, with XNNPACK or its own kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels: dict[str, Any] = {}
    if not xnnpack:
        kernels["experimental_op_resolver_type"] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), num_threads=1, **kernels)
    interpreter.allocate_tensors()
    image, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for pixel in pixels:
        interpreter.set_tensor(image["index"], pixel[None].astype(image["dtype"]))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(result["index"])[0].copy())
    return np.stack(rows)


def some_photographs(folder: Path, most: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels (uint8 [N, H, W, 3]) of an export folder's test photographs, spread over them, and the model's labels."""
    from leafport import images
    from leafport.export import manifest
    from leafport.training.data.splits import Splits

    contract, splits = manifest.read(folder).contract, Splits.load(folder / "splits.json")
    photos = splits.test[:: max(1, len(splits.test) // most)][:most]
    return np.stack([images.read(splits.file(photo), contract.image) for photo in photos]), contract.labels


def tflite_files(folder: Path) -> dict[str, Path]:
    """The .tflite files of an export folder, by variant."""
    from leafport.export import manifest

    state = manifest.read(folder)
    entries = {
        entry.variant: name for name, entry in state.artifacts.items() if entry.target == "tflite" and entry.path
    }
    return {variant: state.artifact_path(folder, name) for variant, name in entries.items()}


def main() -> int:
    from environments import interpreter

    python = interpreter(NAME)
    if python is None or len(sys.argv) < 2:
        print("usage: python tests/old_tflite.py EXPORTS…   (after make environments)", file=sys.stderr)
        return 2
    for folder in map(Path, sys.argv[1:]):
        pixels, _ = some_photographs(folder, PHOTOGRAPHS)
        for variant, path in tflite_files(folder).items():
            old = old_answers(python, path, pixels)
            own, xnnpack = (new_answers(path, pixels, xnnpack=use) for use in (False, True))
            agree = [f"{(old.argmax(1) == new.argmax(1)).mean():.1%}" for new in (own, xnnpack)]
            equal = ", equal to the last bit" if np.array_equal(old, own) else ""
            print(
                f"{folder.name} {variant}, {len(pixels)} photographs: own kernels {agree[0]}{equal}; XNNPACK {agree[1]}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
