"""Benchmarking an export folder: every artifact measured, one after another, each in a process of its own."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from leafport import classifier as classifiers
from leafport import files, process
from leafport.benchmarks import views
from leafport.benchmarks.accuracy import accuracy, agreement, check
from leafport.benchmarks.machine import machine, versions
from leafport.benchmarks.photographs import Photographs, Progress, choose, decode
from leafport.benchmarks.report import KERAS, Artifact, Calibrated, ContractRecord, Latency, Nodes, Report
from leafport.contract import Contract
from leafport.errors import LeafportError, ModelError, TargetError
from leafport.export import inspection
from leafport.export import manifest as manifests
from leafport.export.inspection import Inspection, Scaling
from leafport.export.manifest import Entry, GraphRecord, Manifest
from leafport.targets import registry
from leafport.training.data.splits import Splits

LOG_FILE = "bench.log"
SPLITS_FILE = "splits.json"
TIME_LIMIT_S = 3600.0


def bench(
    source: Path,
    data: Path | None,
    out: Path,
    *,
    threads: int = 1,
    artifacts: Sequence[str] = (),
    limit: int | None = None,
    classifier: Path | None = None,
    peers: Sequence[Path] = (),
    labels: Path | None = None,
    scaling: Scaling | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Measure the artifacts of an export folder beside their classifier, or one file; write report.json, .md, .html.

    Args:
        source: what ``leafport export`` wrote, or any model file.
        data: photographs in class folders; those the model has seen in training are left out. None: its test split.
        out: the folder to write the report and ``bench.log`` into.
        threads: the number of threads every runtime may use.
        artifacts: targets or artifacts to measure ("tflite", "onnx-float32"); all when empty.
        limit: use at most so many photographs, the classes as even as they can be.
        classifier: the classifier's folder, where it is no longer where the manifest says.
        peers: other files with the same labels, to be measured beside them.
        labels, scaling: what a single file, or a peer, does not say itself; see ``inspection.Inspection``.
        time_limit_s: seconds after which an artifact's process is ended.
        progress: called with (what is being done, done, in all).

    Raises:
        ModelError: not an export folder, or not the classifier it was made from; a file that cannot be run.
        TargetError: ``artifacts`` names none that is there.
        DataError: no photographs to judge by, or a folder of another class.
        OutputError: ``out`` cannot be written to.
    """
    if (source / manifests.FILE).is_file() or (source.is_dir() and registry.target_of(source) is None):
        subject = exported(source, artifacts, classifier)
    else:
        subject = _lone(source, labels, scaling)
    contract = subject.contract
    photographs = choose(data, subject.splits, contract, limit=limit, progress=progress)
    with files.writable(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / LOG_FILE).write_text("")
    with tempfile.TemporaryDirectory(prefix="leafport-bench-") as folder:
        work = _Work(contract, photographs, Path(folder), out / LOG_FILE, threads, time_limit_s)
        decode(photographs.paths, contract.image, work.images, progress=progress)
        here = machine()
        candidates = [*subject.candidates, *(_peer(path, contract, scaling) for path in peers)]
        rows = []
        for done, candidate in enumerate(candidates):
            progress(f"Measuring {candidate.head['name']}", done, len(candidates))
            rows.append(work.row(candidate))
        progress("Measured", len(rows), len(rows))
    report = Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=here,
        versions=versions(),
        contract=ContractRecord.of(contract),
        data=photographs.data,
        threads=threads,
        artifacts=tuple(rows[: len(subject.candidates)]),
        peers=tuple(rows[len(subject.candidates) :]),
    )
    views.render([report], out)
    return report


@dataclass(frozen=True)
class Candidate:
    """A row to be: its first fields, its file, and what becomes of a pixel before that takes it (None: nothing).

    Without a file the fields say why it has none. ``contract`` is the file's own, where its threshold is.
    """

    head: dict[str, Any]
    path: Path | None
    scaling: Scaling | None = None
    contract: Contract | None = None


@dataclass(frozen=True)
class Subject:
    """What is to be measured; ``splits`` are what the model has seen, None where there is no record of it."""

    contract: Contract
    splits: Splits | None
    candidates: tuple[Candidate, ...]


