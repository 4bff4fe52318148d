"""Models whose answer depends on the batch: the attacker owns it, in three settings.

Batch norm with the statistics of the batch, and other defenses that compare the images shown to
them, answer an image by its neighbours. The chunk of an evaluation is then the batch: no image
leaves it, none stops early, and it is never cut. What the neighbours are is the attacker's choice,
so an accuracy is told for each of these settings:

- all: the whole batch is adversarial, and all of it is attacked together;
- mixed: one half of the batch is adversarial and made with the other, clean half held fixed; then
  the halves change places, so that each image is adversarial once;
- alone: an image sees itself only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redoubtable.evaluation.candidates import Bench, Candidate
from redoubtable.evaluation.cascade import attack_all
from redoubtable.evaluation.chunks import Chunks
from redoubtable.evaluation.passes import Passes
from redoubtable.evaluation.plan import VIEWS, Plans
from redoubtable.evaluation.summary import summarise
from redoubtable.evaluation.turns import all_of
from redoubtable.files import digest_model
from redoubtable.seeding import derive_seed, seeded
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Logits

Setting = Literal["alone", "mixed", "all"]
SETTINGS: tuple[Setting, ...] = ("alone", "mixed", "all")


class Beside(nn.Module):
    """A model that shows images in one batch with others, which stay as they are.

    Args:
        model: one that depends on its batch.
        others: (M, C, H, W) images, part of every batch.
    """

    others: Tensor

    def __init__(self, model: nn.Module, others: Images) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("others", others)

    def forward(self, x: Images) -> Logits:
        """Return the answers to `x` alone."""
        out: Logits = self.model(torch.cat([x, self.others.to(x)]))
        return out[: len(x)]


class Alone(nn.Module):
    """A model that sees one image at a time.

    Args:
        model: one that depends on its batch.
        copies: images in the smallest batch that the model takes; it is filled with the image.
    """

    def __init__(self, model: nn.Module, copies: int) -> None:
        super().__init__()
        self.model = model
        self.copies = copies

    def forward(self, x: Images) -> Logits:
        """Return the answer to each image in a batch of its own."""
        return torch.cat(
            [self.model(one.repeat(self.copies, 1, 1, 1))[:1] for one in torch.split(x, 1)]
        )

    def extra_repr(self) -> str:
        """Show the size of the batch."""
        return f"copies={self.copies}"


def smallest_batch(model: nn.Module, one: Images) -> int:
    """Return whether a model takes a batch of one, or only of two and more.

    Args:
        model: any classifier.
        one: (1, C, H, W), an image.

    Raises:
        ValueError: the model changes its own state when it answers, so that an answer would depend
            on all images that it has ever seen.
    """
    before = digest_model(model)
    with torch.no_grad(), seeded("smallest batch"):
        try:
            model(one.clone())
            size = 1
        except (RuntimeError, ValueError):  # batch norm of one value per channel
            model(one.repeat(2, 1, 1, 1))
            size = 2
    if digest_model(model) != before:
        raise ValueError(
            "the model changes its own state when it answers, so no answer can be repeated; give "
            "batch norms that use the statistics of the batch track_running_stats=False"
        )
    return size


def check_batches(n: int, size: int) -> None:
    """Refuse examples that don't fill whole batches: a smaller batch is another defense.

    Args:
        n: how many examples there are.
        size: of the batch, the chunk of the settings.

    Raises:
        ValueError: the last batch would be smaller, or there are no two images for a mixed one.
    """
    if n > size and n % size:
        raise ValueError(
            f"the model depends on its batch, and {n} images don't fill batches of {size}; take "
            f"{n // size * size} images, or another `chunk`"
        )
    if min(n, size) < 2:
        raise ValueError(
            "the model depends on its batch; give at least 2 images, and a `chunk` of at least 2"
        )


@dataclass(frozen=True)
class Batches:
    """What was measured of a model that depends on its batch.

    Attributes:
        record: size and the numbers of each setting, ready for JSON.
        candidates: of the settings beside "all", whose candidates are the evaluation's own.
    """

    record: dict[str, Any]
    candidates: dict[Setting, list[Candidate]]


def measure(
    bench: Bench,
    together: Sequence[Candidate],
    plans: Plans,
    threat: ThreatModel,
    classes: int,
) -> Batches:
    """Return the numbers of all three settings.

    Args:
        bench: the model and its data, whose chunk is the batch.
        together: what was found with the whole batch adversarial.
        plans: the attacks.
        threat: what they may change.
        classes: K; the answer K is a rejection.

    Raises:
        ValueError: the model changes its own state when it answers.
    """
    smallest = smallest_batch(bench.model, bench.data.first(1)[0].to(bench.device))
    alone = Bench(
        Alone(bench.model, smallest), bench.data, bench.settings, bench.journal, bench.tick
    )
    one_by_one, mixed = all_of(
        (
            partial(_all_attacks, alone, plans, threat, classes),
            partial(_mixed, bench, plans, threat, classes),
        )
    )
    found: dict[Setting, list[Candidate]] = {"alone": one_by_one, "mixed": mixed}
    y = bench.data.y.numpy()
    record: dict[str, Any] = {"size": min(bench.data.length, len(y)), "smallest": smallest}
    for setting in SETTINGS:
        candidates = found.get(setting, together)
        numbers = summarise(candidates, y, classes, bench.facts.abstains)
        record[setting] = {k: numbers[k] for k in ("clean", "static", "adaptive", "robust")}
    return Batches(record, found)


def _all_attacks(bench: Bench, plans: Plans, threat: ThreatModel, classes: int) -> list[Candidate]:
    """The clean images, and what all attacks make of them."""
    clean = bench.clean()
    views = all_of(
        partial(attack_all, bench, view, getattr(plans, view), threat, classes) for view in VIEWS
    )
    return [clean, *chain(*views)]


def _mixed(bench: Bench, plans: Plans, threat: ThreatModel, classes: int) -> list[Candidate]:
    """The candidates of every image, each attacked beside the clean half that it is not in."""
    pieces = [
        (number, *pair)
        for number, start in enumerate(bench.data.starts)
        for pair in _halves(bench, start)
    ]
    found = all_of(partial(_half, bench, plans, threat, classes, *piece) for piece in pieces)
    where = torch.cat([bench.data.starts[n] + half for n, half, _ in pieces])
    order = where.argsort().numpy()
    return [_joined(parts, order) for parts in zip(*found, strict=True)]


def _halves(bench: Bench, start: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Which of a batch are adversarial and which clean, and the other way round."""
    size = min(bench.data.length, len(bench.data) - start)
    with seeded("mixed", bench.settings.seed, start):
        one, other = (half.sort().values for half in torch.randperm(size).tensor_split(2))
    return (one, other), (other, one)


