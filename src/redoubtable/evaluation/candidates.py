"""Candidates: for each attack its images, looked at again by the true model on fresh draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from redoubtable.attacks import ATTACKS, chosen
from redoubtable.attacks.rounding import round_to_8_bits
from redoubtable.evaluation.border import check_legal, device_of
from redoubtable.evaluation.chunks import Chunks
from redoubtable.evaluation.environment import hardware
from redoubtable.evaluation.journal import Arrays, Journal
from redoubtable.evaluation.outcomes import Answers, Bar, Look, look
from redoubtable.evaluation.passes import Passes, counted
from redoubtable.evaluation.plan import BoundAttack, registered
from redoubtable.evaluation.turns import all_of
from redoubtable.files import digest_model, digest_package, digest_source_files
from redoubtable.gradients import FastCopy, fast_copy
from redoubtable.parts import bare, facts_of
from redoubtable.registry import settable
from redoubtable.seeding import seeded
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels

View = Literal["clean", "static", "adaptive"]
KEPT_IMAGES = 12
"""How many adversarial images of each attack are kept for pictures, by default."""
_NO_PART_OF_A_CELL = (
    *("__main__", "cli", "demo", "papers", "reports", "training"),
    *(
        f"evaluation/{name}"
        for name in ("checks", "summary", "runner", "progress", "evaluate", "work")
    ),
)
"""Parts of the package that no attack and no look at its images can reach."""


@dataclass(frozen=True)
class Settings:
    """What an evaluation fixes. Results depend on all of it, on `batch_size` by rounding only.

    Attributes:
        seed: of every attack and every draw.
        draws: answers per image on a random model, for selection and again for the report.
        chunk: consecutive examples that one piece of work covers.
        batch_size: network images in one pass, the memory bound.
        precision: of the copy that attacks search on, and on which of a random model the worst
            attack is chosen.
        eight_bit: round what attacks return to the 256 steps of an image file.
        keep: of how many of the first examples the adversarial images are kept.
    """

    seed: int = 0
    draws: int = 20
    chunk: int = 250
    batch_size: int = 512
    precision: Literal["fp32", "bf16"] = "fp32"
    eight_bit: bool = False
    keep: int = KEPT_IMAGES

    def __post_init__(self) -> None:
        """Refuse settings that can't be meant."""
        for name in ("draws", "chunk", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"`precision` must be 'fp32' or 'bf16', got {self.precision!r}")


@dataclass(frozen=True)
class Candidate:
    """One attack's images for all examples, as answered by the true model.

    Attributes:
        view: what the attack saw: "static" the bare model, "adaptive" all of it; "clean" for the
            images themselves.
        attack: its canonical text; "" for clean.
        selection: (N, draws) answers that the worst attack is chosen on.
        report: (N, draws) answers that are reported.
        suspicion: (N, draws) of the report, empty (N, 0) without a rejection.
        distance: (N,) in the threat's norm.
        passes: network passes of the attack itself.
        images: (M, C, H, W) the first M images.
        carried: (N,) which examples this attack did not see, because they had fallen before: all
            of theirs is as the attack before it left it.
        beaten: (N,) which examples it saw and leaves more of than an attack before it: image and
            distance are its own, answers and suspicion those of the attack before it.
    """

    view: View
    attack: str
    selection: NDArray[np.int16]
    report: NDArray[np.int16]
    suspicion: NDArray[np.float32]
    distance: NDArray[np.float32]
    passes: Passes
    images: NDArray[np.float32]
    carried: NDArray[np.bool_]
    beaten: NDArray[np.bool_]


Run = Callable[[Images, Labels, ThreatModel | None], Images]


@dataclass(frozen=True)
class Piece:
    """One chunk under one attack: what a worker does between two marks in the journal.

    Attributes:
        number: of the chunk.
        view: what the attack sees.
        attack: its text; "" for clean.
        threat: for all examples; None for clean.
        open: (M,) the examples of the chunk that are attacked.
        bar: of these, what the attacks before leave; None where it does not matter.
    """

    number: int
    view: View
    attack: str
    threat: ThreatModel | None
    open: NDArray[np.int64]
    bar: Bar | None


