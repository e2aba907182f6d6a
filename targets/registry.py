"""The table of targets: the built-in rows, then what other distributions offer."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from leafport.errors import TargetError
from leafport.targets.base import Target

BUILT_IN = {
    "tftrt": "leafport.targets.tftrt",
    "tflite": "leafport.targets.tflite",
    "coreml": "leafport.targets.coreml",
    "onnx": "leafport.targets.onnx",
    "savedmodel": "leafport.targets.savedmodel",
}
GROUP = "leafport.targets"
REQUIRED = [
    "NAME",
    "SUFFIX",
    "VARIANTS",
    "RUNTIME",
    "Options",
    "available",
    "convert",
    "inspect",
    "broken_claims",
    "runner",
]


@dataclass(frozen=True)
class Artifact:
    """One variant of one target, named as people name it: ``tflite-int8``; just ``savedmodel`` for an only variant."""

    target: str
    variant: str

    @property
    def name(self) -> str:
        return f"{self.target}-{self.variant}" if self.variant else self.target


def names() -> list[str]:
    """The targets' names, built-in ones first."""
    return [*BUILT_IN, *sorted(set(_plugins()) - set(BUILT_IN))]


def load(name: str) -> Target:
    """The target called ``name``. Raises TargetError for an unknown one, or a plugin that does not load."""
    if name in BUILT_IN:
        return cast(Target, importlib.import_module(BUILT_IN[name]))
    plugin = _plugins().get(name)
    if plugin is None:
        raise TargetError(f"There is no target {name!r}. There are: {', '.join(names())}.")
    try:
        target = plugin.load()
    except Exception as problem:  # A plugin is anybody's code.
        raise TargetError(f"The target {name!r} ({plugin.value}) cannot be imported: {problem!r}.") from problem
    if missing := [attribute for attribute in REQUIRED if not hasattr(target, attribute)]:
        raise TargetError(f"The target {name!r} ({plugin.value}) is not whole: it lacks {', '.join(missing)}.")
    return cast(Target, target)


def select(patterns: Sequence[str] = ()) -> list[Artifact]:
    """The artifacts that ``patterns`` ("tflite", "tflite-int8") name, in the table's order; all when there are none.

    Variants that are made only when asked for must be named themselves.

    Raises:
        TargetError: a pattern names nothing.
    """
    every = [Artifact(name, variant) for name in _usable(patterns) for variant in load(name).VARIANTS]
    usual = [artifact for artifact in every if not load(artifact.target).VARIANTS[artifact.variant].asked]
    if not patterns:
        return usual
    for pattern in patterns:
        if not any(pattern in (artifact.target, artifact.name) for artifact in every):
            raise TargetError(
                f"There is no target {pattern!r}. There are: {', '.join(artifact.name for artifact in every)}."
            )
    wanted = {artifact for artifact in usual if artifact.target in patterns}
    return [artifact for artifact in every if artifact in wanted or artifact.name in patterns]


def suffixes() -> dict[str, str]:
    """How names of files end, and the target that writes such files; where several do, the first."""
    found: dict[str, str] = {}
    for name in _usable(()):
        for suffix in _suffixes(load(name)):
            found.setdefault(suffix, name)
    return found


def target_of(path: Path) -> str | None:
    """The target that writes such files, by how the name ends, or that of what lies in a folder; None for none."""
    known = suffixes()
    longest_first = sorted(known, key=len, reverse=True)  # saved_model.pb is no plain .pb.
    by_name = (suffix for suffix in longest_first if path.name.endswith(suffix))
    within = (suffix for suffix in longest_first if any((path / each / suffix).is_file() for each in (".", "1")))
    suffix = next(by_name, None) or next(within, None)
    return known[suffix] if suffix else None


def claimed(target: Target, path: Path) -> str | None:
    """The variant that the name of a file claims, anybody's file: ``int8`` for model_int8.tflite; None for none."""
    stem = functools.reduce(str.removesuffix, _suffixes(target), path.name)
    words = set(re.split(r"[^a-z0-9]+", stem.lower()))
    for name, variant in target.VARIANTS.items():
        if not name or words & {name, *variant.also}:
            return name
    return None


def _suffixes(target: Target) -> tuple[str, ...]:
    return (target.SUFFIX,) if isinstance(target.SUFFIX, str) else target.SUFFIX


def _usable(patterns: Sequence[str]) -> list[str]:
    """The targets that load; one that does not is an error only for who asks for it by name."""
    usable = []
    for name in names():
        try:
            load(name)
        except TargetError:
            if name in {pattern.split("-")[0] for pattern in patterns}:
                raise
        else:
            usable.append(name)
    return usable


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
