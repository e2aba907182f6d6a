"""The report: what was measured of one model's artifacts, on one machine, as data. Tables and pages are views of it.

A report file holds ``{"schema_version": 1, "reports": [...]}``, one report per model and machine, so that files from
several models and devices merge by putting their reports in one list. Every figure has its unit in its name; what was
not measured is null, with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leafport import files
from leafport.contract import Contract, ImageInput, Safety, Task
from leafport.errors import ModelError

JSON_FILE = "report.json"
KERAS = "keras"

Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-1, le=1)]
Milliseconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Machine(_Record):
    """Where it was measured.

    Attributes:
        busy: the share of its processors that other work used just before.
        state: what a board's own tools say of its power mode, clocks and heat.
    """

    cpu: str
    cores: int = Field(ge=1)
    memory_bytes: Count
    os: str
    python: str | None = None
    busy: Share | None = None
    state: tuple[str, ...] = ()


class ContractRecord(_Record):
    """The model: its contract's identity and what a reader of the figures needs of it; ``labels`` is their number."""

    sha256: Sha256
    name: str
    version: str
    task: Task
    labels: int = Field(ge=2)
    image: ImageInput
    safety: Safety | None = None

    @classmethod
    def of(cls, contract: Contract) -> ContractRecord:
        return cls(
            sha256=contract.sha256,
            name=contract.name,
            version=contract.version,
            task=contract.task,
            labels=len(contract.labels),
            image=contract.image,
            safety=contract.safety,
        )


class SkippedPhoto(_Record):
    """A photograph that was not used, its path relative to the data folder."""

    path: str
    reason: str


class Data(_Record):
    """The photographs accuracy was measured on.

    Attributes:
        root: the data folder's own name; where it lay is nobody's business.
        photographs: how many were used.
        sha256: the hash of the sorted list of their content hashes.
        split: ``test`` for those the split set aside; ``unseen`` for all of a folder but what the model has seen;
            ``unknown`` where no record says what it has seen.
        left_out: photographs not used because training or validation saw the same bytes.
        limit: the number of photographs asked for, where fewer than all were.
    """

    root: str
    photographs: int = Field(ge=1)
    sha256: Sha256
    split: Literal["test", "unseen", "unknown"]
    left_out: Count
    limit: int | None = None
    skipped: tuple[SkippedPhoto, ...] = ()


class Accuracy(_Record):
    """Right answers on ``n`` photographs. A top-k that every answer must reach is null.

    The safety figures, from ``threshold`` on, are null where the contract names no positive labels; ``recall``,
    ``precision`` and the others also where they have nothing to divide by. ``not_sure`` is the share of all
    photographs in the contract's not-sure band, null where it has none.
    """

    n: int = Field(ge=1)
    top1: Share
    top3: Share | None = None
    top5: Share | None = None
    threshold: Share | None = None
    positives: Count | None = None
    negatives: Count | None = None
    recall: Share | None = None
    recall_lower_bound: Share | None = None
    precision: Share | None = None
    f1: Share | None = None
    false_alarm_rate: Share | None = None
    not_sure: Share | None = None


class Agreement(_Record):
    """The artifact's answers beside the Keras model's, on the same photographs.

    Attributes:
        top1: the share of photographs on which both name the same class first.
        top1_lost, top1_lost_low, top1_lost_high: by how much the artifact's top-1 is below the Keras model's, a share,
            and its 95 % interval; both saw the same photographs (``metrics.paired_difference``).
        max_abs_diff: the largest difference between two probabilities.
        flips_to_safe: photographs the Keras model calls positive (dangerous) and the artifact does not.
        dangerous_flips: those of them that are positive in truth.
    """

    n: int = Field(ge=1)
    top1: Share
    top1_lost: Difference | None = None
    top1_lost_low: Difference | None = None
    top1_lost_high: Difference | None = None
    max_abs_diff: float = Field(ge=0)
    flips_to_safe: Count | None = None
    dangerous_flips: Count | None = None


class Calibrated(_Record):
    """One point of an artifact's calibration curve."""

    images: Count
    top1_agreement: Share
    top1: Share | None = None


class Nodes(_Record):
    """A graph's nodes on their way to a board.

    Attributes:
        traced, folded: nodes of the frozen graph as it was traced, and folded; constants are nodes too.
        operations: those of the folded graph that are no constants.
        engines: TensorRT engines in the file.
        in_engines: operations within them.
        outside: nodes that TensorFlow itself runs, engines and constants not counted.
    """

    traced: Count
    folded: Count
    operations: Count
    engines: Count
    in_engines: Count
    outside: Count


