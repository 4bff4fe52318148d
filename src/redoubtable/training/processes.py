"""The processes that train one network together; often just one.

Accelerate joins their gradients. It is asked only where there are several: its state is one for a
whole Python process, while `train` may be called many times.
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from redoubtable.processes import Group

T = TypeVar("T")
Place = tuple[nn.Module, str, nn.Module]
"""A module, the name of one of its children, and that child."""


class Processes:
    """This process and its fellows.

    Attributes:
        count: how many there are, over all nodes.
        rank: which one this is, from 0.

    Args:
        device: that this process computes on.
    """

    def __init__(self, device: torch.device) -> None:
        self._group = Group(device)
        self.count, self.rank = self._group.count, self._group.rank
        self._accelerator: Any = None
        self._replaced: list[Place] = []
        if self.count > 1:
            from accelerate import Accelerator, DistributedDataParallelKwargs

            # Buffers are joined at the end of an epoch (see `Run`); sent before every pass, they
            # would change in place under a recipe that passes twice.
            options = DistributedDataParallelKwargs(broadcast_buffers=False)
            self._accelerator = Accelerator(
                cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[options]
            )

    @property
    def first(self) -> bool:
        """Whether this is the process that shows and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        self._group.wait()

    def share(self, batch: Tensor) -> slice:
        """Return this process's part of a batch, as even as can be."""
        n = len(batch)
        return slice(self.rank * n // self.count, (self.rank + 1) * n // self.count)

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model with its gradients averaged over the processes.

        On CUDA devices its batch norms also see the batch of all processes, until `release`; on a
        processor, where torch has no such thing, each process normalises with its own part.
        """
        if self._accelerator is None:
            return model
        if device.type == "cuda":
            self._replaced = synchronise(model)
        with warnings.catch_warnings():
            # Its new name is not known to all versions of torch that we run on.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")
            wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def release(self) -> None:
        """Put the model's own batch norms back, with what was learnt."""
        for parent, name, own in self._replaced:
            own.training = getattr(parent, name).training
            setattr(parent, name, own)
        self._replaced = []

    def average_buffers(self, model: nn.Module) -> None:
        """Average running statistics over the processes, in place."""
        if self._accelerator is None:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self._accelerator.reduce(buffer, "mean"))

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        if self._accelerator is None:
            return value
        total: Tensor = self._accelerator.reduce(value, "sum")
        return total

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in the order of their ranks."""
        return self._group.gather(value)

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` gives in the first process, to all of them.

        Raises:
            ValueError: what it refuses there, in all of them, so that none waits for it.
        """
        return self._group.from_first(make)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network itself, without what joins its gradients with other processes'."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model


def synchronise(model: nn.Module) -> list[Place]:
    """Replace every batch norm inside by one over all processes that shares its tensors.

    Returns:
        Where those that were replaced stood.
    """
    places: list[Place] = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
    ]
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return places
