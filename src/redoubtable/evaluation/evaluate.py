"""Measure how robust a model is: static and adaptive, with intervals, and with its own doubts."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from redoubtable.evaluation import batch_settings, curves, rates, summary
from redoubtable.evaluation.border import classes_of, device_of
from redoubtable.evaluation.candidates import Bench, Candidate, Settings
from redoubtable.evaluation.checks import asked
from redoubtable.evaluation.chunks import Chunks, outline
from redoubtable.evaluation.environment import environment
from redoubtable.evaluation.outcomes import defended
from redoubtable.evaluation.plan import (
    LEAST_DRAWS,
    Choice,
    Plans,
    adaptive_plan,
    expand,
    static_plan,
)
from redoubtable.evaluation.progress import ticking
from redoubtable.evaluation.runner import running
from redoubtable.evaluation.work import Measured, Work
from redoubtable.parts import Facts, facts_of, in_eval_mode, parts_of
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels, LazyImages, check_lazy

SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        record: everything but the images, ready for JSON; the schema is in docs/record.md.
        arrays: per example and attack: answers, distances, suspicion.
        images: clean images and, per attack, adversarial ones, of the first examples.
    """

    record: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    images: Mapping[str, NDArray[np.float32]]

    @property
    def clean_accuracy(self) -> float:
        """Expected accuracy of one answer to a clean image; a rejection is an error."""
        return float(self.record["clean"]["accuracy"]["one_shot"]["value"])

    @property
    def robust_accuracy(self) -> float:
        """Expected accuracy of one answer under the worst attack per example, of all that ran.

        A rejection counts as defended. Of a model that depends on its batch it is that of the
        setting that leaves the least: who is beside an image is the attacker's choice.
        """
        batches = self.record.get("batches")
        blocks = [batches[s] for s in batch_settings.SETTINGS] if batches else [self.record]
        return min(float(b["robust"]["accuracy"]["one_shot"]["value"]) for b in blocks)

    @property
    def static_accuracy(self) -> float:
        """The same under the attacks that saw the bare model only."""
        return float(self.record["static"]["accuracy"]["one_shot"]["value"])

    @property
    def adversarial(self) -> NDArray[np.float32]:
        """(M, C, H, W): of each of the kept examples the worst candidate's image."""
        kept = list(self.images.values())
        chosen = self.arrays["robust/chosen"][: len(kept[0])]
        return np.asarray(np.stack(kept)[chosen, np.arange(len(chosen))])

    @property
    def under(self) -> Mapping[str, float]:
        """Accuracy by adaptive attack: by its text, and by its name for the strongest so named."""
        rows = [r for r in self.record["rows"] if r["view"] == "adaptive"]
        by_text = {r["attack"]: r["accuracy"]["one_shot"]["value"] for r in rows}
        by_name: dict[str, float] = {}
        for text, value in by_text.items():
            name = text.partition(":")[0]
            by_name[name] = min(value, by_name.get(name, 1.0))
        return {**by_name, **by_text}


