"""The name of all examples tells whether two records are of the same ones."""

import torch

from redoubtable.evaluation.chunks import Chunks


def test_examples_are_named_by_content_alone() -> None:
    x = torch.randint(0, 256, (10, 1, 4, 4)) / 255
    y = torch.arange(10)
    name = Chunks(x, y, 3).digest
    assert name == Chunks(x, y, 10).digest == Chunks(x + 1e-8, y, 1).digest
    assert len(name) == 16
    changed = x.clone()
    changed[9, 0, 3, 3] = (changed[9, 0, 3, 3] + 0.5) % 1
    swapped = y.clone()
    swapped[[8, 9]] = swapped[[9, 8]]
    others = [Chunks(changed, y, 3), Chunks(x, swapped, 3), Chunks(x[:9], y[:9], 3)]
    others += [Chunks(x.flip(0), y, 3)]
    assert len({name, *(c.digest for c in others)}) == 5
