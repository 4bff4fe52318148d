"""Models a user keeps: a folder with `model.safetensors` and `card.json`; nothing is unpickled."""

import dataclasses
import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from redoubtable.files import make_folder, read_json, write_bytes, write_json
from redoubtable.models.catalogue import Architecture, architecture_of, create, remember
from redoubtable.models.factories import build, find_factory, is_foreign
from redoubtable.models.weights import fit_weights
from redoubtable.version import __version__

WEIGHTS, CARD = "model.safetensors", "card.json"
_SCHEMA = 1
_AGAIN = "train it again, or copy the whole folder again"


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on, by name."""
    return {
        "redoubtable": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Card:
    """What is known of a saved model.

    Attributes:
        architecture: its name in `MODELS`, or `package.module:factory` of a user's own.
        arguments: keyword arguments of its factory.
        classes: number of logits.
        data: what it was trained on: name, split, number of images, their shape, digest.
        recipe: the training recipe as `name:key=value,...`.
        settings: the other settings of the training, such as epochs and seed.
        metrics: what was measured after it, by name.
        versions: of the packages it was made with.
        notes: what else its maker wrote down, such as the command that made it.
        sha256: of the weights file; filled in by `save_model`.
    """

    architecture: str
    arguments: Mapping[str, Any]
    classes: int
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)
    notes: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""


def save_model(folder: str | Path, model: nn.Module, card: Card) -> Card:
    """Save a model's weights and its card, each file whole or not at all.

    A crash between the two leaves weights without a card, or beside the card of other weights,
    whose digest differs: both are refused by `load_model`.

    Args:
        folder: made if need be; a model already there is replaced.
        model: built by `create(card.architecture, **card.arguments)`; may be on any device.
        card: what is known of it.

    Returns:
        The card as written, with the digest of the weights.

    Raises:
        ValueError: the folder can't be written to.
    """
    target = make_folder(Path(folder))
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    weights = save_tensors(state)
    written = dataclasses.replace(card, sha256=hashlib.sha256(weights).hexdigest())
    write_bytes(target / WEIGHTS, weights)
    write_json(target / CARD, {"schema": _SCHEMA, **dataclasses.asdict(written)})
    return written


def read_card(folder: str | Path) -> Card:
    """Read the card of a saved model.

    Raises:
        ValueError: there is none, or it is damaged or written by a newer version.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise ValueError(
            f"no model in {folder}: it has no {CARD}; name a folder that `redoubt train` wrote"
        )
    found = read_json(path, "model card")
    if isinstance(found, dict) and isinstance(found.get("schema"), int):
        if found["schema"] > _SCHEMA:
            raise ValueError(
                f"the model card at {path} has schema {found['schema']}, newer than {_SCHEMA}; "
                "upgrade redoubtable"
            )
    else:
        raise ValueError(f"the file at {path} is no model card (it has no schema); {_AGAIN}")
    kinds = {"classes": int, "architecture": str, "recipe": str, "sha256": str}
    values: dict[str, Any] = {}
    for entry in dataclasses.fields(Card):
        kind = kinds.get(entry.name, dict)
        values[entry.name] = found.get(entry.name, {} if entry.name == "notes" else None)
        if not isinstance(values[entry.name], kind):
            raise ValueError(f"the model card at {path} has no valid {entry.name!r}; {_AGAIN}")
    return Card(**values)


def load_model(folder: str | Path, *, factory: str | None = None) -> nn.Module:
    """Load a saved model, in evaluation mode, on the CPU, bit for bit as it was saved.

    Weights that were saved in half precision come back in single, which holds them exactly. Needs
    no network access, also where the model had started from downloaded weights.

    Args:
        folder: that `save_model` wrote.
        factory: `package.module:factory` of a user's own network, exactly as on its card. Code is
            never imported on the word of a card: a folder from elsewhere could name any.

    Raises:
        ValueError: a file is missing or damaged, the two don't belong together, or the card names
            a factory that `factory` does not.
    """
    card = read_card(folder)
    if factory != card.architecture and (factory is not None or is_foreign(card.architecture)):
        raise ValueError(
            f"the model in {folder} is built by {card.architecture!r}, and `factory` must name the "
            f"same, got {factory!r}; pass factory={card.architecture!r} if you trust that code"
        )
    path = Path(folder) / WEIGHTS
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read the weights at {path} ({error.strerror}); {_AGAIN}"
        ) from None
    # The digest is of the very bytes that are loaded, so a file swapped meanwhile changes nothing.
    if hashlib.sha256(weights).hexdigest() != card.sha256:
        raise ValueError(
            f"the weights at {path} are damaged, or not those that {CARD} describes; {_AGAIN}"
        )
    model = _rebuilt(card)
    try:
        state = load_tensors(weights)
        # Half precision is widened to the model's own, which loses nothing and runs anywhere.
        if {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float64}:
            model.double()
        fit_weights(model, state)
    except (ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the weights at {path} don't fit {card.architecture} ({reason}); {_AGAIN}"
        ) from None
    return model.eval()


def _rebuilt(card: Card) -> nn.Module:
    """The network of a card, before its weights are loaded."""
    # What it started from is overwritten in a moment, so nothing is downloaded for it.
    fresh = {"pretrained": False} if card.arguments.get("pretrained") else {}
    arguments = {**card.arguments, **fresh}
    name = card.architecture
    if is_foreign(name):
        model = build(name, find_factory(name), arguments)
    else:
        model = create(name, **arguments)
    made = architecture_of(model)
    known = made.arguments if made else {}
    return remember(model, Architecture(name, {**known, **card.arguments}))
