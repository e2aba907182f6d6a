"""From a folder of photographs to a classifier's folder, whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from leafport import __version__, files, metrics
from leafport.classifier import CONTRACT_FILE, MODEL_FILE, Classifier
from leafport.contract import Contract, Fit, ImageInput
from leafport.errors import ModelError, OutputError
from leafport.training import backbones, loop, safety, task
from leafport.training.backbones import BACKBONES, Network, Recipe
from leafport.training.data import augment, splits
from leafport.training.data.splits import Photo, Splits
from leafport.training.evaluation import evaluate, plots, selection
from leafport.training.evaluation.figures import figures
from leafport.training.heads import Head
from leafport.training.loop import Epoch, Photographs, Progress, Stage

HEAD, FINE_TUNING, FROM_SCRATCH = "Training the head", "Fine-tuning", "Training from scratch"
FINE_TUNING_RECIPE = Recipe(epochs=10, learning_rate=1e-4)
LOG_FILE = "train.log"
HISTORY_FILE = "history.csv"
HISTORY_PLOT = "plots/history.png"
CONFUSION_FILE = "confusion.csv"
CONFUSION_PLOT = "plots/confusion.png"
RELIABILITY_PLOT = "plots/reliability.png"
FREE_BYTES = 64 * 2**20

log = logging.getLogger("leafport.training")


@dataclass(frozen=True)
class Config:
    """Everything that decides what a training makes.

    Attributes:
        data: a folder of class folders of photographs.
        out: the classifier's folder to write.
        positive: a file with the names of the positive (dangerous) class folders; needed for a binary task.
        weights: ``imagenet``, ``none`` (from scratch) or a file.
        image_size: the side of the model's square input in pixels; the backbone's own if None.
        resize: ``squash`` the whole photograph or ``crop`` its centre.
        splits: a splits file made by ``leafport data split``; None: the photographs are split by their content, with
            ``validation``, ``test`` and ``seed``.
        head_epochs: most epochs of the head alone; unused from scratch.
        unfreeze: what fine-tuning changes: the ``late`` layers, or ``all``. The early ones see edges and textures,
            which all photographs share, and cost half the time.
        epochs: most epochs of fine-tuning or from scratch; None: 10 of fine-tuning, or the backbone's own from
            scratch; 0 trains the head only.
        learning_rate: its peak in that stage; None: 1e-4 for fine-tuning, or the backbone's own.
        dropout: share of the features dropped; None: 0.5, or the backbone's own from scratch.
        patience: epochs without a better validation loss before that stage stops; None: 3, or
            never from scratch, where the loss is noisy until the rate falls.
        max_steps: most steps of each stage, for trials.
        label_smoothing: the share of each label that is spread over all of them.
        balance: weigh the labels by their rarity; for binary tasks if None.
        required_recall: what the decision threshold should promise for positive photographs.
        name, version, description, author, license: go into the contract.
        overwrite: replace ``out`` where it is a classifier already.
    """

    data: Path
    out: Path
    task: Literal["class", "binary"] = "class"
    positive: Path | None = None
    positive_name: str | None = None
    negative_name: str | None = None
    backbone: str = "resnet50"
    weights: str = backbones.IMAGENET
    image_size: int | None = None
    resize: Fit = "squash"
    dropout: float | None = None
    head_epochs: int = 60
    unfreeze: Literal["late", "all"] = "late"
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    patience: int | None = None
    max_steps: int | None = None
    augment: bool = True
    label_smoothing: float = 0.0
    balance: bool | None = None
    splits: Path | None = None
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    required_recall: float = 0.95
    name: str | None = None
    version: str = "1.0.0"
    description: str = ""
    author: str = ""
    license: str = ""
    overwrite: bool = False

    @property
    def scratch(self) -> bool:
        return self.weights == backbones.NO_WEIGHTS

    @property
    def recipe(self) -> Recipe:
        """What is done where nothing else was asked for."""
        return BACKBONES[self.backbone].from_scratch if self.scratch else FINE_TUNING_RECIPE


def train(config: Config, *, progress: Progress | None = None) -> Path:
    """Train a classifier and write its folder; returns ``config.out``.

    Nothing stands at ``config.out`` before everything does: model.keras, classifier.json, splits.json, history.csv,
    evaluation.json and confusion.csv (of the test split), plots/ and train.log.

    Raises:
        DataError: the photographs or the positive file cannot be used.
        ModelError: an unknown backbone, or weights that are missing or another network's.
        OutputError: ``config.out`` cannot be written, or is something else already.
        LeafportError: training diverged.
    """
    backbones.find(config.backbone)
    if config.scratch and config.epochs == 0:
        raise ModelError("--epochs 0 trains the head only, which takes pretrained weights. Give --weights or more.")
    _check_out(config)
    with files.staged(config.out) as staging:
        staging.mkdir()
        _check_space(config.out, FREE_BYTES)
        with _logging_to(staging / LOG_FILE):
            _train(config, staging, progress or (lambda stage, done, total, note: None))
    return config.out


def _train(config: Config, out: Path, progress: Progress) -> None:
    log.info("leafport %s, %s", __version__, json.dumps(asdict(config), default=str))
    folder = splits.scan(config.data, progress=lambda done, total: progress("Reading photographs", done, total, ""))
    for entry in folder.skipped:
        log.warning("skipped: %s", entry.reason)
    given = splits.Splits.load(config.splits) if config.splits else None
    question = task.define(
        config.task,
        given.folders if given else folder.folders,
        config.positive,
        negative_name=config.negative_name,
        positive_name=config.positive_name,
    )
    if given:
        divided = splits.apply(given, folder, label_of=question.label_of)
    else:
        divided = splits.split(
            folder, seed=config.seed, validation=config.validation, test=config.test, label_of=question.label_of
        )
    divided.save(out / selection.SPLITS_FILE)
    contract = _contract(config, divided)

    import keras
    from sklearn.metrics import confusion_matrix

    log.info("%s", {name: importlib.metadata.version(name) for name in ("keras", "tensorflow", "numpy", "pillow")})
    log.info("%s, Python %s", platform.platform(), platform.python_version())
    keras.utils.set_random_seed(config.seed)
    network = backbones.build(
        config.backbone,
        classes=len(contract.labels),
        image_size=contract.image.height,
        weights=config.weights,
        head=Head(dropout=config.recipe.dropout if config.dropout is None else config.dropout),
    )
    _check_space(config.out, FREE_BYTES + 4 * network.model.count_params())
    began = time.monotonic()
    history = _run_stages(config, network, divided, contract.image, progress)
    log.info("trained in %.1f minutes", (time.monotonic() - began) / 60)
    loop.write_history(out / HISTORY_FILE, history)
    plots.draw_history(out / HISTORY_PLOT, history)

    classifier = Classifier(network.model, contract)
    if question.positive_labels:
        classifier = _with_safety(classifier, divided, question.positive_labels, config.required_recall, progress)
    classifier.save(out)
    side = _side(divided, divided.test)
    probabilities = evaluate.predict(
        classifier, side.paths, progress=lambda done, total: progress("Testing", done, total, "")
    )
    value = figures(probabilities, side.truth, classifier.contract)
    matrix = confusion_matrix(side.truth, probabilities.argmax(axis=1), labels=range(len(contract.labels)))
    plots.draw_confusion(out / CONFUSION_PLOT, matrix, contract.labels)
    plots.draw_reliability(out / RELIABILITY_PLOT, metrics.reliability(probabilities, side.truth))
    _write_confusion(out / CONFUSION_FILE, matrix, contract.labels)
    value |= selection.test_split(divided).provenance()
    files.write_json(out / evaluate.EVALUATION_FILE, value)
    log.info("test: top-1 %.4f, top-5 %s, binary %s", value["top1"], value["top5"], value.get("binary"))


def _run_stages(config: Config, network: Network, divided: Splits, rule: ImageInput, progress: Progress) -> list[Epoch]:
    train, validation = _side(divided, divided.train), _side(divided, divided.validation)
    balance = config.task == "binary" if config.balance is None else config.balance
    class_weight = _balanced(train.truth, len(divided.labels)) if balance else None
    augmentation = augment.Augmentation() if config.augment else None
    smoothing = config.label_smoothing
    history: list[Epoch] = []
    if not config.scratch:
        stage = Stage(
            HEAD, config.head_epochs, 1e-3, 32, patience=10, max_steps=config.max_steps, label_smoothing=smoothing
        )
        history += loop.train_head(
            network, train, validation, rule, stage, class_weight=class_weight, progress=progress
        )
        backbones.unfreeze(network, config.backbone, config.unfreeze)
    recipe = config.recipe
    stage = Stage(
        FROM_SCRATCH if config.scratch else FINE_TUNING,
        epochs=recipe.epochs if config.epochs is None else config.epochs,
        learning_rate=config.learning_rate or recipe.learning_rate,
        batch_size=config.batch_size,
        patience=config.patience or (recipe.epochs if config.scratch else 3),
        max_steps=config.max_steps,
        label_smoothing=smoothing,
    )
    return history + loop.train_all(
        network,
        train,
        validation,
        rule,
        stage,
        seed=config.seed,
        augmentation=augmentation,
        start=min((epoch.val_loss for epoch in history), default=None),
        class_weight=class_weight,
        progress=progress,
    )


def _contract(config: Config, divided: Splits) -> Contract:
    size = config.image_size or BACKBONES[config.backbone].image_size
    value = {
        "name": config.name or task.default_name(config.data),
        "version": config.version,
        "description": config.description,
        "author": config.author,
        "license": config.license,
        "task": config.task,
        "labels": divided.labels,
        "image": {"height": size, "width": size, "fit": config.resize},
    }
    return Contract.from_json(value, where="What was asked for")


def _with_safety(
    classifier: Classifier, divided: Splits, labels: tuple[str, ...], required_recall: float, progress: Progress
) -> Classifier:
    """The classifier with its threshold, chosen on the validation split, in the contract."""
    side = _side(divided, divided.validation)
    probabilities = evaluate.predict(
        classifier, side.paths, progress=lambda done, total: progress("Choosing the threshold", done, total, "")
    )
    indices = [classifier.contract.labels.index(label) for label in labels]
    chosen = safety.choose(
        probabilities[:, indices].sum(axis=1), np.isin(side.truth, indices), labels, required_recall=required_recall
    )
    return replace(classifier, contract=classifier.contract.model_copy(update={"safety": chosen}))


def _side(divided: Splits, photos: Sequence[Photo]) -> Photographs:
    index = {label: position for position, label in enumerate(divided.labels)}
    truth = np.array([index[divided.label_of[photo.folder]] for photo in photos], np.int32)
    return Photographs([divided.file(photo) for photo in photos], truth)


def _balanced(truth: np.ndarray, classes: int) -> dict[int, float]:
    """Weights that make every label count the same, 1 on average over the photographs."""
    counts = np.bincount(truth, minlength=classes)
    return {label: len(truth) / (classes * int(count)) for label, count in enumerate(counts)}


def _write_confusion(path: Path, matrix: np.ndarray, labels: Sequence[str]) -> None:
    """Write int [classes, classes] as CSV: a row for each class that is right, a column for each that was answered."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["is", *labels])
        writer.writerows([label, *map(int, row)] for label, row in zip(labels, matrix, strict=True))


def _check_out(config: Config) -> None:
    out, data = config.out.resolve(), config.data.resolve()
    if out.is_relative_to(data):
        raise OutputError(f"{config.out} lies inside the photographs' folder {config.data}. Write elsewhere.")
    if not config.out.exists() or (config.out.is_dir() and not any(config.out.iterdir())):
        return
    if not all((config.out / name).is_file() for name in (MODEL_FILE, CONTRACT_FILE)):
        raise OutputError(f"{config.out} exists and is no classifier: it is left alone. Write elsewhere.")
    if not config.overwrite:
        raise OutputError(f"{config.out} holds a classifier already. Write elsewhere, or replace it with --overwrite.")


def _check_space(path: Path, wanted: int) -> None:
    free = shutil.disk_usage(path.resolve().parent).free
    if free < wanted:
        raise OutputError(
            f"{path} cannot be written: {wanted / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} MiB are free. "
            "Free some space or write elsewhere."
        )


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.level, log.propagate = before
