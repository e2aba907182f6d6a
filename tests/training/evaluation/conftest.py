"""Contracts and answers that no network had to be trained for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from leafport.contract import Contract, ImageInput, Safety


@pytest.fixture(scope="session")
def make_contract() -> Callable[..., Contract]:
    """A function that makes a contract of ``classes`` labels, or these, some of them dangerous."""

    def make(
        classes: int | tuple[str, ...], positive: tuple[int, ...] = (), threshold: float = 0.4, task: str = "class"
    ) -> Contract:
        labels = classes if isinstance(classes, tuple) else tuple(f"class {index}" for index in range(classes))
        safety = positive and Safety(
            positive_labels=tuple(labels[index] for index in positive),
            threshold=threshold,
            required_recall=0.95,
            attained=True,
            recall=1,
            recall_lower_bound=0.95,
            false_alarm_rate=0,
            positives=9,
            negatives=9,
        )
        image = ImageInput(height=32, width=32)
        return Contract(name="x", task=task, labels=labels, image=image, safety=safety or None)

    return make


@pytest.fixture(scope="session")
def make_answers() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A function that draws probabilities (float32 [n, classes]) and right labels (int [n]).

    ``coarse`` ones are tied often; not every class has photographs.
    """

    def make(classes: int, n: int, seed: int, coarse: bool = False) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        present = random.permutation(classes)[: int(random.integers(2, classes + 1))]
        truth = present[random.integers(0, len(present), n)]
        weights = random.integers(0, 4, (n, classes)) + 0.01 if coarse else random.dirichlet(np.full(classes, 0.4), n)
        weights[np.arange(n), truth] += random.integers(0, 3) if coarse else random.uniform(0, 1)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32), truth

    return make
