"""What a device must know to use a model rightly: its pixels, its labels, and when to answer "poisonous".

The contract is written once, by training. Everything else (TFLite and Core ML metadata, the manifest, the constants
of the sample apps) is rendered from it, and carries its hash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from leafport import files
from leafport.errors import ModelError

Fit = Literal["squash", "crop"]
Kernel = Literal["nearest", "bilinear", "bicubic", "area"]
Task = Literal["class", "binary"]
Probability = Annotated[float, Field(ge=0, le=1)]

_ADDED_LATER = ("not_sure_coverage", "not_sure_share_of_positives", "not_sure_share_of_negatives", "locale")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _to_json(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what older contracts do not say: their hashes stay, and with them the files that carry them."""
        value: dict[str, Any] = handler(self)
        return {name: each for name, each in value.items() if each is not None or name not in _ADDED_LATER}


class ImageInput(_Frozen):
    """How a photograph becomes the model's input.

    The model takes RGB values 0..255, row by row from the top left, of the photograph turned upright (EXIF); any
    scaling or mean is inside the model. ``squash`` resizes the whole photograph, ``crop`` its largest centred part
    of the input's shape (whole pixels, rounded down). With ``antialias`` the kernel is widened when shrinking, as
    Pillow does; without, it samples a fixed neighbourhood, as most phone APIs do. Samples lie at pixel centres.
    """

    height: int = Field(ge=8, le=4096)
    width: int = Field(ge=8, le=4096)
    fit: Fit = "squash"
    kernel: Kernel = "bilinear"
    antialias: bool = True
    channels: Literal["RGB"] = "RGB"
    value_range: tuple[Literal[0], Literal[255]] = (0, 255)
    exif: Literal["applied"] = "applied"
    alpha: Literal["on white"] = "on white"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kernel == "area" and not self.antialias:
            raise ValueError("an area kernel always averages: antialias must be true")
        return self


class Safety(_Frozen):
    """When to answer with the positive (dangerous) class, and what that promises.

    A photograph's score is the sum of its positive labels' probabilities; at ``threshold`` or above it is positive.
    The threshold was chosen on ``positives`` dangerous and ``negatives`` harmless photographs of the validation
    split: the largest that promises, with ``confidence``, that at least ``required_recall`` of dangerous photographs
    like them are found (``recall_lower_bound``); where no threshold promises so much, ``attained`` is false and the
    threshold is the largest that misses none of them. ``recall`` and ``false_alarm_rate`` were seen on them.

    A device with three answers says "not sure" from ``low`` to ``high`` of ``not_sure`` (low, high), both included,
    the positive answer above and the negative one below; the threshold lies in this band. On average over the
    photographs it could have been chosen on, at most 1 - ``not_sure_coverage`` of dangerous photographs get the
    negative answer, and at most as many of the harmless ones the positive answer (``leafport.training.conformal``).
    The two shares are those of the validation photographs that lie in the band.
    """

    positive_labels: tuple[str, ...] = Field(min_length=1)
    threshold: Probability
    required_recall: Probability
    attained: bool
    recall: Probability
    recall_lower_bound: Probability
    confidence: Probability = 0.95
    false_alarm_rate: Probability
    positives: int = Field(ge=1)
    negatives: int = Field(ge=1)
    chosen_on: Literal["validation"] = "validation"
    not_sure: tuple[Probability, Probability] | None = None
    not_sure_coverage: Probability | None = None
    not_sure_share_of_positives: Probability | None = None
    not_sure_share_of_negatives: Probability | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.not_sure and not self.not_sure[0] <= self.threshold <= self.not_sure[1]:
            raise ValueError(f"the threshold {self.threshold:g} must lie in the not_sure band {self.not_sure}")
        return self

    def unsure(self, score: np.ndarray) -> np.ndarray:
        """Which scores (float [N]) lie in the not-sure band: bool [N]; none where there is no band."""
        low, high = self.not_sure or (2.0, 2.0)
        exact = np.asarray(score, dtype=np.float64)  # As in ``metrics.binary_figures``: compared as they stand.
        inside: np.ndarray = (exact >= low) & (exact <= high)
        return inside


class Contract(_Frozen):
    """One model's contract. Immutable; equal contracts have equal hashes.

    ``locale`` is the language of the labels, as BCP 47 has it (``en``, ``pt-BR``), where it was said.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    version: str = Field(default="1.0.0", max_length=64)
    description: str = Field(default="", max_length=2000)
    author: str = Field(default="", max_length=200)
    license: str = Field(default="", max_length=200)
    task: Task
    labels: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(min_length=2, max_length=100_000)
    locale: str | None = Field(default=None, pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", max_length=35)
    image: ImageInput
    safety: Safety | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from one another")
        if self.task == "binary" and len(self.labels) != 2:
            raise ValueError(f"a binary task has 2 labels (negative, positive), not {len(self.labels)}")
        if self.safety and not set(self.safety.positive_labels) < set(self.labels):
            raise ValueError("safety.positive_labels must be some, and not all, of the labels")
        return self

    @property
    def sha256(self) -> str:
        """The contract's identity, in hex."""
        return files.sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The contract as JSON values, in the order of its fields."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any, *, where: str | Path = "the contract") -> Self:
        """Check and read a contract. Raises ModelError with every fault and ``where`` it was found."""
        try:
            return cls.model_validate(value)
        except ValidationError as problem:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'contract'}: {e['msg']}" for e in problem.errors())
            raise ModelError(f"{where} does not hold a valid contract ({faults}).") from None

    @classmethod
    def from_text(cls, text: str | bytes, *, where: str | Path) -> Self:
        """Check and read the JSON text of a contract that a file carries. Raises ModelError."""
        try:
            return cls.from_json(json.loads(text), where=where)
        except (ValueError, RecursionError) as problem:
            raise ModelError(f"{where} carries a damaged contract: {problem}.") from None

    def positive_score(self, probabilities: np.ndarray) -> np.ndarray:
        """How dangerous each photograph looks: float [N] up to 1, the positive labels' share of float [N, classes].

        Raises:
            ModelError: the contract names no positive labels.
        """
        # A sum of rounded numbers can pass 1 by a hair, and would then lie above a band that ends at 1.
        score: np.ndarray = np.minimum(probabilities[:, self.positive_indices].sum(axis=1), 1)
        return score

    @property
    def positive_indices(self) -> list[int]:
        """Where the positive labels stand among the labels. Raises ModelError if none are named."""
        if self.safety is None:
            raise ModelError(f"The contract of {self.name!r} names no positive labels: train with --positive FILE.")
        return [self.labels.index(label) for label in self.safety.positive_labels]
