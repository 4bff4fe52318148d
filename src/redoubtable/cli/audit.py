"""`redoubt audit`."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console

from redoubtable.cli.errors import one_line_errors
from redoubtable.cli.options import (
    Channels,
    Classes,
    Damaged,
    Device,
    Download,
    Draw,
    ImageSize,
    Json,
    Root,
    Seed,
    Sizes,
    Workers,
    command_line,
    device_of,
    print_json,
    reading,
)
from redoubtable.cli.subject import (
    BatchSize,
    Chunk,
    Data,
    Defense,
    Draws,
    Factory,
    HeldOut,
    Limit,
    Model,
    Precision,
    Processes,
    Subject,
    Threat,
    Weights,
    subject,
)
from redoubtable.cli.together import is_fellow, share_cores, together
from redoubtable.evaluation import SUITES, Evaluation, Settings
from redoubtable.evaluation import evaluate as run_evaluation
from redoubtable.evaluation.border import classes_of
from redoubtable.evaluation.checks import CHEAP
from redoubtable.evaluation.estimate import (
    Kinds,
    Pace,
    chunk_for,
    images_within,
    pace,
    sort_images,
)
from redoubtable.files import make_folder, read_json, write_json
from redoubtable.parts import Facts, facts_of, in_eval_mode
from redoubtable.processes import is_first_process
from redoubtable.reports import verdict, write_report
from redoubtable.threat import ThreatModel, parse_threat

CURVE = (0.5, 1.0, 2.0)
"""Multiples of eps of the curve, of the suite `adaptive` only."""
USUAL = 500
"""Images that are taken if nothing is said."""
PLAN = "plan.json"
"""What the first process tells the others, in the folder of the audit."""
ENOUGH = 100
"""Images below which a cheaper suite is taken instead of fewer images."""


@dataclass(frozen=True)
class Plan:
    """What an audit does.

    Attributes:
        suites: in their order.
        n: images.
        seconds: estimated for the evaluations.
        cut: what a budget left out, in words.
    """

    suites: tuple[str, ...]
    n: int
    seconds: float
    cut: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the plan that the first process has made for all of them."""
        found = read_json(path, "plan")
        return cls(tuple(found["suites"]), found["n"], found["seconds"], tuple(found["cut"]))


