from __future__ import annotations

import math

import pytest

from leafport.errors import UserError
from leafport.training.tuning.search import Choices, Parameters, Range, Search, Space, combinations, propose

SPACE: Space = {
    "head": Choices(("gap", "dense")),
    "dropout": Range(0.2, 0.6),
    "learning-rate": Range(1e-5, 1e-3, log=True),
    "blocks": Range(1, 4),
}
FEW: Space = {"head": Choices(("gap", "dense", "conv")), "unfreeze": Choices(("none", "all"))}


def searched(space: Space, search: Search, count: int, seed: int = 0) -> list[Parameters]:
    """What a search proposes where every trial comes to the same."""
    tried: list[tuple[Parameters, float | None]] = []
    while len(tried) < count and (found := propose(space, tried, search, seed)) is not None:
        tried.append((found, 1.0))
    return [parameters for parameters, _ in tried]


def test_a_grid_is_every_combination_once() -> None:
    found = searched(FEW, "grid", 99)
    assert len(found) == 6
    assert {(one["head"], one["unfreeze"]) for one in found} == {
        (head, unfreeze) for head in ("gap", "dense", "conv") for unfreeze in ("none", "all")
    }
    assert found == combinations(FEW, seed=0) != combinations(FEW, seed=1)


def test_a_grid_takes_the_ends_and_the_middle_of_a_range() -> None:
    assert Range(0.2, 0.6).grid == (0.2, 0.4, 0.6)
    assert Range(1e-5, 1e-3, log=True).grid == (1e-5, 1e-4, 1e-3)
    assert Range(1, 2).grid == (1, 2)
    assert len(searched(SPACE, "grid", 99)) == 2 * 3 * 3 * 3


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_seed_decides_what_is_drawn(search: Search) -> None:
    found = searched(SPACE, search, 12)
    assert found == searched(SPACE, search, 12)
    assert found != searched(SPACE, search, 12, seed=1)
    for one in found:
        assert list(one) == list(SPACE)
        assert one["head"] in ("gap", "dense")
        assert 0.2 <= float(one["dropout"]) <= 0.6
        assert 1e-5 <= float(one["learning-rate"]) <= 1e-3
        assert one["blocks"] in (1, 2, 3, 4)
        assert isinstance(one["blocks"], int)
        assert one["dropout"] == float(f"{one['dropout']:.3g}")
    assert len({str(one) for one in found}) == 12
    assert sum(float(one["learning-rate"]) < 1e-4 for one in found) >= 3  # Not a tenth, as it would be without log.


def test_nothing_is_tried_twice() -> None:
    found = searched(FEW, "random", 99)
    assert len({str(one) for one in found}) == len(found) == 6


def test_tpe_finds_what_is_good_and_keeps_away_from_what_fails() -> None:
    """Below a dropout of 0.3 trials diverge; the best head is dense, the best dropout 0.5."""
    tried: list[tuple[Parameters, float | None]] = []
    for _ in range(40):
        one = propose(SPACE, tried, "tpe", 0)
        assert one is not None
        dropout = float(one["dropout"])
        value = None if dropout < 0.3 else abs(dropout - 0.5) + (one["head"] != "dense")
        tried.append((one, value))
    first, last = tried[:10], tried[-10:]
    assert sum(value is None for _, value in first) > sum(value is None for _, value in last)
    assert sum(one["head"] == "dense" for one, _ in last) >= 8
    assert min(value for _, value in last if value is not None) < 0.03


def test_ends_stay_within_the_range_when_rounded() -> None:
    assert Range(0.12345, 0.6789).rounded(0.12346) == 0.12345
    assert Range(0.12345, 0.6789).rounded(0.6789) == 0.6789
    assert Range(0.1, 0.6).rounded(1 / 3) == 0.333


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(UserError, match="values that differ"):
        Choices(())
    with pytest.raises(UserError, match="values that differ"):
        Choices(("gap", "gap"))
    with pytest.raises(UserError, match=r"0.6\.\.0.2 does not"):
        Range(0.6, 0.2)
    with pytest.raises(UserError, match="begin below its end"):
        Range(0.2, math.nan)
    with pytest.raises(UserError, match="begin above 0"):
        Range(0, 1e-3, log=True)
