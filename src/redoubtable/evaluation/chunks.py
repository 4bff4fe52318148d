"""Images and labels, read one chunk of consecutive examples at a time."""

import hashlib
from collections.abc import Iterator

import torch

from redoubtable.files import digest_tensors
from redoubtable.types import Images, Labels, LazyImages, check_images


def read(x: LazyImages, part: slice, name: str = "x") -> Images:
    """Return some images, looked at as they come: a view may give anything.

    Args:
        x: a tensor, or a view that reads what it is asked for.
        part: which, within the bounds of `x`.
        name: what `x` is called in messages.

    Raises:
        TypeError: what came is no float tensor.
        ValueError: it is not as many images of the shape that `x` states, or not in [0, 1].
    """
    images, where = x[part], f"{name}[{part.start}:{part.stop}]"
    check_images(images, where)
    expected = (part.stop - part.start, *x.shape[1:])
    if images.shape != expected:
        got = tuple(images.shape)
        raise ValueError(f"`{where}` must be {expected}, as `{name}.shape` says, got {got}")
    # One layout for all: a convolution over another one rounds otherwise.
    return images.detach().contiguous()


def batches(x: LazyImages, length: int, name: str = "x") -> Iterator[tuple[slice, Images]]:
    """Give all images in order, `length` at a time, each time with where they stand."""
    for start in range(0, len(x), length):
        part = slice(start, min(start + length, len(x)))
        yield part, read(x, part, name)


class Chunks:
    """The examples of an evaluation; of images that are not in memory one chunk at a time is.

    All images are read once at the start, to see that they are legal and to name each chunk by its
    content. A chunk that is read again must have the content that it is named by.

    Args:
        x: (N, C, H, W) in [0, 1], a tensor or a view.
        y: (N,) labels.
        length: examples in a chunk; the last may have fewer.

    Attributes:
        starts: the first example of each chunk.
        digests: the name of each chunk, by images and labels.
        digest: the name of all of them, whatever the length of a chunk and the rounding of a
            machine: of the labels and of the images in 8 bits.

    Raises:
        TypeError: `x` gives something that is no float tensor.
        ValueError: `x` gives something that is no batch of images in [0, 1].
    """

    def __init__(self, x: LazyImages, y: Labels, length: int) -> None:
        self.x, self.y, self.length = x, y, length
        self.starts = range(0, len(x), length)
        self.outline = outline(x)
        self.digests = []
        eight_bit = hashlib.sha256()
        for part, images in batches(x, length):
            self.digests.append(digest_tensors(images, y[part]))
            eight_bit.update((images * 255).round().byte().cpu().numpy().tobytes())
        self.digest = hashlib.sha256(eight_bit.digest() + y.numpy().tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.x)

    def chunk(self, number: int) -> tuple[Images, Labels]:
        """Read a chunk.

        Raises:
            ValueError: it has changed since the start.
        """
        start = self.starts[number]
        part = slice(start, min(start + self.length, len(self)))
        images, labels = read(self.x, part), self.y[part]
        if digest_tensors(images, labels) != self.digests[number]:
            raise ValueError(
                f"`x[{start}:{part.stop}]` gave other images than before; a view must give the "
                "same each time, so leave random changes and files that are written out of it"
            )
        return images, labels

    def first(self, count: int) -> tuple[Images, Labels]:
        """Read the first examples, at most `count`, no more than a chunk at a time."""
        n = min(count, len(self))
        parts = [slice(a, min(a + self.length, n)) for a in range(0, n, self.length)]
        return torch.cat([read(self.x, part) for part in parts]), self.y[:n]


def outline(x: LazyImages) -> Images:
    """Return a tensor of the shape, type and device of all images that takes no memory.

    For what depends on those alone, such as radii; its values mean nothing.
    """
    one = read(x, slice(0, 1))
    return torch.zeros((), dtype=one.dtype, device=one.device).expand(*x.shape)
