"""The penalty on weights that some networks are trained with, layer by layer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weight_penalty(model: nn.Module) -> Tensor:
    """Return what a network wants added to its loss: `c * (|W|^2 + |b|^2)` per penalised layer.

    A network names its layers in `penalised`, a mapping from their names to c; so do networks
    inside a defended model. Unlike weight decay it has no factor 1/2.

    Returns:
        A scalar with a gradient to the weights; 0 where nothing is penalised.

    Raises:
        ValueError: a name in `penalised` is no layer of the network.
    """
    total = torch.zeros(())
    for module in model.modules():
        penalised = getattr(module, "penalised", None)
        for name, factor in (penalised if isinstance(penalised, Mapping) else {}).items():
            try:
                layer = module.get_submodule(name)
            except AttributeError:
                raise ValueError(
                    f"`penalised` must name layers of {type(module).__name__}, got {name!r}; "
                    "take a name from `named_modules()`"
                ) from None
            for parameter in layer.parameters():
                total = total.to(parameter) + factor * parameter.square().sum()
    return total
