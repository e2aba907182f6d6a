"""The .tflite files that a tutorial ends with, of the same trained model: what leafport's own are measured beside.

    python -m leafport.benchmarks.plain_files RUN --out PLAIN
    leafport bench EXPORTS --peer PLAIN/keras-float32.tflite --peer … --scaling 0,1 --out REPORT

- ``keras-float32``: ``model.export(format="litert")``, Keras's own way.
- ``plain-float32``: ``TFLiteConverter.from_keras_model`` and nothing else.
- ``plain-dynamic``: the same with ``Optimize.DEFAULT``.
- ``plain-int8``: with 100 training photographs as its representative data, uint8 in and out, as TensorFlow's guide to
  full integer quantisation has it.

All take pixels as they are, since a classifier's scaling is part of its model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from leafport import files, images
from leafport.classifier import Classifier
from leafport.cli import run
from leafport.export import photographs
from leafport.training.data.splits import Splits

REPRESENTATIVE = 100


def write(folder: Path, out: Path, data: Path | None = None) -> list[Path]:
    """Write the four files of the classifier in ``folder`` into ``out``; ``data`` is where its photographs lie now."""
    import tensorflow as tf

    classifier = Classifier.load(folder)
    chosen = photographs.choose(
        Splits.load(folder / "splits.json"), data=data, calibration=REPRESENTATIVE, comparison=1
    )
    paths = [Path(path) for path in chosen.paths(chosen.calibration)]

    def representative() -> Iterator[list[np.ndarray]]:
        for pixels in images.batches(paths, classifier.contract.image, batch_size=1):
            yield [pixels.astype(np.float32)]

    with files.writable(out):
        out.mkdir(parents=True, exist_ok=True)
    made = [out / "keras-float32.tflite"]
    classifier.model.export(str(made[0]), format="litert", verbose=False)
    for variant in ("float32", "dynamic", "int8"):
        converter = tf.lite.TFLiteConverter.from_keras_model(classifier.model)
        if variant != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if variant == "int8":
            converter.representative_dataset = representative
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        made.append(out / f"plain-{variant}.tflite")
        files.write_bytes(made[-1], converter.convert())
    return made


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write the files.")
@click.option("--data", type=click.Path(path_type=Path), help="Where the photographs lie now, if they moved.")
def command(folder: Path, out: Path, data: Path | None) -> None:
    """Write the classifier in RUN as .tflite files the plain ways, to measure leafport's beside them."""
    from leafport.cli.train import chatter

    with chatter():
        made = write(folder, out, data)
    peers = " ".join(f"--peer {path}" for path in made)
    click.echo(f"Next: leafport bench EXPORTS {peers} --scaling 0,1 --out REPORT")


if __name__ == "__main__":
    run(command, sys.argv[1:], "python -m leafport.benchmarks.plain_files")
