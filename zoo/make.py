"""Take a trained model into the zoo: weights in half precision, measured as they are kept.

    python zoo/make.py runs/c10-natural cifar10-resnet20-natural --data cifar10-jpeg --root DATA

writes zoo/NAME (weights and card) and results/zoo/NAME.json: the accuracy on the whole test split
of the very weights that are kept, with the command that trained them. Robust accuracies have records
of their own, made by `redoubt evaluate` (see zoo/README.md).
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redoubtable.data import ImageSet, read, to_unit
from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.models import load_model, read_card, save_model
from redoubtable.statistics import wilson

HOME = Path(__file__).parent


@torch.no_grad()
def right(model: nn.Module, data: ImageSet) -> int:
    """How many images the model classifies right."""
    batches = torch.arange(len(data)).split(500)
    stream = data.batches(list(batches), "cpu")
    return sum(int((model(to_unit(x)).argmax(1) == y).sum()) for x, y in stream)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that redoubt train wrote")
    parser.add_argument("name", help="of the model in the zoo")
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--trained-by", help="the command, if the card does not have it")
    options = parser.parse_args()
    card = read_card(options.run)
    train = card.notes.get("command") or options.trained_by
    if not train:
        parser.error("the card has no command; give --trained-by")
    test = read(options.data, "test", root=options.root)
    before = right(load_model(options.run), test)
    folder = HOME / options.name
    notes = {"command": train, "stored as": "float16", "record": f"results/zoo/{options.name}.json"}
    save_model(folder, load_model(options.run).half(), dataclasses.replace(card, notes=notes))
    kept = right(load_model(folder), test)
    card = read_card(folder)
    record: dict[str, Any] = {
        "kind": "accuracy",
        "command": f"python zoo/make.py RUN {options.name} --data {options.data} --root DATA",
        "trained by": train,
        "model": {"architecture": card.architecture, "recipe": card.recipe, "sha256": card.sha256},
        "settings": dict(card.settings),
        "data": {"name": test.name, "split": "test", "n": len(test), "digest": test.digest()},
        "accuracy": vars(wilson(kept, len(test))),
        "accuracy_before_rounding": vars(wilson(before, len(test))),
        "seed": card.settings.get("seed"),
        "view": "clean images; one deterministic answer each",
        "environment": environment(),
    }
    write_json(HOME.parent / "results" / "zoo" / f"{options.name}.json", record)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{options.name}: {kept / len(test):.2%} of {len(test)}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
