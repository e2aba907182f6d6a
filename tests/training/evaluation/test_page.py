"""The page: what it says first, what it never says, and that nothing in it can do harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leafport.training.evaluation import evaluate, figures, gallery, page
from leafport.training.evaluation.learning import Point

Make = Callable[..., Any]
EVIL = "<script>alert('1')</script>&\"|$\\frac$"
HISTORY = (Point("head", 1, 0.5, 1.2, 0.4), Point("head", 0.5, 0.7, 1, 0.5))


@pytest.fixture
def render(photos: Path) -> Callable[..., str]:
    """A function that makes the page of answers, a name and a path for each photograph."""

    def made(contract: Any, probabilities: np.ndarray, truth: np.ndarray, name: str = "photo", **more: Any) -> str:
        paths = (sorted(photos.glob("*/*.png")) * 99)[: len(truth)]
        called = figures.answers(probabilities, contract)
        matrix = figures.confusion(called, truth, len(contract.labels))
        value = figures.figures(probabilities, truth, contract)
        value |= {
            "data_sha256": "d" * 64,
            "left_out_as_seen": 3720,
            "skipped": [{"path": name, "reason": name}],
            "contract_sha256": "c" * 64,
            "versions": {"leafport": "0.1.0"},
        }
        value |= more.pop("value", {})
        drawn = evaluate.draw(value, probabilities, truth, matrix, contract, more.pop("history", HISTORY))
        galleries = gallery.galleries([f"{name} {n}" for n in range(len(truth))], paths, probabilities, truth, contract)
        return page.html(contract, value, matrix, drawn, galleries, **more)

    return made


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] != "style":
            self.text.append(data)


def read(text: str) -> _Tags:
    parser = _Tags()
    parser.feed(text)
    return parser


def words(text: str) -> str:
    return " ".join(" ".join(read(text).text).replace("\u202f", " ").split())


def test_names_are_text_and_the_page_asks_nothing_of_any_network(
    render: Callable[..., str], make_contract: Make, make_answers: Make
) -> None:
    probabilities, truth = make_answers(3, 60, 4)
    contract = make_contract((EVIL, EVIL + "2", "c"), (0,))
    explained = (gallery.Picture(EVIL, EVIL, EVIL, 0.5, 0.5, 0.5, None, ((EVIL, "data:,", True),)),)
    text = render(contract, probabilities, truth, EVIL, explained=explained)
    found = read(text)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    bare = re.sub(r"base64,[A-Za-z0-9+/=\s]*", "", text)
    assert not re.findall(r"https?://|@import|url\((?!#)", bare)
    assert "default-src 'none'" in text
    assert text.count("&lt;script&gt;") > 10


def test_missed_danger_is_said_first(render: Callable[..., str], make_contract: Make, make_answers: Make) -> None:
    probabilities, truth = make_answers(5, 200, 5, coarse=True)
    contract = make_contract(5, (0, 1, 2), threshold=0.5)
    value = figures.figures(probabilities, truth, contract)["binary"]
    assert value["missed"] > 0
    text = render(contract, probabilities, truth)
    said = words(text)
    assert f"Of {value['positives']} dangerous photographs it has not learned from it misses {value['missed']}." in said
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert headings[0] == f"Dangerous photographs it missed: {value['missed']} of {value['positives']}"
    assert f"{100 * value['recall']:.1f} %" in said
    sure = make_contract(5, (0, 1, 2), threshold=0.0)
    assert "Dangerous photographs it missed: none of" in words(render(sure, probabilities, truth))


def test_without_danger_nothing_is_said_of_it(
    render: Callable[..., str], make_contract: Make, make_answers: Make
) -> None:
    probabilities, truth = make_answers(5, 50, 6)
    text = render(make_contract(5), probabilities, truth, history=())
    assert "anger" not in words(text)
    assert "learned</h3>" not in text  # No learning curves without a history.
    assert "right for" in words(text)


def test_the_page_says_what_the_figures_are(
    render: Callable[..., str], make_contract: Make, make_answers: Make
) -> None:
    probabilities, truth = make_answers(8, 150, 7, coarse=True)
    contract = make_contract(8, (0,))
    value = figures.figures(probabilities, truth, contract)
    varied, _ = make_answers(8, 150, 9, coarse=True)
    several = {"views": ["whole", "mirrored"], **figures.beside(varied, probabilities, truth, contract)}
    said = words(render(contract, probabilities, truth, value={"test_time_augmentation": several}))
    for one in (value, several):
        for name in ("top1", "top3", "top5"):
            low, high = one["intervals"][name]
            assert f"{100 * one[name]:.1f} % {100 * low:.1f} to {100 * high:.1f} %" in said
        assert f"{one['log_loss']:.3f} {one['brier_score']:.3f}" in said
    assert f"puts {several['gained']} answers right and {several['lost']} wrong" in said
    rows = re.findall(r"(class \d) (?:dangerous )?([\d,]+) ([\d.]+ %|—)", said[said.index("Every class") :])
    assert [row[1] for row in rows] == [str(value["per_class"][row[0]]["n"]) for row in rows]
    assert sorted(row[0] for row in rows) == list(contract.labels)
    known = [float(row[2].split()[0]) for row in rows if row[2] != "—"]
    assert known == sorted(known) and rows[: len(known)] == [row for row in rows if row[2] != "—"]
    first = value["confusions"][0]
    assert f"{first['is']} {first['called']} {first['n']} of {first['of']}" in said


def test_photographs_of_one_class_only_still_make_a_page(render: Callable[..., str], make_contract: Make) -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    harmless = words(render(make_contract(("a", "b"), (1,), task="binary"), probabilities, np.array([0, 0])))
    assert "None of these photographs is dangerous" in harmless
    dangerous = words(render(make_contract(("a", "b"), (1,), task="binary"), probabilities, np.array([1, 1])))
    assert "Dangerous photographs it missed: 1 of 2" in dangerous
    assert "harmless ones dangerous" not in dangerous


def test_intervals_keep_their_unit_once() -> None:
    assert page.interval([0.7063, 0.7912]).replace("\u202f", " ") == "70.6 to 79.1 %"
    assert page.interval([0, 1]).replace("\u202f", " ") == "0 to 100 %"
    assert page.interval(None) == "—"
