from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leafport.errors import ModelError
from leafport.export.differences import differences
from leafport.targets.base import part


def facts(**other: Any) -> dict[str, Any]:
    image = {"name": "image", "dtype": "RGB image", "shape": [1, 8, 8, 3]}
    parts = {f"conv_{index}.weight": part(np.full((2, 2), index)) for index in range(6)}
    return {
        "inputs": [image],
        "outputs": [],
        "ops": {"conv": 6, "mul": 1},
        "parts": {"mul.y": part(np.array(1 / 127.5)), **parts},
        "contract_sha256": "a",
        **other,
    }


def test_equal_facts_do_not_differ() -> None:
    assert differences(facts(), facts()) == []


def test_what_was_not_kept_is_not_compared() -> None:
    assert differences({}, facts()) == []
    assert differences({"ops": {"conv": 6, "mul": 1}}, facts()) == []


@pytest.mark.parametrize(
    ("other", "clause"),
    [
        (
            {"inputs": [{"name": "image", "dtype": "BGR image", "shape": [1, 8, 8, 3]}]},
            "its inputs are image (BGR image [1, 8, 8, 3]), and were image (RGB image [1, 8, 8, 3])",
        ),
        ({"ops": {"conv": 6}}, "it has 0 mul, and had 1"),
        ({"parts": {**facts()["parts"], "mul.y": "1"}}, "mul.y is 1, and was 0.007843137"),
        ({"parts": {**facts()["parts"], "new": "3"}}, "new is new (3)"),
        ({"contract_sha256": "b"}, "it carries another contract"),
    ],
)
def test_what_differs_is_said(other: dict[str, Any], clause: str) -> None:
    assert differences(facts(), facts(**other)) == [clause]


@pytest.mark.parametrize("damaged", [{"ops": None}, {"inputs": [1]}, {"parts": [1]}])
def test_damaged_facts_are_an_error(damaged: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="damaged facts"):
        differences(damaged, facts())


def test_of_many_differences_the_first_are_said() -> None:
    clauses = differences(facts(), facts(parts={"mul.y": facts()["parts"]["mul.y"]}))
    assert len(clauses) == 4
    assert clauses[0].startswith("conv_0.weight is gone (it was int64 [2, 2] ")
    assert clauses[-1] == "and 3 more constants differ"


def test_a_part_tells_values_types_and_shapes_apart() -> None:
    values = np.arange(6, dtype=np.float32)
    different = [values, values[::-1], values.reshape(2, 3), values.astype(np.float16), values[:5], np.float32(1)]
    assert len({part(np.asarray(value)) for value in different}) == len(different)
    assert part(np.array([0.5])) == "0.5"
