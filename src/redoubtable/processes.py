"""The processes that `torchrun` or `accelerate launch` started together; often just one."""

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def is_first_process() -> bool:
    """Return whether this process is the one that shows and writes; one alone is."""
    return os.environ.get("RANK", "0") == "0"


class Group:
    """This process and its fellows, as accelerate finds them.

    Accelerate is asked only where there are several: its state is one for a whole Python process
    and fixes the device at first sight.

    Attributes:
        count: how many there are, over all nodes.
        rank: which one this is, from 0.

    Args:
        device: that this process computes on.

    Raises:
        ValueError: the device is another process's.
    """

    def __init__(self, device: torch.device) -> None:
        self.count, self.rank = 1, 0
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            own = int(os.environ.get("LOCAL_RANK", "0"))
            if device.type == "cuda" and device.index not in (None, own):
                raise ValueError(
                    f"`model` must be on cuda:{own} in process {own} of its machine, got {device}; "
                    "give --device auto"
                )
            from accelerate import PartialState

            self._state = PartialState(cpu=device.type == "cpu")
            atexit.register(_leave)
            self.count = self._state.num_processes
            self.rank = self._state.process_index

    @property
    def first(self) -> bool:
        """Whether this is the process that shows and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in the order of their ranks."""
        if self._state is None:
            return [value]
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object([value])
        return gathered

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` gives in the first process, to all of them.

        Raises:
            ValueError: what it refuses there, in all of them, so that none waits for it.
        """
        if self._state is None:
            return make()
        from accelerate.utils import broadcast_object_list

        made: list[Any] = [None, None]
        if self.first:
            try:
                made[0] = make()
            except (ValueError, OSError) as error:
                made[1] = str(error)
        broadcast_object_list(made)
        value, refused = made
        if refused is not None:
            raise ValueError(refused)
        return value  # type: ignore[no-any-return]


def _leave() -> None:
    """Leave the group in order: a process that just ends can bring down one that still talks."""
    if dist.is_initialized():
        dist.destroy_process_group()