@dataclass
class Bench:
    """A model, its data and a journal: where candidates are made.

    Attributes:
        model: the true model, in eval mode, on its device.
        data: the clean images and their labels, chunk by chunk.
        settings: seed, draws, chunk, batch size, precision.
        journal: where finished chunks are kept.
        tick: called with the name of every chunk's cell when it is there, for progress.
    """

    model: nn.Module
    data: Chunks
    settings: Settings
    journal: Journal
    tick: Callable[[str], None] = lambda cell: None
    _copies: dict[tuple[str, str], FastCopy] = field(default_factory=dict)
    _given: dict[str, Arrays] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name the model once: hashing it for every chunk would cost."""
        self.facts = facts_of(self.model)
        self.digest = digest_model(self.model)
        self.code = f"{digest_package(_NO_PART_OF_A_CELL)} {digest_source_files(self.model)}"
        self.draws = self.settings.draws if self.facts.stochastic else 1

    @property
    def device(self) -> torch.device:
        """Where the model lives; chunks are moved there."""
        return device_of(self.model, self.data.outline)

    def clean(self) -> Candidate:
        """Return the clean images as a candidate."""
        return self._candidate("clean", None, None, lambda x, y, _: x)

    def attacked(
        self,
        view: View,
        bound: BoundAttack,
        threat: ThreatModel,
        fallen: NDArray[np.bool_] | None = None,
        bar: Bar | None = None,
    ) -> Candidate:
        """Return the images of an attack on the bare ("static") or the whole ("adaptive") model.

        Args:
            view: what the attack sees.
            bound: the attack.
            threat: what it may change.
            fallen: (N,) examples that it leaves out, to be filled in from those before it.
            bar: what the attacks before it leave. Of an example that it leaves more of nobody
                needs its answers: it is marked as beaten, to be filled in likewise.

        Raises:
            ValueError: the attack returned something that is no legal image.
        """
        takes = settable(bound.entry.obj)
        arguments = dict(bound.arguments)
        if "surrogates" in arguments:
            arguments["surrogates"] = [m.to(self.device).eval() for m in _surrogates(bound)]

        def run(x: Images, y: Labels, ball: ThreatModel | None) -> Images:
            target = self._copy(view, bound.text)
            passes = facts_of(target).passes
            if "batch_size" in takes:
                arguments.setdefault("batch_size", max(1, self.settings.batch_size // passes))
            given = chosen(arguments, target, x, y)
            return bound.entry.obj(target, x, y, ball or threat, **given)

        return self._candidate(view, bound, threat, run, fallen, bar)

    def _copy(self, view: View, attack: str) -> FastCopy:
        """The fast copy that an attack of one view searches on.

        Differences of nearby images are lost in bf16, so attacks by such search in fp32.
        """
        name = attack.partition(":")[0]
        fine = name in ATTACKS and ATTACKS[name].facts.get("differences", False)
        precision: Literal["fp32", "bf16"] = "fp32" if fine else self.settings.precision
        if (view, precision) not in self._copies:
            model = bare(self.model) if view == "static" else self.model
            sample = self.data.first(2)[0].to(self.device)
            self._copies[view, precision] = fast_copy(model, sample, precision)
        return self._copies[view, precision]

    def _candidate(
        self,
        view: View,
        bound: BoundAttack | None,
        threat: ThreatModel | None,
        run: Run,
        fallen: NDArray[np.bool_] | None = None,
        bar: Bar | None = None,
    ) -> Candidate:
        spared = np.zeros(len(self.data), dtype=bool) if fallen is None else fallen
        # The settings of a function that was given can't be named, so nothing of it is kept,
        # unless it has a digest of its own.
        kept = bound is None or registered(bound) or bool(bound.entry.facts.get("digest"))
        # What was made before doesn't depend on what it sees here: one look is enough.
        asks = bound is None or bound.entry.facts.get("asks_model", True)
        sees: View = view if asks else "adaptive"

        def cell(number: int) -> Arrays:
            start = self.data.starts[number]
            open_ = np.flatnonzero(~spared[start : start + self.data.length])
            its = bar and bar.select(start + open_)
            piece = Piece(number, sees, bound.text if bound else "", threat, open_, its)
            key = self._key(piece, bound)
            name = repr((view, bound and id(bound.entry.obj), key))
            if kept:
                arrays = self.journal.cell(key, lambda: self._chunk(piece, run))
            else:
                arrays = self._given.get(name) or self._chunk(piece, run)
                self._given[name] = arrays
            self.tick(name)
            return arrays

        cells = all_of(partial(cell, number) for number in range(len(self.data.starts)))
        joined = {name: np.concatenate([c[name] for c in cells]) for name in cells[0]}
        forward, backward = joined.pop("passes").reshape(-1, 2).sum(0).tolist()
        text = bound.text if bound else ""
        return Candidate(view, text, passes=Passes(forward, backward), carried=spared, **joined)

    def _key(self, piece: Piece, bound: BoundAttack | None) -> Mapping[str, Any]:
        s = self.settings
        return {
            "model": self.digest,
            "code": [self.code, digest_source_files(bound.entry.obj) if bound else ""],
            "device": hardware(self.device),
            "data": self.data.digests[piece.number],
            "start": self.data.starts[piece.number],
            "open": piece.open.tolist(),
            "bar": piece.bar and [piece.bar.good.tolist(), piece.bar.right.tolist()],
            "view": piece.view,
            "attack": piece.attack,
            "digest": bound and bound.entry.facts.get("digest"),
            # A folder's name does not say which weights are in it.
            "surrogates": [digest_model(m) for m in _surrogates(bound)],
            "threat": piece.threat and piece.threat.key,
            "seed": s.seed,
            "draws": s.draws,
            "precision": s.precision,
            "batch_size": s.batch_size,
            "eight_bit": s.eight_bit,
            "keep": s.keep,
        }

    def _chunk(self, piece: Piece, run: Run) -> Arrays:
        """Attack one chunk and look at what came out; each step under its own random state."""
        s, start, threat = self.settings, self.data.starts[piece.number], piece.threat
        whole, labels = (t.to(self.device) for t in self.data.chunk(piece.number))
        index = torch.from_numpy(piece.open).to(self.device)
        x, y = whole[index], labels[index]
        ball = threat and threat.select(start + index)
        name = (s.seed, piece.view, piece.attack, threat and threat.key, start)
        copies: tuple[nn.Module, ...] = ()
        if piece.view != "clean":
            copy = self._copy(piece.view, piece.attack)
            copies = (copy, copy.exact)
        x_adv = x
        with counted(*copies) as passes, seeded("attack", *name):
            if len(x):
                x_adv = run(x.clone(), y.clone(), ball)
        if ball is not None and len(x):
            check_legal(piece.attack, x_adv, x, ball)
            if s.eight_bit:
                x_adv = round_to_8_bits(x_adv, x)
                check_legal(piece.attack, x_adv, x, ball)
        selection, report, beaten = self._looks(piece, x_adv, y.cpu().numpy(), name)
        distance = ball.distance(x, x_adv) if ball else torch.zeros(len(x))
        shown = whole.index_copy(0, index, x_adv)[: max(0, s.keep - start)]
        full = len(whole)
        return {
            "selection": _spread(selection.answers, piece.open, full),
            "report": _spread(report.answers, piece.open, full),
            "suspicion": _spread(report.suspicion, piece.open, full),
            "distance": _spread(distance.float().cpu().numpy(), piece.open, full),
            "beaten": _spread(beaten, piece.open, full),
            "passes": np.array([passes.forward, passes.backward], dtype=np.int64),
            # A copy: a part, even an empty one, would hold the memory of the whole chunk.
            "images": shown.clone().float().cpu().numpy(),
        }

    def _looks(
        self, piece: Piece, x: Images, y: NDArray[np.int64], name: tuple[Any, ...]
    ) -> tuple[Look, Look, NDArray[np.bool_]]:
        """The answers that the worst attack is chosen on, those that are reported, and where not.

        Where the attack is beaten no more draws are made than tell so.
        """
        # Of a random model the choice is a part of the search; only what is reported must be true.
        random, bar = self.facts.stochastic, piece.bar
        chooses = self._copy("adaptive", piece.attack) if random else self.model
        if bar is None:
            selection = self._look("selection", chooses, x, name)
            return selection, self._look("report", self.model, x, name), np.zeros(len(x), bool)

        def beats(answers: Answers, which: NDArray[np.int64]) -> NDArray[np.bool_]:
            return bar.select(which).beats(answers, y[which])

        selection = self._look("selection", chooses, x, name, beats)
        beaten = bar.beats(selection.answers, y)
        which = np.flatnonzero(~beaten)
        fresh = self._look("report", self.model, x[torch.from_numpy(which).to(x.device)], name)
        report = Look(*(_spread(r, which, len(x)) for r in (fresh.answers, fresh.suspicion)))
        return selection, report, beaten

    def _look(
        self,
        purpose: str,
        model: nn.Module,
        x: Images,
        name: tuple[Any, ...],
        settled: Callable[[Answers, NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    ) -> Look:
        """A model's answers to images, under the random state of a purpose."""
        if len(x) == 0:
            suspicion = np.empty((0, self.draws if self.facts.abstains else 0), np.float32)
            return Look(np.empty((0, self.draws), np.int16), suspicion)
        passes_per_image = max(1, self.settings.batch_size // self.facts.passes)
        with seeded(purpose, *name):
            return look(model, x, self.draws, passes_per_image, self.facts.abstains, settled)


def _surrogates(bound: BoundAttack | None) -> Sequence[nn.Module]:
    """The networks that an attack searches on instead of the model."""
    return () if bound is None else tuple(bound.arguments.get("surrogates", ()))


def _spread(rows: NDArray[Any], where: NDArray[np.int64], n: int) -> NDArray[Any]:
    """Rows of some examples among those of all; the others are zero until they are carried."""
    all_rows = np.zeros((n, *rows.shape[1:]), dtype=rows.dtype)
    all_rows[where] = rows
    return all_rows
