"""How long an evaluation will take: tried on a few images that stand and a few that fall."""

import math
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from redoubtable.attacks import ATTACKS, pgd
from redoubtable.evaluation.candidates import Settings
from redoubtable.evaluation.chunks import read
from redoubtable.evaluation.evaluate import evaluate
from redoubtable.evaluation.plan import BoundAttack, expand
from redoubtable.gradients import fast_copy
from redoubtable.parts import facts_of, in_eval_mode
from redoubtable.seeding import seeded
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels, LazyImages

LOOKED_AT = 100
"""Images that a quick PGD is tried on; also how many of the first ones checks and curves take."""
TRIED = 2
"""Images of each kind that every attack is tried on."""
SHARED = 0.85
"""What each of several processes on one machine does of what it does alone, by
`results/evaluation.json`."""
_LONG, _PART = 1000, 10
"""Searches of so many queries are tried with a part of them."""
_CHUNKS, _SHORTEST = 4, 25
"""How many chunks images are cut into, and the least length, as short batches cost more."""


@dataclass(frozen=True)
class Pace:
    """Seconds per image of one evaluation.

    Attributes:
        attacks: of its attacks, on every image.
        doubts: of its checks and its curve, on the first images only.
    """

    attacks: float
    doubts: float

    def seconds(self, n: int, processes: int = 1) -> float:
        """Return how long n images take processes that each need chunks of their own."""
        speed = 1 if processes == 1 else SHARED * min(processes, _CHUNKS)
        return (n * self.attacks + min(n, LOOKED_AT) * self.doubts) / speed


@dataclass(frozen=True)
class Kinds:
    """Some images by what a quick PGD makes of them, since those that stand cost the most.

    Attributes:
        standing: share that stands.
        groups: per kind its share, images and labels; at most `TRIED`.
        speed: images per second of a chunk under attack over those of `TRIED` images.
    """

    standing: float
    groups: tuple[tuple[float, Images, Labels], ...]
    speed: float


def sort_images(
    model: nn.Module, x: LazyImages, y: Labels, threat: ThreatModel, settings: Settings
) -> Kinds:
    """Attack the first images quickly, and measure how fast that is for a few and for a chunk.

    Args:
        model: on its device.
        x: (N, C, H, W) images.
        y: (N,) labels.
        threat: what the attacker may change.
        settings: of the evaluation.
    """
    n = min(len(x), LOOKED_AT)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    few, labels = read(x, slice(0, n)).to(device), y[:n].to(device)
    batch = max(1, settings.batch_size // facts_of(model).passes)
    with in_eval_mode(model), seeded("estimate", settings.seed):
        # The copy that attacks search on; no image leaves, or few and many had other work to do.
        searched = fast_copy(model, few[:2], settings.precision)
        look = partial(pgd, searched, threat=threat, steps=10, batch_size=batch, stop=False)
        small = _images_per_second(look, few[:TRIED], labels[:TRIED])
        size = min(n, settings.chunk)
        full = _images_per_second(look, few[:size], labels[:size])
        x_adv = pgd(model, few, labels, threat, steps=10, batch_size=batch)
        with torch.no_grad():
            out = torch.cat([model(part) for part in torch.split(x_adv, batch)])
        rejected = out.shape[1] - 1 if facts_of(model).abstains else -1
        answers = out.argmax(1)
        stands = (answers == labels) | (answers == rejected)
    groups = []
    for which in (stands, ~stands):
        share = float(which.double().mean())
        if share:
            groups.append((share, few[which][:TRIED], labels[which][:TRIED].cpu()))
    return Kinds(float(stands.double().mean()), tuple(groups), max(1.0, full / small))


def _images_per_second(attack: Callable[[Images, Labels], Images], x: Images, y: Labels) -> float:
    """Images that are attacked in a second, at the better of two tries."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        attack(x, y)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        seconds.append(time.perf_counter() - started)
    return len(x) / min(seconds)


def pace(
    model: nn.Module,
    kinds: Kinds,
    threat: ThreatModel,
    attacks: str | Sequence[str],
    *,
    settings: Settings,
    curve: Sequence[float],
    check: bool | Collection[str],
    again: int = 0,
) -> Pace:
    """Try an evaluation on a few images of each kind.

    Args:
        model: on its device.
        kinds: the images.
        threat: what the attacker may change.
        attacks: as `evaluate` takes them.
        settings: of the evaluation.
        curve: as `evaluate` takes it.
        check: as `evaluate` takes it.
        again: how often all is attacked again, as at thresholds of fixed rates.
    """
    bounds, cascade = expand(attacks, threat, facts_of(model))
    attacking = doubting = 0.0
    for number, (share, x, y) in enumerate(kinds.groups):
        few = replace(settings, chunk=min(settings.chunk, len(x)), keep=0)
        if facts_of(model).batch_dependent and len(x) < 2:
            x, y = x.repeat(2, 1, 1, 1), y.repeat(2)
            few = replace(few, chunk=2)
        run = partial(_seconds, model, x, y, threat, cascade, few)
        stand = number == 0 and kinds.standing > 0
        tried = [_shortened(bound) if stand else (bound.text, 1) for bound in bounds]
        with tempfile.TemporaryDirectory() as folder:
            alone = run([text for text, _ in tried], folder)
            # The attacks come from the journal, so that the rest is what is added.
            more = bool(curve or check)
            added = run([text for text, _ in tried], folder, curve, check) if more else 0.0
        for text, times in tried:
            if times > 1:
                with tempfile.TemporaryDirectory() as folder:
                    alone += (times - 1) * run([text], folder)
        attacking += share * alone / len(x) * (1 + again)
        doubting += share * added / len(x)
    return Pace(attacking / kinds.speed, doubting / kinds.speed)


def _shortened(bound: BoundAttack) -> tuple[str, int]:
    """An attack with a tenth of a long search's queries, and how often that is the whole.

    What stands is asked for all of them, so that a tenth takes a tenth of the time.
    """
    defaults = getattr(bound.entry.obj, "__kwdefaults__", None) or {}
    queries = bound.arguments.get("queries", defaults.get("queries", 0))
    if queries < _LONG:
        return bound.text, 1
    arguments = {**bound.arguments, "queries": queries // _PART}
    return ATTACKS.text(bound.entry.name, arguments), _PART


def _seconds(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    cascade: bool,
    settings: Settings,
    attacks: Sequence[str],
    folder: str,
    curve: Sequence[float] = (),
    check: bool | Collection[str] = False,
) -> float:
    """How long an evaluation takes that goes on from what a folder has."""
    started = time.perf_counter()
    evaluate(
        model,
        x,
        y,
        threat,
        attacks,
        cascade=cascade or None,
        seed=settings.seed,
        settings=settings,
        curve=curve,
        check=check,
        out=Path(folder),
    )
    return time.perf_counter() - started


def images_within(seconds: float, paces: Sequence[Pace], n: int, processes: int = 1) -> int:
    """Return how many of n images can be evaluated within a time; 0 if not even one."""
    fits = (k for k in range(n, 0, -1) if sum(p.seconds(k, processes) for p in paces) <= seconds)
    return next(fits, 0)


def chunk_for(n: int, longest: int) -> int:
    """Return a length of chunks that gives several processes enough to share.

    It does not depend on how many there are, as the record would then depend on it too.
    """
    return min(longest, max(_SHORTEST, math.ceil(n / _CHUNKS)))
