"""The manifest: what an export folder holds, how each file came about, and the hashes that let anyone check it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leafport import files
from leafport.contract import Contract, Safety
from leafport.errors import ModelError

FILE = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gate(_Record):
    """What is asked of a file, on the photographs it is compared on.

    Attributes:
        min_agreement: the share on which its top class must be the classifier's; None: each variant's own.
        max_drop: the most top-1 accuracy it may lose, as a share; None: any.
        max_flips: the most photographs it may let pass that the classifier calls positive (dangerous); None: any.
    """

    min_agreement: float | None = None
    max_drop: float | None = None
    max_flips: int | None = None


class Verified(_Record):
    """How a written file's answers compare with the classifier's on the same photographs.

    Attributes:
        flips_to_safe: photographs the classifier calls positive (poisonous) at its threshold and the file, at its own,
            does not; None where the contract names no positive labels.
        top1, reference_top1: how often the file and the classifier are right; None where the truth is not known.
        confidence_drift: by how much the file is surer of its top class than the classifier is of its own, on average.
        diagnosis: what explains answers that are far from the classifier's, where something does.
    """

    images: int
    top1_agreement: float
    max_abs_diff: float
    flips_to_safe: int | None
    executed_by: str
    top1: float | None = None
    reference_top1: float | None = None
    confidence_drift: float | None = None
    diagnosis: str | None = None

    @property
    def top1_drop(self) -> float | None:
        """The accuracy that the file has lost, as a share; None where the truth is not known."""
        return None if self.top1 is None or self.reference_top1 is None else self.reference_top1 - self.top1


class CalibrationPoint(_Record):
    """What a file would be that was calibrated on so many photographs; compared as it stands, at no threshold."""

    images: int
    top1_agreement: float
    top1: float | None = None


class Entry(_Record):
    """One artifact. ``path`` is relative to the manifest's folder; ``fingerprint`` hashes all it was made from.

    ``safety`` is the file's own, where it rounds and got a threshold of its own; else the contract's holds.
    ``calibration_curve`` says what other numbers of calibration photographs would have made of it, if that was asked.
    """

    target: str
    variant: str
    status: Literal["ok", "failed", "skipped"]
    reason: str | None = None
    path: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    seconds: float | None = None
    peak_rss_bytes: int | None = None
    facts: dict[str, Any] | None = None
    safety: Safety | None = None
    verified: Verified | None = None
    calibration_curve: tuple[CalibrationPoint, ...] = ()
    fingerprint: str


class ClassifierRecord(_Record):
    """The classifier everything was made from; ``path`` is where it lay."""

    path: str
    sha256: str


class GraphRecord(_Record):
    """The serving graph; node counts before and after folding, and how many of the latter are no constants."""

    path: str
    sha256: str
    nodes_traced: int
    nodes: int
    operations: int


class Calibration(_Record):
    """The photographs quantisation was calibrated on: how many, of which split, and the hash of their list.

    ``classes`` of the ``of_classes`` class folders are among them.
    """

    images: int
    classes: int | None = None
    of_classes: int | None = None
    split: Literal["train"] = "train"
    sha256: str


class Manifest(_Record):
    """Everything about one export folder."""

    schema_version: Literal[1] = 1
    contract: Contract
    contract_sha256: str
    classifier: ClassifierRecord
    graph: GraphRecord
    calibration: Calibration | None = None
    gate: Gate = Gate()
    files: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str]
    artifacts: dict[str, Entry] = Field(default_factory=dict)

    def save(self, exports: Path) -> None:
        """Write ``manifest.json`` into the export folder, whole or not at all."""
        files.write_json(exports / FILE, self.model_dump(mode="json"))

    def contract_of(self, name: str) -> Contract:
        """The contract of the artifact ``name``, which carries it: the classifier's, but perhaps for the threshold."""
        own = self.artifacts[name].safety
        return self.contract.model_copy(update={"safety": own}) if own else self.contract

    def artifact_path(self, exports: Path, name: str) -> Path:
        """Where the artifact ``name`` lies. Raises UserError for one that was not written, or leads outside."""
        entry = self.artifacts.get(name)
        if entry is None or entry.path is None:
            there = ", ".join(key for key, value in self.artifacts.items() if value.path)
            raise ModelError(f"{exports} holds no artifact {name!r}. It holds: {there or 'none'}.")
        return files.inside(exports, entry.path)


def read(exports: Path) -> Manifest:
    """Read an export folder's manifest. Raises ModelError when there is none or it is not valid."""
    path = exports / FILE
    if not path.is_file():
        raise ModelError(f"{exports} holds no {FILE}: it is not an export. Give the folder `leafport export` wrote.")
    try:
        return Manifest.model_validate(files.read_json(path, error=ModelError))
    except ValidationError as problem:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors()[:5])
        raise ModelError(f"{path} is not a manifest leafport wrote ({faults}).") from None