def _half(
    bench: Bench,
    plans: Plans,
    threat: ThreatModel,
    classes: int,
    number: int,
    half: Tensor,
    clean: Tensor,
) -> list[Candidate]:
    """The candidates of one half of a batch beside the clean other one."""
    x, y = bench.data.chunk(number)
    model = Beside(bench.model, x[clean].to(bench.device))
    # Every half starts at 0; without its own seed all of them would share their draws.
    where = bench.data.starts[number] + half
    few = replace(bench.settings, seed=derive_seed("mixed", bench.settings.seed, where.tolist()))
    part = Bench(model, Chunks(x[half], y[half], len(half)), few, bench.journal, bench.tick)
    return _all_attacks(part, plans, threat.select(where), classes)


def _joined(parts: Sequence[Candidate], order: NDArray[np.int64]) -> Candidate:
    """One attack's candidate for all images from those of the halves."""

    def rows(name: str) -> Any:
        return np.concatenate([getattr(p, name) for p in parts])[order]

    names = ("selection", "report", "suspicion", "distance", "carried", "beaten")
    passes = Passes(sum(p.passes.forward for p in parts), sum(p.passes.backward for p in parts))
    # The first images of a half are not the first of all, so none are kept.
    images = parts[0].images[:0]
    return replace(parts[0], passes=passes, images=images, **{n: rows(n) for n in names})