def exported(exports: Path, artifacts: Sequence[str], classifier: Path | None) -> Subject:
    """An export folder: the Keras model, and every artifact that is asked for."""
    manifest = manifests.read(exports)
    names = _names(manifest, exports, artifacts)
    keras = Candidate({"name": KERAS, "target": KERAS, "variant": ""}, _classifier(manifest, classifier))
    return Subject(
        contract=manifest.contract,
        splits=Splits.load(exports / SPLITS_FILE) if (exports / SPLITS_FILE).is_file() else None,
        candidates=(keras, *(_entry(manifest, exports, name) for name in names)),
    )


def _lone(path: Path, labels: Path | None, scaling: Scaling | None) -> Subject:
    """One file, whoever wrote it. Raises ModelError where its name claims what it does not hold."""
    found = inspection.inspect(path)
    if found.broken:
        raise ModelError(f"{path} is not what its name claims: {'; '.join(found.broken)}.")
    candidate = Candidate(_head(found), path, found.scaling(scaling))
    return Subject(found.contract(labels), None, (candidate,))


def _peer(path: Path, contract: Contract, scaling: Scaling | None) -> Candidate:
    """A file to compare with, fed with the same photographs; one that cannot be says why."""
    try:
        found = inspection.inspect(path)
        if found.broken:
            raise ModelError(f"it is not what its name claims: {'; '.join(found.broken)}")
        found.require(contract)
        carried = found.facts.contract
        own = carried if carried and carried.labels == contract.labels else None
        return Candidate(_head(found), path, found.scaling(None if found.takes_bytes else scaling), own)
    except ModelError as problem:
        head = {"name": path.stem, "target": "", "variant": ""}
        return Candidate({**head, "invalid_reason": _without_paths(str(problem), path.parent)}, None)


def _head(found: Inspection) -> dict[str, Any]:
    """The first fields of a single file's row."""
    sha256 = files.sha256(found.path)
    named = {"name": found.path.stem, "target": found.target, "variant": found.variant or "", "sha256": sha256}
    return {**named, "needs": _needs({"notes": found.facts.notes})}


def _needs(facts: Mapping[str, Any]) -> str | None:
    """The oldest system or runtime that can run a file with such facts; None where they do not say."""
    notes = facts.get("notes", {})
    runtime = notes.get("min_runtime_version")
    return notes.get("minimum_deployment_target") or (f"TFLite {runtime}" if runtime else None)


class _Work:
    """What all measurements of one model share; keeps the Keras model's answers once it has them."""

    def __init__(
        self,
        contract: Contract,
        photographs: Photographs,
        folder: Path,
        log: Path,
        threads: int,
        time_limit_s: float,
    ) -> None:
        self.images = folder / "images.npy"
        self._contract = contract
        self._truth = photographs.truth
        self._answers = folder / "answers.npy"
        self._log = log
        self._threads = threads
        self._time_limit_s = time_limit_s
        self._reference: np.ndarray | None = None

    def row(self, candidate: Candidate) -> Artifact:
        """A candidate's row, with its figures or the reason why it has none."""
        head, path = candidate.head, candidate.path
        if path is None:
            return Artifact(**head, valid=False)
        figures: dict[str, Any] = {}
        try:
            figures |= _sizes(path, keras=head["target"] == KERAS)
            figures |= self._measured(head["target"], path, candidate.scaling, candidate.contract or self._contract)
            return Artifact(**head, **figures, valid=True)
        except (LeafportError, OSError) as problem:
            reason = _without_paths(str(problem), path, self._log.parent, self.images.parent)
            return Artifact(**head, **figures, valid=False, invalid_reason=reason)

    def _measured(self, target: str, path: Path, scaling: Scaling | None, own: Contract) -> dict[str, Any]:
        figures = process.call(
            "leafport.benchmarks.measure:measure",
            {
                "target": target,
                "path": str(path),
                "contract": own.to_json(),
                "scaling": dataclasses.asdict(scaling) if scaling else None,
                "threads": self._threads,
                "images": str(self.images),
                "answers": str(self._answers),
            },
            log=self._log,
            time_limit_s=self._time_limit_s,
            environment=_environment(self._threads),
        ).value
        answers = check(np.load(self._answers), len(self._truth), self._contract)
        if target == KERAS:
            self._reference = answers
        compared = None
        if target != KERAS and self._reference is not None:
            compared = agreement(self._reference, answers, self._truth, self._contract, own)
        return {
            "executes": figures["executes"],
            "accuracy": accuracy(answers, self._truth, own),
            "agreement": compared,
            "latency_ms": _latency(figures),
            "latency_reason": figures["untimed"],
            **{key: figures[key] for key in ("load_ms", "first_ms", "peak_rss_bytes")},
        }


