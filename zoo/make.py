"""Take a trained model into the zoo: weights in half precision, measured as they are kept.

    python zoo/make.py runs/c10-natural cifar10-resnet20-natural --data cifar10-jpeg --root DATA

writes zoo/NAME (weights and card), results/zoo/NAME.json (the accuracy on the whole test split of
the very weights that are kept, with the command that trained them) and the table of zoo/README.md.
Robust accuracies have records of their own, results/zoo/NAME-robust.json, from `redoubt evaluate`.
"""

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redoubtable.data import ImageSet, read, to_unit
from redoubtable.evaluation import environment, guarded
from redoubtable.files import read_json, write_bytes, write_json
from redoubtable.models import load_model, read_card, save_model
from redoubtable.seeding import seeded
from redoubtable.statistics import wilson
from redoubtable.training import Settings, natural
from redoubtable.training.run import Run

HOME = Path(__file__).parent
RECORDS = HOME.parent / "results" / "zoo"
WEIGHTS = "model.safetensors"


@torch.no_grad()
def right(model: nn.Module, data: ImageSet) -> int:
    """How many images the model classifies right."""
    batches = torch.arange(len(data)).split(500)
    stream = data.batches(list(batches), "cpu")
    with seeded("zoo", 0):  # of a random model: one answer per image
        return sum(int((model(to_unit(x)).argmax(1) == y).sum()) for x, y in stream)


def mean_of(first: Path, second: Path, root: Path | None) -> nn.Module:
    """The network of the mean weights of two runs, its batch norms measured on the first's data.

    Averages of networks that lie in one basin are often better than each (Izmailov et al. 2018,
    arXiv:1803.05407).
    """
    card, model = read_card(first), load_model(first)
    other = load_model(second).state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.lerp_(other[name], 0.5)
    reading = {k: v for k, v in card.notes.get("reading", {}).items() if v}
    data = read(str(card.data["name"]), "train", root=root, **reading)
    run = Run(model, data, None, natural(), Settings(**card.settings))
    run.measure_statistics(model)
    return model.eval()


def percent(found: dict[str, Any]) -> str:
    """A share with its interval."""
    return "{:.1%} [{:.1%}, {:.1%}]".format(*(found[k] for k in ("value", "low", "high")))


def table() -> str:
    """What is in the zoo, from its cards and records."""
    head = ["network", "recipe", "data", "n", "clean accuracy", "beside it", "MB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for card_file in sorted(HOME.glob("*/card.json")):
        folder = card_file.parent
        card, size = read_card(folder), (folder / WEIGHTS).stat().st_size / 1e6
        record = read_json(RECORDS / f"{folder.name}.json", "record")
        beside = [f"`{d}` {percent(a)}" for d, a in record["accuracy_with"].items()]
        robust_file = RECORDS / f"{folder.name}-robust.json"
        if robust_file.is_file():
            robust = read_json(robust_file, "record")
            found = robust["adaptive"]["accuracy"]["one_shot"]
            attack, n = ", ".join(robust["attacks"]), robust["data"]["n"]
            beside.append(f"`{robust['threat']}` under `{attack}` (n={n}): {percent(found)}")
        cells = [f"`{folder.name}`", f"`{card.recipe}`", record["data"]["name"]]
        cells += [f"{record['data']['n']:,}", percent(record["accuracy"]), "; ".join(beside) or "-"]
        lines.append("| " + " | ".join([*cells, f"{size:.2f}"]) + " |")
    return "\n".join(lines)


def command(options: argparse.Namespace) -> str:
    """The command with every flag that was given, without where run and data lie on a machine."""
    flags = ["--data", options.data]
    flags += ["--root", "DATA"] if options.root else []
    flags += [word for defense in options.defense for word in ("--defense", defense)]
    flags += ["--mean-with", "RUN"] if options.mean_with else []
    flags += ["--note", options.note] if options.note else []
    flags += ["--trained-by", options.trained_by] if options.trained_by else []
    return shlex.join(["python", "zoo/make.py", "RUN", options.name, *flags])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that redoubt train wrote")
    parser.add_argument("name", help="of the model in the zoo")
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument(
        "--defense", action="append", default=[], help="measured with it too; repeatable"
    )
    parser.add_argument("--mean-with", type=Path, help="another run; keep the mean of the weights")
    parser.add_argument("--note", help="what else must be said of it")
    parser.add_argument("--trained-by", help="the command, if the card does not have it")
    options = parser.parse_args()
    card = read_card(options.run)
    train = card.notes.get("command") or options.trained_by
    if not train:
        parser.error("the card has no command; give --trained-by")
    test = read(options.data, "test", root=options.root)
    found = load_model(options.run)
    if options.mean_with:
        found = mean_of(options.run, options.mean_with, options.root)
        other = read_card(options.mean_with).notes["command"]
        train = f"the mean of the weights of two runs: {train}; and {other}"
    before = right(found, test)
    folder = HOME / options.name
    record_path = f"results/zoo/{options.name}.json"
    notes = {"command": train, "stored as": "float16", "record": record_path}
    if options.note:
        notes["note"] = options.note
    save_model(folder, found.half(), dataclasses.replace(card, notes=notes))
    kept = right(load_model(folder), test)
    defended = {d: right(guarded(load_model(folder), [d], None, 0), test) for d in options.defense}
    # What training measured was measured before rounding, on images that chose nothing or much.
    metrics = {"test_accuracy": kept / len(test)}
    save_model(
        folder, load_model(folder).half(), dataclasses.replace(read_card(folder), metrics=metrics)
    )
    card = read_card(folder)
    record: dict[str, Any] = {
        "kind": "accuracy",
        "command": command(options),
        "trained by": train,
        "model": {k: getattr(card, k) for k in ("architecture", "recipe", "sha256")},
        "settings": dict(card.settings),
        "data": {"name": test.name, "split": "test", "n": len(test), "digest": test.digest()},
        "accuracy": vars(wilson(kept, len(test))),
        "accuracy_with": {d: vars(wilson(k, len(test))) for d, k in defended.items()},
        "accuracy_before_rounding": vars(wilson(before, len(test))),
        "seed": card.settings.get("seed"),
        "view": "clean images; one answer each",
        "note": options.note,
        "environment": environment(),
    }
    write_json(RECORDS / f"{options.name}.json", record)
    size = (folder / WEIGHTS).stat().st_size
    print(f"{options.name}: {kept / len(test):.2%} of {len(test)}, {size / 1e6:.2f} MB")
    text = (HOME / "README.md").read_text()
    before_it, _, rest = text.partition("<!-- table -->\n")
    _, _, after_it = rest.partition("<!-- /table -->\n")
    marked = f"<!-- table -->\n{table()}\n<!-- /table -->\n"
    write_bytes(HOME / "README.md", (before_it + marked + after_it).encode())


if __name__ == "__main__":
    main()
