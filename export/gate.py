"""The gate that every written file must pass: how far its answers may be from the classifier's."""

from __future__ import annotations

import math

from leafport.export.manifest import Gate, Verified
from leafport.targets.base import Variant


def problem(name: str, variant: Variant, verified: Verified, gate: Gate) -> str | None:
    """Why a file does not pass, or None.

    The number of photographs on which it may disagree is rounded up, so that one tie among a few does not condemn it.
    """
    found = [_disagreement(variant, verified, gate.min_agreement), _drop(verified, gate), _flips(verified, gate)]
    reasons = [reason for reason in found if reason]
    if not reasons:
        return None
    if verified.diagnosis:
        return f"{name} {'; it '.join(reasons)}: {verified.diagnosis}."
    advice = "Train longer, calibrate on more photographs, or ask for less knowingly."
    return f"{name} {'; it '.join(reasons)}. {advice} {variant.instead}".rstrip()


def _disagreement(variant: Variant, verified: Verified, min_agreement: float | None) -> str | None:
    least = variant.min_agreement if min_agreement is None else min_agreement
    differ = round((1 - verified.top1_agreement) * verified.images)
    if differ <= math.ceil((1 - least) * verified.images):
        return None
    return (
        f"names another class than the classifier on {differ} of {verified.images} photographs "
        f"({verified.top1_agreement:.1%} agreement, at least {least:.0%} wanted: --min-agreement)"
    )


def _drop(verified: Verified, gate: Gate) -> str | None:
    drop = verified.top1_drop
    if gate.max_drop is None or drop is None or drop <= gate.max_drop + 1e-9:
        return None
    return f"loses {drop * 100:.1f} points of top-1, at most {gate.max_drop * 100:g} allowed (--max-drop)"


def _flips(verified: Verified, gate: Gate) -> str | None:
    flips = verified.flips_to_safe
    if gate.max_flips is None or flips is None or flips <= gate.max_flips:
        return None
    return (
        f"lets {flips} photographs pass that the classifier calls dangerous, "
        f"at most {gate.max_flips} allowed (--max-flips)"
    )
