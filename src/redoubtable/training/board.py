"""The log of a training run for TensorBoard."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from redoubtable.training.checkpoint import Epoch

FOLDER = "tensorboard"


@contextlib.contextmanager
def board(
    folder: Path | None, rows: Sequence[Epoch], wanted: bool
) -> Iterator[Callable[[Epoch], None]]:
    """Yield what adds an epoch to the board.

    Args:
        folder: of the run.
        rows: of before a resume; later ones that a killed run left are purged.
        wanted: False for a board that takes everything and keeps nothing.

    Raises:
        ValueError: tensorboard is not installed.
    """
    if not wanted or folder is None:
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "tensorboard is not installed; pip install tensorboard, or leave out --tensorboard"
        ) from None
    writer = SummaryWriter(str(folder / FOLDER), purge_step=len(rows) + 1)

    def add(row: Epoch) -> None:
        for name, value in asdict(row).items():
            if name != "epoch" and value is not None:
                writer.add_scalar(name, value, row.epoch)
        writer.flush()

    try:
        yield add
    finally:
        writer.close()
