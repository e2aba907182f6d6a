"""Going on from a finished classifier: its network, its photographs and what it is asked are settled already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from leafport import files
from leafport.classifier import MODEL_FILE, load_contract
from leafport.errors import ModelError
from leafport.training.config import Config
from leafport.training.data.splits import Splits
from leafport.training.evaluation.selection import SPLITS_FILE
from leafport.training.task import Task

RECORD_FILE = "training.json"
SETTLED = (
    *("task", "positive", "positive_name", "negative_name", "splits", "validation", "test", "resize", "image_size"),
    *("backbone", "weights", "head", "head_epochs"),
)
_NETWORK = ("backbone", "head", "dropout", "image_size", "resize")
_HABITS = (
    *("unfreeze", "batch_size", "augmentation", "label_smoothing", "focus", "safety_loss", "balance"),
    *("sparsity", "clusters", "seed"),
)
TEXTS = ("name", "version", "description", "author", "license", "locale")


def settings(source: Path, data: Path, out: Path, given: Mapping[str, Any]) -> Config:
    """What a training is asked that goes on from the classifier in the folder ``source``.

    How it learned is how it learns on, where ``given`` (Config's fields by name) does not say otherwise; its schedule
    begins anew.

    Raises:
        ModelError: ``source`` is no classifier that ``train`` wrote, or ``given`` has what is SETTLED.
    """
    if settled := [f"--{name.replace('_', '-')}" for name in SETTLED if name in given]:
        raise ModelError(
            f"{', '.join(settled)} cannot be given with --from: {source} goes on with what it was trained with."
        )
    contract = load_contract(source)
    record = files.read_json(source / RECORD_FILE, error=ModelError)
    if not isinstance(record, dict) or not isinstance(record.get("request"), dict):
        raise ModelError(
            f"{source / RECORD_FILE} does not say how a network was trained. An ensemble cannot learn on, but its "
            "members can."
        )
    earlier = {**record["request"], **{name: getattr(contract, name) for name in TEXTS}}
    if contract.safety:
        earlier["required_recall"] = contract.safety.required_recall
    kept = (*_NETWORK, *_HABITS, *TEXTS, "task", "required_recall")
    asked = {
        **{name: earlier[name] for name in kept if name in earlier},
        "weights": str(source / MODEL_FILE),
        "splits": source / SPLITS_FILE,
        "source": source,
        **given,
    }
    try:
        config = TypeAdapter(Config).validate_python({"data": data, "out": out, **asked})
    except ValidationError as problem:
        fault = problem.errors()[0]
        raise ModelError(
            f"{source / RECORD_FILE} does not say how a network was trained "
            f"({'.'.join(map(str, fault['loc']))}: {fault['msg']})."
        ) from None
    if config.safety_loss and contract.safety is None:
        raise ModelError(
            f"{source} has no positive labels, between which and the others --safety-loss tells. Leave it."
        )
    return config


def question(source: Path) -> Task:
    """What the classifier in ``source`` is asked."""
    contract = load_contract(source)
    positives = contract.safety.positive_labels if contract.safety else ()
    return Task(contract.task, dict(Splits.load(source / SPLITS_FILE).label_of), positives)
