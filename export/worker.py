"""What runs in a process of its own: each function here is called through ``leafport.process`` with JSON arguments."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leafport import files, images
from leafport.classifier import Classifier
from leafport.contract import Contract
from leafport.errors import ConversionError, VerificationError
from leafport.export import graph
from leafport.export.diagnosis import diagnosis
from leafport.export.graph import ServingGraph
from leafport.export.refitting import refitted
from leafport.targets import registry
from leafport.targets.base import Facts


def prepare(
    run: str,
    out_dir: str,
    golden: list[str],
    reference_photos: list[str],
    truth: list[int],
    reference: str,
    validation_photos: list[str],
    validation: str,
) -> dict[str, Any]:
    """All that needs the Keras model: the serving graph, the golden images, and the answers to compare with.

    ``truth`` has the index of the right label of each reference photograph. Writes ``out_dir/graph/``,
    ``out_dir/golden/``, the array file ``reference`` (see ``save_reference``) and the answers to the validation
    photographs, ``validation`` (float32 [N, classes]). Returns the graph's figures.
    """
    classifier = Classifier.load(run)
    exports = Path(out_dir)
    graph.build(classifier, exports / "graph")
    _write_golden(classifier, [Path(path) for path in golden], exports / "golden")
    pixels = np.concatenate(list(images.batches(map(Path, reference_photos), classifier.contract.image)))
    save_reference(Path(reference), pixels, classifier.predict(pixels), truth)
    none = np.empty((0, len(classifier.contract.labels)), np.float32)  # No threshold, no photographs to fit it to.
    batches = images.batches(map(Path, validation_photos), classifier.contract.image)
    np.save(validation, np.concatenate([none, *map(classifier.predict, batches)]))
    return graph.read_facts(exports / "graph")


def convert(
    target: str,
    variant: str,
    graph_path: str,
    contract: dict[str, Any],
    out_dir: str,
    options: dict[str, Any],
    refit: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write one artifact into ``out_dir``, give it a threshold of its own, open it again, and hold it against its name.

    Args:
        refit: what its threshold is fitted with: the ``answers`` of the classifier to validation ``photographs``, the
            ``truth`` and ``deviations`` (``refitting.refitted``); None leaves it the contract's.

    Returns its path, its facts, and its own safety figures, if any. Raises ConversionError when it is not what its name
    claims.
    """
    module = registry.load(target)
    serving = ServingGraph(Path(graph_path), Contract.from_json(contract))
    settings = module.Options(**options)
    given = [name for name in ("calibration", "validation") if hasattr(settings, name)]
    settings = dataclasses.replace(settings, **{name: tuple(map(Path, getattr(settings, name))) for name in given})
    path = module.convert(serving, variant, Path(out_dir), settings)
    own = _restated(module, path, serving.contract, **refit) if refit else serving.contract
    facts = module.inspect(path)
    refuse_broken_claims(module.broken_claims(variant, facts, own), path.name)
    safety = own.safety.model_dump(mode="json") if own.safety and own != serving.contract else None
    return {"path": str(path), "facts": facts_to_json(facts), "safety": safety}


def _restated(
    module: Any,
    path: Path,
    contract: Contract,
    *,
    photographs: list[str],
    answers: str,
    truth: list[int],
    deviations: float,
) -> Contract:
    """The contract a written file gets when its threshold is fitted to what it answers; it carries it afterwards."""
    runner = module.runner(path, contract, 1)
    found = np.concatenate([runner.predict(batch) for batch in images.batches(map(Path, photographs), contract.image)])
    own = refitted(contract, np.load(answers), found, np.array(truth), deviations=deviations)
    if own != contract:
        module.restate(path, own)
    return own


def inspect(target: str, variant: str, path: str, contract: dict[str, Any]) -> dict[str, Any]:
    """Open a written artifact again: its ``facts``, and in which ways it is not what its name claims (``broken``)."""
    module = registry.load(target)
    facts = module.inspect(Path(path))
    broken = module.broken_claims(variant, facts, Contract.from_json(contract))
    return {"facts": facts_to_json(facts), "broken": broken}


