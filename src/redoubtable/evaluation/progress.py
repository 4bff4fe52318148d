"""A progress bar over chunks of work, or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass
class Ticker:
    """Counts finished chunks, each once; without a bar it only counts."""

    bar: Progress | None = None
    total: int = 0
    done: set[int] = field(default_factory=set)

    def expect(self, total: int) -> None:
        """Say how many chunks there will be, at most."""
        self.total = total
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], total=total)

    def tick(self, cell: str) -> None:
        """One chunk is finished; what is tried again in vain may say so again."""
        self.done.add(hash(cell))
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=len(self.done))


@contextmanager
def ticking(what: str, shown: bool) -> Iterator[Ticker]:
    """Show a bar on the error stream for a block that does something to a model."""
    if not shown:
        yield Ticker()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} chunks"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        bar.add_task(what, total=None)
        ticker = Ticker(bar)
        yield ticker
        # Whatever the estimate was, the work is done.
        bar.update(bar.task_ids[0], total=len(ticker.done))