def evaluate(
    model: nn.Module,
    x: LazyImages,
    y: Labels,
    threat: ThreatModel,
    attacks: Choice | Sequence[Choice] = "adaptive",
    *,
    cascade: bool | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    held_out: LazyImages | None = None,
    curve: Sequence[float] = curves.CURVE,
    rate_images: int | None = None,
    check: bool | Collection[str] = True,
    out: Path | str | None = None,
    journal: Path | str | None = None,
    name: str = "model",
    data: str = "unnamed",
    command: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Attack a model without and with knowledge of its defense, and report both.

    Static attacks see the bare model, adaptive ones all of it, its randomness and its rejection
    included. Each attack's images are looked at again by the true model on fresh draws: the worst
    attack of each example is chosen on one set of draws and reported on another. The same seed
    gives the same result, bit for bit.

    Args:
        model: maps (N, C, H, W) in [0, 1] to (N, K) logits, or (N, K + 1) if it may abstain.
        x: clean images: a tensor, or a view that reads them when they are asked for, of which no
            more than a chunk (or the images of a check) is in memory at a time.
        y: (N,) labels.
        threat: what the attacker may change.
        attacks: a suite ("adaptive", "standard"), an attack, a function of the form of an attack,
            or several of these.
        cascade: whether each attack sees only what stands after those before it, which costs less
            and leaves its own row without the rest; None for what the suites say. On a random model
            it sees what stands in any of at least 20 draws.
        seed: of every attack and every draw.
        settings: draws, chunk, batch size and precision; its seed is replaced by `seed`.
        held_out: clean images, likewise, that neither training nor `x` has; with them a model that
            abstains is also attacked at thresholds of 1% and 5% false positives.
        curve: multiples of eps for accuracy against eps; empty for none.
        rate_images: how many of the first images are attacked at these thresholds; None for all.
        check: run the checks that doubt the result: all, none, or those that are named.
        out: a folder for `record.json`, `examples.npz` and the journal; given again, it resumes.
        journal: another folder for finished work, which several evaluations may have: what they
            have in common, such as looks at the same clean images, is then done once.
        name: what the model is called in the record.
        data: what the images are called in the record.
        command: what a stranger would type to get the record, if there is such a thing.
        progress: show a progress bar.

    Returns:
        The record, per-example arrays and the first images.

    Raises:
        TypeError: images or labels have the wrong type.
        ValueError: images are illegal, labels are outside the classes, an attack or a check is
            unknown, a cascade has too few draws, an attack does not support the threat, no attack
            sees the model, or an attack returned illegal images.
    """
    settings = replace(settings or Settings(), seed=seed)
    y = y.detach().cpu()
    check_lazy(x)
    whole = outline(x)
    _check_radius(threat, whole)
    facts, doubts = facts_of(model), asked(check)
    if facts.batch_dependent:
        batch_settings.check_batches(len(x), settings.chunk)
    named, plans = _plans(model, attacks, threat, facts)
    if cascade is not None:
        _check_cascade(cascade, facts, settings.draws)
        plans = replace(plans, cascade=cascade)
    folder = Path(out) if out else None
    with (
        in_eval_mode(model),
        running(folder, device_of(model, whole), Path(journal) if journal else None) as runner,
        ticking(f"attacking {name} under {threat}", progress and runner.first) as ticker,
    ):
        classes = classes_of(model, x, y)
        bench = Bench(model, Chunks(x, y, settings.chunk), settings, runner.journal, ticker.tick)
        runner.agree(bench)
        scores = rates.held_out_scores(bench, held_out)
        work = Work(bench, plans, threat, classes, curve, doubts, scores, rate_images)
        ticker.expect(work.expected())
        measured = Measured(*runner.finish(*work.jobs()))
        about = {"name": name, "command": command, "attacks": named, "data": data}
        record = _record(work, measured, about, held_out is not None)
        arrays = _all_arrays(work, measured, threat.radius(whole))
        result = Evaluation(record, arrays, _images(measured.candidates))
        if folder and runner.first:
            summary.save(folder, result.record, result.arrays, result.images)
    return result


def _plans(
    model: nn.Module, attacks: Choice | Sequence[Choice], threat: ThreatModel, facts: Facts
) -> tuple[list[str], Plans]:
    """The attacks that are asked for, and what is made of them."""
    chosen, cascade = expand(attacks, threat, facts)
    plans = Plans(
        static_plan(chosen, threat) if parts_of(model) else [],
        adaptive_plan(model, chosen, threat),
        cascade,
    )
    if all(b.entry.facts["access"] == "transfer" for b in plans.adaptive):
        raise ValueError(
            "no robust accuracy follows from attacks that never see the model; give one that does "
            "beside them, such as pgd"
        )
    return [b.text for b in chosen], plans


def _check_cascade(cascade: bool, facts: Facts, draws: int) -> None:
    """Refuse a cascade that would not know what has fallen."""
    if cascade and facts.batch_dependent:
        raise ValueError("a model that depends on its batch has no cascade; leave `cascade` out")
    if cascade and facts.stochastic and draws < LEAST_DRAWS:
        raise ValueError(
            f"a cascade on a random model needs at least {LEAST_DRAWS} draws to know what has "
            f"fallen, got {draws}"
        )


def _record(
    work: Work, measured: Measured, about: Mapping[str, Any], with_rates: bool
) -> dict[str, Any]:
    """Everything but the images, ready for JSON."""
    bench, facts = work.bench, work.bench.facts
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "evaluation",
        "name": about["name"],
        "command": about["command"],
        "threat": str(work.threat),
        "attacks": about["attacks"],
        "cascade": work.plans.cascade,
        "settings": {**bench.settings.__dict__, "draws": bench.draws},
        "model": summary.describe(bench.model, bench.digest, work.classes),
        "data": {
            "name": about["data"],
            "n": len(bench.data),
            "shape": list(bench.data.x.shape[1:]),
            "digest": bench.data.digest,
        },
        **summary.summarise(
            measured.candidates,
            bench.data.y.numpy(),
            work.classes,
            facts.abstains,
            work.plans.cascade,
        ),
    }
    if not work.plans.static:
        record["static"] = {**record["adaptive"], "note": "no defense: static is adaptive"}
    if measured.batched:
        record["batches"] = measured.batched.record
    if work.curve:
        record["curve"] = measured.points
    if facts.abstains and with_rates:
        record["rates"] = measured.rates
    record["findings"] = measured.findings
    record["environment"] = environment(bench.device)
    return record


def _check_radius(threat: ThreatModel, x: Images) -> None:
    """Refuse radii that are not one per image, not finite, or beyond any image."""
    largest = threat.radius(x).max().item()
    if not math.isfinite(largest):
        raise ValueError(
            "a robust accuracy needs a finite `eps`; inf is for attacks that look for "
            "the smallest change"
        )
    if largest > threat.diameter(x):
        raise ValueError(
            f"{threat} allows any image in [0, 1] (distances end at "
            f"{threat.diameter(x):g}); did you mean {threat.name}:{largest:g}/255?"
        )


def _all_arrays(work: Work, measured: Measured, radius: torch.Tensor) -> dict[str, NDArray[Any]]:
    """Per-example results by candidate and setting, and which candidate is the worst."""
    y = work.bench.data.y
    arrays = _arrays(measured.candidates, y, radius)
    for setting, found in (measured.batched.candidates if measured.batched else {}).items():
        rows = _arrays(found, y, radius)
        arrays |= {f"{setting}/{name}": v for name, v in rows.items() if "/" in name}
    _, _, chosen = summary.worst(
        measured.candidates, lambda a: defended(a, y.numpy(), work.classes)
    )
    # Which of the kept images, in their order, is each example's worst.
    arrays["robust/chosen"] = summary.finders(measured.candidates, chosen)
    return arrays


def _arrays(
    candidates: Sequence[Candidate], y: Labels, radius: torch.Tensor
) -> dict[str, NDArray[Any]]:
    """Per-example results by candidate."""
    arrays: dict[str, NDArray[Any]] = {"y": y.numpy(), "eps": radius.cpu().numpy()}
    for c in candidates:
        prefix = f"{c.view}/{c.attack}" if c.attack else c.view
        arrays[f"{prefix}/selection"] = c.selection
        arrays[f"{prefix}/report"] = c.report
        arrays[f"{prefix}/distance"] = c.distance
        if c.suspicion.size:
            arrays[f"{prefix}/suspicion"] = c.suspicion
    return arrays


def _images(candidates: Sequence[Candidate]) -> dict[str, NDArray[np.float32]]:
    """The first images, clean and by attack."""
    return {f"{c.view}/{c.attack}" if c.attack else c.view: c.images for c in candidates}
