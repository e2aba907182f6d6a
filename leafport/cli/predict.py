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
from leafport.contract import Contract
from leafport.errors import ImageError, ModelError
from leafport.export import manifest
from leafport.targets import registry


@click.command("predict")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("photographs", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many classes to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: Path, photographs: tuple[Path, ...], top: int, as_json: bool) -> None:
    """Classify photographs with MODEL: a classifier's folder, or an artifact inside an export folder."""
    contract, predict = _open(model)
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


def _open(model: Path) -> tuple[Contract, Any]:
    if (model / classifier.CONTRACT_FILE).is_file():
        loaded = Classifier.load(model)
        return loaded.contract, loaded.predict
    for exports in model.resolve().parents:
        if (exports / manifest.FILE).is_file():
            break
    else:
        raise ModelError(
            f"{model} is neither a classifier's folder nor inside an export folder, so its labels and its image size "
            "are not known. Give RUN, or a file where `leafport export` wrote it."
        )
    state = manifest.read(exports)
    relative = model.resolve().relative_to(exports).as_posix()
    for entry in state.artifacts.values():
        if entry.path == relative:
            runner = registry.load(entry.target).runner(model, state.contract, 1)
            return state.contract, runner.predict
    there = ", ".join(entry.path for entry in state.artifacts.values() if entry.path)
    raise ModelError(f"{model} is not one of the exports in {exports}. They are: {there or 'none'}.")


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
