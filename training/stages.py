"""The stages of a training: the head on cached features, then the backbone too, gently; or everything from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leafport import files
from leafport.contract import Contract
from leafport.errors import OutputError
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

HEAD, FINE_TUNING, FROM_SCRATCH = "Training the head", "Fine-tuning", "Training from scratch"
HEAD_LEARNING_RATE = 1e-3
HEAD_BATCH_SIZE = 32
HEAD_PATIENCE = 10


def run(
    config: Config,
    divided: Splits,
    contract: Contract,
    checkpoints: Checkpoints,
    work: Path,
    progress: Progress,
    *,
    check_space: Callable[[int], None],
    shared: Path | None = None,
) -> tuple[keras.Model, list[Epoch]]:
    """Build the network and train it, stage by stage; returns its model, in float32, and all epochs.

    Args:
        work: a folder for what is too large for memory.
        check_space: raises OutputError where so many bytes cannot be written.
        shared: a folder on the same disk in which the frozen backbone's features stay, for other trainings with the
            same split.
    """
    import keras

    def build() -> Network:
        return backbones.build(
            config.backbone,
            classes=len(contract.labels),
            image_size=contract.image.height,
            weights=config.weights,
            head=_head(config),
        )

    keras.utils.set_random_seed(config.seed)
    with _computing_in(_policy(config.precision)) as mixed:
        network = build()
        check_space(4 * 4 * network.model.count_params())  # The model, two moments of each weight, and the best ones.
        history = _learn(config, network, divided, contract, checkpoints, work, progress, shared)
    if not mixed:
        return network.model, history
    whole = build().model
    whole.set_weights(network.model.get_weights())
    return whole, history


def side(divided: Splits, photos: Sequence[Photo]) -> tuple[list[Path], np.ndarray]:
    """One side of a split: files, and which output is right for each (int32 [N])."""
    index = {label: position for position, label in enumerate(divided.labels)}
    truth = np.array([index[divided.label_of[photo.folder]] for photo in photos], np.int32)
    return [divided.file(photo) for photo in photos], truth


def _learn(
    config: Config,
    network: Network,
    divided: Splits,
    contract: Contract,
    checkpoints: Checkpoints,
    work: Path,
    progress: Progress,
    shared: Path | None,
) -> list[Epoch]:
    cache, rule, classes = work if config.cache else None, contract.image, len(contract.labels)
    paths, truth = side(divided, divided.train)
    train = Lessons(Pixels(paths, rule, cache=cache), truth)
    varied = train
    if config.augmentation and config.augmentation.kernels:
        varied = Lessons(Pixels(paths, *augment.kernels(rule), cache=cache), truth)
    checked, right = side(divided, divided.validation)
    validation = Lessons(Pixels(checked, rule, cache=cache), right)
    history: list[Epoch] = []
    if not config.scratch:
        stage = _head_stage(config, truth, classes)
        restored = loop.restore(network.head, stage, checkpoints)
        if restored is None:
            kept = None if shared is None else shared / _features_name(config, contract, divided)
            restored = loop.fit(
                network.head,
                _features(network, train, work, progress, kept and kept.with_suffix(".train")),
                _features(network, validation, work, progress, kept and kept.with_suffix(".validation")),
                stage,
                seed=config.seed,
                start=None,
                checkpoints=checkpoints,
                progress=progress,
            )
        history += restored
        backbones.unfreeze(network, config.backbone, config.unfreeze)
    if config.unfreeze == "none":
        return history
    stage = _whole_stage(config, truth, classes)
    restored = loop.restore(network.model, stage, checkpoints)
    if restored is None:
        restored = loop.fit(
            network.model,
            varied,
            validation,
            stage,
            seed=config.seed,
            start=min((epoch.val_loss for epoch in history), default=None),
            checkpoints=checkpoints,
            progress=progress,
        )
    return history + restored


def _features(network: Network, lessons: Lessons, work: Path, progress: Progress, kept: Path | None) -> Lessons:
    """What the frozen backbone says of photographs, on disk: found in the file ``kept``, or computed and left there."""
    shape = network.features.output_shape[1:]
    if kept is not None and kept.exists():
        return Lessons(Store(kept, len(lessons.truth), shape, "float32"), lessons.truth)
    place = work if kept is None else work / kept.name
    if kept is not None:
        files.remove(place)
    found = Store(place, len(lessons.truth), shape, "float32")
    done = 0
    try:
        for batch in pipeline.answers(network.features, lessons.source, HEAD_BATCH_SIZE):
            for one in batch:
                found.put(done, one)
                done += 1
            progress("Computing features", done, len(found), f"{done} photographs")
    except OSError as problem:
        raise OutputError(
            f"The features of {len(found):,} photographs take {len(found) * found.item_bytes / 2**20:,.0f} MiB, which "
            f"{work.parent} has no room for ({problem.strerror}). Free some space, write elsewhere, or take --head gap."
        ) from problem
    if kept is not None:
        place.replace(kept)
    return Lessons(found, lessons.truth)


def _features_name(config: Config, contract: Contract, divided: Splits) -> str:
    """A name for all that decides what a frozen backbone says of the photographs of a split."""
    seen = [[photo.sha256 for photo in photos] for photos in (divided.train, divided.validation)]
    backbone = [config.backbone, config.weights, config.precision, config.head.pools_first]
    return files.sha256_json([*backbone, contract.image.model_dump(mode="json"), seen])[:16]


def _head(config: Config) -> Head:
    return replace(config.head, dropout=config.recipe.dropout if config.dropout is None else config.dropout)


def _head_stage(config: Config, truth: np.ndarray, classes: int) -> Stage:
    whole = _whole_stage(config, truth, classes)
    return replace(
        whole,
        name=HEAD,
        epochs=config.head_epochs,
        learning_rate=HEAD_LEARNING_RATE,
        batch_size=HEAD_BATCH_SIZE,
        patience=HEAD_PATIENCE,
        augmentation=None,
    )


def _whole_stage(config: Config, truth: np.ndarray, classes: int) -> Stage:
    recipe = config.recipe
    balance = config.balance or ("weights" if config.task == "binary" else "none")
    patience = recipe.epochs if config.scratch else 6 if config.schedule == "plateau" else 3
    return Stage(
        FROM_SCRATCH if config.scratch else FINE_TUNING,
        epochs=recipe.epochs if config.epochs is None else config.epochs,
        learning_rate=config.learning_rate or recipe.learning_rate,
        batch_size=config.batch_size,
        patience=config.patience or patience,
        max_steps=config.max_steps,
        schedule=config.schedule,
        loss=Loss(
            smoothing=config.label_smoothing,
            focus=config.focus,
            weights=rarity(truth, classes) if balance == "weights" else None,
        ),
        sampled=balance if balance in ("over", "under") else "all",
        augmentation=config.augmentation,
    )


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
