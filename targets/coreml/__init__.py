"""Core ML packages (.mlpackage) and, for old devices, files (.mlmodel): for iPhone, iPad and Mac."""

from __future__ import annotations

from pathlib import Path

from leafport.contract import Contract
from leafport.errors import TargetError
from leafport.targets.base import Runner
from leafport.targets.coreml.conversion import (
    NEURALNETWORK_SUFFIX,
    PACKAGE_SUFFIX,
    VARIANTS,
    Options,
    available,
    convert,
    restate,
)
from leafport.targets.coreml.facts import broken_claims, inspect

NAME = "coreml"
SUFFIX = (PACKAGE_SUFFIX, NEURALNETWORK_SUFFIX)
RUNTIME = "Core ML"

__all__ = [
    "NAME",
    "RUNTIME",
    "SUFFIX",
    "VARIANTS",
    "Options",
    "available",
    "broken_claims",
    "convert",
    "inspect",
    "restate",
    "runner",
]


def runner(path: Path, contract: Contract, threads: int) -> Runner:
    """Core ML itself on macOS; elsewhere the reference evaluator of the saved package. Neither has ``threads`` to set.

    Raises:
        ModelError: the package is damaged, or holds another model than the contract's.
        TargetError: coremltools is missing, or an operation is unknown to the reference evaluator.
    """
    if reason := available(""):
        raise TargetError(f"{path} cannot be run here: {reason}.")
    from leafport.targets.coreml import device

    if device.present():
        return device.CoreMLRunner(path, contract)
    from leafport.targets.coreml.evaluator import ReferenceEvaluator

    return ReferenceEvaluator(path, contract)