@one_line_errors
def audit(
    model: Model,
    threat: Threat,
    weights: Weights = None,
    factory: Factory = None,
    data: Data = None,
    budget: Annotated[
        float | None, typer.Option(help="Minutes that it may take, the estimate included.")
    ] = None,
    defense: Defense = None,
    limit: Limit = None,
    held_out: HeldOut = None,
    seed: Seed = 0,
    draws: Draws = 20,
    chunk: Chunk = 250,
    batch_size: BatchSize = 512,
    precision: Precision = "fp32",
    out: Annotated[Path, typer.Option(help="Folder for the report and the runs; resumes.")] = (
        Path("audit")
    ),
    root: Root = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    sizes: Sizes = None,
    draw: Draw = None,
    damaged: Damaged = "refuse",
    download: Download = False,
    workers: Workers = 2,
    processes: Processes = 1,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Say how long it will take, attack by every suite that fits, and write one report.

    The suite `adaptive` always, and for deterministic models `standard`, AutoAttack. A budget that
    is too small for all of it takes fewer images, or `lean` instead of `standard`, and says so.

    Examples:
        redoubt audit zoo/cifar10-resnet20-pgd --threat Linf:8/255 --precision bf16
        redoubt audit runs/guard --threat Linf:0.1 --budget 10 --out audits/guard
        redoubt audit zoo/cifar10-resnet20-pgd --threat Linf:8/255 --processes 2
    """
    started = time.perf_counter()
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}")
    if budget is not None and not budget > 0:
        raise ValueError(f"`budget` must be more than 0 minutes, got {budget:g}")
    ball = parse_threat(threat)
    settings = Settings(
        seed=seed,
        draws=draws,
        chunk=chunk,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]  # Settings checks the word
    )
    how = reading(root, image_size, channels, classes, sizes, draw, damaged, download, workers)

    def opened(limit: int | None) -> Subject:
        return subject(
            model,
            how,
            weights=weights,
            factory=factory,
            data=data,
            defense=defense,
            limit=limit,
            seed=seed,
            device=device_of(device),
            held_out=held_out,
        )

    share_cores(processes)  # the estimate is measured as the evaluations will run
    target = opened(limit)
    make_folder(out)
    if limit is None and len(target.x) > USUAL:
        _say(f"taking the first {USUAL} of {len(target.x)} images; --limit takes others")
        target = opened(USUAL)
    if is_fellow():
        plan = Plan.read(out / PLAN)
    else:
        plan = _planned(target, ball, settings, processes, budget, started)
        write_json(out / PLAN, asdict(plan))
    if plan.n < len(target.x):
        target = opened(plan.n)
    settings = _cut(settings, target)
    with together(processes):
        done, timings = _all_evaluated(target, ball, settings, plan, out)
    if is_first_process():
        _show(done, plan, timings, f"Audit of {target.name} under {ball}", out, json)


def _say(line: str) -> None:
    if not is_fellow():
        Console(stderr=True, highlight=False).print(line, soft_wrap=True, markup=False)


def _planned(
    target: Subject,
    ball: ThreatModel,
    settings: Settings,
    processes: int,
    budget: float | None,
    started: float,
) -> Plan:
    """The plan, from what was tried, and said."""
    if "WORLD_SIZE" in os.environ:
        raise ValueError("an audit is started once; take --processes instead of torchrun")
    with in_eval_mode(target.model):
        classes_of(target.model, target.x, target.y)  # refuses what can't be evaluated
    _say(f"looking at {target.name}, to say how long it will take")
    settings = _cut(settings, target)
    kinds = sort_images(target.model, target.x, target.y, ball, settings)
    plan = _plan(target, ball, settings, kinds, processes, budget, started)
    for said in _announced(plan, kinds):
        _say(said)
    return plan


def _cut(settings: Settings, target: Subject) -> Settings:
    """Chunks that several processes can share; a batch that a model depends on stays whole."""
    if facts_of(target.model).batch_dependent:
        return settings
    return replace(settings, chunk=chunk_for(len(target.x), settings.chunk))


def _all_evaluated(
    target: Subject, ball: ThreatModel, settings: Settings, plan: Plan, out: Path
) -> tuple[list[Evaluation], dict[str, float]]:
    """The evaluations of all suites, and the seconds that they took."""
    began = time.perf_counter()
    done, timings = [], {}
    for suite, attacks in _attacks(plan.suites, facts_of(target.model), ball).items():
        one = time.perf_counter()
        done.append(_evaluated(target, ball, settings, suite, attacks, out))
        timings[f"{target.name}, suite {suite} under {ball}"] = time.perf_counter() - one
    timings |= {"estimated": plan.seconds, "taken": time.perf_counter() - began}
    return done, timings


def _plan(
    target: Subject,
    ball: ThreatModel,
    settings: Settings,
    kinds: Kinds,
    processes: int,
    budget: float | None,
    started: float,
) -> Plan:
    """All of it if there is time, else fewer images or a cheaper suite."""
    facts, n = facts_of(target.model), len(target.x)
    again = 2 if facts.abstains and target.held_out is not None else 0
    second = [
        s for s in ("standard", "lean") if not facts.stochastic and SUITES[s].against(facts, ball)
    ]
    suites = ("adaptive", *second[:1])

    def tried(suites: Sequence[str]) -> list[Pace]:
        return [
            pace(
                target.model, kinds, ball, attacks, settings=settings, again=again,
                check=_checks(suite), curve=CURVE if suite == "adaptive" else (),
            )
            for suite, attacks in _attacks(suites, facts, ball).items()
        ]  # fmt: skip

    paces = tried(suites)
    whole = sum(p.seconds(n, processes) for p in paces)
    left = None if budget is None else 60 * budget - (time.perf_counter() - started)
    if left is None or whole <= left:
        return Plan(suites, n, whole)
    fits, cut = images_within(left, paces, n, processes), []
    if fits < min(ENOUGH, n) and "lean" in second:
        suites = ("adaptive", "lean")
        paces = tried(suites)
        left = 60 * (budget or 0) - (time.perf_counter() - started)
        fits = images_within(left, paces, n, processes)
        cut.append("the suite lean instead of standard")
    size = max(fits, min(n, 10))
    cut += [f"{size} images instead of {n}"] if size < n else []
    cut += ["and even so more time than the budget"] if fits < size else []
    return Plan(suites, size, sum(p.seconds(size, processes) for p in paces), tuple(cut))


def _attacks(
    suites: Sequence[str], facts: Facts, ball: ThreatModel
) -> dict[str, str | Sequence[str]]:
    """The attacks of each suite; the first leaves to `standard` what that does at more length."""
    asked: dict[str, str | Sequence[str]] = {suite: suite for suite in suites}
    if "standard" in suites:
        names = {text.partition(":")[0] for text in SUITES["standard"].against(facts, ball)}
        lines = SUITES["adaptive"].against(facts, ball)
        asked["adaptive"] = [t for t in lines if t.partition(":")[0] not in names] or "adaptive"
    return asked


def _checks(suite: str) -> bool | Sequence[str]:
    """All checks doubt the first suite; of the others those that attack the same model anew don't.

    They would cost as much as the suite itself, and ask the same questions of the same images.
    """
    return True if suite == "adaptive" else CHEAP


def _announced(plan: Plan, kinds: Kinds) -> list[str]:
    said = [
        f"estimate: {_minutes(plan.seconds)} for {plan.n} images and the suites "
        f"{' and '.join(plan.suites)} ({kinds.standing:.0%} stand under a quick PGD)"
    ]
    if plan.cut:
        said.append(f"cut to fit the budget: {', '.join(plan.cut)}")
    return said


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


def _evaluated(
    target: Subject,
    ball: ThreatModel,
    settings: Settings,
    suite: str,
    attacks: str | Sequence[str],
    out: Path,
) -> Evaluation:
    return run_evaluation(
        target.model,
        target.x,
        target.y,
        ball,
        attacks,
        seed=settings.seed,
        settings=settings,
        held_out=target.held_out,
        curve=CURVE if suite == "adaptive" else (),
        check=_checks(suite),
        out=out / suite,
        name=f"{target.name}, suite {suite}",
        data=target.data,
        command=command_line(),
        progress=True,
    )


def _show(
    done: Sequence[Evaluation],
    plan: Plan,
    timings: dict[str, float],
    title: str,
    out: Path,
    json: bool,
) -> None:
    """Write the report of all suites, and print the verdict and where it is."""
    records = [e.record for e in done]
    page = write_report(
        out,
        records,
        [e.images for e in done],
        title=title + (f" (cut to fit a budget: {', '.join(plan.cut)})" if plan.cut else ""),
        command=command_line(),
        timings=timings,
        arrays=[e.arrays for e in done],
    )
    if json:
        print_json(records)
        return
    print(verdict(records))
    took, guess = _minutes(timings["taken"]), _minutes(timings["estimated"])
    print(f"\nTook {took}, estimated {guess}.\nReport: {page}")
