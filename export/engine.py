"""The export: prepare once, then convert, inspect and compare each artifact in processes of its own.

    RUN ─ prepare ─► graph/ golden/ reference ─┬─ convert ─ inspect ─ compare ─► tflite/plants-int8.tflite
                                               ├─ …
                                               └─►                     manifest.json, rewritten after each artifact

An artifact lies at its place only when it was accepted, and the manifest names only what lies at its place. So an
export can be killed at any moment: the next one finds the finished artifacts, and makes the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import leafport
from leafport import classifier, files, process, quantisation
from leafport.contract import Contract
from leafport.errors import LeafportError, ModelError, OutputError, TargetError, VerificationError
from leafport.export import gate, manifest, photographs
from leafport.export.graph import GRAPH_FILE, QUANTISED_FILE
from leafport.export.manifest import CalibrationPoint, Entry, Gate, Manifest, Verified
from leafport.export.photographs import Photographs
from leafport.process import ProcessError
from leafport.targets import registry
from leafport.targets.registry import Artifact
from leafport.training.data.splits import Photo, Splits

WORK = ".work"
LOGS = "logs"
LOCK = ".lock"
VALIDATION = "validation.npy"
BESIDE = ("golden", "labels.txt", "contract.json", "splits.json")
LIBRARIES = [
    "tensorflow",
    "keras",
    "ai-edge-litert",
    "coremltools",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "numpy",
    "pillow",
]


@dataclass(frozen=True)
class Settings:
    """How an export is run.

    Attributes:
        jobs: artifacts made at the same time.
        time_limit_s: wall-clock seconds one conversion or comparison may take.
        memory_limit_bytes: resident memory one of their processes may use; None: four fifths of the machine's.
        calibration_images, comparison_images: photographs used at most, balanced over the classes.
        calibration_curve: other numbers of calibration photographs, with each of which every file that is calibrated is
            made and compared once more, and thrown away.
        alarm_margin: how many times what rounding takes from scores near the threshold a file's own threshold allows
            for (``refitting``); 0 leaves every file the classifier's threshold.
        gate: what is asked of every file.
        options: each target's Options, as field values.
    """

    jobs: int = 2
    time_limit_s: float = 1800.0
    memory_limit_bytes: int | None = None
    calibration_images: int = 140
    comparison_images: int = 300
    calibration_curve: tuple[int, ...] = ()
    alarm_margin: float = 4.0
    gate: Gate = field(default_factory=Gate)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Something worth a line: ``name`` is an artifact's name, or "graph"; ``step`` what happens to it now.

    ``entry`` comes with the last step of an artifact ("done", or "kept" for one already there).
    """

    name: str
    step: str
    entry: Entry | None = None


Listener = Callable[[Event], None]


def export(
    run: Path,
    out: Path,
    patterns: Sequence[str] = (),
    *,
    data: Path | None = None,
    settings: Settings | None = None,
    overwrite: bool = False,
    listener: Listener = lambda event: None,
) -> Manifest:
    """Write a classifier in every form ``patterns`` name ("tflite", "tflite-int8"; all when there are none).

    A failed artifact costs only itself: its entry in the returned manifest says why. One that exists and was made
    from the same inputs is kept.

    Args:
        run: the classifier's folder, with its splits.json.
        out: the export folder, new or from an earlier export of the same classifier.
        data: where the photographs lie, if not where training found them.
        overwrite: replace the exports of another classifier.
        listener: is told what happens, from several threads.

    Raises:
        ModelError, DataError, TargetError, OutputError: before anything is written.
        LeafportError: the serving graph cannot be made.
    """
    settings = settings or Settings()
    contract = classifier.load_contract(run)
    if settings.gate.max_flips is not None and contract.safety is None:
        raise ModelError(f"{run} names no positive labels, so no flips can be counted: leave --max-flips out.")
    identity = manifest.ClassifierRecord(path=str(run.resolve()), sha256=classifier.digest(run))
    artifacts = wanted(run, patterns)
    unavailable = _unavailable(artifacts, explicit=bool(patterns))
    splits = Splits.load(run / "splits.json")
    most = max((settings.calibration_images, *settings.calibration_curve))
    chosen = photographs.choose(splits, data=data, calibration=most, comparison=settings.comparison_images)
    with files.locked(out / LOCK, f"Another export is writing to {out}. Wait for it, or give another --out."):
        state = _existing(out, identity, overwrite)
        engine = _Engine(run, out, contract, splits, chosen, settings, listener)
        current = engine.reuse(state)
        if current is None or any(not engine.is_made(artifact, current) for artifact in artifacts):
            current = engine.prepare(identity, state)
        return engine.make(artifacts, unavailable, current)


