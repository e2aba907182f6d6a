"""evaluation.html: what an evaluation found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup

from leafport import pages, promise, wording
from leafport.contract import Contract
from leafport.training.evaluation import plots
from leafport.training.evaluation.gallery import Gallery, Picture
from leafport.wording import count, level, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 200
MOST_CONFUSIONS = 16
DESCRIPTIONS = {
    "roc": "The share of dangerous photographs found against the share of false alarms, at every threshold",
    "precision_recall": "The share of alarms that are right against the share of dangerous photographs found",
    "scores": "How the probabilities of danger of dangerous and harmless photographs are spread",
    "reliability": "How often answers are right, against how probable the classifier finds them",
    "confusion": "What photographs of each class were called",
    "loss": "The loss in every epoch of training",
    "accuracy": "The accuracy in every epoch of training",
}


@dataclass(frozen=True)
class Card:
    """One figure to know first: what it is, its value, and what it rests on."""

    question: str
    answer: str
    detail: str
    tone: Literal["good", "plain", "bad"] = "plain"


def html(
    contract: Contract,
    value: Mapping[str, Any],
    matrix: np.ndarray,
    drawn: Mapping[str, Figure],
    galleries: tuple[Gallery | None, Gallery],
    explained: Sequence[Picture] = (),
) -> str:
    """The page.

    Args:
        value: the JSON values of evaluation.json.
        matrix: int [classes, classes], how many photographs of each class (row) were called each class (column).
        drawn: the pictures by name.
        galleries: the missed dangerous photographs, if the contract knows of danger, and the other mistakes.
        explained: photographs with what their answers rest on.
    """
    environment = pages.environment("leafport.training.evaluation")
    environment.filters.update(interval=interval, breakable=breakable)
    several = value.get("test_time_augmentation")
    return environment.get_template("evaluation.html.j2").render(
        contract=contract,
        value=value,
        cards=cards(contract, value),
        lead=lead(contract, value),
        ways=[("asked once", value), *([(f"{len(several['views'])} views averaged", several)] if several else [])],
        several=several,
        promises=promise.promises(contract.safety, value["binary"]) if contract.safety else (),
        limits=promise.limits(contract.safety) if contract.safety else (),
        classes=classes(contract, value, matrix),
        most_classes=MOST_CLASSES,
        confusions=confusions(contract, value),
        pictures={name: plots.svg(figure, name, DESCRIPTIONS[name]) for name, figure in drawn.items()},
        confusion_px=round(110 * drawn["confusion"].get_size_inches()[0]),
        few=len(contract.labels) <= plots.MOST_COUNTED,
        missed=galleries[0],
        mistakes=galleries[1],
        explained=explained,
    )


def lead(contract: Contract, value: Mapping[str, Any]) -> str:
    """The evaluation in a few sentences."""
    said = []
    binary = value.get("binary")
    if binary and binary["positives"]:
        said.append(
            f"Of {count(binary['positives'], 'dangerous photograph')} it has not learned from it misses "
            f"{binary['missed'] or 'none'}."
        )
    if binary and binary["negatives"]:
        said.append(
            f"It calls {percent(binary['false_alarm_rate'])} of {binary['negatives']:,} harmless ones dangerous."
        )
    if contract.task == "class" or not binary:
        said.append(
            f"Its first answer is right for {percent(value['top1'])} of all {value['n']:,}; for others like them, with "
            f"{level(value['confidence'])} confidence, for {interval(value['intervals']['top1'])}."
        )
    elif binary["precision"] is not None:
        alarms = binary["positives"] - binary["missed"] + binary["false_alarms"]
        said.append(f"Of its {count(alarms, 'alarm')} {percent(binary['precision'])} are right.")
    return " ".join(said)


def cards(contract: Contract, value: Mapping[str, Any]) -> list[Card]:
    """The figures to know first; danger before all else."""
    found = []
    binary, sure = value.get("binary"), level(value["confidence"])
    if binary and binary["positives"]:
        hits, between = binary["positives"] - binary["missed"], interval(binary["intervals"]["recall"])
        found.append(
            Card(
                "Dangerous photographs found",
                percent(binary["recall"]),
                f"{hits:,} of {binary['positives']:,}; {between} with {sure} confidence",
                "bad" if binary["missed"] else "good",
            )
        )
    if binary and binary["negatives"]:
        found.append(
            Card(
                "Harmless ones called dangerous",
                percent(binary["false_alarm_rate"]),
                f"{binary['false_alarms']:,} of {binary['negatives']:,}; "
                f"{interval(binary['intervals']['false_alarm_rate'])}",
            )
        )
    if binary and contract.task == "binary" and binary["precision"] is not None:
        alarms = f"{interval(binary['intervals']['precision'])} with {sure} confidence"
        found.append(Card("Alarms that are right", percent(binary["precision"]), alarms))
    for k, question in (
        ()
        if binary and contract.task == "binary"
        else ((1, "Right at the first answer"), (5, "Right among the first five"))
    ):
        if (share := value[f"top{k}"]) is not None:
            detail = f"top-{k}; {interval(value['intervals'][f'top{k}'])}"
            found.append(Card(question, percent(share), detail))
    if (gap := value["expected_calibration_error"]) is not None:
        detail = "how far its probabilities lie from the share of right answers, on average"
        found.append(Card("Calibration error", percent(gap), detail))
    return found


def classes(contract: Contract, value: Mapping[str, Any], matrix: np.ndarray) -> list[dict[str, Any]]:
    """A row for each class, those with the lowest F1 first; those of which nothing is known last."""
    positive = contract.safety.positive_labels if contract.safety else ()
    rows = []
    for index, (label, figures) in enumerate(value["per_class"].items()):
        others = matrix[index].copy()
        others[index] = 0
        most = int(others.argmax())
        taken_for = (contract.labels[most], int(others[most])) if others[most] else None
        rows.append({**figures, "label": label, "dangerous": label in positive, "taken_for": taken_for})
    rows.sort(key=lambda row: (row["f1"] is None, row["f1"], -row["n"]))
    return rows


def confusions(contract: Contract, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most frequent confusions; ``grave`` are those of a dangerous class with a harmless one."""
    dangerous = contract.safety.positive_labels if contract.safety else ()
    return [
        {**pair, "grave": pair["is"] in dangerous and pair["called"] not in dangerous}
        for pair in value["confusions"][:MOST_CONFUSIONS]
    ]


def breakable(name: str) -> Markup:
    """A name that may be broken after its underscores, as folders' names are often long."""
    return Markup("_<wbr>").join(name.split("_"))


def interval(bounds: Sequence[float] | None) -> str:
    """An interval of a share: ``70.6 to 79.2 %``."""
    if bounds is None:
        return wording.NONE
    low, high = (percent(bound) for bound in bounds)
    return f"{low.removesuffix(f'{wording.SPACE}%')} to {high}"
