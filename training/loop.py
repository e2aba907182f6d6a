"""One stage of training: a model learns, the best of its epochs is kept, and each is told and written down.

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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from leafport.errors import LeafportError
from leafport.training import pruning
from leafport.training.checkpoint import Checkpoint, Checkpoints
from leafport.training.clustering import Clusters
from leafport.training.data import pipeline, sampling, shares
from leafport.training.data.augment import Augmentation
from leafport.training.data.pipeline import Source
from leafport.training.data.sampling import Sampling
from leafport.training.loss import Loss

if TYPE_CHECKING:
    import keras

Progress = Callable[[str, int, int, str], None]
"""Called with a stage's name, how much of it is done, how much there is, and a note for people."""

PLATEAU_EPOCHS = 2
PLATEAU_FACTOR = 0.3

log = logging.getLogger("leafport.training")


@dataclass(frozen=True)
class Lessons:
    """What is learned from, or tuned on: arrays, and which output is right for each (int32 [N])."""

    source: Source
    truth: np.ndarray


@dataclass(frozen=True)
class Stage:
    """How one stage is trained.

    Attributes:
        patience: epochs without a better validation loss before it stops.
        max_steps: ends it early.
        schedule: the learning rate rises over the first ``warmup`` of the steps and falls along a cosine to nothing;
            or it falls to 0.3 of itself whenever two epochs brought no better validation loss.
        sampled: how often each photograph comes up, see ``data.sampling``.
        sparsity: the share of weights that are zeros in the end (``pruning``).
        clusters: how many values the weights of a layer share in the end (``clustering``); 0: they share none.
        compressed_by: the share of the steps after which there are so many zeros and clusters; no epoch before counts
            as the best.
    """

    name: str
    epochs: int
    learning_rate: float
    batch_size: int
    patience: int
    max_steps: int | None = None
    schedule: Literal["cosine", "plateau"] = "cosine"
    warmup: float = 0.1
    weight_decay: float = 1e-4
    loss: Loss = field(default_factory=Loss)
    sampled: Sampling = "all"
    augmentation: Augmentation | None = None
    sparsity: float = 0.0
    clusters: int = 0
    compressed_by: float = 0.5


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv.

    ``loss`` is what was minimised, with all remedies; ``val_loss`` is the plain cross-entropy of the validation
    photographs, in nats. ``seconds`` are those spent learning.
    """

    stage: str
    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    images_per_second: float


def fit(
    model: keras.Model,
    train: Lessons,
    validation: Lessons,
    stage: Stage,
    *,
    seed: int,
    start: float | None,
    checkpoints: Checkpoints,
    progress: Progress,
) -> list[Epoch]:
    """Train ``model`` and leave it with the weights of its best epoch, or its first ones where none beat ``start``.

    Goes on from the stage's last checkpoint, if there is one and it was not finished (``restore``); the result is the
    same.

    Args:
        start: the validation loss to improve on, if there is one.

    Raises:
        LeafportError: the loss was never a number.
        ImageError: a photograph cannot be read any more.
    """
    import keras

    classes = model.output_shape[-1]
    batch_size = shares.own().batch_size(min(stage.batch_size, len(train.truth)))
    per_epoch = math.ceil(sampling.cycle_length(train.truth, stage.sampled) / batch_size)
    steps = min(stage.epochs * per_epoch, stage.max_steps or math.inf)
    if not steps:
        return []
    model.compile(
        _optimiser(stage, int(steps)),
        stage.loss.function(),
        # Weighted, for what fills the last batch where several devices share it counts nothing.
        weighted_metrics=[keras.metrics.CategoricalCrossentropy(name="cross_entropy"), "accuracy"],
        jit_compile=_compiles(),
    )
    watcher = _watcher(stage, batch_size, per_epoch, int(steps), start, checkpoints, progress)
    watcher.set_model(model)
    watcher.resume()
    if not watcher.over:
        learned = pipeline.training_batches(
            train.source,
            train.truth,
            classes=classes,
            batch_size=batch_size,
            seed=seed,
            augmentation=stage.augmentation,
            sampled=stage.sampled,
            start=watcher.step,
        )
        checked = pipeline.batches(validation.source, validation.truth, classes=classes, batch_size=batch_size)
        with pipeline.naming_photographs():
            model.fit(
                learned,
                validation_data=checked,
                epochs=math.ceil(steps / per_epoch),
                initial_epoch=len(watcher.history),
                steps_per_epoch=per_epoch,
                callbacks=[watcher],
                verbose=0,
            )
    watcher.finish()
    return list(watcher.history)


def restore(model: keras.Model, stage: Stage, checkpoints: Checkpoints) -> list[Epoch] | None:
    """Leave ``model`` as a stage that was finished earlier left it; None where it was not finished."""
    found = checkpoints.load(stage.name)
    if found is None or not found.state["done"]:
        return None
    _assign(model.variables, found.model)
    return [Epoch(**line) for line in found.state["history"]]


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """Write history.csv, one line an epoch."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(Epoch.__dataclass_fields__))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(e).items()} for e in history)