@dataclass
class _Engine:
    run: Path
    out: Path
    contract: Contract
    splits: Splits
    chosen: Photographs
    settings: Settings
    listener: Listener
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def work(self) -> Path:
        return self.out / WORK

    def reuse(self, state: Manifest | None) -> Manifest | None:
        """An earlier export's manifest, if its graph and the files beside it still lie there unchanged."""
        if state is None:
            return None
        claimed = {state.graph.path: state.graph.sha256, **state.files}
        for relative, sha256 in claimed.items():
            path = files.inside(self.out, relative)
            if not path.is_file() or files.sha256(path) != sha256:
                return None
        update = {"calibration": self._calibration(), "gate": self.settings.gate, "versions": versions()}
        return state.model_copy(update=update)

    def is_made(self, artifact: Artifact, current: Manifest) -> bool:
        """Whether an artifact lies there already, made from the same inputs."""
        entry = current.artifacts.get(artifact.name)
        return bool(entry and entry.fingerprint == self._fingerprint(artifact, current) and _whole(self.out, entry))

    def prepare(self, identity: manifest.ClassifierRecord, state: Manifest | None) -> Manifest:
        """The serving graph, the golden images and the files beside them; an earlier export's if nothing changed."""
        self.listener(Event("graph", "folding"))
        reference = self.work / "reference.npz"
        files.remove(self.work)
        with files.writable(self.out):
            self.work.mkdir(parents=True)
        facts = self._call(
            "prepare",
            {
                "run": str(self.run),
                "out_dir": str(self.work),
                "golden": self.chosen.paths(self.chosen.golden),
                "reference_photos": self.chosen.paths(self.chosen.comparison),
                "truth": [self.splits.label_index(photo) for photo in self.chosen.comparison],
                "reference": str(reference),
                "validation_photos": self.chosen.paths(self._validating),
                "validation": str(self.work / VALIDATION),
            },
            "prepare",
        ).value
        files.write_text(self.work / "labels.txt", "\n".join(self.contract.labels) + "\n")
        files.write_json(self.work / "contract.json", self.contract.to_json())
        self.splits.save(self.work / "splits.json")
        with files.writable(self.out):
            for name in ("graph", *BESIDE):
                files.move_into_place(self.work / name, self.out / name)
        beside = [path for name in BESIDE for path in files.files_in(self.out / name)]
        beside += [path for path in [self.out / "graph" / QUANTISED_FILE] if path.is_file()]
        current = Manifest(
            contract=self.contract,
            contract_sha256=self.contract.sha256,
            classifier=identity,
            graph=manifest.GraphRecord(
                path=f"graph/{GRAPH_FILE}",
                sha256=files.sha256(self.out / "graph" / GRAPH_FILE),
                nodes_traced=facts["nodes_traced"],
                nodes=facts["nodes"],
                operations=facts["operations"],
            ),
            calibration=self._calibration(),
            gate=self.settings.gate,
            files={path.relative_to(self.out).as_posix(): files.sha256(path) for path in beside},
            versions=versions(),
            artifacts=state.artifacts if state else {},
        )
        current.save(self.out)
        before, after, computing = (f"{facts[key]:,}" for key in ("nodes_traced", "nodes", "operations"))
        self.listener(Event("graph", f"{before} nodes folded into {after}, of which {computing} compute"))
        return current

    def make(self, artifacts: list[Artifact], unavailable: dict[str, str], current: Manifest) -> Manifest:
        """Make every artifact that is not there yet, ``settings.jobs`` at a time, and keep the manifest true."""
        entries = dict(current.artifacts)

        def record(name: str, entry: Entry, step: str = "done") -> None:
            before = entries.get(name)
            if before and before.path and not entry.path:
                files.remove(files.inside(self.out, before.path))
            entries[name] = entry
            order = sorted(entries, key=lambda key: names.index(key) if key in names else -1)
            current.model_copy(update={"artifacts": {key: entries[key] for key in order}}).save(self.out)
            self.listener(Event(name, step, entry))

        names = [artifact.name for artifact in artifacts]
        pending: list[tuple[Artifact, str]] = []
        for artifact in artifacts:
            fingerprint = self._fingerprint(artifact, current)
            if artifact.name in unavailable:
                reason = unavailable[artifact.name]
                record(artifact.name, _entry(artifact, "skipped", fingerprint, reason=reason))
            elif self.is_made(artifact, current):
                record(artifact.name, entries[artifact.name], "kept")
            else:
                pending.append((artifact, fingerprint))
        with ThreadPoolExecutor(max_workers=self.settings.jobs) as pool:
            running: dict[Future[Entry], str] = {
                pool.submit(self._make, artifact, fingerprint): artifact.name for artifact, fingerprint in pending
            }
            try:
                while running:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        record(running.pop(future), future.result())
            except BaseException:
                self.cancel.set()
                pool.shutdown(cancel_futures=True)
                raise
        files.remove(self.work)
        return manifest.read(self.out)

    def _make(self, artifact: Artifact, fingerprint: str) -> Entry:
        """One artifact, from graph to its place; its entry says how it went."""
        (self.out / LOGS / f"{artifact.name}.log").unlink(missing_ok=True)
        staging = self.work / artifact.name
        used: list[process.Outcome] = []
        try:
            staging.mkdir()
            self.listener(Event(artifact.name, "converting"))
            used.append(self._call("convert", self._conversion(artifact, staging), artifact.name))
            written = Path(used[0].value["path"])
            if not written.resolve().is_relative_to(staging.resolve()) or not written.exists():
                raise VerificationError(f"the target says it wrote {written}, which is not in the folder it was given")
            self.listener(Event(artifact.name, "comparing"))
            safety = used[0].value["safety"]
            used.append(self._call("compare", self._comparison(artifact, written, safety), artifact.name))
            verified = Verified(**used[1].value)
            self._accept(artifact, verified)
            curve = self._curve(artifact, staging)
            place = self.out / artifact.target / written.name
            place.parent.mkdir(exist_ok=True)
            with files.writable(place):
                files.move_into_place(written, place)
            return _entry(
                artifact,
                "ok",
                fingerprint,
                path=place.relative_to(self.out).as_posix(),
                bytes=files.size_bytes(place),
                sha256=files.sha256(place),
                seconds=round(used[0].seconds, 3),
                peak_rss_bytes=max(outcome.peak_rss_bytes for outcome in used),
                facts=used[0].value["facts"],
                safety=safety,
                verified=verified,
                calibration_curve=curve,
            )
        except LeafportError as problem:
            cost = (
                {"seconds": round(problem.seconds, 3), "peak_rss_bytes": problem.peak_rss_bytes}
                if isinstance(problem, ProcessError)
                else {}
            )
            return _entry(artifact, "failed", fingerprint, reason=str(problem), **cost)
        finally:
            files.remove(staging)

    def _curve(self, artifact: Artifact, staging: Path) -> tuple[CalibrationPoint, ...]:
        """The same artifact calibrated on other numbers of photographs, and what it answers then."""
        variant = registry.load(artifact.target).VARIANTS[artifact.variant]
        calibrated = "calibration" in photographs_taken(artifact.target) and variant.refit
        if not calibrated or variant.learned or variant.asked:
            return ()
        points = []
        for count in self.settings.calibration_curve:
            folder = staging / f"calibrated-{count}"
            folder.mkdir()
            self.listener(Event(artifact.name, f"calibrating on {count}"))
            made = self._call("convert", self._conversion(artifact, folder, count) | {"refit": None}, artifact.name)
            found = self._call(
                "compare", self._comparison(artifact, Path(made.value["path"]), None), artifact.name
            ).value
            files.remove(folder)
            images = len(self._calibrating(count))
            points.append(CalibrationPoint(images=images, top1_agreement=found["top1_agreement"], top1=found["top1"]))
        return tuple(points)

    def _calibrating(self, count: int | None = None) -> tuple[Photo, ...]:
        """The photographs to calibrate on, or so many of them."""
        return self.chosen.calibration[: self.settings.calibration_images if count is None else count]

    def _call(self, function: str, arguments: dict[str, Any], log: str) -> process.Outcome:
        return process.call(
            f"leafport.export.worker:{function}",
            arguments,
            log=self.out / LOGS / f"{log}.log",
            time_limit_s=self.settings.time_limit_s,
            memory_limit_bytes=self.settings.memory_limit_bytes or int(psutil.virtual_memory().total * 0.8),
            cancel=self.cancel,
        )

    def _conversion(self, artifact: Artifact, staging: Path, count: int | None = None) -> dict[str, Any]:
        options = dict(self.settings.options.get(artifact.target, {}))
        taken = photographs_taken(artifact.target)
        if "calibration" in taken:
            options["calibration"] = self.chosen.paths(self._calibrating(count))
        if "validation" in taken:
            options["validation"] = self.chosen.paths(self.chosen.validation)
        return {
            "target": artifact.target,
            "variant": artifact.variant,
            "graph_path": str(self.out / "graph" / GRAPH_FILE),
            "contract": self.contract.to_json(),
            "out_dir": str(staging),
            "options": options,
            "refit": self._refit(artifact),
        }

    @property
    def _validating(self) -> tuple[Photo, ...]:
        """The photographs that thresholds are fitted to; none where there is no threshold."""
        return self.chosen.validation if self.contract.safety else ()

    def _refit(self, artifact: Artifact) -> dict[str, Any] | None:
        """What a file's own threshold is fitted with; None where it keeps the classifier's."""
        variant = registry.load(artifact.target).VARIANTS[artifact.variant]
        if not variant.refit or not self.settings.alarm_margin or not self._validating:
            return None
        return {
            "photographs": self.chosen.paths(self._validating),
            "answers": str(self.work / VALIDATION),
            "truth": [self.splits.label_index(photo) for photo in self._validating],
            "deviations": self.settings.alarm_margin,
        }

    def _comparison(self, artifact: Artifact, written: Path, safety: dict[str, Any] | None) -> dict[str, Any]:
        contract = self.contract.to_json()
        return {
            "target": artifact.target,
            "path": str(written),
            "contract": contract,
            "own": {**contract, "safety": safety} if safety else contract,
            "reference": str(self.work / "reference.npz"),
            "threads": max(1, (psutil.cpu_count() or 1) // self.settings.jobs),
        }

    def _calibration(self) -> manifest.Calibration:
        photos = self._calibrating()
        return manifest.Calibration(
            images=len(photos),
            classes=len({photo.folder for photo in photos}),
            of_classes=len(self.splits.folders),
            sha256=photographs.list_sha256(photos),
        )

    def _accept(self, artifact: Artifact, verified: Verified) -> None:
        variant = registry.load(artifact.target).VARIANTS[artifact.variant]
        if problem := gate.problem(artifact.name, variant, verified, self.settings.gate):
            raise VerificationError(problem)

    def _fingerprint(self, artifact: Artifact, current: Manifest) -> str:
        """A hash of all an artifact is made from: equal fingerprints, nothing to do."""
        calibrated = "calibration" in photographs_taken(artifact.target)
        return files.sha256_json(
            {
                "artifact": [artifact.target, artifact.variant],
                "graph": [current.graph.sha256, current.files.get(f"graph/{QUANTISED_FILE}")],
                "contract": current.contract_sha256,
                "options": dict(self.settings.options.get(artifact.target, {})),
                "calibration": current.calibration.sha256 if calibrated and current.calibration else None,
                "comparison": photographs.list_sha256(self.chosen.comparison),
                "gate": self.settings.gate.model_dump(),
                "refit": [self.settings.alarm_margin, photographs.list_sha256(self.chosen.validation)],
                "curve": list(self.settings.calibration_curve),
                "versions": current.versions,
            }
        )


def photographs_taken(target: str) -> set[str]:
    """Which photographs a target's Options ask for: to calibrate on, to choose by."""
    return {field.name for field in dataclasses.fields(registry.load(target).Options)} & {"calibration", "validation"}


def versions() -> dict[str, str]:
    """What made the files: leafport, Python and the converters that are installed."""
    found = {"leafport": leafport.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def wanted(run: Path, patterns: Sequence[str] = ()) -> list[Artifact]:
    """The artifacts that ``patterns`` ask for, but those for which ``run`` would have had to learn to be rounded.

    Raises:
        TargetError: a pattern names nothing, or one of these.
    """
    found = registry.select(list(patterns))
    if (run / quantisation.FILE).is_file():
        return found
    takes = {artifact for artifact in found if registry.load(artifact.target).VARIANTS[artifact.variant].learned}
    if named := [artifact.name for artifact in takes if artifact.name in patterns]:
        raise TargetError(
            f"{', '.join(named)} cannot be written: this classifier has not learned to be rounded. Let it, with "
            "leafport train --from RUN --qat, or leave that target."
        )
    return [artifact for artifact in found if artifact not in takes]


def _unavailable(artifacts: list[Artifact], *, explicit: bool) -> dict[str, str]:
    """Why artifacts cannot be made here. Raises TargetError when the user asked for one of them by name."""
    reasons = {}
    for artifact in artifacts:
        if reason := registry.load(artifact.target).available(artifact.variant):
            reasons[artifact.name] = reason
    if explicit and reasons:
        raise TargetError("; ".join(f"{name} cannot be written here: {reason}" for name, reason in reasons.items()))
    return reasons


def _existing(out: Path, identity: manifest.ClassifierRecord, overwrite: bool) -> Manifest | None:
    """An earlier export of the same classifier in ``out``, to go on with; None for a new folder.

    Raises:
        OutputError: ``out`` holds something else.
    """
    if (out / manifest.FILE).is_file():
        state = manifest.read(out)
        if state.classifier.sha256 == identity.sha256:
            return state
        if not overwrite:
            raise OutputError(
                f"{out} holds exports of another classifier ({state.classifier.path}). "
                "Give another --out, or --overwrite to replace them."
            )
        for name, entry in state.artifacts.items():
            if entry.path:
                files.remove(state.artifact_path(out, name))
        (out / manifest.FILE).unlink()
        return None
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if foreign := sorted(found - {WORK, LOGS, LOCK, "graph", *BESIDE}):
        raise OutputError(f"{out} already holds other files ({', '.join(foreign[:3])}, …). Give a new folder as --out.")
    return None


def _whole(out: Path, entry: Entry) -> bool:
    """Whether an artifact of an earlier export still lies there, unchanged."""
    if entry.status != "ok" or entry.path is None:
        return False
    path = files.inside(out, entry.path)
    return path.exists() and files.sha256(path) == entry.sha256


def _entry(artifact: Artifact, status: Any, fingerprint: str, **fields: Any) -> Entry:
    return Entry(target=artifact.target, variant=artifact.variant, status=status, fingerprint=fingerprint, **fields)
