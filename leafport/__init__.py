"""leafport: from photographs to image classifiers a phone or a board can run with no network.

This module is the public API. Its names are imported when they are first used, so that ``import leafport`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leafport.benchmarks.bench import bench
    from leafport.classifier import Classifier
    from leafport.contract import Contract, ImageInput, Safety
    from leafport.errors import LeafportError, UserError
    from leafport.export.engine import Settings as ExportSettings
    from leafport.export.engine import export as export_classifier
    from leafport.export.verify import verify
    from leafport.training.config import Config as TrainingConfig
    from leafport.training.evaluation.evaluate import evaluate_folder as evaluate
    from leafport.training.train import train
    from leafport.training.tuning.tune import tune

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "Contract",
    "ExportSettings",
    "ImageInput",
    "LeafportError",
    "Safety",
    "TrainingConfig",
    "UserError",
    "bench",
    "evaluate",
    "export_classifier",
    "train",
    "tune",
    "verify",
]

_WHERE = {
    "Classifier": "leafport.classifier:Classifier",
    "Contract": "leafport.contract:Contract",
    "ExportSettings": "leafport.export.engine:Settings",
    "ImageInput": "leafport.contract:ImageInput",
    "LeafportError": "leafport.errors:LeafportError",
    "Safety": "leafport.contract:Safety",
    "TrainingConfig": "leafport.training.config:Config",
    "UserError": "leafport.errors:UserError",
    "bench": "leafport.benchmarks.bench:bench",
    "evaluate": "leafport.training.evaluation.evaluate:evaluate_folder",
    "export_classifier": "leafport.export.engine:export",
    "train": "leafport.training.train:train",
    "tune": "leafport.training.tuning.tune:tune",
    "verify": "leafport.export.verify:verify",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'leafport' has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
