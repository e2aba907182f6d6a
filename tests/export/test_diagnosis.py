"""Mistakes that conversions make are recognised by what the file answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from leafport.export.diagnosis import diagnosis

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(0, 0.02, (8 * 8 * 3, 5))
PIXELS = RANDOM.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
Predict = Callable[[np.ndarray], np.ndarray]


def predict(images: np.ndarray, mean: float = 127.5) -> np.ndarray:
    """A classifier that scales pixels itself: probabilities [N, 5]."""
    logits = (images.reshape(len(images), -1).astype(np.float64) - mean) @ WEIGHTS
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)


EXPECTED = predict(PIXELS)
ORDER = np.array([0, 3, 2, 1, 4])


@pytest.mark.parametrize(
    ("wrong", "clause"),
    [
        (lambda images: predict(images[..., ::-1]), "takes BGR where the contract says RGB"),
        (lambda images: predict(images)[:, ORDER], "what is at number 3 belongs to label number 1"),
        (lambda images: predict(images * 127.5 + 127.5), "given pixels from -1 to 1: that is missing"),
        (lambda images: predict(images * 255.0), "given pixels divided by 255: that is missing"),
        (lambda images: predict(images * 127.5, 127.5), "given pixels divided by 127.5: that is missing"),
    ],
)
def test_a_mistake_is_named(wrong: Predict, clause: str) -> None:
    assert clause in (diagnosis(wrong, PIXELS, EXPECTED) or "")


def test_right_answers_need_none() -> None:
    assert diagnosis(predict, PIXELS, EXPECTED) is None


def test_what_nothing_explains_is_not_explained() -> None:
    noise = RANDOM.dirichlet(np.ones(5), len(PIXELS)).astype(np.float32)
    assert diagnosis(lambda images: noise, PIXELS, EXPECTED) is None


def test_answers_that_are_flat_explain_nothing() -> None:
    """Any order of them is as good as any other."""
    flat = 0.5 + RANDOM.uniform(-0.01, 0.01, (40, 1)) * [1, -1]
    other = 0.5 + RANDOM.uniform(-0.01, 0.01, (40, 1)) * [1, -1]
    assert diagnosis(lambda images: other, PIXELS, flat) is None
    many, others = (RANDOM.dirichlet(np.full(200, 50), 40) for _ in range(2))
    assert diagnosis(lambda images: others, PIXELS, many) is None


def test_a_runtime_that_takes_bytes_only_is_given_no_floats() -> None:
    def takes_bytes(images: np.ndarray) -> np.ndarray:
        if images.dtype != np.uint8:
            raise TypeError("no floats")
        return predict(images)[:, ORDER]

    assert "another order" in (diagnosis(takes_bytes, PIXELS, EXPECTED) or "")
