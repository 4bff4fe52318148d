"""What the paper has not: a proof, and whether its attack has converged."""

from collections.abc import Iterator

from redoubtable.papers.dropping_pixels.attacks import (
    MODES,
    made_against,
    paper_attacks,
    worst_of,
)
from redoubtable.papers.dropping_pixels.scale import (
    PIXELS,
    RATE,
    UNIFORM,
    Dropping,
    budget_of,
    masked,
    steps_of,
    threat_of,
)
from redoubtable.papers.frame import Row
from redoubtable.papers.lab import Lab
from redoubtable.statistics import Proportion
from redoubtable.threat import L0

CERTIFIED_PIXELS = (1, 3, 6, 13)
GUARD = "ten masks, rejecting"


def certificate(lab: Lab[Dropping]) -> Iterator[Row]:
    """What is proved, what attacks that know all leave, and what the paper's leaves, by pixels.

    The certificate is of the vote of infinitely many masks, one per pixel; attacked is the vote of
    ten of the same masks.
    """
    network, (x, _) = lab.network(PIXELS), lab.attacked
    for rate in lab.scale.certify_rates:
        text = f"ablation:rate={rate:g},granularity=pixel"
        choose, bound = lab.scale.samples
        radii = [0.0, *map(float, CERTIFIED_PIXELS)]
        found = lab.certificate(
            f"masks {rate:g}", network, text, lab.scale.certified,
            n0=choose, n=bound, alpha=0.05, radii=radii,
        )  # fmt: skip
        for point in found.record["certified"]:
            proved = Proportion(**point["accuracy"])
            yield Row(f"r = {rate:g}", "accuracy", "certified", proved, point["radius"], bound)
        mask = f"subsample:rate={rate:g},granularity=pixel"
        votes = lab.guarded(network, [mask, "vote:draws=10"])
        for pixels in CERTIFIED_PIXELS:
            threat, published = L0(pixels), paper_attacks(lab, "L0")
            single = lab.evaluation(
                f"one pixel mask {rate:g}", lab.guarded(network, [mask]), threat, published,
                keep=len(x),
            )  # fmt: skip
            made = made_against(x, single, published)
            choice = [*made, *lab.scale.adaptive]
            attacked = lab.evaluation(f"ten pixel masks {rate:g}", votes, threat, choice)
            draws = attacked.record["settings"]["draws"]
            paper = worst_of(attacked, [m.name for m in made])
            robust = Proportion(**attacked.record["robust"]["accuracy"]["one_shot"])
            yield Row(f"r = {rate:g}", "accuracy", "static", paper, pixels, draws)
            yield Row(f"r = {rate:g}", "accuracy", "adaptive", robust, pixels, draws)


def masks(lab: Lab[Dropping]) -> Iterator[Row]:
    """Whether attacks have enough masks in each gradient: the paper's, and that on all of it."""
    steps = steps_of(lab, "Linf")
    for count in (1, 10, 30, 100):
        yield _point(lab, "Linf, one mask", count, count, steps)
    for norm in lab.scale.guard_norms:
        for votes in (1, 3, 9):
            yield _against_guard(lab, norm, 10 * votes, votes, steps_of(lab, norm))


def steps(lab: Lab[Dropping]) -> Iterator[Row]:
    """Whether attacks have enough steps: the paper's, of its length, and that on all of it."""
    first = steps_of(lab, "Linf")
    for times in (1, 2, 4):
        yield _point(lab, "Linf, one mask", times * first, 10, times * first)
    for norm in lab.scale.guard_norms:
        first = steps_of(lab, norm)
        for times in (1, 2, 4):
            yield _against_guard(lab, norm, times * first, 3, times * first)


def gradients(lab: Lab[Dropping]) -> Iterator[Row]:
    """Whether the attack on the guard does better with gradients at a lower drop rate.

    They are less noisy and belong to another network; what they find is judged on the guard's own.
    """
    for norm in lab.scale.guard_norms:
        for guard, rates in ((0.9, (0.5, 0.7, 0.8, 0.9)), (0.95, (0.8, 0.9, 0.95))):
            for rate in rates:
                share, steps = rate / guard, steps_of(lab, norm)
                yield _against_guard(lab, norm, rate, 3, steps, guard, share)


def _point(lab: Lab[Dropping], series: str, at: int, eot: int, steps: int) -> Row:
    model, step = masked(lab.network(UNIFORM), RATE), budget_of(lab, "Linf").step
    text = f"pgd:eot={eot},loss=cross_entropy,momentum=0,steps={steps},step_size={step}"
    name = f"one mask {RATE:g}, {eot} masks, {steps} steps"
    found = lab.evaluation(name, model, threat_of(lab, "Linf"), [text])
    robust = Proportion(**found.record["adaptive"]["accuracy"]["one_shot"])
    return Row(series, "accuracy", "static", robust, at, found.record["settings"]["draws"])


def _against_guard(
    lab: Lab[Dropping],
    norm: str,
    at: float,
    votes: int,
    steps: int,
    rate: float = RATE,
    share: float | None = None,
) -> Row:
    """The attack that finds most against ten masks with rejection, given more to do.

    With `share` its gradients are those at that share of the drop rate.
    """
    model = lab.guarded(lab.network(UNIFORM), [f"subsample:rate={rate:g}", *MODES[GUARD]])
    words = {"eot": f"{votes}", "loss": "evasion_confidence", "steps": f"{steps}"}
    name, series = f"{GUARD} {rate:g}, {votes} votes, {steps} steps", f"{norm}, {GUARD}"
    if norm != "L0":
        words["targets"] = "runner_up"
    if share is not None:
        words["randomness"] = f"{share:.4g}"
        name, series = f"{name}, gradients at {at:g}", f"{series} at {rate:g}"
    text = f"pgd:{','.join(f'{k}={v}' for k, v in words.items())}"
    found = lab.evaluation(name, model, threat_of(lab, norm), [text])
    robust = Proportion(**found.record["adaptive"]["accuracy"]["one_shot"])
    draws = found.record["settings"]["draws"]
    return Row(series, "accuracy", "adaptive", robust, at, draws)
