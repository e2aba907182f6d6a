"""How fast photographs are prepared for training: leafport's input pipeline beside Keras's legacy ImageDataGenerator.

    python -m leafport.benchmarks.input_pipeline PHOTOS [--json FILE]

All contestants vary the same photographs in the same ways and hand batches of the same shape to the same consumer, a
Keras model too small to count, through ``fit``. They take turns, several times over, so that whatever else the machine
does troubles all alike; each turn begins with batches that are not timed, until queues and compilers have settled.

- ``legacy``: ImageDataGenerator, decoding on the fly, with one thread, with threads, and with processes of its own on
  all cores. The fastest is what leafport is compared with.
- ``leafport first``: the first time round, when photographs are decoded. ``leafport``: every time after that.
- ``mobilenet``: a MobileNet that fine-tunes its late blocks on one batch held in memory: what training consumes.
  ``mobilenet fed``: the same, fed by leafport's pipeline on the same cores; what counts is the time it waits for it.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from leafport import files
from leafport.benchmarks.machine import machine, versions
from leafport.cli import run
from leafport.contract import ImageInput
from leafport.errors import DataError
from leafport.training.data.augment import NONE

if TYPE_CHECKING:
    import keras

    from leafport.training.data.splits import PhotoFolder

STRENGTH = replace(
    NONE, flip=True, rotation=15.0, zoom=0.15, shift=0.08, shear=8.0, brightness=0.12, channel_shift=0.06
)
"""All that ImageDataGenerator can do, too."""
LEGACY, FIRST, LATER = "legacy", "leafport first", "leafport"
TRAINING, FED = "mobilenet", "mobilenet fed"
WARM_UP = 6

Turn = Callable[[int], float]
"""One contestant's turn, of a number: images per second."""


@dataclass(frozen=True)
class Settings:
    """What is measured. ``batches`` are timed in each of ``rounds`` turns."""

    image_size: int = 224
    batch_size: int = 32
    batches: int = 24
    rounds: int = 5
    weights: str = "none"
    workers: int = os.cpu_count() or 1


