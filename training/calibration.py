"""Temperature scaling: probabilities that mean what they say, at no cost to any device.

A network's logits divided by one number T before the softmax (Guo et al. 2017, "On calibration of modern neural
networks"): above 1 it grows less sure, below 1 surer, and what it finds likeliest stays so. T is found on validation
photographs and folded into the last layer's weights, so no file, app or user need know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from leafport import metrics
from leafport.errors import DataError, ModelError
from leafport.training.heads import PROBABILITIES

if TYPE_CHECKING:
    import keras

LARGEST = 20.0
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does to the ``n`` photographs it was found on.

    Attributes:
        temperature: what logits are divided by; 1 where ``kept`` says why nothing is.
        nll, ece: mean negative log-likelihood and expected calibration error, as the model was and as it becomes.
    """

    temperature: float
    n: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    kept: str | None = None


def fit(probabilities: np.ndarray, truth: np.ndarray) -> Calibration:
    """The temperature that makes the truth, int [N], likeliest, given what the model says: float [N, classes].

    It stays 1 where the photographs show no need of another. That is where the likelihood rises by no more than chance
    would have it (likelihood-ratio test at 5 %), as for a calibrated model or for few photographs; and where no
    temperature is best, as every answer is right, or as good as guessed.

    Raises:
        DataError: there are no photographs.
    """
    from scipy.optimize import minimize_scalar
    from scipy.stats import chi2

    n = len(truth)
    if not n:
        raise DataError("A temperature can only be found on validation photographs; there are none.")

    def nll(temperature: float) -> float:
        return float(-_log_scaled(probabilities, temperature)[np.arange(n), truth].mean())

    # The log-likelihood is concave in 1 / T, so there is one optimum: at a finite T unless all answers are right.
    edge = float(np.log(LARGEST))
    found = minimize_scalar(lambda exponent: nll(float(np.exp(exponent))), bounds=(-edge, edge), method="bounded")
    temperature, before = float(np.exp(found.x)), nll(1.0)
    chance = float(chi2.sf(2 * n * max(0.0, before - nll(temperature)), df=1))
    kept = None
    if (probabilities.argmax(axis=1) == truth).all():
        kept = f"All {n:,} answers on validation photographs are right: they do not show how sure the model may be."
    elif chance > SIGNIFICANCE:
        kept = (
            f"{n:,} validation photographs do not show that the model is too sure, or not sure enough: with a "
            f"probability of {chance:.2g}, {temperature:.3g} would suit a calibrated one as much better by chance."
        )
    elif abs(found.x) > 0.99 * edge:
        kept = f"No temperature from {1 / LARGEST:g} to {LARGEST:g} suits the validation photographs best."
    if kept:
        temperature = 1.0
    return Calibration(
        temperature=temperature,
        n=n,
        nll_before=before,
        nll_after=nll(temperature),
        ece_before=_ece(probabilities, truth),
        ece_after=_ece(scaled(probabilities, temperature), truth),
        kept=kept,
    )


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """What a model that gives these probabilities (float [N, classes]) gives after ``apply``: float32 [N, classes]."""
    as_given: np.ndarray = np.exp(_log_scaled(probabilities, temperature)).astype(np.float32)
    return as_given


def apply(model: keras.Model, temperature: float) -> None:
    """Divide the logits of a model by ``temperature``, by dividing the weights of its last layer.

    Raises:
        ModelError: the model does not end in the layer ``leafport.training.heads`` gives it.
    """
    import keras

    last = model.layers[-1]
    fits = isinstance(last, keras.layers.Dense) and last.activation is keras.activations.softmax
    if not fits or last.name != PROBABILITIES:
        raise ModelError(
            f"The model {model.name!r} ends in {last.name!r}, a {type(last).__name__}. A temperature can only be "
            f"folded into a dense softmax layer called {PROBABILITIES!r}."
        )
    last.set_weights([weights / np.float32(temperature) for weights in last.get_weights()])


def _log_scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Logits are the logarithms of probabilities but for a constant, which the softmax takes out again."""
    from scipy.special import log_softmax

    # What was too small for a float32 is taken for the smallest of them: no logarithm of 0.
    positive = np.maximum(np.asarray(probabilities, dtype=np.float64), np.finfo(np.float32).tiny)
    scaled_log: np.ndarray = log_softmax(np.log(positive) / temperature, axis=1)
    return scaled_log


def _ece(probabilities: np.ndarray, truth: np.ndarray) -> float:
    error = metrics.expected_calibration_error(metrics.reliability(probabilities, truth))
    assert error is not None  # There are photographs.
    return error
