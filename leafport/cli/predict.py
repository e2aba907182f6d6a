"""leafport predict: classify photographs with a classifier or an exported file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from leafport import classifier, images
from leafport.classifier import Classifier
from leafport.cli import lone_file
from leafport.contract import Contract
from leafport.errors import ImageError
from leafport.export import inspection, manifest
from leafport.export.inspection import Scaling
from leafport.targets import registry


@click.command("predict")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("photographs", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many classes to show.")
@lone_file.labels
@lone_file.scaling
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: Path, photographs: tuple[Path, ...], top: int, labels: Path | None, scaling: Scaling | None, as_json: bool
) -> None:
    """Classify photographs with MODEL: a classifier's folder, or a model file, leafport's or another's."""
    contract, predict = _open(model, labels, scaling)
    answers: list[dict[str, Any]] = []
    for photograph in photographs:
        try:
            probabilities = predict(images.read(photograph, contract.image)[None])
        except ImageError as problem:
            answers.append({"image": str(photograph), "error": str(problem)})
        else:
            answers.append({"image": str(photograph), **interpret(contract, probabilities, top)})
        if not as_json:
            _say(answers[-1])
    if as_json:
        click.echo(json.dumps(answers, indent=2, ensure_ascii=False))
    if any("error" in answer for answer in answers):
        sys.exit(2)


def interpret(contract: Contract, probabilities: np.ndarray, top: int) -> dict[str, Any]:
    """One photograph's answer: its ``top`` classes, and the verdict where the contract has positive labels.

    The verdict is "not sure" inside the contract's not-sure band, else "positive" (dangerous) at its threshold or
    above it, else None: leafport never calls anything safe.
    """
    row = probabilities[0]
    order = np.argsort(-row, kind="stable")[:top]
    answer: dict[str, Any] = {"top": [{"label": contract.labels[i], "probability": float(row[i])} for i in order]}
    if contract.safety is not None:
        safety, score = contract.safety, float(contract.positive_score(probabilities)[0])
        verdict = "positive" if score >= safety.threshold else None
        if safety.unsure(np.array([score])).any():
            verdict = "not sure"
        answer |= {
            "positive_score": score,
            "threshold": safety.threshold,
            "not_sure": list(safety.not_sure) if safety.not_sure else None,
            "verdict": verdict,
        }
    return answer


def _open(model: Path, labels: Path | None, scaling: Scaling | None) -> tuple[Contract, Any]:
    """The contract, and what makes probabilities of photographs."""
    known = _known(model)
    if known and (labels or scaling):
        raise click.UsageError(f"--labels and --scaling are for files that others wrote; {model} knows its own.")
    if known:
        return known
    found = inspection.inspect(model)
    contract = found.contract(labels)
    return contract, inspection.open_runner(found.target, model, contract, 1, found.scaling(scaling)).predict


def _known(model: Path) -> tuple[Contract, Any] | None:
    """The same of a classifier's folder, or of a file where ``leafport export`` wrote it; None for any other file."""
    if (model / classifier.CONTRACT_FILE).is_file():
        loaded = Classifier.load(model)
        return loaded.contract, loaded.predict
    exports = next((parent for parent in model.resolve().parents if (parent / manifest.FILE).is_file()), None)
    if exports is None:
        return None
    state = manifest.read(exports)
    relative = model.resolve().relative_to(exports).as_posix()
    name = next((name for name, entry in state.artifacts.items() if entry.path == relative), None)
    if name is None:
        return None
    contract = state.contract_of(name)
    return contract, registry.load(state.artifacts[name].target).runner(model, contract, 1).predict


def _say(answer: dict[str, Any]) -> None:
    click.secho(answer["image"], bold=True)
    if "error" in answer:
        click.secho(f"  {answer['error']}", fg="red")
        return
    for choice in answer["top"]:
        click.echo(f"  {choice['probability']:6.1%}  {choice['label']}")
    if "verdict" in answer:
        words = {
            "positive": click.style("treat as dangerous", fg="red", bold=True),
            "not sure": click.style("not sure: treat as dangerous", fg="yellow"),
            None: "no alarm, which is no proof: do not eat or touch it on this tool's word",
        }[answer["verdict"]]
        score, band = answer["positive_score"], answer["not_sure"]
        limits = f"not sure from {band[0]:g} to {band[1]:g}" if band else f"dangerous from {answer['threshold']:g}"
        click.echo(f"  score {score:.4g} ({limits}): {words}")