def _entry(manifest: Manifest, exports: Path, name: str) -> Candidate:
    """One artifact of an export folder, as a candidate."""
    entry = manifest.artifacts[name]
    head: dict[str, Any] = {"name": name, "target": entry.target, "variant": entry.variant, "sha256": entry.sha256}
    head["needs"] = _needs(entry.facts or {})
    head["nodes"] = _nodes(entry, manifest.graph)
    head["calibration_curve"] = tuple(Calibrated(**point.model_dump()) for point in entry.calibration_curve)
    if entry.status != "ok":
        return Candidate({**head, "invalid_reason": _without_paths(f"not exported: {entry.reason}", exports)}, None)
    path = manifest.artifact_path(exports, name)
    if not path.exists():
        return Candidate({**head, "invalid_reason": f"{entry.path} is not there any more: export again"}, None)
    if files.sha256(path) != entry.sha256:
        reason = f"{entry.path} is not the file the manifest describes: export again"
        return Candidate({**head, "invalid_reason": reason}, None)
    return Candidate(head, path, contract=manifest.contract_of(name))


def _nodes(entry: Entry, graph: GraphRecord) -> Nodes | None:
    """What became of the nodes of a graph with engines; None for other files."""
    notes = (entry.facts or {}).get("notes", {})
    if not notes.get("engines"):
        return None
    outside = {op: count for op, count in notes["outer_ops"].items() if op not in ("Const", "TRTEngineOp")}
    return Nodes(
        traced=graph.nodes_traced,
        folded=graph.nodes,
        operations=graph.operations,
        engines=notes["engines"],
        in_engines=sum(notes["segment_operations"]),
        outside=sum(outside.values()),
    )


def _names(manifest: Manifest, exports: Path, patterns: Sequence[str]) -> list[str]:
    """The artifacts that ``patterns`` name, in the manifest's order; all that were exported or failed without any."""
    for pattern in patterns:
        if not any(pattern in (name, entry.target) for name, entry in manifest.artifacts.items()):
            there = ", ".join(manifest.artifacts) or "none"
            raise TargetError(f"{exports} holds no artifact {pattern!r}. It holds: {there}.")
    chosen = {
        name: entry for name, entry in manifest.artifacts.items() if not patterns or {name, entry.target} & {*patterns}
    }
    if not chosen:
        raise ModelError(f"{exports} holds no artifacts. Export some: leafport export RUN --out {exports}.")
    return list(chosen)


def _classifier(manifest: Manifest, given: Path | None) -> Path:
    """The folder of the very classifier the artifacts were made from."""
    path = given or Path(manifest.classifier.path)
    if given is None and not path.is_dir():
        raise ModelError(f"The classifier is no longer at {path}. Say where it is: --classifier RUN.")
    classifiers.load_contract(path)
    if classifiers.digest(path) != manifest.classifier.sha256:
        raise ModelError(f"{path} is not the classifier these files were made from. Export again, or give that one.")
    return path


def _sizes(path: Path, *, keras: bool) -> dict[str, int]:
    stored = path / classifiers.MODEL_FILE if keras else path
    return {"size_bytes": files.size_bytes(stored), "zipped_bytes": files.zipped_bytes(stored)}


def _latency(figures: dict[str, Any]) -> Latency | None:
    if not figures["samples_ms"]:
        return None
    median, p90, p99 = (round(float(value), 5) for value in np.percentile(figures["samples_ms"], (50, 90, 99)))
    return Latency(median=median, p90=p90, p99=p99, samples=figures["samples_ms"], warmup=figures["warmup_ms"])


def _environment(threads: int) -> dict[str, str]:
    """Runtimes that take no number of threads as an argument take it from here."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    return {**dict.fromkeys(names, str(threads)), "TF_NUM_INTEROP_THREADS": "1"}


def _without_paths(text: str, *folders: Path) -> str:
    """A reason fit for a report that is passed around: nobody's folders are in it."""
    text = re.sub(r" \(log: .*\)$", f" ({LOG_FILE} has more)", text)
    for folder in sorted((str(folder.absolute()) for folder in (*folders, Path.home())), key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    return re.sub(r"(?<![\w./<])/(?:[^\s/:'\"]+/)+", "", text)
