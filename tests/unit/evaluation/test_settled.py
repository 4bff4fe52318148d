"""What an attack is known to leave more of is settled: bars, rows and looks."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.evaluation import outcomes
from redoubtable.evaluation.candidates import Candidate
from redoubtable.evaluation.cascade import attack_all
from redoubtable.evaluation.passes import Passes
from redoubtable.evaluation.summary import summarise
from redoubtable.parts import PLAIN
from redoubtable.threat import Linf


class Bound(NamedTuple):
    """An attack that found what it is told."""

    answers: list[list[int]]


class Table:
    """A bench whose attacks answer from a table, with the bars that they were given."""

    def __init__(self, y: Tensor) -> None:
        self.facts, self.data, self.bars = PLAIN, SimpleNamespace(y=y), list[Any]()

    def attacked(self, view: str, bound: Bound, threat: Any, fallen: Any, bar: Any) -> Candidate:
        self.bars.append(bar)
        answers = np.array(bound.answers, dtype=np.int16)
        beaten = np.zeros(len(fallen), bool) if bar is None else bar.beats(answers, y_of(self))
        nothing = np.zeros(len(fallen), dtype=np.float32)
        return Candidate(
            "adaptive", str(len(self.bars)), answers, answers, np.float32(answers), nothing,
            Passes(0, 0), nothing, fallen, beaten,
        )  # fmt: skip


def y_of(bench: Table) -> Any:
    return bench.data.y.numpy()


def test_an_attack_that_brings_down_right_answers_alone_raises_no_bar_and_no_row() -> None:
    wrong, rejected = [0, 1, 1, 1], [3, 3, 3, 3]
    bench = Table(torch.tensor([0]))
    clean = bench.attacked("clean", Bound([[0, 0, 0, 0]]), None, np.array([False]), None)
    bench.bars.clear()
    bounds = [Bound([answers]) for answers in (wrong, rejected, [0, 0, 1, 3])]
    found = attack_all(bench, "adaptive", bounds, Linf(0.1), 3, clean)  # type: ignore[arg-type]
    assert bench.bars[0] is None
    assert [b.good.tolist() for b in bench.bars[1:]] == [[1], [1]]
    assert [b.right.tolist() for b in bench.bars[1:]] == [[1], [0]]
    assert [c.beaten.tolist() for c in found] == [[False], [False], [True]]
    assert found[2].report.tolist() == [rejected]
    y = np.array([0])
    clean = replace(clean, view="clean", attack="")
    rows = summarise([clean, *found], y, 3, abstains=True, cascade=True)["rows"]
    assert [r["accuracy"]["one_shot"]["value"] for r in rows] == [0.25] * 3
    assert [r["strict"]["one_shot"]["value"] for r in rows] == [0.25, 0, 0]
    rows = summarise([clean, *found], y, 3, abstains=True)["rows"]
    assert [r["accuracy"]["one_shot"]["value"] for r in rows] == [0.25, 1, 1]


def test_settled_images_are_not_asked_again() -> None:
    asked: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return torch.cat([x.flatten(1), torch.zeros(len(x), 1)], 1)

    def settled(answers: Any, which: Any) -> Any:
        return answers.shape[1] > which  # the first after a draw, the second after two

    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.2, 0.1]]).view(3, 2, 1, 1)
    found = outcomes.look(Counting(), x, 3, 8, True, settled)
    assert asked == [3, 2, 1]
    assert found.answers.tolist() == [[1, -1, -1], [0, 0, -1], [0, 0, 0]]
    assert found.suspicion[2] == pytest.approx([-0.2] * 3)
    asked.clear()
    outcomes.look(Counting(), x, 3, 8, True, lambda answers, which: which >= 0)
    assert asked == [3]


def test_what_leaves_more_of_one_count_and_no_less_of_the_other_is_beaten() -> None:
    y, before = np.array([0, 0, 0]), np.array([[0, 0, 1, 3]] * 3, dtype=np.int16)
    bar = outcomes.Bar.of(before, y, 3)
    assert bar.good.tolist() == [3] * 3 and bar.right.tolist() == [2] * 3
    ties, more, rejected = [0, 0, 1, 3], [0, 0, 0, 3], [0, 3, 3, 3]
    after = np.array([ties, more, rejected], dtype=np.int16)
    assert bar.beats(after, y).tolist() == [False, True, False]
    as_right = np.array([[0, 0, 3, 3]] * 3, dtype=np.int16)  # no fewer right, more rejected
    assert bar.beats(as_right, y).all()
    assert not bar.beats(as_right[:, :3], y).any()  # a draw earlier it was open
    assert not bar.beats(np.array([[0, 3, 3, -1]] * 3, dtype=np.int16), y).any()
    lower = bar.lowered(outcomes.Bar.of(after, y, 3))
    assert lower.good.tolist() == [3, 3, 3] and lower.right.tolist() == [2, 2, 1]
    wrong = outcomes.Bar.of(np.ones((3, 4), dtype=np.int16), y, 3)
    assert lower.lowered(wrong).good.tolist() == [0, 0, 0]
    assert lower.select(np.array([2])).right.tolist() == [1]
