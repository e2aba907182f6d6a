"""From a folder of photographs to a classifier's folder, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from leafport import __version__, files
from leafport.classifier import CONTRACT_FILE, MODEL_FILE, Classifier
from leafport.contract import Contract
from leafport.errors import ModelError, OutputError
from leafport.training import (
    backbones,
    calibration,
    checkpoint,
    clustering,
    distributed,
    loop,
    origin,
    safety,
    stages,
    task,
)
from leafport.training.backbones import BACKBONES
from leafport.training.calibration import Calibration
from leafport.training.config import Config
from leafport.training.data import duplicates, splits
from leafport.training.data.splits import PhotoFolder, Splits
from leafport.training.distributed import Cluster
from leafport.training.evaluation import evaluate, selection
from leafport.training.evaluation.learning import HISTORY_FILE
from leafport.training.heads import PROBABILITIES
from leafport.training.loop import Progress
from leafport.training.task import Task

LOG_FILE = "train.log"
FREE_BYTES = 64 * 2**20
LIBRARIES = ("keras", "tensorflow", "numpy", "pillow")

log = logging.getLogger("leafport.training")


def train(config: Config, *, cluster: Cluster | None = None, progress: Progress | None = None) -> Path:
    """Train a classifier and write its folder; returns ``config.out``.

    Nothing stands at ``config.out`` before everything does: model.keras, classifier.json, splits.json, training.json
    (what was asked for, and the calibration), history.csv, train.log, and the evaluation over the test split that
    ``evaluation.evaluate.judge`` writes. What is learned on the way is kept beside it, in a hidden folder: when a
    training was killed, the same one goes on after its last epoch.

    Args:
        cluster: the hosts that train together, each of which calls this. Only the first writes ``config.out``.

    Raises:
        DataError: the photographs or the positive file cannot be used.
        ModelError: an unknown backbone, or weights that are missing or another network's.
        OutputError: ``config.out`` cannot be written, is something else already, or an unfinished training for it
            was asked for something else.
        LeafportError: training diverged, or another host was lost.
    """
    check(config)
    check_out(config.out, config.data, overwrite=config.overwrite)
    place = cluster.place(config.out) if cluster else config.out
    with checkpoint.working(place) as work, files.writable(place):
        staging = work.folder / "classifier"
        files.remove(staging)
        staging.mkdir()
        files.require_space(config.out, FREE_BYTES)
        with _logging_to(work.folder / LOG_FILE):
            _train(config, work, staging, cluster, progress or (lambda stage, done, total, note: None))
        if cluster is None or cluster.first:
            shutil.copyfile(work.folder / LOG_FILE, staging / LOG_FILE)
            files.move_into_place(staging, config.out)
    return config.out


def check(config: Config) -> None:
    """Raise ModelError where settings cannot be meant, before anything is read."""
    backbones.find(config.backbone)
    if config.scratch and (config.epochs == 0 or config.unfreeze == "none"):
        raise ModelError(
            "Training the head only (--epochs 0, --unfreeze none) takes pretrained weights. Give --weights, or train "
            "everything."
        )
    if config.source is not None and not config.fine_tunes:
        raise ModelError("To go on from a classifier takes epochs. Leave --epochs 0 and --unfreeze none.")
    if (config.sparsity or config.clusters) and not (config.scratch or config.fine_tunes):
        raise ModelError(
            "--prune and --cluster take epochs in which the weights learn to make do. Leave --epochs 0 and "
            "--unfreeze none."
        )
    if config.clusters and not clustering.FEWEST <= config.clusters <= clustering.MOST:
        raise ModelError(f"--cluster takes {clustering.FEWEST} to {clustering.MOST} values. Got: {config.clusters}")
    if config.quantise:
        _check_quantising(config)
    if config.safety_loss and (config.positive is config.source is None or config.task == "binary"):
        raise ModelError(
            "--safety-loss is for a class task with --positive FILE. Give both, or leave it: a binary task's loss is "
            "that already."
        )
    if config.fine_tuning_size is None:
        return
    if not config.fine_tunes:
        raise ModelError(
            "--fine-tuning-size is for a pretrained backbone that is fine-tuned. Leave it, or give --weights, and no "
            "--epochs 0 or --unfreeze none."
        )
    if config.head.kind == "dense" and config.fine_tuning_size != image_size(config):
        raise ModelError(
            "A dense head has a weight for every place in the image, and so one size. Leave --fine-tuning-size, or "
            "choose --head gap, conv or residual."
        )


def _check_quantising(config: Config) -> None:
    if config.source is None:
        raise ModelError("--qat goes on from a finished classifier, which then learns to be rounded. Give --from RUN.")
    if config.fine_tuning_size is not None:
        raise ModelError("With --qat the ranges are those of photographs at full size. Leave --fine-tuning-size.")
    if config.precision == "mixed":
        raise ModelError("With --qat steps of eight bits are learned, in float32. Leave --precision mixed.")


def image_size(config: Config) -> int:
    """The side of the model's input in pixels."""
    return config.image_size or BACKBONES[config.backbone].image_size


