"""The stages of a training: the head, the backbone too, the head again; or everything from scratch; or rounding.

Fine-tuning sees varied photographs, which look nearer and blurrier than those the classifier is asked about. So
afterwards the head is fitted once more, in seconds, to photographs as they are, and where fine-tuning took smaller ones
to be quicker, at their full size (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leafport import files
from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.errors import OutputError
from leafport.quantisation import Quantisation
from leafport.training import backbones, loop
from leafport.training.backbones import Network
from leafport.training.checkpoint import Checkpoints
from leafport.training.config import Config
from leafport.training.data import augment, pipeline
from leafport.training.data.pipeline import Pixels
from leafport.training.data.splits import Photo, Splits
from leafport.training.data.store import Store
from leafport.training.heads import Head
from leafport.training.loop import Epoch, Lessons, Progress, Stage
from leafport.training.loss import Loss, rarity

if TYPE_CHECKING:
    import keras

HEAD, FINE_TUNING, REFITTING = "Training the head", "Fine-tuning", "Refitting the head"
QUANTISING = "Quantisation-aware training"
FROM_SCRATCH = "Training from scratch"
HEAD_LEARNING_RATE = 1e-3
HEAD_BATCH_SIZE = 32
HEAD_PATIENCE = 10
PLATEAU_PATIENCE = 6
REFITTING_LEARNING_RATE = 3e-4
REFITTING_EPOCHS = 15


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Attributes:
        model: float32 [N, size, size, 3] to float32 [N, classes], in float32.
        history: every epoch of every stage.
        best: the epoch that left the model's weights, with the smallest validation loss.
        quantisation: the ranges of its activations, where it learned to be rounded.
    """

    model: keras.Model
    history: list[Epoch]
    best: Epoch
    quantisation: Quantisation | None = None


def run(
    config: Config,
    divided: Splits,
    contract: Contract,
    checkpoints: Checkpoints,
    work: Path,
    progress: Progress,
    *,
    check_space: Callable[[int], None],
    positive_labels: Sequence[str] = (),
    shared: Path | None = None,
) -> Trained:
    """Build the network and train it, stage by stage.

    Args:
        work: a folder for what is too large for memory.
        check_space: raises OutputError where so many bytes cannot be written.
        positive_labels: those that the safety loss tells from the others.
        shared: a folder on the same disk in which the frozen backbone's features stay, for other trainings with the
            same split.
    """
    with _computing_in(_policy("float32" if config.quantise else config.precision)) as mixed:
        training = _Training(config, divided, contract, checkpoints, work, progress, tuple(positive_labels), shared)
        network = training.build(training.learning_rule)
        check_space(4 * 4 * network.model.count_params())  # The model, two moments of each weight, and the best ones.
        trained = (training.from_scratch if config.scratch else training.fine_tuned)(network)
    if not mixed:
        return trained
    whole = training.build(contract.image).model
    whole.set_weights(trained.model.get_weights())
    return replace(trained, model=whole)


def side(divided: Splits, photos: Sequence[Photo]) -> tuple[list[Path], np.ndarray]:
    """One side of a split: files, and which output is right for each (int32 [N])."""
    index = {label: position for position, label in enumerate(divided.labels)}
    truth = np.array([index[divided.label_of[photo.folder]] for photo in photos], np.int32)
    return [divided.file(photo) for photo in photos], truth


