"""One photograph through training, evaluation and export: the model is shown the same pixels by all three.

The classifier here answers with the very pixels it was shown, so that what a stage says is what it saw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leafport import images
from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput

SIDE = 8
VALUES = SIDE * SIDE * 3


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs that a careless reader gets wrong: turned by EXIF, half transparent, 16-bit grey, CMYK."""
    folder = tmp_path_factory.mktemp("awkward")
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (40, 64, 4), dtype=np.uint8), "RGBA").resize((160, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # To be shown turned by a quarter.
    noise.convert("RGB").save(folder / "turned.jpg", exif=exif)
    noise.save(folder / "transparent.png")
    Image.fromarray(random.integers(0, 2**16, (50, 30), dtype=np.uint16)).save(folder / "deep.png")
    noise.convert("CMYK").save(folder / "print.jpg")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    "rule",
    [
        ImageInput(height=SIDE, width=SIDE),
        ImageInput(height=SIDE, width=SIDE, fit="crop", kernel="bicubic"),
        ImageInput(height=SIDE, width=SIDE, antialias=False),
    ],
    ids=["squash", "crop", "phone"],
)
def test_training_evaluation_and_export_see_the_same_pixels(
    rule: ImageInput, awkward: list[Path], tmp_path: Path
) -> None:
    import keras

    from leafport.export import worker
    from leafport.export.graph import ServingGraph
    from leafport.targets import tflite
    from leafport.training.data import pipeline
    from leafport.training.evaluation import evaluate

    expected = np.stack([images.read(path, rule) for path in awkward]).astype(np.float32)

    source = pipeline.Pixels(awkward, rule, cache=tmp_path)
    learned = pipeline.training_batches(source, np.arange(4), classes=4, batch_size=4, seed=0)
    for pixels, truth in learned.take(2).as_numpy_iterator():
        assert np.array_equal(pixels, expected[truth.argmax(axis=1)])

    image = keras.Input((SIDE, SIDE, 3), name="image")
    contract = Contract(name="mirror", task="class", labels=tuple(map(str, range(VALUES))), image=rule)
    classifier = Classifier(keras.Model(image, keras.layers.Reshape((VALUES,))(image)), contract)
    evaluated = evaluate.predict(classifier, awkward)
    assert np.array_equal(evaluated.reshape(expected.shape), expected)

    run, exports = classifier.save(tmp_path / "run"), tmp_path / "exports"
    photographs = [str(path) for path in awkward]
    kept = [str(tmp_path / name) for name in ("reference.npz", "validation.npy")]
    worker.prepare(str(run), str(exports), photographs, photographs, [], kept[0], photographs, kept[1])
    for index in range(len(awkward)):
        golden = np.asarray(Image.open(exports / "golden" / f"{index}-pixels.png"))
        assert np.array_equal(golden, expected[index])
    graph = ServingGraph(exports / "graph" / "serving.pb", contract)
    file = tflite.convert(graph, "float32", exports, tflite.Options())
    shown = np.stack([images.read(path, contract.image) for path in awkward])
    exported = tflite.runner(file, contract).predict(shown)
    assert np.array_equal(exported.reshape(expected.shape), expected)