def _train(config: Config, work: checkpoint.Work, out: Path, cluster: Cluster | None, progress: Progress) -> None:
    log.info("leafport %s, %s", __version__, json.dumps(asdict(config), default=str))
    divided, question = divide(config, progress)
    divided.save(out / selection.SPLITS_FILE)
    contract = contract_of(config, divided)
    request = request_of(config, divided, question.positive_labels)
    if cluster is not None:
        request["versions"]["jax"] = distributed.jax_version()
    log.info("%s, %s, Python %s", request["versions"], platform.platform(), platform.python_version())
    checkpoints = work.checkpoints(request, drop=config.overwrite)
    began = time.monotonic()
    if cluster is not None:
        log_file = work.folder / LOG_FILE
        distributed.learn(
            cluster,
            config,
            out / selection.SPLITS_FILE,
            contract,
            request,
            work.folder,
            log_file,
            progress,
            positive_labels=question.positive_labels,
        )
        if not cluster.first:
            return
    trained = stages.run(
        config,
        divided,
        contract,
        checkpoints,
        work.folder,
        progress,
        check_space=lambda wanted: files.require_space(config.out, wanted),
        positive_labels=question.positive_labels,
    )
    log.info("trained in %.1f minutes", (time.monotonic() - began) / 60)
    loop.write_history(out / HISTORY_FILE, trained.history)

    learned = Classifier(trained.model, contract, trained.quantisation)
    classifier, found = calibrated(learned, divided, question, config.required_recall, progress)
    classifier.save(out)
    files.write_json(out / origin.RECORD_FILE, {"request": request, "calibration": asdict(found)})
    judge(classifier, divided, out, progress)


def divide(config: Config, progress: Progress) -> tuple[Splits, Task]:
    """The photographs' split, and what is asked about them."""
    folder = splits.scan(config.data, progress=lambda done, total: progress("Reading photographs", done, total, ""))
    for entry in folder.skipped:
        log.warning("skipped: %s", entry.reason)
    given = Splits.load(config.splits) if config.splits else None
    if config.source is not None:
        question = origin.question(config.source)
    else:
        question = task.define(
            config.task,
            given.folders if given else folder.folders,
            config.positive,
            negative_name=config.negative_name,
            positive_name=config.positive_name,
        )
    if given:
        return splits.apply(given, folder, label_of=question.label_of), question
    return _split(config, folder, question, progress), question


def _split(config: Config, folder: PhotoFolder, question: Task, progress: Progress) -> Splits:
    alike = duplicates.find(folder, progress=lambda done, total: progress("Comparing photographs", done, total, ""))
    return splits.split(
        folder,
        seed=config.seed,
        validation=config.validation,
        test=config.test,
        label_of=question.label_of,
        alike=alike,
    )


