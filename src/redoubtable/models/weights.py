"""Weights from files: safetensors, or pickles of nothing but tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_INNER = ("state_dict", "model_state_dict", "model", "net")
"""Where checkpoints of the usual training scripts keep the weights."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before the names."""


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a file of weights into a network, and return the network.

    Args:
        model: changed in place; as it was if anything is refused.
        path: a `.safetensors` file, or `.pt` or `.pth` with a `state_dict` or a checkpoint that
            has one; nothing but tensors is unpickled, so no code can come with them.

    Raises:
        ValueError: there is no such file, it is damaged or holds more than tensors, or its names
            or shapes are not those of the network.
    """
    state = read_weights(path)
    try:
        fit_weights(model, state)
    except ValueError as error:
        raise ValueError(
            f"the weights in {path} don't fit {_name(model)}: {error}; build the network that they "
            "were saved from"
        ) from None
    return model


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a file, by name, onto the CPU.

    Raises:
        ValueError: there is no such file, it is damaged, or it holds more than tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"`weights` must be a file, got {path}, where there is none")
    if file.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"`weights` must end in .safetensors, .pt or .pth, got {path}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways, a pickle with code in one of them
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(
            f"the weights in {path} are damaged or hold more than tensors ({reason}); save them "
            "with torch.save(model.state_dict(), path), or as .safetensors"
        ) from None
    return _tensors(found, path)


def _tensors(found: Any, path: str | Path) -> dict[str, Tensor]:
    """The names and tensors in what a file held."""
    while isinstance(found, Mapping) and found:
        if all(isinstance(v, Tensor) for v in found.values()):
            return {str(k): v for k, v in found.items()}
        found = next((found[k] for k in _INNER if isinstance(found.get(k), Mapping)), None)
    raise ValueError(
        f"the file {path} has no weights by name; save them with torch.save(model.state_dict(), "
        f"path), or under one of the keys {', '.join(_INNER)}"
    )


def fit_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into a network, whose names and shapes they must have.

    Prefixes that DataParallel and torch.compile leave on all names are taken off.

    Raises:
        ValueError: with what differs; the network is as it was.
    """
    own = model.state_dict()
    found = _unwrapped(state, own)
    if own and not own.keys() & found.keys():
        theirs, ours = next(iter(found), "nothing"), next(iter(own))
        raise ValueError(
            f"they are of another architecture, with {theirs!r} where the network has {ours!r}"
        )
    # Batch norms did not always count their batches; PyTorch fills that in.
    missing = [k for k in own if k not in found and not k.endswith("num_batches_tracked")]
    differing = [
        f"{k} {tuple(found[k].shape)} instead of {tuple(v.shape)}"
        for k, v in own.items()
        if k in found and isinstance(v, Tensor) and not is_lazy(v) and found[k].shape != v.shape
    ]
    problems = {
        "missing": missing,
        "not in the network": [k for k in found if k not in own],
        "misshaped": differing,
    }
    if any(problems.values()):
        raise ValueError(", ".join(f"{k}: {_few(v)}" for k, v in problems.items() if v))
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _unwrapped(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights without the prefixes of wrappers, unless the network has such names itself."""
    found = dict(state)
    while found and not own.keys() & found.keys():
        wrapper = next((w for w in _WRAPPERS if all(k.startswith(w) for k in found)), None)
        if wrapper is None:
            break
        found = {k.removeprefix(wrapper): v for k, v in found.items()}
    return {_compiled(k, own): v for k, v in found.items()}


def _compiled(name: str, own: Mapping[str, Any]) -> str:
    """A name without the mark that a compiled part leaves in the middle of it."""
    bare = name.replace("._orig_mod.", ".")
    return bare if name not in own and bare in own else name


def _few(names: list[str]) -> str:
    """The first three names, and how many there are besides."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _name(model: nn.Module) -> str:
    architecture = getattr(model, "architecture", None)
    return str(getattr(architecture, "name", type(model).__name__))