class Latency(_Record):
    """Milliseconds of single predictions, one photograph each; ``samples`` and ``warmup`` are raw, in order."""

    median: Milliseconds
    p90: Milliseconds
    p99: Milliseconds
    samples: tuple[Milliseconds, ...] = Field(min_length=1)
    warmup: tuple[Milliseconds, ...] = ()


class Artifact(_Record):
    """One row: an artifact, or the Keras model itself (``keras``).

    Attributes:
        executes: what executed it, with its version.
        needs: the oldest system or runtime that can run it, where the file says so: "iOS16", "TFLite 2.3.0".
        size_bytes, zipped_bytes: on disk, and deflated as in an app's package.
        latency_reason: why ``latency_ms`` is null.
        load_ms: opening the artifact once its runtime is imported, median of a few openings.
        first_ms: the first prediction after opening, median of the same openings.
        peak_rss_bytes: the most memory its process held up to the end of the timed predictions: interpreter, runtime,
            model and one photograph at a time.
        calibration_curve: how often a file calibrated on so many photographs would have named the Keras model's class,
            and been right, on the export's comparison photographs; empty where that was not asked.
        nodes: of a graph for TensorRT, what became of its nodes.
        valid: false where it could not be measured, or must not be believed; ``invalid_reason`` says why.
    """

    name: str = Field(min_length=1, max_length=200)
    target: str
    variant: str
    sha256: Sha256 | None = None
    executes: str | None = None
    needs: str | None = None
    size_bytes: Count | None = None
    zipped_bytes: Count | None = None
    accuracy: Accuracy | None = None
    agreement: Agreement | None = None
    latency_ms: Latency | None = None
    latency_reason: str | None = None
    load_ms: Milliseconds | None = None
    first_ms: Milliseconds | None = None
    peak_rss_bytes: Count | None = None
    calibration_curve: tuple[Calibrated, ...] = ()
    nodes: Nodes | None = None
    valid: bool
    invalid_reason: str | None = None

    @model_validator(mode="after")
    def _says_why_not(self) -> Artifact:
        if not self.valid and not self.invalid_reason:
            raise ValueError(f"{self.name} is not valid and does not say why")
        if self.valid and self.latency_ms is None and not self.latency_reason:
            raise ValueError(f"{self.name} has no latency and does not say why")
        return self


class Report(_Record):
    """What was measured of one model's artifacts on one machine; ``peers`` are files of other origin, to compare."""

    created: str
    machine: Machine
    versions: dict[str, str]
    contract: ContractRecord
    data: Data
    threads: int = Field(ge=1)
    peers: tuple[Artifact, ...] = ()
    artifacts: tuple[Artifact, ...] = Field(min_length=1)

    @property
    def rows(self) -> tuple[Artifact, ...]:
        """All that was measured: the artifacts, then the peers."""
        return (*self.artifacts, *self.peers)

    @property
    def keras(self) -> Artifact | None:
        """The Keras model's own row, where it was measured."""
        return next((row for row in self.artifacts if row.name == KERAS and row.valid), None)


class _File(_Record):
    schema_version: Literal[1] = 1
    reports: tuple[Report, ...] = Field(min_length=1)


def to_json(reports: Sequence[Report]) -> dict[str, Any]:
    """The JSON value of a report file."""
    return _File(reports=tuple(reports)).model_dump(mode="json")


def write(path: Path, reports: Sequence[Report]) -> None:
    """Write a report file, whole or not at all. Raises OutputError."""
    files.write_json(path, to_json(reports))


def read(path: Path) -> tuple[Report, ...]:
    """The reports of a report file. Raises ModelError when it is missing, damaged, or of another schema."""
    try:
        return _File.model_validate(files.read_json(path, error=ModelError)).reports
    except ValidationError as problem:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors()[:5])
        raise ModelError(f"{path} is not a report leafport wrote ({faults}).") from None


def read_all(paths: Iterable[Path]) -> tuple[Report, ...]:
    """The reports of several files in order, each once. Raises ModelError."""
    return tuple({files.sha256_json(r.model_dump(mode="json")): r for path in paths for r in read(path)}.values())
