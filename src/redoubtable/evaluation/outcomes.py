"""What a model answers, over many draws, and the rules that make an accuracy of it.

Answers are class indices; K, one past the last class, is a rejection. On adversarial images a
rejection counts as defended, on clean ones as an error (design, section 3).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from redoubtable.gradients import images_per_pass
from redoubtable.statistics import Proportion, share_of_draws, wilson
from redoubtable.types import Images

Answers = NDArray[np.int16]
"""(N, draws) class indices, K for a rejection."""
Flags = NDArray[np.bool_]
"""(N, draws) true where an answer counts for the defender."""


@dataclass(frozen=True)
class Look:
    """The answers of a model to some images.

    Attributes:
        answers: (N, draws) int16.
        suspicion: (N, draws) float32, how far the rejection is above the best class; empty (N, 0)
            for a model that does not abstain.
    """

    answers: Answers
    suspicion: NDArray[np.float32]


def look(
    model: nn.Module,
    x: Images,
    draws: int,
    batch_size: int,
    abstains: bool,
    settled: Callable[[Answers, NDArray[np.int64]], NDArray[np.bool_]] | None = None,
) -> Look:
    """Show images to a model `draws` times, `batch_size` images at a time.

    The model gets a copy: one that writes into its input must not change what others see. One that
    depends on its batch sees all images together, whatever `batch_size` says.

    Args:
        model: with or without a rejection.
        x: the images.
        draws: answers per image.
        batch_size: images in one pass.
        abstains: whether the last class is a rejection.
        settled: told of (M, d) answers so far and of which images they are; those for which it
            returns true are not asked again, and their other answers are -1. None asks all.

    Raises:
        ValueError: an answer is NaN, which would count as class 0.
    """
    answers = np.full((len(x), draws), -1, dtype=np.int16)
    suspicion = np.zeros((len(x), draws if abstains else 0), dtype=np.float32)
    size = images_per_pass(model, x, 1, batch_size)
    asked = np.arange(len(x))
    with torch.no_grad():
        for draw in range(draws):
            these = x if len(asked) == len(x) else x[torch.from_numpy(asked).to(x.device)]
            out = torch.cat([model(part.clone()) for part in torch.split(these, size)])
            if bool(out.isnan().any()):
                bad = int(out.isnan().any(1).sum())
                raise ValueError(f"the model answers {bad} of {len(these)} images with NaN")
            answers[asked, draw] = out.argmax(1).cpu().numpy()
            if abstains:
                ahead = out[:, -1] - out[:, :-1].amax(1)
                suspicion[asked, draw] = ahead.float().cpu().numpy()
            if settled is not None:
                asked = asked[~settled(answers[asked, : draw + 1], asked)]
                if len(asked) == 0:
                    break
    return Look(answers, suspicion)


@dataclass(frozen=True)
class Bar:
    """Of how many draws each example stands after the attacks so far, the least of them.

    Nobody would show an attack's image that stands in more.

    Attributes:
        classes: K; the answer K is a rejection.
        good: (N,) draws that count for the defender.
        right: (N,) draws of the true class.
    """

    classes: int
    good: NDArray[np.int64]
    right: NDArray[np.int64]

    @classmethod
    def of(cls, answers: Answers, y: NDArray[np.int64], classes: int) -> "Bar":
        """Return the bar that (N, draws) answers set."""
        good, right = defended(answers, y, classes), correct(answers, y)
        return cls(classes, good.sum(1), right.sum(1))

    def lowered(self, other: "Bar") -> "Bar":
        """Return the lower one of two bars, image by image and count by count."""
        lower = (np.minimum(a, b) for a, b in ((self.good, other.good), (self.right, other.right)))
        return Bar(self.classes, *lower)

    def beats(self, answers: Answers, y: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (N,) where (N, d) answers, of all draws or only the first ones, leave more.

        More of what counts for the defender and no less of what is right: more draws change
        nothing in that. Where both are alike the later attack may be the stronger one.
        """
        new = Bar.of(answers, y, self.classes)
        return np.asarray((new.good > self.good) & (new.right >= self.right))

    def select(self, index: NDArray[np.int64]) -> "Bar":
        """Return the bar of some examples."""
        return Bar(self.classes, self.good[index], self.right[index])


def correct(answers: Answers, y: NDArray[np.int64]) -> Flags:
    """Return where an answer is the true class."""
    return np.asarray(answers == y[:, None])


def defended(answers: Answers, y: NDArray[np.int64], classes: int) -> Flags:
    """Return where an answer to an adversarial image is the true class or a rejection."""
    return np.asarray((answers == y[:, None]) | (answers == classes))


@dataclass(frozen=True)
class Accuracy:
    """One accuracy under the three rules for random models; they coincide without randomness.

    Attributes:
        one_shot: expected accuracy of a single answer.
        majority: of the commonest answer of all draws, ties counted against the defender.
        worst: share of images that every draw answers well.
        draws: how many answers per image.
    """

    one_shot: Proportion
    majority: Proportion
    worst: Proportion
    draws: int


def accuracy(answers: Answers, good: Flags) -> Accuracy:
    """Return an accuracy from (N, draws) answers and which of them count for the defender."""
    n, draws = answers.shape
    return Accuracy(
        one_shot=one_shot(good),
        majority=wilson(int(majority_good(answers, good).sum()), n),
        worst=wilson(int(good.all(1).sum()), n),
        draws=draws,
    )


def one_shot(good: Flags) -> Proportion:
    """Return the share of all (N, draws) answers of which something is true."""
    share = share_of_draws(good.sum(1), np.full(len(good), good.shape[1]))
    if share is None:
        raise ValueError("a share needs at least one answer of one image")
    return share


def covered(good: Flags, answered: Flags) -> Proportion | None:
    """Return the share of the answers that are no rejections for which something is true.

    Args:
        good: (N, draws) where it is true.
        answered: (N, draws) where the model did not abstain.

    Returns:
        The share; None where the model abstained throughout.
    """
    return share_of_draws((good & answered).sum(1), answered.sum(1))


def majority_good(answers: Answers, good: Flags) -> NDArray[np.bool_]:
    """Return (N,) whether every one of the commonest answers counts for the defender."""
    labels = np.arange(int(answers.max(initial=0)) + 1)
    counts = (answers[:, :, None] == labels).sum(1)
    top = counts == counts.max(1, keepdims=True)
    bad = ((answers[:, :, None] == labels) & ~good[:, :, None]).any(1)
    return np.asarray(~(top & bad).any(1))


def worst_candidate(selection: list[Flags]) -> NDArray[np.int64]:
    """Return (N,) which candidate an attacker would show of each example.

    The share of the selection draws that the defender survives, with half a draw's weight of the
    candidate's mean over all examples: among images that no draw survives, the attack that is
    stronger elsewhere is the better bet.

    Args:
        selection: per candidate, (N, draws) what counts for the defender on the selection draws.
    """
    prior = 0.5
    survived = np.stack([good.sum(1) + prior * good.mean() for good in selection])
    return np.asarray(survived.argmin(0))


def pick(candidates: list[NDArray[np.generic]], chosen: NDArray[np.int64]) -> NDArray[np.generic]:
    """Return (N, ...) rows, each from its chosen candidate."""
    stacked = np.stack(candidates)
    return np.asarray(stacked[chosen, np.arange(stacked.shape[1])])
