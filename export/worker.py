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
from leafport.export.graph import ServingGraph
from leafport.targets import registry
from leafport.targets.base import Facts


def prepare(
    run: str, out_dir: str, golden: list[str], reference_photos: list[str], truth: list[int], reference: str
) -> dict[str, Any]:
    """All that needs the Keras model: the serving graph, the golden images, and the answers to compare with.

    ``truth`` has the index of the right label of each reference photograph. Writes ``out_dir/graph/``,
    ``out_dir/golden/`` and the array file ``reference`` (see ``save_reference``). Returns the graph's figures.
    """
    classifier = Classifier.load(run)
    exports = Path(out_dir)
    graph.build(classifier, exports / "graph")
    _write_golden(classifier, [Path(path) for path in golden], exports / "golden")
    pixels = np.concatenate(list(images.batches(map(Path, reference_photos), classifier.contract.image)))
    save_reference(Path(reference), pixels, classifier.predict(pixels), truth)
    return graph.read_facts(exports / "graph")


def convert(
    target: str, variant: str, graph_path: str, contract: dict[str, Any], out_dir: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Write one artifact into ``out_dir``, open it again, and hold it against its name.

    Returns its path and facts. Raises ConversionError when it is not what its name claims.
    """
    module = registry.load(target)
    serving = ServingGraph(Path(graph_path), Contract.from_json(contract))
    settings = module.Options(**options)
    if hasattr(settings, "calibration"):
        settings = dataclasses.replace(settings, calibration=tuple(map(Path, settings.calibration)))
    path = module.convert(serving, variant, Path(out_dir), settings)
    facts = module.inspect(path)
    refuse_broken_claims(module.broken_claims(variant, facts, serving.contract), path.name)
    return {"path": str(path), "facts": facts_to_json(facts)}


def inspect(target: str, variant: str, path: str, contract: dict[str, Any]) -> dict[str, Any]:
    """Open a written artifact again and hold it against its name. Raises ConversionError, or returns its facts."""
    module = registry.load(target)
    facts = module.inspect(Path(path))
    refuse_broken_claims(module.broken_claims(variant, facts, Contract.from_json(contract)), Path(path).name)
    return facts_to_json(facts)


def compare(target: str, path: str, contract: dict[str, Any], reference: str, threads: int) -> dict[str, Any]:
    """Run a written artifact on the reference's photographs and compare its answers with the classifier's.

    Returns the fields of ``manifest.Verified``. Raises VerificationError when the file answers with something that
    is no list of probabilities.
    """
    terms = Contract.from_json(contract)
    pixels, expected, truth = load_reference(Path(reference))
    runner = registry.load(target).runner(Path(path), terms, threads)
    found = np.concatenate([runner.predict(pixels[start : start + 32]) for start in range(0, len(pixels), 32)])
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise VerificationError(f"{Path(path).name} answers with {found.shape} values, some perhaps not numbers.")
    flips = None
    if terms.safety is not None:
        threshold = terms.safety.threshold
        flips = int(((terms.positive_score(expected) >= threshold) & (terms.positive_score(found) < threshold)).sum())
    return {
        "images": len(expected),
        "top1_agreement": float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "max_abs_diff": float(np.abs(found - expected).max()),
        "flips_to_safe": flips,
        "executed_by": runner.executes,
        "top1": float((found.argmax(axis=1) == truth).mean()) if len(truth) else None,
        "reference_top1": float((expected.argmax(axis=1) == truth).mean()) if len(truth) else None,
        "confidence_drift": float(found.max(axis=1).mean() - expected.max(axis=1).mean()),
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
