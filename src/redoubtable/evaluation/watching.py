"""A progress bar over images that somebody else reads in order."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from redoubtable.types import Images, Labels, LazyImages


class _Watched:
    """The same images; a bar shows how far they were read."""

    def __init__(self, images: LazyImages, bar: Progress) -> None:
        self.images, self.bar = images, bar

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return tuple(self.images.shape)

    def __len__(self) -> int:
        """Return N."""
        return len(self.images)

    def __getitem__(self, which: slice | Tensor, /) -> Images:
        """Read some, and show where what was read before ends."""
        if isinstance(which, slice):
            self.bar.update(self.bar.task_ids[0], completed=which.start or 0)
        return self.images[which]


@contextmanager
def watched(
    images: tuple[LazyImages, Labels] | None, what: str, shown: bool = True
) -> Iterator[tuple[LazyImages, Labels] | None]:
    """Show a bar on the error stream while a block reads images, batch after batch.

    Args:
        images: with their labels, or None for no bar.
        what: is done with them.
        shown: whether there is a bar at all.
    """
    if images is None or not shown:
        yield images
        return
    x, y = images
    with Progress(console=Console(stderr=True), transient=True) as bar:
        bar.add_task(what, total=len(x))
        yield _Watched(x, bar), y
