from __future__ import annotations

import re

import pytest

from leafport.export import gate
from leafport.export.manifest import Gate, Verified
from leafport.targets.base import Variant

VARIANT = Variant("8-bit", min_agreement=0.9)


def verified(agreement: float = 1.0, top1: float | None = 0.75, flips: int | None = 0, images: int = 200) -> Verified:
    return Verified(
        images=images,
        top1_agreement=agreement,
        max_abs_diff=0.1,
        flips_to_safe=flips,
        executed_by="LiteRT",
        top1=top1,
        reference_top1=None if top1 is None else 0.76,
    )


@pytest.mark.parametrize(
    ("found", "asked", "reason"),
    [
        (verified(), Gate(), None),
        (verified(0.9), Gate(), None),
        (verified(0.89), Gate(), r"another class .* on 22 of 200 .*89.0% agreement, at least 90% wanted: --min-agree"),
        (verified(0.89), Gate(min_agreement=0.8), None),
        (verified(0.98), Gate(min_agreement=0.99), "at least 99% wanted"),
        (verified(0.5, images=3), Gate(min_agreement=0.66), None),
        (verified(), Gate(max_drop=0.01), None),
        (verified(), Gate(max_drop=0.009), r"loses 1\.0 points of top-1, at most 0\.9 allowed \(--max-drop\)"),
        (verified(top1=0.9), Gate(max_drop=0.0), None),
        (verified(top1=None), Gate(max_drop=0.0), None),
        (verified(flips=2), Gate(), None),
        (verified(flips=2), Gate(max_flips=2), None),
        (verified(flips=2), Gate(max_flips=1), r"lets 2 photographs pass .* at most 1 allowed \(--max-flips\)"),
        (verified(0.5, flips=2), Gate(max_drop=0.0, max_flips=0), r"another class.*; it loses 1\.0.*; it lets 2"),
    ],
)
def test_what_passes(found: Verified, asked: Gate, reason: str | None) -> None:
    said = gate.problem("tflite-int8", VARIANT, found, asked)
    if reason is None:
        assert said is None
    else:
        assert said is not None
        assert re.search(reason, said), said
