"""Images that are read under a progress bar are the images."""

import torch

from redoubtable.evaluation.watching import watched


def test_watched_images_are_the_images(capsys) -> None:
    x, y = torch.rand(7, 1, 2, 2), torch.arange(7)
    with watched((x, y), "reading") as (seen, labels):
        assert seen.shape == (7, 1, 2, 2) and len(seen) == 7 and labels is y
        assert torch.equal(torch.cat([seen[start : start + 3] for start in (0, 3, 6)]), x)
        assert torch.equal(seen[torch.tensor([5, 2])], x[[5, 2]])
    shown = capsys.readouterr()
    assert not shown.out


def test_no_images_have_no_bar(capsys) -> None:
    with watched(None, "reading") as seen:
        assert seen is None
    assert capsys.readouterr().err == ""


def test_without_a_bar_the_images_are_themselves(capsys) -> None:
    images = torch.rand(3, 1, 2, 2), torch.arange(3)
    with watched(images, "reading", shown=False) as seen:
        assert seen is images
    assert capsys.readouterr().err == ""