@dataclass(frozen=True)
class _Training:
    """The stages of one training. Each is gone through, or restored where it was finished earlier."""

    config: Config
    divided: Splits
    contract: Contract
    checkpoints: Checkpoints
    work: Path
    progress: Progress
    positive_labels: tuple[str, ...]
    shared: Path | None

    @property
    def learning_rule(self) -> ImageInput:
        """How photographs become input until the last stage: as in the contract, but perhaps smaller."""
        side = self.config.fine_tuning_size
        if side is None or not self.config.fine_tunes:
            return self.contract.image
        return self.contract.image.model_copy(update={"height": side, "width": side})

    def build(self, rule: ImageInput) -> Network:
        """The network for input of one size, always with the same first weights and draws."""
        import keras

        config = self.config
        keras.utils.set_random_seed(config.seed)
        network = backbones.build(
            config.backbone,
            classes=len(self.contract.labels),
            image_size=rule.height,
            weights=config.weights if config.source is None else backbones.NO_WEIGHTS,
            head=_head(config),
        )
        return network if config.source is None else backbones.taken_over(network, config.source)

    def from_scratch(self, network: Network) -> Trained:
        history = self._whole(network.model, FROM_SCRATCH, start=None)
        return Trained(network.model, history, _best(history))

    def fine_tuned(self, network: Network) -> Trained:
        """The head; the backbone too, unless it stays frozen; then the head once more, on what has become of it."""
        small, full = self.learning_rule, self.contract.image
        history: list[Epoch] = []
        if self.config.source is None:
            history = self._head(network, small, HEAD, start=None, shared=self.shared)
        if not self.config.fine_tunes:
            return Trained(network.model, history, _best(history))
        backbones.unfreeze(network, self.config.backbone, self.config.unfreeze)
        if self.config.quantise:
            return self.quantised(network)
        alone = _best(history) if history else None
        history += self._whole(network.model, FINE_TUNING, start=alone.val_loss if alone else None)
        tuned = _best(history)
        if small == full:
            if tuned is not alone:
                history += self._head(network, full, REFITTING, start=tuned.val_loss)
            return Trained(network.model, history, _best(history))
        final = self.build(full)
        final.model.set_weights(network.model.get_weights())
        refitted = self._head(final, full, REFITTING, start=None)
        return Trained(final.model, history + refitted, _best(refitted))

    def quantised(self, network: Network) -> Trained:
        """A finished network learns to be rounded, and to answer as it did."""
        from leafport.training import fake_quantisation

        assert self.config.source is not None  # ``train.check`` has seen to it.
        rounding = fake_quantisation.fake_quantised(network.model)
        learning = fake_quantisation.imitating(rounding, Classifier.load(self.config.source).model)
        history = self._whole(learning, QUANTISING, start=None)
        fake_quantisation.put_on_steps(rounding)
        ranges = Quantisation(ranges=fake_quantisation.ranges_of(rounding))
        return Trained(network.model, history, _best(history), ranges)

    def _whole(self, model: keras.Model, name: str, *, start: float | None) -> list[Epoch]:
        """All of the network that is not frozen learns from varied photographs."""
        rule, augmentation = self.learning_rule, self.config.augmentation
        several = augment.kernels(rule) if augmentation and augmentation.kernels else (rule,)
        train = self._photographs(self.divided.train, *several)
        stage = self._stage(name, train.truth)
        restored = loop.restore(model, stage, self.checkpoints)
        if restored is not None:
            return restored
        return loop.fit(
            model,
            train,
            self._photographs(self.divided.validation, rule),
            stage,
            seed=self.config.seed,
            start=start,
            checkpoints=self.checkpoints,
            progress=self.progress,
        )

    def _head(
        self, network: Network, rule: ImageInput, name: str, *, start: float | None, shared: Path | None = None
    ) -> list[Epoch]:
        """The head alone learns, from what the backbone says of unvaried photographs."""
        train = self._photographs(self.divided.train, rule)
        stage = self._head_stage(name, train.truth)
        restored = loop.restore(network.head, stage, self.checkpoints)
        if restored is not None:
            return restored
        kept = None if shared is None else shared / self._features_name()
        return loop.fit(
            network.head,
            self._features(network, train, kept and kept.with_suffix(".train")),
            self._features(
                network,
                self._photographs(self.divided.validation, rule),
                kept and kept.with_suffix(".validation"),
            ),
            stage,
            seed=self.config.seed,
            start=start,
            checkpoints=self.checkpoints,
            progress=self.progress,
        )

    def _head_stage(self, name: str, truth: np.ndarray) -> Stage:
        config, again = self.config, name == REFITTING
        epochs = min(config.head_epochs, REFITTING_EPOCHS) if again else config.head_epochs
        return replace(
            self._stage(name, truth),
            epochs=epochs,
            learning_rate=REFITTING_LEARNING_RATE if again else HEAD_LEARNING_RATE,
            batch_size=HEAD_BATCH_SIZE,
            patience=HEAD_PATIENCE if config.schedule == "plateau" else epochs,
            augmentation=None,
            sparsity=config.sparsity if again else 0.0,
            clusters=config.clusters if again else 0,
            compressed_by=0.0,
        )

    def _stage(self, name: str, truth: np.ndarray) -> Stage:
        config, recipe, labels = self.config, self.config.recipe, self.contract.labels
        balance = config.balance or ("weights" if config.task == "binary" else "none")
        epochs = recipe.epochs if config.epochs is None else config.epochs
        patience = epochs if config.scratch or config.schedule == "cosine" else PLATEAU_PATIENCE
        return Stage(
            name,
            epochs=epochs,
            learning_rate=config.learning_rate or recipe.learning_rate,
            batch_size=config.batch_size,
            patience=config.patience or patience,
            max_steps=config.max_steps,
            schedule=config.schedule,
            loss=Loss(
                smoothing=config.label_smoothing,
                focus=config.focus,
                weights=rarity(truth, len(labels)) if balance == "weights" else None,
                positives=tuple(labels.index(label) for label in self.positive_labels),
                safety=config.safety_loss,
            ),
            sampled=balance if balance in ("over", "under") else "all",
            augmentation=config.augmentation,
            sparsity=config.sparsity,
            clusters=config.clusters,
        )

    def _photographs(self, photos: Sequence[Photo], *rules: ImageInput) -> Lessons:
        paths, truth = side(self.divided, photos)
        return Lessons(Pixels(paths, *rules, cache=self.work if self.config.cache else None), truth)

    def _features(self, network: Network, lessons: Lessons, kept: Path | None) -> Lessons:
        """What the backbone says of photographs, on disk: found in the file ``kept``, or computed and left there."""
        shape = network.features.output_shape[1:]
        if kept is not None and kept.exists():
            return Lessons(Store(kept, len(lessons.truth), shape, "float32"), lessons.truth)
        place = self.work if kept is None else self.work / kept.name
        if kept is not None:
            files.remove(place)
        found = Store(place, len(lessons.truth), shape, "float32")
        done = 0
        try:
            for batch in pipeline.answers(network.features, lessons.source, HEAD_BATCH_SIZE):
                for one in batch:
                    found.put(done, one)
                    done += 1
                self.progress("Computing features", done, len(found), f"{done} photographs")
        except OSError as problem:
            raise OutputError(
                f"The features of {len(found):,} photographs take {len(found) * found.item_bytes / 2**20:,.0f} MiB, "
                f"which {self.work.parent} has no room for ({problem.strerror}). Free some space, write elsewhere, or "
                "take --head gap."
            ) from problem
        if kept is not None:
            place.replace(kept)
        return Lessons(found, lessons.truth)

    def _features_name(self) -> str:
        """A name for all that decides what the backbone says of the photographs of a split before it is fine-tuned."""
        config = self.config
        seen = [[photo.sha256 for photo in photos] for photos in (self.divided.train, self.divided.validation)]
        backbone = [config.backbone, config.weights, config.precision, config.head.pools_first]
        return files.sha256_json([*backbone, self.learning_rule.model_dump(mode="json"), seen])[:16]


def _best(history: Sequence[Epoch]) -> Epoch:
    return min(history, key=lambda epoch: epoch.val_loss if math.isfinite(epoch.val_loss) else math.inf)


def _head(config: Config) -> Head:
    return replace(config.head, dropout=config.recipe.dropout if config.dropout is None else config.dropout)


def _policy(precision: str) -> str:
    """The Keras dtype policy to train in. bfloat16 has float32's range, so that no loss has to be scaled."""
    if precision == "float32":
        return "float32"
    return "mixed_bfloat16" if precision == "mixed" or _computes_fast_in_bfloat16() else "float32"


def _computes_fast_in_bfloat16() -> bool:
    import keras

    if keras.backend.backend() == "jax":
        import jax

        kinds = {(device.platform, getattr(device, "compute_capability", "0")) for device in jax.devices()}
        return all(platform == "tpu" or (platform == "gpu" and float(version) >= 8) for platform, version in kinds)
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return any(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)


@contextmanager
def _computing_in(policy: str) -> Iterator[bool]:
    """Layers made inside compute under ``policy``; yields whether that is another precision than float32."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield policy != "float32"
    finally:
        keras.config.set_dtype_policy(before)
