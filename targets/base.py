"""The shape of a target: five functions and five names in a module, no class to inherit.

To add a target, write a module with these names and register it: a row in ``registry.BUILT_IN``, or, from another
distribution, an entry point in the group ``leafport.targets``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from leafport.contract import Contract

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph


@dataclass(frozen=True)
class Variant:
    """One precision of a target.

    Attributes:
        summary: what it is, in a line for people.
        min_agreement: the least share of photographs on which its top class must equal the classifier's for the
            artifact to be accepted. Exact arithmetic leaves ties to rounding only, hence 0.99.
        also: other words by which names of files, not only leafport's, claim to be of this variant.
        learned: whether it takes a classifier that has learned to be rounded (``leafport train --qat``).
        refit: whether it rounds so far that its scores move, and it gets a threshold of its own. Its target then has a
            function ``restate(path, contract)``, which puts another contract into a written file.
        asked: whether it is made only when it is asked for by its own name.
        instead: what to try where it does not pass the gate.
    """

    summary: str
    min_agreement: float = 0.99
    also: tuple[str, ...] = ()
    learned: bool = False
    refit: bool = False
    asked: bool = False
    instead: str = ""


@dataclass(frozen=True)
class TensorFacts:
    """One input or output of a written file. ``scale`` and ``zero_point`` are set where it is quantised."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Facts:
    """What a file really holds, found by opening it again.

    Attributes:
        ops: how often each operation occurs, under the format's own names.
        weights: number of weight values stored in each dtype ("float32", "float16", "int8", ...).
        labels: the labels in order, where the file carries them.
        contract: the contract the file carries, where it carries one.
        parts: the constants it calculates with, by the format's own names, as ``part`` gives them.
        metadata: other text the file carries (author, licence, version, description, ...).
        notes: figures peculiar to the format, such as node and engine counts.
    """

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    ops: Mapping[str, int]
    weights: Mapping[str, int]
    labels: tuple[str, ...] | None = None
    contract: Contract | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    """Executes one artifact on this host.

    Attributes:
        executes: what runs the file, with its version: "LiteRT 2.3.0", "reference evaluator (not Core ML)".
        untimed: None where this is the runtime a device would use, so that its latency means something;
            otherwise why latency is not measured here.
    """

    @property
    def executes(self) -> str: ...

    @property
    def untimed(self) -> str | None: ...

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (float32 [N, classes]) of images (uint8 [N, H, W, 3], RGB)."""
        ...


class Options(Protocol):
    """A target's settings: a frozen dataclass. Fields made with ``option`` become flags of ``leafport export``.

    Fields called ``calibration`` and ``validation`` (tuples of paths of photographs, from these splits) are filled by
    the export engine and are no flags.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class Target(Protocol):
    """What a module must have to be a target. ``SUFFIX`` is how names of its files end, or of a folder's main file.

    Where there are several endings it is a tuple of them.
    """

    NAME: str
    SUFFIX: str | tuple[str, ...]
    VARIANTS: Mapping[str, Variant]
    RUNTIME: str
    Options: Any

    def available(self, variant: str) -> str | None:
        """None if ``variant`` can be written here, or why not and what to install."""
        ...

    def convert(self, graph: ServingGraph, variant: str, out_dir: Path, options: Any) -> Path:
        """Write the artifact into ``out_dir`` and return its path. The only place that calls the format's library.

        Raises:
            ConversionError: the format cannot express the graph.
        """
        ...

    def inspect(self, path: Path) -> Facts:
        """Open a written file again. Raises ModelError when it is not what this target writes, or damaged."""
        ...

    def broken_claims(self, variant: str, facts: Facts, contract: Contract | None) -> list[str]:
        """Why the file is not what its name claims, one sentence each; empty when it is.

        Without a contract, for a file made elsewhere, what only a contract demands is not asked of it.
        """
        ...

    def runner(self, path: Path, contract: Contract, threads: int) -> Runner:
        """Open a written file for execution. Raises TargetError where no runtime for it is installed."""
        ...


def option(default: Any, help: str) -> Any:
    """A field of a target's Options that the command line shows as a flag."""
    return field(default=default, metadata={"help": help})


def part(value: np.ndarray) -> str:
    """A constant in few words, so that another one is told from it: its value if it is a single one, else a hash."""
    if value.size == 1 and value.dtype.kind in "fiub":
        return f"{value.item():.7g}"
    return f"{value.dtype} {list(value.shape)} {fingerprint(value.tobytes())}"


def fingerprint(data: bytes) -> str:
    """A short hash, by which people tell one constant from another."""
    return hashlib.sha256(data).hexdigest()[:12]


def carried_claims(facts: Facts, contract: Contract | None) -> list[str]:
    """The broken claims every format shares: labels and contract, where a file carries them, must be the model's."""
    if contract is None:
        return []
    broken = []
    if facts.labels is not None and facts.labels != contract.labels:
        place, found, wanted = next(
            (place, found, wanted)
            for place, (found, wanted) in enumerate(itertools.zip_longest(facts.labels, contract.labels))
            if found != wanted
        )
        broken.append(
            f"its {len(facts.labels)} labels are not the contract's {len(contract.labels)} in order: "
            f"number {place} is {found!r}, not {wanted!r}"
        )
    if facts.contract is not None and facts.contract.sha256 != contract.sha256:
        broken.append("it carries another model's contract")
    return broken
