"""Run the experiments of a paper: published beside measured, static beside adaptive."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from redoubtable.bfloat16 import has_bfloat16
from redoubtable.evaluation import environment
from redoubtable.files import locked, make_folder, read_json, write_json
from redoubtable.papers.frame import PAPERS, Experiment, Scale, beside, scaled
from redoubtable.papers.lab import Lab

SCHEMA = 1


def reproduce(
    paper: str,
    experiments: Sequence[str] = (),
    *,
    out: Path,
    scale: str = "smoke",
    data: str | None = None,
    root: Path | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    precision: str = "fp32",
    command: str | None = None,
    progress: bool = True,
) -> Mapping[str, Any]:
    """Run a paper's experiments and return their record.

    All that is finished is kept in `out`: networks, attacks, numbers. Called again it goes on, also
    after it was killed, and with other experiments it shares what they have in common.

    Args:
        paper: a name in `PAPERS`.
        experiments: names of experiments; none for all.
        out: folder; the record is `record.json` in it, written anew after each experiment.
        scale: "smoke" on the digits, "cpu" for two cores, "full" for the paper's own; settings may
            be changed, as in "cpu:images=200,draws=3".
        data: a data set instead of the scale's.
        root: folder of data sets.
        seed: of everything.
        device: where networks live; None for the processor.
        precision: that attacks search with, fp32 or bf16.
        command: what a stranger would type.
        progress: show progress bars.

    Returns:
        The record, ready for JSON: per experiment and data set its rows, published beside measured.

    Raises:
        ValueError: the paper, an experiment, the scale or the data are unknown, or nothing that was
            asked for is about the data; or another run uses the folder.
    """
    about = PAPERS[paper].obj()
    where = device or torch.device("cpu")
    size = _trained_on(where, scaled(about.scales, scale))
    asked = _asked(about.experiments, experiments)
    sets = (data,) if data else size.data
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "reproduction",
        "paper": paper,
        "title": about.title,
        "url": about.url,
        "scale": json.loads(json.dumps({"name": scale, **asdict(size)})),  # as it is read back
        "seed": seed,
        "precision": precision,
        "experiments": [],
    }
    with locked(make_folder(out), "a reproduction"):
        earlier = _earlier(out, record)
        labs = {name: Lab(size, name, root, out, seed, where, precision) for name in sets}
        for name, lab in labs.items():
            if any(experiment.on(name) for experiment in asked):
                lab.images("test", 1)  # what is missing is missed now and not after hours
        for name, lab in labs.items():
            lab.progress, lab.command = progress, command
            for experiment in asked:
                if experiment.on(name):
                    done = _run(experiment, lab)
                    about_it = {"command": command, "environment": environment(lab.device)}
                    record["experiments"].append(done | about_it)
                    write_json(out / "record.json", _with_earlier(record, earlier))
        record = _with_earlier(record, earlier) if record["experiments"] else record
    if not record["experiments"]:
        names = ", ".join(e.name for e in asked)
        raise ValueError(f"{names} is not about {', '.join(sets)}; name other data with `data`")
    return record


def _trained_on(device: torch.device, size: Scale) -> Scale:
    """The scale with training in fp32 where the device would have to imitate bf16, slowly."""
    if size.training.precision == "bf16" and not has_bfloat16(device):
        return replace(size, training=replace(size.training, precision="fp32"))
    return size


def _earlier(out: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The experiments that the folder has already, each with its own command and versions.

    Raises:
        ValueError: the folder has a reproduction of another paper, scale or seed.
    """
    if not (out / "record.json").exists():
        return []
    before = read_json(out / "record.json", "record")
    for name in ("kind", "paper", "scale", "seed", "precision", "schema"):
        if not isinstance(before, dict) or before.get(name) != record[name]:
            raise ValueError(
                f"{out} has a run of another {name}; give another folder with --out (networks that "
                "are trained alike can be taken along: copy DATA/models), or remove this one"
            )
    return list(before["experiments"])


def _with_earlier(
    record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The record with the earlier experiments that did not run again."""
    new = {(e["name"], e["data"]) for e in record["experiments"]}
    kept = [e for e in earlier if (e["name"], e["data"]) not in new]
    return {**record, "experiments": [*kept, *record["experiments"]]}


def _asked(known: Sequence[Experiment], names: Sequence[str]) -> list[Experiment]:
    by_name = {e.name: e for e in known}
    for name in names:
        if name not in by_name:
            raise ValueError(f"no experiment {name!r}; there are {', '.join(by_name)}")
    return [e for e in known if not names or e.name in names]


def _run(experiment: Experiment, lab: Lab[Any]) -> dict[str, Any]:
    lab.pictures.clear()
    rows = beside(experiment.run(lab), experiment.published, lab.data)
    training = lab.scale.training_on(lab.data)
    return {
        "name": experiment.name,
        "title": experiment.title,
        "axis": experiment.axis,
        "claim": experiment.claim,
        "data": lab.data,
        "training": {
            "epochs": training.epochs,
            "schedule": training.schedule,
            "precision": training.precision,
        },
        "rows": [asdict(row) for row in rows],
        "pictures": list(lab.pictures),
    }
