"""Records in the form that other projects read: model cards of RobustBench."""

from collections.abc import Mapping
from typing import Any

from redoubtable.evaluation.plan import expand
from redoubtable.parts import Facts
from redoubtable.reports.record import Record
from redoubtable.threat import parse_threat

FORMATS = ("robustbench",)


def robustbench(record: Record) -> dict[str, Any]:
    """Return the model card of RobustBench (Croce et al. 2021, arXiv:2010.09670; model_info).

    Accuracies are in percent, as text with two digits. `autoattack_acc` is filled only by the suite
    "standard" on a deterministic model that never rejects: any other robust number is not what that
    field means. What a record does not know (link, authors, venue, what else was trained on, what
    the paper reported) is null.

    Args:
        record: of one evaluation.
    """
    facts = record["model"]["facts"]
    robust, note = None, "robust accuracy left out: not measured with the suite standard alone"
    if _is_autoattack(record):
        robust = _percent(record["adaptive"]["accuracy"]["one_shot"])
        note = "AutoAttack as implemented by redoubtable"
    n, failed = record["data"]["n"], [f for f in record["findings"] if f["verdict"] == "fail"]
    note += f"; first {n} images" if n else ""
    note += f"; checks failed: {', '.join(f['check'] for f in failed)}" if failed else ""
    return {
        "link": None,
        "name": record["name"],
        "authors": None,
        "additional_data": None,
        "number_forward_passes": facts["passes"],
        "dataset": str(record["data"].get("name", "")).partition(",")[0] or None,
        "venue": None,
        "architecture": record["model"]["structure"].partition("(")[0],
        "eps": record["threat"].partition(":")[2],
        "clean_acc": _percent(record["clean"]["accuracy"]["one_shot"]),
        "reported": None,
        "footnote": note,
        "autoattack_acc": robust,
    }


def _is_autoattack(record: Record) -> bool:
    """Whether the number is that of AutoAttack's standard version on a model that it is for."""
    facts = record["model"]["facts"]
    if any(facts[f] for f in ("stochastic", "abstains", "batch_dependent")):
        return False
    try:
        lines, cascade = expand("standard", parse_threat(record["threat"]), Facts(**facts))
    except ValueError:  # the suite has nothing under this norm
        return False
    return bool(cascade == record["cascade"] and [b.text for b in lines] == record["attacks"])


def _percent(share: Mapping[str, Any]) -> str:
    return f"{100 * share['value']:.2f}"