def versions() -> dict[str, str]:
    """The versions of everything that decides what a training makes of its settings."""
    return {**{name: importlib.metadata.version(name) for name in LIBRARIES}, "leafport": __version__}


def request_of(config: Config, divided: Splits, positive_labels: Sequence[str]) -> dict[str, Any]:
    """All that decides what is learned, as JSON values: two trainings with the same may go on from one another."""
    left_out = ("data", "out", "positive", "splits", "source", "overwrite", *origin.TEXTS)
    asked = {name: value for name, value in asdict(config).items() if name not in (*left_out, "required_recall")}
    weights = Path(config.weights)
    return {
        **json.loads(json.dumps(asked, default=str)),
        "weights": files.sha256(weights) if weights.is_file() else config.weights,
        **({"positive_labels": list(positive_labels)} if config.safety_loss else {}),
        "photographs": files.sha256_json(
            [divided.label_of, [[photo.sha256 for photo in photos] for photos in divided.sides.values()]]
        ),
        "versions": versions(),
    }


def contract_of(config: Config, divided: Splits) -> Contract:
    size = image_size(config)
    value = {
        "name": config.name or task.default_name(config.data),
        "version": config.version,
        "description": config.description,
        "author": config.author,
        "license": config.license,
        "locale": config.locale,
        "task": config.task,
        "labels": divided.labels,
        "image": {"height": size, "width": size, "fit": config.resize},
    }
    return Contract.from_json(value, where="What was asked for")


def calibrated(
    classifier: Classifier, divided: Splits, question: Task, required_recall: float, progress: Progress
) -> tuple[Classifier, Calibration]:
    """The classifier as it is to be used: calibrated, with its threshold in the contract; by the validation split."""
    paths, truth = stages.side(divided, divided.validation)
    probabilities = evaluate.predict(
        classifier, paths, progress=lambda done, total: progress("Calibrating", done, total, "")
    )
    found = calibration.fit(probabilities, truth)
    log.info("calibration: %s", found)
    if found.temperature != 1:
        calibration.apply(classifier.model, found.temperature)
        probabilities = calibration.scaled(probabilities, found.temperature)
        if ranges := classifier.quantisation:
            ranges = ranges.scaled(f"{PROBABILITIES}_steps", 1 / found.temperature)
            classifier = dataclasses.replace(classifier, quantisation=ranges)
    if not question.positive_labels:
        return classifier, found
    labels = classifier.contract.labels
    indices = [labels.index(label) for label in question.positive_labels]
    chosen = safety.choose(
        probabilities[:, indices].sum(axis=1),
        np.isin(truth, indices),
        question.positive_labels,
        required_recall=required_recall,
    )
    log.info("safety: %s", chosen)
    contract = classifier.contract.model_copy(update={"safety": chosen})
    return dataclasses.replace(classifier, contract=contract), found


def judge(classifier: Classifier, divided: Splits, out: Path, progress: Progress) -> None:
    """Ask the finished classifier about the test split, by which nothing was chosen; the evaluation goes to ``out``."""
    value = evaluate.judge(
        classifier,
        selection.test_split(divided),
        out,
        history=out / HISTORY_FILE,
        stage="Testing",
        progress=progress,
    )
    log.info("test: top-1 %.4f, top-5 %s, binary %s", value["top1"], value["top5"], value.get("binary"))


def check_out(out: Path, data: Path, *, overwrite: bool) -> None:
    """Raise OutputError where a classifier's folder cannot go."""
    if out.resolve().is_relative_to(data.resolve()):
        raise OutputError(f"{out} lies inside the photographs' folder {data}. Write elsewhere.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not all((out / name).is_file() for name in (MODEL_FILE, CONTRACT_FILE)):
        raise OutputError(f"{out} exists and is no classifier: it is left alone. Write elsewhere.")
    if not overwrite:
        raise OutputError(f"{out} holds a classifier already. Write elsewhere, or replace it with --overwrite.")


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
