"""Records as `evaluate` writes them, for the tests of reports."""

from typing import Any

import numpy as np

from redoubtable.evaluation.evaluate import SCHEMA
from redoubtable.statistics import auc, wilson

N = 300


def share(value: float, n: int = N) -> dict[str, Any]:
    return wilson(value * n, n).__dict__


def accuracies(value: float, draws: int) -> dict[str, Any]:
    rules = {"one_shot": value, "majority": value / 2, "worst": value / 4}
    if draws == 1:
        rules = dict.fromkeys(rules, value)
    return {**{k: share(v) for k, v in rules.items()}, "draws": draws}


def numbers(value: float, draws: int, abstains: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"accuracy": accuracies(value, draws)}
    if abstains:
        found |= {"strict": accuracies(value * 0.75, draws), "rejected": share(value * 0.25)}
    return found


def finding(verdict: str = "pass", says: str = "all is well", **more: Any) -> dict[str, Any]:
    base = {"check": "more_steps", "qualifies": "adaptive", "evidence": {"p": 0.125, "n": 100}}
    return {**base, "verdict": verdict, "says": says, **more}


def record(
    name: str = "guard",
    threat: str = "Linf:51/255",
    *,
    clean: float = 0.98,
    static: float | None = 0.55,
    adaptive: float | None = 0.02,
    random: bool = True,
    abstains: bool = True,
    findings: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A record as `evaluate` gives it; `static=None` is a bare model, whose static is a copy."""
    draws = 10 if random else 1
    rows = [("static", "fgsm", static), ("adaptive", "pgd:loss=margin,steps=20", adaptive)]
    views: dict[str, Any] = {"clean": numbers(clean, draws, abstains)}
    for view, text, value in rows:
        worst = {"worst_by": {"clean": 6, f"{view} {text}": N - 6}}
        views[view] = None if value is None else numbers(value, draws, abstains) | worst
    if static is None and views["adaptive"]:
        views["static"] = {**views["adaptive"], "note": "no defense: static is adaptive"}
    lowest = min(v for v in (static, adaptive, clean) if v is not None)
    found = {
        "schema": SCHEMA,
        "kind": "evaluation",
        "name": name,
        "threat": threat,
        "attacks": ["fgsm", "pgd:steps=20"],
        "settings": {
            "seed": 31,
            "draws": draws,
            "chunk": 250,
            "batch_size": 512,
            "precision": "fp32",
        },
        "model": {
            "structure": "Net(\n  <conv>\n)",
            "digest": "0123456789abcdef",
            "parameters": 103146,
            "classes": 10,
            "facts": {
                "stochastic": random,
                "differentiable": True,
                "batch_dependent": False,
                "abstains": abstains,
                "passes": 1,
            },
        },
        "data": {"n": N, "shape": [1, 8, 8], "chunks": 2},
        **views,
        "rows": [
            {"view": view, "attack": text, **numbers(value, draws, abstains)}
            | {"passes": {"forward": 4 * N, "backward": 3 * N}, "passes_per_image": 7.25}
            | {"distance": {"median": 0.1875, "max": 0.2}}
            for view, text, value in rows
            if value is not None
        ],
        "robust": numbers(lowest, draws, abstains) | {"worst_by": {}},
        "curve": [
            {"eps": eps, "static": share(0.9 - eps, 100), "adaptive": share(0.9 - 4 * eps, 100)}
            for eps in (0.0, 0.1, 0.2)
        ],
        "findings": [finding()] if findings is None else findings,
        "environment": {"redoubtable": "9.8.7", "packages": {"torch": "6.5.4"}, "cpu": "abacus"},
    }
    if abstains:
        scores = np.arange(20.0)
        area = auc(scores, scores + 5).__dict__
        roc = {"fpr": [0.0, 0.25, 1.0], "tpr": [0.0, 0.75, 1.0]}
        found["detection"] = {"auc": area, "roc": roc, "note": "made for its own threshold"}
        point = {"rate": 0.05, "threshold": 1.375, "held_out": 200, "static": None}
        at = numbers(0.07, draws, True)
        detection = {"auc": area, "roc": roc, "note": ""}
        found["rates"] = [{**point, "clean": at, "adaptive": at, "detection": detection}]
    return found


def bare(name: str = "natural", adaptive: float | None = 0.0, **more: Any) -> dict[str, Any]:
    return record(name, static=None, adaptive=adaptive, random=False, abstains=False, **more)


def pictures(images: int = 3, channels: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.25, 0.75, (images, channels, 8, 8)).astype(np.float32)
    keys = ("static/fgsm", "adaptive/pgd:loss=margin,steps=20")
    return {"clean": clean, **{k: clean + np.float32(0.1875) for k in keys}}


def answers() -> dict[str, Any]:
    """The arrays of `record()`, of six images of three classes with four draws each.

    The static attack is the worst on the first image, the clean image on the last.
    """
    y = np.array([0, 0, 1, 1, 2, 2])
    clean = np.repeat(y[:, None], 4, 1)
    clean[5] = [2, 0, 0, 0]
    static, adaptive = clean.copy(), clean.copy()
    static[0] = 1
    adaptive[1] = [0, 1, 1, 0]
    adaptive[2] = [10, 10, 10, 1]
    adaptive[3] = 2
    adaptive[4] = [2, 2, 0, 2]
    arrays = {"y": y, "eps": np.full(6, 0.2)}
    for key, said in (
        ("clean", clean),
        ("static/fgsm", static),
        ("adaptive/pgd:loss=margin,steps=20", adaptive),
    ):
        arrays |= {f"{key}/selection": said[:, ::-1], f"{key}/report": said}
        arrays[f"{key}/distance"] = np.zeros(6) if key == "clean" else np.full(6, 0.2)
    return {**arrays, "robust/chosen": np.array([1, 2, 2, 2, 2, 0])}
