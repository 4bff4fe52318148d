"""Two evaluations on the same images, image by image; and one over several seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from redoubtable.evaluation.outcomes import (
    correct,
    defended,
    majority_good,
    pick,
    worst_candidate,
)
from redoubtable.statistics import Difference, Spread, over_seeds, paired_difference

Number = Literal["clean", "static", "adaptive", "robust"]
Rule = Literal["one_shot", "majority", "worst"]
Arrays = Mapping[str, NDArray[Any]]
_RULES = ("one_shot", "majority", "worst")
_VIEWS: Mapping[str, tuple[str, ...]] = {
    "clean": (),
    "static": ("static",),
    "adaptive": ("adaptive",),
    "robust": ("static", "adaptive"),
}


def good_answers(
    arrays: Arrays, classes: int, number: Number = "adaptive", rule: Rule = "one_shot"
) -> tuple[NDArray[np.int64], int]:
    """Return of each example how many answers count for the defender, and of how many.

    The number of a record, example by example: of the worst candidate of each, chosen on the
    selection draws, the answers of the report draws.

    Args:
        arrays: of an evaluation, as in `examples.npz`.
        classes: K; the answer K is a rejection.
        number: which of the record's numbers.
        rule: "one_shot" counts draws, "majority" and "worst" tell 0 or 1.

    Raises:
        ValueError: there is no such number or rule, or no attack of that view ran.
    """
    if number not in _VIEWS or rule not in _RULES:
        known = f"{', '.join(_VIEWS)}; {', '.join(_RULES)}"
        raise ValueError(f"no number {number!r} under the rule {rule!r}; there are {known}")
    y = arrays["y"]
    views = _VIEWS[number]
    names = [k.removesuffix("/selection") for k in arrays if k.endswith("/selection")]
    names = [n for n in names if n == "clean" or n.split("/")[0] in views]
    if number == "static" and len(names) == 1:  # without a defense static is adaptive
        return good_answers(arrays, classes, "adaptive", rule)
    if views and len(names) == 1:
        raise ValueError(f"no {number} attack ran in this evaluation; choose another number")
    chosen = worst_candidate([defended(arrays[f"{n}/selection"], y, classes) for n in names])
    answers = np.asarray(pick([arrays[f"{n}/report"] for n in names], chosen), dtype=np.int16)
    good = correct(answers, y) if number == "clean" else defended(answers, y, classes)
    if rule == "one_shot":
        return np.asarray(good.sum(1), dtype=np.int64), good.shape[1]
    whole = majority_good(answers, good) if rule == "majority" else good.all(1)
    return np.asarray(whole, dtype=np.int64), 1


def compare_pair(
    one: tuple[Mapping[str, Any], Arrays],
    other: tuple[Mapping[str, Any], Arrays],
    number: Number = "adaptive",
    rule: Rule = "one_shot",
) -> Difference:
    """Return how two evaluations on the same images differ, with an exact paired test.

    For models without randomness the test is McNemar's.

    Args:
        one: record and arrays of an evaluation.
        other: those of the other; its numbers are subtracted.
        number: which of the record's numbers is compared.
        rule: which accuracy for random models.

    Raises:
        ValueError: the two are not of the same images, or not under the same threat.
    """
    (a, a_arrays), (b, b_arrays) = one, other
    for what in ("data",) if number == "clean" else ("data", "threat"):
        if a[what] != b[what]:
            raise ValueError(
                f"the two evaluations differ in their {what}: {a[what]} and {b[what]}; paired "
                "tests need the same"
            )
    if not np.array_equal(a_arrays["y"], b_arrays["y"]):
        raise ValueError("the labels of the two evaluations differ, so they are of other images")
    left, draws = good_answers(a_arrays, a["model"]["classes"], number, rule)
    right, others = good_answers(b_arrays, b["model"]["classes"], number, rule)
    whole = math.lcm(draws, others)
    return paired_difference(left * (whole // draws), right * (whole // others), whole)


def spread_of_seeds(
    records: Sequence[Mapping[str, Any]], number: Number = "adaptive", rule: Rule = "one_shot"
) -> Spread:
    """Return mean and spread of one number over evaluations that differ in a seed.

    Of the evaluation, or of the training: then it is models that differ.

    Args:
        records: of evaluations of the same images under the same threat with the same attacks.
        number: which of the record's numbers.
        rule: which accuracy for random models.

    Raises:
        ValueError: there are fewer than two, they differ in more than a seed, or one was not
            measured.
    """
    for what in ("threat", "attacks", "data"):
        found = [r[what] for r in records]
        if any(f != found[0] for f in found):
            raise ValueError(f"evaluations over seeds must have the same {what}, got {found}")
    same = {(r["settings"]["seed"], r["model"]["digest"]) for r in records}
    if len(same) < len(records):
        raise ValueError("two of the evaluations have the same seed and model; leave one out")
    if any(r[number] is None for r in records):
        raise ValueError(f"not all evaluations have {number} attacks")
    return over_seeds([r[number]["accuracy"][rule]["value"] for r in records])
