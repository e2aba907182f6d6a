from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from leafport.training.data.sampling import Sampling, cycle_length, order

TRUTH = np.repeat([0, 1, 2], [12, 5, 3])


def drawn(sampling: Sampling, count: int, seed: int = 0, start: int = 0) -> list[int]:
    return list(islice(order(TRUTH, sampling, seed=seed, start=start), count))


def test_every_photograph_comes_once_each_time_round_in_another_order() -> None:
    first, second = np.split(np.array(drawn("all", 40)), 2)
    assert sorted(first) == sorted(second) == list(range(20))
    assert list(first) != list(second)


def test_oversampling_repeats_the_rare_ones_evenly() -> None:
    assert cycle_length(TRUTH, "over") == 36
    counts = np.bincount(drawn("over", 36), minlength=20)
    assert [counts[label == TRUTH].sum() for label in range(3)] == [12, 12, 12]
    assert (counts[:12] == 1).all()
    assert sorted(counts[12:17]) == [2, 2, 2, 3, 3]
    assert (counts[17:] == 4).all()


def test_undersampling_leaves_out_others_each_time() -> None:
    assert cycle_length(TRUTH, "under") == 9
    rounds = np.split(np.array(drawn("under", 90)), 10)
    for one in rounds:
        assert np.bincount(TRUTH[one]).tolist() == [3, 3, 3]
        assert len(set(one)) == 9
    assert set(np.concatenate(rounds)) == set(range(20))


@pytest.mark.parametrize("sampling", ["all", "over", "under"])
@pytest.mark.parametrize("start", [1, 19, 36, 77])
def test_it_can_be_entered_anywhere(sampling: Sampling, start: int) -> None:
    assert drawn(sampling, 50, start=start) == drawn(sampling, 50 + start)[start:]
    assert drawn(sampling, 50, seed=1) != drawn(sampling, 50)
