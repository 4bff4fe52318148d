"""A network from any text that names one: a saved model, a registered name, a user's factory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from redoubtable.models.cards import CARD, load_model
from redoubtable.models.catalogue import MODELS, create
from redoubtable.models.factories import (
    accepted,
    build,
    find_factory,
    read_arguments,
    split_factory,
)
from redoubtable.models.weights import load_weights


def open_model(
    text: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    channels: int | None = None,
    size: int | Sequence[int] | None = None,
    factory: str | None = None,
) -> nn.Module:
    """Build or load the network that a text names, on the CPU.

    Args:
        text: a registered name with arguments, `resnet20:classes=43`; the folder of a saved model
            (`./resnet20` where a folder has the name of a model); or a factory of the user's own,
            `package.module:factory:width=3`, whose module is imported.
        weights: a file to load into it, see `load_weights`; not with a folder.
        classes: number of logits, if the factory takes such an argument and the text does not set
            it; a folder's network stays as it was saved.
        channels: channels of the images, likewise.
        size: side of the images or (height, width), likewise.
        factory: with a folder only, the factory that may be imported for it; see `load_model`.

    Returns:
        The network: in evaluation mode if its weights were loaded, else freshly drawn from torch's
        global generator and in training mode.

    Raises:
        ValueError: the text names nothing, or what it names can't be built, loaded or filled.
    """
    wanted = {"classes": classes, "channels": channels, "size": size}
    shape = {k: v for k, v in wanted.items() if v is not None}
    registered = text.strip().partition(":")[0] in MODELS
    if not registered and text and Path(text).is_dir():
        if weights is not None:
            raise ValueError(
                f"`weights` must be None with the saved model {text}, which has its own, got "
                f"{weights}; name its architecture instead of the folder"
            )
        return load_model(text, factory=factory)
    if factory is not None:
        raise ValueError(
            f"`factory` must be None unless a folder with {CARD} is opened, got {factory!r} with "
            f"{text!r}"
        )
    model = _built(text, registered, shape)
    return model if weights is None else load_weights(model, weights).eval()


def _built(text: str, registered: bool, shape: dict[str, Any]) -> nn.Module:
    """The network of a registered name or a factory, with fresh weights."""
    foreign = None if registered else split_factory(text)
    if foreign is None:
        bound = MODELS.bind(text)
        takes = accepted(bound.entry.obj)
        given = {k: v for k, v in shape.items() if k in takes}
        return create(bound.entry.name, **(given | dict(bound.arguments)))
    name, rest = foreign
    factory = find_factory(name)
    arguments = read_arguments(name, factory, rest)
    takes = accepted(factory)
    given = {k: v for k, v in shape.items() if k in takes}
    return build(name, factory, given | arguments)
