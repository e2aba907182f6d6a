"""What quantisation-aware training leaves beside a model: the range of every activation that an int8 file rounds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leafport.errors import ModelError

FILE = "quantisation.json"


class Quantisation(BaseModel):
    """The ranges of a network's activations, by the names ``training.fake_quantisation`` gives them.

    The 256 steps of an 8-bit activation go evenly from ``low`` to ``high`` of (low, high); zero lies between them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    ranges: Annotated[dict[str, tuple[float, float]], Field(min_length=1, max_length=100_000)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, (low, high) in self.ranges.items():
            if not low <= 0 <= high or low == high:
                raise ValueError(f"the range of {name}, {low:g} to {high:g}, must have a width and hold zero")
        return self

    @classmethod
    def from_json(cls, value: Any, *, where: str | Path) -> Self:
        """Check and read ranges. Raises ModelError with every fault and ``where`` it was found."""
        try:
            return cls.model_validate(value)
        except ValidationError as problem:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'ranges'}: {e['msg']}" for e in problem.errors()[:5])
            raise ModelError(f"{where} does not hold the ranges of a quantised network ({faults}).") from None

    def scaled(self, name: str, factor: float) -> Self:
        """The same, but that what is called ``name`` became ``factor`` times as large. Raises KeyError."""
        low, high = self.ranges[name]
        if not factor > 0 or not math.isfinite(factor):
            raise ValueError(f"activations cannot become {factor} times as large")
        return self.model_copy(update={"ranges": {**self.ranges, name: (low * factor, high * factor)}})
