"""TFLite (LiteRT) files, for Android, iOS, browsers and small Linux boards."""

from __future__ import annotations

from leafport.targets.tflite.conversion import VARIANTS, Options, available, convert
from leafport.targets.tflite.facts import broken_claims, inspect
from leafport.targets.tflite.interpreter import runner
from leafport.targets.tflite.metadata import restate

NAME = "tflite"
SUFFIX = ".tflite"
RUNTIME = "LiteRT"

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
