"""Check an export folder as it lies there: every hash, what each file holds, and whether it still answers rightly.

The golden images travel with the exports, so this needs neither the classifier nor its photographs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from leafport import __version__, files, process
from leafport.contract import Contract
from leafport.errors import LeafportError, ModelError
from leafport.export import gate, manifest, worker
from leafport.export.differences import differences
from leafport.export.manifest import Entry, Manifest, Verified
from leafport.targets import registry


@dataclass(frozen=True)
class Finding:
    """What was found of one file or artifact: ``problem`` is None when all is well."""

    name: str
    problem: str | None
    verified: Verified | None = None


Listener = Callable[[Finding], None]


def verify(exports: Path, *, time_limit_s: float = 1800.0, listener: Listener = lambda finding: None) -> list[Finding]:
    """Check everything the manifest names. A problem with one artifact does not keep the others from being checked.

    Raises:
        ModelError: the folder is not an export folder, or its golden images are damaged.
    """
    state = manifest.read(exports)
    findings: list[Finding] = []

    def found(finding: Finding) -> None:
        findings.append(finding)
        listener(finding)

    found(Finding("contract", _contract_problem(exports, state)))
    beside = {state.graph.path: state.graph.sha256, **state.files}
    for relative, sha256 in beside.items():
        if problem := _hash_problem(exports, relative, sha256):
            found(Finding(relative, problem))
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch) / "golden.npz"
        worker.save_reference(reference, *read_golden(exports, state.contract))
        for name, entry in state.artifacts.items():
            if entry.status == "ok":
                found(_artifact_finding(exports, name, entry, state, reference, time_limit_s))
            elif entry.status == "failed":
                found(Finding(name, f"was not written: {entry.reason}"))
    return findings


def read_golden(exports: Path, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """The golden images' pixels (uint8 [N, H, W, 3]) and the classifier's probabilities (float32 [N, classes]).

    Raises:
        ModelError: they are missing or damaged, or belong to another contract.
    """
    golden = exports / "golden"
    value = files.read_json(golden / "golden.json", error=ModelError)
    try:
        if value["contract_sha256"] != contract.sha256:
            raise ModelError(f"{golden} belongs to another model's contract. Export again.")
        pixels = [_read_pixels(files.inside(golden, record["pixels"])) for record in value["images"]]
        probabilities = np.array([record["probabilities"] for record in value["images"]], np.float32)
        stacked = np.stack(pixels)
    except (KeyError, TypeError, ValueError, OSError) as problem:
        raise ModelError(f"{golden} is damaged: {problem}. Export again.") from None
    expected = (contract.image.height, contract.image.width, 3), (len(contract.labels),)
    if (stacked.shape[1:], probabilities.shape[1:]) != expected:
        raise ModelError(f"{golden} holds images or answers of the wrong size. Export again.")
    return stacked, probabilities


def _read_pixels(path: Path) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB"))


def _contract_problem(exports: Path, state: Manifest) -> str | None:
    if state.contract.sha256 != state.contract_sha256:
        return "the manifest's contract does not have the hash the manifest gives it"
    beside = exports / "contract.json"
    if not beside.is_file() or json.loads(beside.read_text()) != state.contract.to_json():
        return "contract.json is not the manifest's contract"
    labels = exports / "labels.txt"
    if not labels.is_file() or tuple(labels.read_text().splitlines()) != state.contract.labels:
        return "labels.txt is not the contract's list of labels"
    return None


def _hash_problem(exports: Path, relative: str, sha256: str | None) -> str | None:
    path = files.inside(exports, relative)
    if not path.exists():
        return "is missing: export again"
    if files.sha256(path) != sha256:
        return "has changed since it was exported: its hash is not the manifest's"
    return None


def _artifact_finding(
    exports: Path, name: str, entry: Entry, state: Manifest, reference: Path, time_limit_s: float
) -> Finding:
    assert entry.path is not None
    hash_problem = _hash_problem(exports, entry.path, entry.sha256)
    if not (exports / entry.path).exists():
        return Finding(name, hash_problem)
    path, own = str(exports / entry.path), state.contract_of(name).to_json()
    log = Path(reference.parent / f"{name}.log")
    problems, verified = [hash_problem] if hash_problem else [], None
    try:
        variant = registry.load(entry.target).VARIANTS[entry.variant]
        found = process.call(
            "leafport.export.worker:inspect",
            {"target": entry.target, "variant": entry.variant, "path": path, "contract": own},
            log=log,
            time_limit_s=time_limit_s,
        ).value
        if found["broken"]:
            problems.append(f"is not what its name claims: {'; '.join(found['broken'])}")
        known = entry.facts if hash_problem or state.versions.get("leafport") == __version__ else None
        if changed := differences(known or {}, found["facts"]):  # Another leafport may read other facts.
            problems.append(f"is not what was exported: {'; '.join(changed)}")
        if hash_problem:
            return Finding(name, ". It ".join(problems))  # Who knows what it would do: it is not run.
        outcome = process.call(
            "leafport.export.worker:compare",
            {
                "target": entry.target,
                "path": path,
                "contract": state.contract.to_json(),
                "own": own,
                "reference": str(reference),
                "threads": 2,
            },
            log=log,
            time_limit_s=time_limit_s,
        )
        verified = Verified(**outcome.value)
        if problem := gate.problem(name, variant, verified, state.gate):
            problems.append(problem.removeprefix(f"{name} "))
    except LeafportError as error:
        problems.append(f"cannot be checked further: {error}" if problems else str(error))
    return Finding(name, ". It ".join(problems) or None, verified)
