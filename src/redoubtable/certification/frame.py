"""What all certificates by sampling share: the vote, its bound, and when to abstain.

A model that answers randomised copies of an image has, for each class, a probability of that
answer. From a lower bound of the largest, and an upper one of all others, follows a radius within
which it stays the largest. The bounds are from samples, so each certificate is wrong with a
probability of at most `alpha`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import nn

from redoubtable.gradients import images_per_pass
from redoubtable.parts import facts_of, in_eval_mode
from redoubtable.seeding import seeded
from redoubtable.statistics import lower_bound
from redoubtable.types import Images, check_images

ABSTAIN = -1
"""In place of a class: the samples do not tell."""


class Randomisation(Protocol):
    """How images are randomised, and the radius that follows from the vote on them."""

    def sample(self, x: Images) -> Images:
        """Return each of (N, C, H, W) images randomised anew; `x` itself must stay as it is."""

    def radius(self, lower: float, upper: float, shape: Sequence[int]) -> float:
        """Return the radius for bounds of the probabilities of two answers, lower > upper.

        `lower` is of the class, `upper` of every other one, `shape` the image's (C, H, W).
        """

    def guarantee(self) -> str:
        """Say what holds within the radius."""


@dataclass(frozen=True)
class Certificate:
    """What is certified of each image.

    Attributes:
        classes: (N,) the certified class, `ABSTAIN` where the samples do not tell.
        radii: (N,) in the norm of the certificate; 0 where abstained.
        lower: (N,) the bound of the probability of the class chosen.
        upper: (N,) the bound of the probability of every other class.
        hits: (N,) samples with that class, of `n`.
    """

    classes: NDArray[np.int64]
    radii: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    hits: NDArray[np.int64]


def certify(
    model: nn.Module,
    x: Images,
    randomisation: Randomisation,
    *,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    runner_up: bool = False,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 512,
) -> Certificate:
    """Certify images one by one: CERTIFY of Cohen et al. 2019, section 3.2.2.

    A first vote of `n0` samples chooses the class, a second one of `n` bounds its probability
    (Clopper & Pearson 1934, one-sided): one vote for both would favour the class. What is left
    bounds every other class, and where the class is not above it, it abstains. The draws of an
    image are named by seed and number, so images certified together or in parts get the same.

    Args:
        model: a classifier; its own randomness counts as part of the randomisation. Of one that may
            reject the vote is over the classes alone, so the certificate says which class it
            answers if it accepts.
        x: (N, C, H, W) in [0, 1].
        randomisation: of the copies.
        n0: samples that choose the class.
        n: samples that bound its probability.
        alpha: probability, at most, that a certificate is wrong.
        runner_up: bound each other class from its own votes as well, and take the largest. `alpha`
            is shared out (Bonferroni): half for the class, the other half in equal parts for the
            others. It gains where the other votes are spread over many classes, as then one does
            not need more than half of all, and loses a little where they are not.
        seed: of all samples.
        first: number of the first image, where `x` is a part of many.
        batch_size: copies that are drawn together; another number draws other samples. A processor
            sees fewer at a time, as many as fit its cache.

    Raises:
        TypeError: `x` are no images.
        ValueError: the model depends on its batch, so that samples are not independent, or an
            argument is out of its range, or nothing above radius 0 can be certified.
    """
    _check(model, x, alpha, batch_size, n0=n0, n=n)
    largest_radius(randomisation, x.shape[1:], n, alpha)
    chosen, second = [], []
    with in_eval_mode(model), torch.no_grad():
        for number, image in enumerate(x, first):
            with seeded("certify choose", seed, randomisation.guarantee(), number):
                chosen.append(int(_votes(model, image, randomisation, n0, batch_size).argmax()))
            with seeded("certify bound", seed, randomisation.guarantee(), number):
                second.append(_votes(model, image, randomisation, n, batch_size))
    bounds = [_bounds(v, c, alpha, runner_up) for v, c in zip(second, chosen, strict=True)]
    tells = [lower > upper for lower, upper in bounds]
    radii = [
        randomisation.radius(*b, x.shape[1:]) if t else 0.0
        for b, t in zip(bounds, tells, strict=True)
    ]
    return Certificate(
        classes=np.where(tells, np.array(chosen, dtype=np.int64), ABSTAIN),
        radii=np.array(radii, dtype=np.float64),
        lower=np.array([lower for lower, _ in bounds]),
        upper=np.array([upper for _, upper in bounds]),
        hits=np.array([v[c] for v, c in zip(second, chosen, strict=True)], dtype=np.int64),
    )


def guarantee(model: nn.Module, randomisation: Randomisation) -> str:
    """Say what a certificate of this model means."""
    said = randomisation.guarantee()
    if not facts_of(model).abstains:
        return said
    return f"{said}; the rejection is no part of it: not another class, but perhaps rejected"


def _bounds(
    votes: NDArray[np.int64], chosen: int, alpha: float, runner_up: bool
) -> tuple[float, float]:
    """Bounds of the probability of the class from below, and of every other from above."""
    n, hits = int(votes.sum()), int(votes[chosen])
    others = np.delete(votes, chosen)
    if not runner_up or not len(others):
        lower = lower_bound(hits, n, alpha)
        return lower, 1 - lower
    lower = lower_bound(hits, n, alpha / 2)
    # The bound from above is that of all other votes from below.
    upper = 1 - lower_bound(n - int(others.max()), n, alpha / 2 / len(others))
    return lower, min(upper, 1 - lower)


def best_bound(n: int, alpha: float) -> float:
    """Return the bound where all `n` samples agree, which no other can exceed.

    Raises:
        ValueError: it is not above 1/2, so that nothing at all can be certified.
    """
    most = lower_bound(n, n, alpha)
    if most <= 0.5:
        least = math.ceil(math.log(alpha) / math.log(0.5) + 1e-9)
        raise ValueError(
            f"`n`={n} samples that all agree certify nothing at alpha={alpha:g}; take more than "
            f"{least - 1}"
        )
    return most


def largest_radius(
    randomisation: Randomisation, shape: Sequence[int], n: int, alpha: float
) -> float:
    """Return the radius where all `n` samples agree, which none can exceed.

    Args:
        randomisation: of the copies.
        shape: (C, H, W) of an image.
        n: samples that bound the probability.
        alpha: probability, at most, that a certificate is wrong.

    Raises:
        ValueError: it is 0, with these samples or with any number of them.
    """
    lower = best_bound(n, alpha)
    largest = randomisation.radius(lower, 1 - lower, shape)
    if largest > 0:
        return largest
    if randomisation.radius(1.0, 0.0, shape) > 0:
        raise ValueError(
            f"`n`={n} samples that all agree certify nothing above radius 0 at alpha={alpha:g}; "
            f"take more samples, or randomise more"
        )
    raise ValueError(
        "no number of samples certifies anything above radius 0 of images of "
        f"{'x'.join(map(str, shape))}; randomise more: {randomisation.guarantee()}"
    )


def predict(
    model: nn.Module,
    x: Images,
    randomisation: Randomisation,
    *,
    n: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 512,
) -> NDArray[np.int64]:
    """Return the class of each image by vote: PREDICT of Cohen et al. 2019, section 3.2.1.

    The two commonest answers are compared by an exact two-sided test; where it does not tell them
    apart at level `alpha`, it abstains. An answer differs from the true vote's with a probability
    of at most `alpha`.

    Args:
        model: a classifier.
        x: (N, C, H, W) in [0, 1].
        randomisation: of the copies.
        n: samples of each image.
        alpha: level of the test.
        seed: of all samples.
        first: number of the first image, where `x` is a part of many.
        batch_size: copies that are drawn together.

    Returns:
        (N,) classes, `ABSTAIN` where the samples do not tell.

    Raises:
        TypeError: `x` are no images.
        ValueError: as for `certify`.
    """
    _check(model, x, alpha, batch_size, n=n)
    answers = []
    with in_eval_mode(model), torch.no_grad():
        for number, image in enumerate(x, first):
            with seeded("predict", seed, randomisation.guarantee(), number):
                votes = _votes(model, image, randomisation, n, batch_size)
            second, most = np.sort(votes)[-2:]
            p = scipy.stats.binomtest(int(most), int(most + second), 0.5).pvalue
            answers.append(int(votes.argmax()) if p <= alpha else ABSTAIN)
    return np.array(answers, dtype=np.int64)


def _votes(
    model: nn.Module, image: Images, randomisation: Randomisation, n: int, batch_size: int
) -> NDArray[np.int64]:
    """(K,) how often each class is the answer to a randomised copy, a rejection left out."""
    there = image.to(next((p.device for p in model.parameters()), image.device))
    classes = -1 if facts_of(model).abstains else None
    total: NDArray[np.int64] | None = None
    for size in _sizes(n, batch_size):
        copies = randomisation.sample(there.expand(size, *image.shape))
        pieces = torch.split(copies, images_per_pass(model, copies, 1, None))
        out = torch.cat([model(piece) for piece in pieces])
        if bool(out.isnan().any()):
            raise ValueError("the model answers randomised copies with NaN; no vote can be counted")
        out = out[:, :classes]
        counts = torch.bincount(out.argmax(1), minlength=out.shape[1]).cpu().numpy()
        total = counts if total is None else total + counts
    assert total is not None
    return np.asarray(total, dtype=np.int64)


def _sizes(n: int, batch_size: int) -> Iterator[int]:
    for start in range(0, n, batch_size):
        yield min(batch_size, n - start)


def _check(model: nn.Module, x: Images, alpha: float, batch_size: int, **samples: int) -> None:
    check_images(x, "x")
    for name, value in {**samples, "batch_size": batch_size}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"`alpha` is a probability of error in (0, 0.5), got {alpha}")
    if facts_of(model).batch_dependent:
        raise ValueError(
            "a model that depends on its batch has no independent samples, so no certificate; "
            "certify one whose answer to an image is its own"
        )