def compare(
    target: str, path: str, contract: dict[str, Any], own: dict[str, Any], reference: str, threads: int
) -> dict[str, Any]:
    """Run a written artifact on the reference's photographs and compare its answers with the classifier's.

    ``contract`` is the classifier's, ``own`` the file's, whose threshold may differ. Returns the fields of
    ``manifest.Verified``. Raises VerificationError when the file answers with something that is no list of
    probabilities.
    """
    terms, file_terms = Contract.from_json(contract), Contract.from_json(own)
    pixels, expected, truth = load_reference(Path(reference))
    runner = registry.load(target).runner(Path(path), terms, threads)
    found = np.concatenate([runner.predict(pixels[start : start + 32]) for start in range(0, len(pixels), 32)])
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise VerificationError(f"{Path(path).name} answers with {found.shape} values, some perhaps not numbers.")
    flips = None
    if terms.safety is not None and file_terms.safety is not None:
        alarm = terms.positive_score(expected).astype(np.float64) >= terms.safety.threshold
        flips = int((alarm & (terms.positive_score(found).astype(np.float64) < file_terms.safety.threshold)).sum())
    return {
        "images": len(expected),
        "top1_agreement": float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "max_abs_diff": float(np.abs(found - expected).max()),
        "flips_to_safe": flips,
        "executed_by": runner.executes,
        "top1": float((found.argmax(axis=1) == truth).mean()) if len(truth) else None,
        "reference_top1": float((expected.argmax(axis=1) == truth).mean()) if len(truth) else None,
        "confidence_drift": float(found.max(axis=1).mean() - expected.max(axis=1).mean()),
        "diagnosis": diagnosis(runner.predict, pixels, expected),
    }


def save_reference(path: Path, pixels: np.ndarray, probabilities: np.ndarray, truth: Sequence[int] = ()) -> None:
    """Keep photographs (uint8 [N, H, W, 3]) with the classifier's probabilities (float32 [N, classes]).

    ``truth`` has the index of the right label of each, or nothing where that is not known.
    """
    with files.staged(path) as staging, staging.open("wb") as stream:
        np.savez(stream, pixels=pixels, probabilities=probabilities, truth=np.array(truth, np.int64))


def load_reference(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What ``save_reference`` kept."""
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["pixels"], arrays["probabilities"], arrays["truth"]


def refuse_broken_claims(broken: list[str], name: str) -> None:
    """Raise ConversionError if there are any."""
    if broken:
        raise ConversionError(f"{name} is not what its name claims: {'; '.join(broken)}.")


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """Facts as JSON values. Labels and contract are left out: they were held against those that stand beside."""
    value = {
        "inputs": [dataclasses.asdict(tensor) for tensor in facts.inputs],
        "outputs": [dataclasses.asdict(tensor) for tensor in facts.outputs],
        "ops": dict(facts.ops),
        "weights": dict(facts.weights),
        "contract_sha256": facts.contract.sha256 if facts.contract else None,
        "parts": dict(facts.parts),
        "metadata": dict(facts.metadata),
        "notes": dict(facts.notes),
    }
    plain: dict[str, Any] = json.loads(json.dumps(value))  # Tuples become lists here, not first in the manifest.
    return plain


def _write_golden(classifier: Classifier, photographs: list[Path], golden: Path) -> None:
    """Photographs as they came, their pixels, and the classifier's answers: what an app checks itself with."""
    pixels = np.stack([images.read(path, classifier.contract.image) for path in photographs])
    answers = classifier.predict(pixels)
    with files.staged(golden) as staging:
        staging.mkdir()
        records = []
        for index, (path, pixel, answer) in enumerate(zip(photographs, pixels, answers, strict=True)):
            photograph = staging / f"{index}{path.suffix.lower()}"
            shutil.copyfile(path, photograph)
            Image.fromarray(pixel).save(staging / f"{index}-pixels.png")
            records.append(
                {
                    "photograph": photograph.name,
                    "sha256": files.sha256(photograph),
                    "pixels": f"{index}-pixels.png",
                    "probabilities": [float(value) for value in answer],
                }
            )
        files.write_json(staging / "golden.json", {"contract_sha256": classifier.contract.sha256, "images": records})
