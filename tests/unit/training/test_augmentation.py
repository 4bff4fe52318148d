import pytest
import torch
import torch.nn.functional as F

from redoubtable.seeding import seeded
from redoubtable.training.augmentation import augment, draw_moves


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_is_a_shift_over_black_and_flip_a_mirror(channels):
    with seeded("augment"):
        images = torch.randint(1, 256, (1500, channels, 9, 7), dtype=torch.uint8)
        shifted = augment(images, draw_moves(1500, "crop"))
        mirrored = augment(images, draw_moves(1500, "crop+flip"))
        turned_only = augment(images, draw_moves(1500, "flip"))
    assert torch.equal(augment(images, draw_moves(1500, "none")), images)
    for out in (shifted, mirrored, turned_only):
        assert out.shape == images.shape and out.dtype == torch.uint8
        assert out.is_contiguous(memory_format=torch.channels_last)

    padded = F.pad(images, (4, 4, 4, 4))
    windows = {(r, c): padded[:, :, r : r + 9, c : c + 7] for r in range(9) for c in range(9)}

    def matches(out, flip):
        """Which of the 81 windows each image is."""
        source = {k: w.flip(3) if flip else w for k, w in windows.items()}
        return torch.stack([(out == w).flatten(1).all(1) for w in source.values()])

    assert matches(shifted, False).any(0).all()
    assert matches(shifted, False).any(1).all()  # every shift occurs among 1500 images
    plain, turned = matches(mirrored, False).any(0), matches(mirrored, True).any(0)
    assert (plain | turned).all() and 650 < turned.sum() < 850
    straight = (turned_only == images).flatten(1).all(1)
    across = (turned_only == images.flip(3)).flatten(1).all(1)
    assert (straight | across).all() and 650 < across.sum() < 850


def test_moves_of_a_part_are_those_of_the_whole():
    with seeded("parts"):
        images = torch.randint(1, 256, (20, 3, 9, 7), dtype=torch.uint8)
        moves = draw_moves(20, "crop+flip")
    parts = [augment(images[p], moves[p]) for p in (slice(0, 7), slice(7, 20))]
    assert torch.equal(torch.cat(parts), augment(images, moves))
