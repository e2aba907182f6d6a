"""What may be tried, and what to try next."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from leafport.errors import UserError

Value = str | int | float
Parameters = dict[str, Value]
Search = Literal["tpe", "random", "grid"]
SEARCHES: tuple[Search, ...] = get_args(Search)

_DIGITS = 3
_DRAWS = 50


@dataclass(frozen=True)
class Choices:
    """One of these values. Raises UserError where there are none, or some twice."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise UserError(f"A search needs values that differ from one another, not {self.values}.")


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included; a whole one where both are ints.

    ``log`` draws evenly over the logarithm, so that 1e-5 to 1e-4 counts as much as 1e-4 to 1e-3.

    Raises:
        UserError: the range is empty or has no end, or begins at 0 or below where its logarithm is wanted.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise UserError(f"A range must begin below its end: {self.low:g}..{self.high:g} does not.")
        if self.log and self.low <= 0:
            raise UserError(f"A range over the logarithm must begin above 0: {self.low:g}..{self.high:g} does not.")

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def rounded(self, value: float) -> float:
        """A value of the range, to three digits: more make no difference, and are a burden to read and to type."""
        if self.whole:
            return round(value)
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    @property
    def grid(self) -> tuple[float, ...]:
        """Both ends and the middle."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return tuple(dict.fromkeys((self.low, self.rounded(middle), self.high)))


Space = Mapping[str, Choices | Range]


def propose(
    space: Space, tried: Sequence[tuple[Parameters, float | None]], search: Search, seed: int
) -> Parameters | None:
    """What to try next; None where nothing is left that was not tried.

    This depends on nothing but the arguments, so that a search that was interrupted goes on as if it had not been.

    Args:
        space: what may be tried. ``grid`` takes the ends and the middle of a range, in an order drawn from ``seed``.
        tried: parameters and how well each set did, the less the better; None if it failed, which is worse than all.
    """
    earlier = [parameters for parameters, _ in tried]
    if search == "grid":
        return next((one for one in combinations(space, seed) if one not in earlier), None)
    study = _study(space, tried, search, seed)
    distributions = {name: _distribution(domain) for name, domain in space.items()}
    for _ in range(_DRAWS):
        drawn = _rounded(space, study.ask(distributions).params)
        if drawn not in earlier:
            return drawn
    return None


def combinations(space: Space, seed: int) -> list[Parameters]:
    """All that a grid search tries, in the order it does: shuffled, so that the first few are spread over the space."""
    axes = [domain.values if isinstance(domain, Choices) else domain.grid for domain in space.values()]
    found = [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
    random.Random(seed).shuffle(found)
    return found


def _study(space: Space, tried: Sequence[tuple[Parameters, float | None]], search: Search, seed: int) -> Any:
    """An optuna study, in memory, that knows what was tried; it minimises."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{len(tried)}".encode()).digest()[:4])
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(sampler=samplers[search](seed=drawn))
    distributions = {name: _distribution(domain) for name, domain in space.items()}
    for parameters, value in tried:
        study.add_trial(
            optuna.trial.create_trial(
                params=parameters, distributions=distributions, value=math.inf if value is None else value
            )
        )
    return study


def _distribution(domain: Choices | Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _rounded(space: Space, drawn: Mapping[str, Any]) -> Parameters:
    return {
        name: domain.rounded(drawn[name]) if isinstance(domain, Range) else drawn[name]
        for name, domain in space.items()
    }
