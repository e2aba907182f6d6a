"""What a contract's safety figures promise, and what they do not, in sentences."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping
from typing import Any

from leafport import metrics
from leafport.contract import Safety
from leafport.wording import bound, count, level, listed, percent


def in_words(safety: Safety, figures: Mapping[str, Any] | None = None) -> list[str]:
    """Everything somebody must know before they rely on a model's alarms, a sentence or two each.

    Args:
        figures: ``binary`` of an evaluation.json: how it did on photographs that nothing was chosen on.
    """
    return [*promises(safety, figures), *limits(safety)]


def promises(safety: Safety, figures: Mapping[str, Any] | None = None) -> list[str]:
    """What may be relied on, for photographs like those it was measured on; see ``in_words``."""
    said = [_rule(safety), _chosen(safety), _bound(safety)]
    if safety.not_sure:
        said.append(_band(safety, *safety.not_sure))
    said.append("The model was tuned on the same photographs: it may do a little worse on others.")
    if figures:
        said += _seen(safety, figures)
    return said


def limits(safety: Safety) -> list[str]:
    """What no figure here says."""
    return [
        "These figures hold for photographs like those of the validation split. They say nothing of other cameras, "
        "places, seasons or distances, of several things in one photograph, or of what is none of the model's classes: "
        "it names one of them for whatever it is shown.",
        f"That a photograph is not called {_kind(safety)} does not show that it is not. No single answer is a "
        "permission to eat, touch or trust what was photographed.",
    ]


def positives_needed(required_recall: float, confidence: float, misses: int = 0) -> int | None:
    """How many positive photographs show ``required_recall`` with ``confidence`` although ``misses`` are missed.

    The fewest whose one-sided Clopper-Pearson bound is at least so high; None for a recall of 1, which none show.
    """
    if required_recall >= 1:
        return None

    def shown(n: int) -> float:
        return metrics.clopper_pearson_lower(n - misses, n, confidence)

    enough = next(n for n in (2**power for power in itertools.count()) if n > misses and shown(n) >= required_recall)
    return bisect.bisect_left(range(enough), required_recall, lo=misses + 1, key=shown)


def _kind(safety: Safety) -> str:
    labels = safety.positive_labels
    return labels[0] if len(labels) == 1 else "positive"


def _rule(safety: Safety) -> str:
    labels, threshold = safety.positive_labels, f"{safety.threshold:g} or more"
    if len(labels) == 1:
        return f"A photograph is called {labels[0]} when the model gives {labels[0]} a probability of {threshold}."
    return (
        f"A photograph is called positive when the probabilities of the {len(labels)} positive classes "
        f"({listed(labels)}) add up to {threshold}."
    )


def _chosen(safety: Safety) -> str:
    kind, missed = _kind(safety), round((1 - safety.recall) * safety.positives)
    return (
        f"This threshold was chosen on {safety.positives:,} {kind} and {safety.negatives:,} other photographs of the "
        f"{safety.chosen_on} split. It misses {missed or 'none'} of the {kind} ones, and calls "
        f"{percent(safety.false_alarm_rate)} of the others {kind}."
    )


def _bound(safety: Safety) -> str:
    kind, required = _kind(safety), level(safety.required_recall)
    at_least, confidence = bound(safety.recall_lower_bound), level(safety.confidence)
    if not safety.attained:
        needed = positives_needed(safety.required_recall, safety.confidence)
        cure = "No number of photographs shows that." if needed is None else f"That takes at least {needed:,}."
        return (
            f"A recall of {required} was asked for, and {count(safety.positives, f'{kind} photograph')} cannot show "
            f"it: with {confidence} confidence the threshold that misses none of them finds at least {at_least} of "
            f"{kind} photographs like these, and no threshold promises more. {cure}"
        )
    said = (
        f"With {confidence} confidence at least {at_least} of {kind} photographs like these are called {kind}; "
        f"{required} was asked for."
    )
    needs = (positives_needed(safety.required_recall, safety.confidence, misses) for misses in itertools.count())
    allowed, more = next((misses - 1, n) for misses, n in enumerate(needs) if n is None or n > safety.positives)
    if more is None:
        return said
    misses = count(allowed, "miss", "misses") if allowed else "no miss"
    return (
        f"{said} To promise that, {safety.positives:,} of their kind allow {misses}; "
        f"{more:,} would allow {'one more' if allowed else 'one'}, and a higher threshold with it."
    )


def _band(safety: Safety, low: float, high: float) -> str:
    kind = _kind(safety)
    if safety.not_sure_coverage is None:
        return f'From {low:g} to {high:g} the answer should be "not sure".'
    wrong = level(round(1 - safety.not_sure_coverage, 9))
    average = "on average over the photographs that might have been chosen on (split-conformal prediction)"
    if low == high:
        return (
            f'No photograph needs the answer "not sure": at most {wrong} of {kind} photographs like these and at most '
            f"{wrong} of others are on the wrong side of the threshold, {average}."
        )
    if (low, high) == (0, 1):
        return f'A device with a third answer gives it to every photograph: "not sure".{_enough(safety)}'
    below = f"at most {wrong} of {kind} photographs like these lie below it" if low else "nothing lies below it"
    above = f"at most {wrong} of others above it" if high < 1 else "nothing above it"
    said = f'From {low:g} to {high:g} the answer is "not sure" where a device has one: {below} and {above}, {average}.'
    said += _enough(safety)
    shares = safety.not_sure_share_of_positives, safety.not_sure_share_of_negatives
    if None not in shares:
        said += f" It holds {percent(shares[0])} of the {kind} and {percent(shares[1])} of the other ones chosen on."
    return said


def _enough(safety: Safety) -> str:
    """How many photographs a band with two ends takes, where there were fewer."""
    if safety.not_sure_coverage is None or safety.not_sure_coverage == 1:
        return ""
    enough = math.ceil(safety.not_sure_coverage / (1 - safety.not_sure_coverage) - 1e-9)
    few = min(safety.positives, safety.negatives) < enough
    return f" Surer answers take {enough} photographs or more of each kind." if few else ""


def _seen(safety: Safety, figures: Mapping[str, Any]) -> list[str]:
    kind, recall = _kind(safety), figures["recall"]
    said = []
    if recall is not None:
        missed, positives = round((1 - recall) * figures["positives"]), figures["positives"]
        said.append(
            f"Of {count(positives, f'{kind} photograph')} it was neither trained nor tuned on it misses "
            f"{missed or 'none'}: with {level(safety.confidence)} confidence it finds at least "
            f"{bound(figures['recall_lower_bound'])} of such."
            + (" That is worse than was promised." if recall < safety.recall_lower_bound else "")
        )
    if figures["false_alarm_rate"] is not None:
        said.append(
            f"Of {count(figures['negatives'], 'other photograph')} it was neither trained nor tuned on it calls "
            f"{percent(figures['false_alarm_rate'])} {kind}."
        )
    if band := figures.get("not_sure"):
        said.append(
            f'"Not sure" is the answer for {band["positives"]:,} of these {kind} and {band["negatives"]:,} of these '
            f"other photographs; {band['positives_below'] or 'none'} of the {kind} ones lie below the band, and "
            f"{band['negatives_above'] or 'none'} of the others above it."
        )
    return said