def _optimiser(stage: Stage, steps: int) -> Any:
    import keras

    rate: Any = stage.learning_rate
    if stage.schedule == "cosine":
        warmup = max(1, round(stage.warmup * steps))
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warmup), warmup_target=rate, warmup_steps=warmup
        )
    return keras.optimizers.AdamW(rate, weight_decay=stage.weight_decay)


def _compiles() -> bool:
    """Whether XLA pays: on a CPU TensorFlow's compiles for a minute, to run at half the speed."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _watcher(
    stage: Stage,
    batch_size: int,
    per_epoch: int,
    steps: int,
    start: float | None,
    checkpoints: Checkpoints,
    progress: Progress,
) -> Any:
    """The callback that keeps the best weights, stops when patience or steps run out, and tells what happens."""
    import keras

    class Watcher(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.history: list[Epoch] = []
            self.best = math.inf if start is None else start
            self.kept: list[np.ndarray] = []
            self.waited = 0
            self.step = 0
            self.compressed = math.ceil(stage.compressed_by * steps) if stage.sparsity or stage.clusters else 0
            self.clusters: Clusters | None = None
            self.began = self.ended = 0.0

        @property
        def over(self) -> bool:
            return self.step >= steps or self.waited >= stage.patience

        def resume(self) -> None:
            if start is not None:
                self.kept = self.model.get_weights()
            found = checkpoints.load(stage.name)
            if found is None:
                return
            self.history = [Epoch(**line) for line in found.state["history"]]
            self.best, self.waited = found.state["best"], found.state["waited"]
            self.step = min(len(self.history) * per_epoch, steps)
            _assign(self.model.variables, found.model)
            self.kept = list(found.best)
            if stage.clusters and self.step >= self.compressed:
                self.clusters = Clusters(self.model, stage.clusters)
            self.model.optimizer.build(self.model.trainable_variables)
            _assign(self.model.optimizer.variables, found.optimiser)
            log.info("%s: going on after epoch %d", stage.name, len(self.history))

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.monotonic()
            self.first = self.step

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.step += 1
            self.compress()
            self.ended = time.monotonic()
            progress(stage.name, self.step, steps, self.note())
            if self.step >= steps:
                self.model.stop_training = True

        def compress(self) -> None:
            if stage.sparsity and self.clusters is None:
                pruning.prune(self.model, pruning.share(stage.sparsity, self.step / max(self.compressed, 1)))
            if stage.clusters and self.step >= self.compressed:
                self.clusters = self.clusters or Clusters(self.model, stage.clusters)
                self.clusters.share()

        def note(self) -> str:
            note = f"epoch {(self.step - 1) // per_epoch + 1}/{math.ceil(steps / per_epoch)}"
            if not self.history:
                return note
            last = self.history[-1]
            return f"{note}, validation {last.val_accuracy:.1%}, {last.images_per_second:.0f} images/s"

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert logs is not None
            seconds = self.ended - self.began
            line = Epoch(
                stage=stage.name,
                epoch=epoch + 1,
                loss=float(logs["loss"]),
                accuracy=float(logs["accuracy"]),
                val_loss=float(logs["val_cross_entropy"]),
                val_accuracy=float(logs["val_accuracy"]),
                seconds=seconds,
                images_per_second=(self.step - self.first) * batch_size / seconds if seconds > 0 else math.nan,
            )
            self.history.append(line)
            log.info("%s", line)
            if line.val_loss < self.best and self.step >= self.compressed:
                self.best, self.kept, self.waited = line.val_loss, self.model.get_weights(), 0
            elif self.step >= self.compressed:
                self.waited += 1
                if stage.schedule == "plateau" and self.waited % PLATEAU_EPOCHS == 0:
                    self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) * PLATEAU_FACTOR
            if self.waited >= stage.patience:
                log.info("%s: no better validation loss for %d epochs, stopped", stage.name, self.waited)
                self.model.stop_training = True
            elif math.isfinite(line.val_loss) and checkpoints.due():
                self.save(optimiser=_values(self.model.optimizer.variables), best=self.kept)

        def finish(self) -> None:
            """Leave the model with its best weights, or say that there are none."""
            if not self.kept:
                raise LeafportError(
                    f"{stage.name}: the loss is not a number after {self.step} steps at a learning rate of "
                    f"{stage.learning_rate:g}. Train with a smaller --learning-rate."
                )
            self.model.set_weights(self.kept)
            self.save(done=True)

        def save(self, *, done: bool = False, **groups: Any) -> None:
            state = {
                "history": [asdict(line) for line in self.history],
                "best": self.best,
                "waited": self.waited,
                "done": done,
            }
            checkpoints.save(stage.name, Checkpoint(state, _values(self.model.variables), **groups))

    return Watcher()


def _values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in variables]


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
