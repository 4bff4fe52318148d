"""The bar promises no less than there is to do, and little more."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor, nn

from redoubtable.evaluation import Settings, certified, evaluate
from redoubtable.evaluation.progress import Ticker, ticking
from redoubtable.threat import Linf
from tests.unit.evaluation.parts import models
from tests.unit.evaluation.test_batches import AboveMean, grey


def watched(model: nn.Module, x: Tensor, y: Tensor, attacks: Any, **arguments: Any) -> Ticker:
    """The ticker of an evaluation when it is over."""
    tickers: list[Ticker] = []

    @contextmanager
    def noted(*stated: Any) -> Iterator[Ticker]:
        with ticking(*stated) as ticker:
            tickers.append(ticker)
            yield ticker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["redoubtable.evaluation.evaluate"], "ticking", noted)
        evaluate(model, x, y, Linf(0.1), attacks, **arguments)
    return tickers[0]


@pytest.mark.parametrize("name", ["deterministic", "random", "random and abstaining"])
@pytest.mark.parametrize("attacks", ["pgd:steps=2", "adaptive"])
def test_all_chunks_are_expected(name: str, attacks: str, x: Tensor, y: Tensor) -> None:
    settings = Settings(draws=2, chunk=12)
    ticker = watched(
        models()[name], x, y, attacks, settings=settings, held_out=x, curve=(0.5, 2), rate_images=12
    )
    assert 0.6 * ticker.total <= len(ticker.done) <= ticker.total


def test_a_cascade_and_whole_batches_are_expected_too(net: nn.Module, x: Tensor, y: Tensor) -> None:
    ticker = watched(net, x, y, "lean", settings=Settings(chunk=12))
    assert 0.6 * ticker.total <= len(ticker.done) <= ticker.total
    images, labels = grey()
    ticker = watched(
        AboveMean(), images, labels, "pgd:steps=2,loss=margin", settings=Settings(chunk=8)
    )
    assert 0.6 * ticker.total <= len(ticker.done) <= ticker.total


def test_what_is_left_out_is_not_expected(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Three chunks of the clean images and as many under each of two losses."""
    settings = Settings(chunk=12)
    ticker = watched(net, x, y, "pgd:steps=2", settings=settings, check=False, curve=())
    assert ticker.total == len(ticker.done) == 9
    ticker = watched(net, x, y, "pgd:steps=2", settings=settings, check=False, curve=(0.5,))
    assert ticker.total == len(ticker.done) == 9 + 9


def test_bars_say_what_is_done(net: nn.Module, x: Tensor, y: Tensor, capsys: Any) -> None:
    evaluate(net, x, y, Linf(0.1), "fgsm", check=False, curve=(), name="the network", progress=True)
    assert "attacking the network under Linf:0.1" in capsys.readouterr().err
    certified(net, x, y, "ablation:rate=0.9", n0=2, n=20, name="the network", progress=True)
    assert "certifying the network by ablation:rate=0.9" in capsys.readouterr().err
