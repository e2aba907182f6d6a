"""The stages of training: the head on cached features, then everything, gently; or everything from scratch.

A pretrained backbone that is frozen and fed unvaried photographs gives the same features every time, so they are
computed once and the head is trained on them in seconds. Fine-tuning then starts from a head that makes sense and
cannot wreck the backbone. A stage that does not improve on the one before it changes nothing.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport.contract import ImageInput
from leafport.errors import LeafportError
from leafport.training.backbones import Network
from leafport.training.data import pipeline
from leafport.training.data.augment import Augmentation

if TYPE_CHECKING:
    import keras

Progress = Callable[[str, int, int, str], None]
"""Called with a stage's name, how much of it is done, how much there is, and a note for people."""

log = logging.getLogger("leafport.training")


@dataclass(frozen=True)
class Photographs:
    """One side of the split, ready to be read: files, and which output is right for each (int32 [N])."""

    paths: Sequence[Path]
    truth: np.ndarray


@dataclass(frozen=True)
class Stage:
    """How one stage is trained. ``max_steps`` ends it early; ``patience`` counts epochs without a better loss."""

    name: str
    epochs: int
    learning_rate: float
    batch_size: int
    patience: int
    max_steps: int | None = None
    weight_decay: float = 1e-4
    warmup: float = 0.1
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv. ``seconds`` are those spent learning; losses are in nats, to smoothed labels if set."""

    stage: str
    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    images_per_second: float


def train_head(
    network: Network,
    train: Photographs,
    validation: Photographs,
    rule: ImageInput,
    stage: Stage,
    *,
    class_weight: dict[int, float] | None,
    progress: Progress,
) -> list[Epoch]:
    """Train the head on the frozen backbone's features."""

    def report(done: int, total: int) -> None:
        progress("Computing features", done, total, f"{done} photographs")

    features = [
        pipeline.infer(network.features, side.paths, rule, batch_size=stage.batch_size, progress=report)
        for side in (train, validation)
    ]
    return _fit(
        network.head,
        (features[0], train.truth),
        (features[1], validation.truth),
        len(train.paths),
        stage,
        start=None,
        class_weight=class_weight,
        progress=progress,
    )


def train_all(
    network: Network,
    train: Photographs,
    validation: Photographs,
    rule: ImageInput,
    stage: Stage,
    *,
    seed: int,
    augmentation: Augmentation | None,
    start: float | None,
    class_weight: dict[int, float] | None,
    progress: Progress,
) -> list[Epoch]:
    """Train every layer on varied photographs; ``start`` is the validation loss to improve on, if there is one."""
    return _fit(
        network.model,
        (
            pipeline.training_batches(
                train.paths, train.truth, rule, stage.batch_size, seed=seed, augmentation=augmentation
            ),
            None,
        ),
        (pipeline.batches(validation.paths, validation.truth, rule, stage.batch_size), None),
        len(train.paths),
        stage,
        start=start,
        class_weight=class_weight,
        progress=progress,
    )


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """Write history.csv, one line an epoch."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(Epoch.__dataclass_fields__))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(e).items()} for e in history)


def _fit(
    model: keras.Model,
    train: tuple[Any, np.ndarray | None],
    validation: tuple[Any, np.ndarray | None],
    count: int,
    stage: Stage,
    *,
    start: float | None,
    class_weight: dict[int, float] | None,
    progress: Progress,
) -> list[Epoch]:
    """Fit ``model`` and leave it with the weights of its best epoch, or its first ones where none beat ``start``."""
    import keras

    per_epoch = math.ceil(count / stage.batch_size)
    steps = stage.epochs * per_epoch
    if stage.max_steps is not None:
        steps = min(steps, stage.max_steps)
    if steps == 0:
        return []
    warmup = max(1, round(stage.warmup * steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=stage.learning_rate, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=stage.weight_decay)
    # XLA compiles for a minute to run at half the speed on a CPU.
    model.compile(optimizer, _loss(stage.label_smoothing), metrics=["accuracy"], jit_compile=False)
    watcher = _watcher(stage, per_epoch, steps, count, start, progress)
    arrays = train[1] is not None
    with pipeline.naming_photographs():
        model.fit(
            x=train[0],
            y=train[1],
            validation_data=validation if arrays else validation[0],
            batch_size=stage.batch_size if arrays else None,
            epochs=math.ceil(steps / per_epoch),
            steps_per_epoch=None if arrays else per_epoch,
            class_weight=class_weight,
            callbacks=[watcher],
            verbose=0,
        )
    return list(watcher.history)


def _loss(smoothing: float) -> Callable[[Any, Any], Any]:
    """Cross-entropy to labels of which ``smoothing`` is spread over all classes; Keras has none for integer labels."""
    import keras

    def cross_entropy(truth: Any, probabilities: Any) -> Any:
        exact = keras.losses.sparse_categorical_crossentropy(truth, probabilities)
        if not smoothing:
            return exact
        spread = -keras.ops.mean(keras.ops.log(keras.ops.maximum(probabilities, 1e-7)), axis=-1)
        return (1 - smoothing) * exact + smoothing * spread

    return cross_entropy


def _watcher(stage: Stage, per_epoch: int, steps: int, count: int, start: float | None, progress: Progress) -> Any:
    """The callback that keeps the best weights, stops when patience or steps run out, and tells what happens."""
    import keras

    epochs = math.ceil(steps / per_epoch)

    class Watcher(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.history: list[Epoch] = []
            self.best = math.inf if start is None else start
            self.kept: Any = None
            self.waited = 0
            self.step = 0
            self.began = self.ended = 0.0
            self.note = ""

        def on_train_begin(self, logs: Any = None) -> None:
            if start is not None:
                self.kept = self.model.get_weights()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.monotonic()
            self.first = self.step

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.step += 1
            self.ended = time.monotonic()
            progress(stage.name, self.step, steps, f"epoch {(self.step - 1) // per_epoch + 1}/{epochs}{self.note}")
            if self.step >= steps:
                self.model.stop_training = True

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert logs is not None
            seconds = self.ended - self.began
            seen = min((self.step - self.first) * stage.batch_size, count)
            line = Epoch(
                stage=stage.name,
                epoch=epoch + 1,
                loss=float(logs["loss"]),
                accuracy=float(logs["accuracy"]),
                val_loss=float(logs["val_loss"]),
                val_accuracy=float(logs["val_accuracy"]),
                seconds=seconds,
                images_per_second=seen / seconds if seconds > 0 else math.nan,
            )
            self.history.append(line)
            self.note = f", validation {line.val_accuracy:.1%}"
            log.info("%s", line)
            if line.val_loss < self.best:
                self.best, self.kept, self.waited = line.val_loss, self.model.get_weights(), 0
                return
            self.waited += 1
            if self.waited >= stage.patience:
                log.info("%s: no better validation loss for %d epochs, stopped", stage.name, self.waited)
                self.model.stop_training = True

        def on_train_end(self, logs: Any = None) -> None:
            if self.kept is None:
                raise LeafportError(
                    f"{stage.name}: the loss is not a number after {self.step} steps at a learning rate of "
                    f"{stage.learning_rate:g}. Train with a smaller --learning-rate."
                )
            self.model.set_weights(self.kept)

    return Watcher()