def measure(
    folder: PhotoFolder,
    settings: Settings,
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Let all take their turns; the figures as JSON values.

    Raises:
        DataError: too few photographs for a turn.
    """
    needed = (settings.batches + WARM_UP) * settings.batch_size
    if len(folder.photos) < needed:
        raise DataError(
            f"{folder.root} has {len(folder.photos)} photographs, a turn takes {needed}. Give a smaller --batches."
        )
    waits: list[float] = []
    with _contestants(folder, settings, waits) as turns:
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(settings.rounds):
            for index, (name, turn) in enumerate(turns.items()):
                progress(name, number * len(turns) + index, settings.rounds * len(turns))
                rates[name].append(round(turn(number), 1))
    median = {name: statistics.median(values) for name, values in rates.items()}
    best = max((name for name in rates if name.startswith(LEGACY)), key=median.__getitem__)

    def ratio(one: str, other: str) -> float:
        """The median over the rounds, in each of which both had their turn under like conditions."""
        return round(statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True)), 2)

    return {
        "schema_version": 1,
        "images_per_second": {name: {"median": median[name], "rounds": rates[name]} for name in rates},
        "fastest_legacy": best,
        "times_legacy": ratio(LATER, best),
        "times_legacy_first": ratio(FIRST, best),
        "times_training": ratio(LATER, TRAINING),
        "training_waits": {"median": statistics.median(waits), "rounds": waits},
        "photographs": len(folder.photos),
        "settings": {**vars(settings), "augmentation": vars(STRENGTH), "weights": Path(settings.weights).name},
        "machine": machine().model_dump(mode="json"),
        "versions": versions(),
    }


@contextlib.contextmanager
def _contestants(folder: PhotoFolder, settings: Settings, waits: list[float]) -> Iterator[dict[str, Turn]]:
    """Everybody's turns. ``waits`` gets the share of its time that training waited for photographs, turn by turn."""
    from leafport.training import backbones
    from leafport.training.data import pipeline

    size, batch = settings.image_size, settings.batch_size
    rule = ImageInput(height=size, width=size)
    paths = [folder.root / photo.path for photo in folder.photos]
    truth = np.array([folder.folders.index(photo.folder) for photo in folder.photos])
    classes = len(folder.folders)

    def feed(source: pipeline.Pixels, start: int = 0) -> Any:
        return pipeline.training_batches(
            source, truth, classes=classes, batch_size=batch, seed=0, augmentation=STRENGTH, start=start
        )

    network = backbones.build("mobilenet", classes=classes, image_size=size, weights=settings.weights)
    backbones.unfreeze(network, "mobilenet", "late")
    small, mobilenet = _compiled(_consumer(size, classes)), _compiled(network.model)
    with tempfile.TemporaryDirectory() as cache:
        decoded, later = pipeline.Pixels(paths, rule), pipeline.Pixels(paths, rule, cache=Path(cache))
        for _ in pipeline.read_ahead(later, batch):
            pass
        one = next(iter(feed(later).take(1).cache().repeat()))
        held = _repeated(one)
        steps, few = settings.batches, max(2, settings.batches // 3)  # MobileNet is slower by an order.

        def legacy(**how: Any) -> Turn:
            return lambda number: _rate(small, _legacy(folder, settings, number, **how), steps, batch)

        def fed(number: int) -> float:
            rate, waited = _fed(mobilenet, feed(later, number * steps), few, batch)
            waits.append(round(waited, 4))
            return rate

        yield {
            f"{LEGACY}, one thread": legacy(),
            f"{LEGACY}, {settings.workers} threads": legacy(workers=settings.workers),
            f"{LEGACY}, {settings.workers} processes": legacy(workers=settings.workers, use_multiprocessing=True),
            FIRST: lambda number: _rate(small, feed(decoded, number * steps), steps, batch),
            LATER: lambda number: _rate(small, feed(later, number * steps), steps, batch),
            TRAINING: lambda number: _rate(mobilenet, held, few, batch),
            FED: fed,
        }


def _legacy(
    folder: PhotoFolder, settings: Settings, seed: int, *, workers: int = 1, use_multiprocessing: bool = False
) -> Any:
    """Keras's legacy generator of the same photographs, sizes and variations."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    # Its angles are degrees too; brightness is a factor and the shift of channels one number for all of them.
    varied = ImageDataGenerator(
        rotation_range=STRENGTH.rotation,
        width_shift_range=STRENGTH.shift,
        height_shift_range=STRENGTH.shift,
        shear_range=STRENGTH.shear,
        zoom_range=STRENGTH.zoom,
        brightness_range=(1 - STRENGTH.brightness, 1 + STRENGTH.brightness),
        channel_shift_range=255 * STRENGTH.channel_shift,
        horizontal_flip=STRENGTH.flip,
        fill_mode="nearest",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # It says how many it found.
        found = varied.flow_from_directory(
            str(folder.root),
            (settings.image_size, settings.image_size),
            batch_size=settings.batch_size,
            classes=list(folder.folders),
            interpolation="bilinear",
            seed=seed,
        )
    found.workers, found.use_multiprocessing = workers, use_multiprocessing
    return found


def _consumer(size: int, classes: int) -> keras.Model:
    import keras

    image = keras.Input((size, size, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image[:, ::16, ::16])
    return keras.Model(image, keras.layers.Dense(classes, activation="softmax")(pooled))


def _compiled(model: keras.Model) -> keras.Model:
    import keras

    model.compile(keras.optimizers.AdamW(1e-6), "categorical_crossentropy", jit_compile=False)
    return model


def _repeated(batch: Any) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(batch).repeat()


def _rate(model: keras.Model, feed: Any, batches: int, batch_size: int) -> float:
    """Images per second that ``fit`` gets of a feed, over ``batches`` after those to warm up."""
    import keras

    times: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: times.append(time.perf_counter()))
    model.fit(feed, steps_per_epoch=WARM_UP + batches, epochs=1, verbose=0, callbacks=[clock])
    return batches * batch_size / (times[-1] - times[WARM_UP - 1])


def _fed(model: keras.Model, feed: Any, batches: int, batch_size: int) -> tuple[float, float]:
    """Images per second that a model learns from, and the share of the time in which it waited for them."""
    given = iter(feed)
    for _ in range(WARM_UP):
        model.train_on_batch(*next(given))
    waited, start = 0.0, time.perf_counter()
    for _ in range(batches):
        asked = time.perf_counter()
        batch = next(given)
        waited += time.perf_counter() - asked
        model.train_on_batch(*batch)
    spent = time.perf_counter() - start
    return batches * batch_size / spent, waited / spent


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--image-size", type=click.IntRange(32, 1024), default=Settings.image_size, show_default=True)
@click.option("--batch-size", type=click.IntRange(1, 1024), default=Settings.batch_size, show_default=True)
@click.option("--batches", type=click.IntRange(1), default=Settings.batches, show_default=True, help="Timed in a turn.")
@click.option("--rounds", type=click.IntRange(1), default=Settings.rounds, show_default=True, help="Turns for each.")
@click.option("--weights", default="none", show_default=True, metavar="none|imagenet|FILE", help="MobileNet's.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def command(data: Path, json_file: Path | None, **given: Any) -> None:
    """Measure how fast the photographs in DATA are prepared for training."""
    from leafport.cli import terminal
    from leafport.cli.train import chatter
    from leafport.training.data import splits

    settings = Settings(**given)
    with terminal.counting("Reading photographs") as counted:
        folder = splits.scan(data, progress=counted)
    with chatter(), terminal.progress() as display:
        task = display.add_task("Preparing", total=None)
        found = measure(
            folder,
            settings,
            progress=lambda what, done, total: display.update(task, description=what, completed=done, total=total),
        )
    rows = terminal.table("", "images/s>", "rounds>")
    for name, rate in found["images_per_second"].items():
        rows.add_row(name, f"{rate['median']:.0f}", " ".join(f"{value:.0f}" for value in rate["rounds"]))
    say = terminal.out.print
    say(rows)
    say(f"\nleafport prepares {found['times_legacy']:.1f} times as many as {found['fastest_legacy']} does,")
    say(f"{found['times_legacy_first']:.1f} times as many the first time round, when it decodes,")
    say(f"and {found['times_training']:.1f} times as many as training a MobileNet consumes.")
    say(f"Fed by it on the same cores, MobileNet waited {found['training_waits']['median']:.1%} of its time for it.")
    if json_file:
        files.write_json(json_file, found)


if __name__ == "__main__":
    run(command, sys.argv[1:], "python -m leafport.benchmarks.input_pipeline")
