"""Image files of every kind become 8-bit arrays of one shape."""

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from redoubtable.data.decoding import Look, WrongSize, decode, fingerprint, measure, shown

RGB, GREY = Look(3, 12, 16, False), Look(1, 12, 16, False)


def pixels(height=12, width=16, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width):
    """A picture without noise, which JPEG and resizing hardly change."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * y], -1).round().astype(np.uint8)


def save(folder, image, name="a.png", **options):
    path = folder / name
    image.save(path, **options)
    return os.fsencode(path)


@pytest.mark.parametrize("ending", ["png", "bmp", "ppm", "tif", "webp"])
def test_lossless_files_are_read_as_they_are(tmp_path, ending):
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path, Image.fromarray(pixels()), f"a.{ending}", **options)
    assert np.array_equal(decode(path, RGB), pixels()) and measure(path) == (12, 16)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 80), (120, 40), (16, 48), (13, 13)])
def test_resizing_is_that_of_torchvision(tmp_path, height, width):
    # Sides that are multiples of the wanted one, so that both cut at the same pixels.
    path = save(tmp_path, Image.fromarray(pixels(height, width)))
    bilinear = Resize(10, InterpolationMode.BILINEAR, antialias=True)
    expected = Compose([bilinear, CenterCrop(10)])(Image.open(os.fsdecode(path)))
    found = decode(path, Look(3, 10, 10, True)).astype(int)
    assert np.abs(found - np.asarray(expected)).max() <= 1


def test_an_image_of_the_wanted_size_is_only_cut(tmp_path):
    whole = pixels(10, 15)
    found = decode(save(tmp_path, Image.fromarray(whole)), Look(3, 10, 10, True))
    assert np.array_equal(found, whole[:, 2:12])
    tall = decode(save(tmp_path, Image.fromarray(pixels(17, 10))), Look(3, 10, 10, True))
    assert np.array_equal(tall, pixels(17, 10)[4:14])  # 3.5 pixels go, rounded to even


def test_a_thread_of_an_image_takes_no_memory(tmp_path):
    path = save(tmp_path, Image.new("RGB", (30_000, 1), "red"))
    began = time.perf_counter()
    assert (decode(path, Look(3, 224, 224, True)) == (255, 0, 0)).all()
    assert time.perf_counter() - began < 1  # its long side would have 6.7 million pixels


def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path):
    path = save(tmp_path, Image.fromarray(smooth(1200, 1600)), "a.jpg", quality=95)
    expected = Image.open(os.fsdecode(path)).convert("RGB").crop((200, 0, 1400, 1200))
    expected = np.asarray(expected.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode(path, Look(3, 64, 64, True)) - expected).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_orientation_is_respected(tmp_path, orientation, ending):
    upright = smooth(32, 48)
    # Row 0 and column 0 of the stored image, as the standard's table says where they show.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    path = save(tmp_path, image, f"a.{ending}", exif=exif, quality=100, subsampling=0)
    assert measure(path) == (32, 48)
    found = decode(path, Look(3, 32, 48, False)).astype(int)
    assert np.abs(found - upright).max() <= 6


def test_nonsense_in_exif_is_no_damage(tmp_path):
    for nonsense in (b"Exif\x00\x00nonsense", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"):
        path = save(tmp_path, Image.fromarray(smooth(12, 16)), "a.jpg", exif=nonsense)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nor worth a word for each image
            assert decode(path, RGB).shape == (12, 16, 3) and measure(path) == (12, 16)
    exif = Image.Exif()
    exif[0x0112] = 99  # there are eight ways to turn an image
    path = save(tmp_path, Image.fromarray(smooth(12, 16)), "b.png", exif=exif)
    assert measure(path) == decode(path, Look(3, 12, 16, False)).shape[:2] == (12, 16)


def test_sixteen_bits_lose_their_lower_half(tmp_path):
    deep = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 341
    for ending in ("png", "tif"):
        path = save(tmp_path, Image.fromarray(deep), f"a.{ending}")
        assert np.array_equal(decode(path, GREY)[..., 0], deep >> 8)
        assert np.array_equal(decode(path, RGB), np.repeat((deep >> 8)[..., None], 3, 2))


def test_transparency_stands_on_white(tmp_path):
    colour = np.full((12, 16, 4), (200, 100, 0, 255), dtype=np.uint8)
    colour[0, :, 3], colour[1, :, 3] = 0, 51
    found = decode(save(tmp_path, Image.fromarray(colour)), RGB)
    assert (found[0] == 255).all() and (found[2:] == (200, 100, 0)).all()
    assert np.abs(found[1].astype(int) - (244, 224, 204)).max() <= 1  # a fifth of the colour
    grey = Image.fromarray(np.full((12, 16, 2), (0, 0), dtype=np.uint8), "LA")
    assert (decode(save(tmp_path, grey), GREY) == 255).all()


def test_palettes_frames_and_bits(tmp_path):
    drawn = Image.fromarray(np.repeat(np.arange(12, dtype=np.uint8)[:, None], 16, 1), "P")
    drawn.putpalette([v for i in range(12) for v in (20 * i, 0, 255 - 20 * i)])
    rows = np.arange(12)[:, None, None] * np.array([20, 0, -20]) + (0, 0, 255)
    expected = np.repeat(rows, 16, 1)
    assert np.array_equal(decode(save(tmp_path, drawn), RGB), expected)
    clear = save(tmp_path, drawn, "clear.png", transparency=3)
    expected[3] = 255
    assert np.array_equal(decode(clear, RGB), expected)
    first, second = (Image.new("RGB", (16, 12), c) for c in ("red", "blue"))
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        options = {"lossless": True} if name == "a.webp" else {}
        path = save(tmp_path, first, name, save_all=True, append_images=[second], **options)
        assert (decode(path, RGB) == (255, 0, 0)).all(), name
    assert (decode(save(tmp_path, Image.new("1", (16, 12), 1)), RGB) == 255).all()


def test_ink_becomes_light(tmp_path):
    ink = Image.new("CMYK", (16, 12), (0, 255, 255, 0))
    assert (decode(save(tmp_path, ink, "a.tif"), RGB) == (255, 0, 0)).all()
    found = decode(save(tmp_path, ink, "a.jpg", quality=95), RGB).astype(int)
    assert np.abs(found - (255, 0, 0)).max() <= 4


def test_grey_is_weighed_as_eyes_do(tmp_path):
    found = decode(save(tmp_path, Image.fromarray(pixels())), GREY)[..., 0]
    assert np.abs(found - pixels() @ (0.299, 0.587, 0.114)).max() <= 1


def test_another_size_is_refused_where_nothing_is_resized(tmp_path):
    path = save(tmp_path, Image.fromarray(pixels(12, 15)))
    with pytest.raises(WrongSize, match=r"a\.png has 12x15 pixels .* 12x16; say with size="):
        decode(path, RGB)


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "ppm", "gif", "webp", "tif"])
def test_damage_is_named(tmp_path, ending):
    path = save(tmp_path, Image.fromarray(pixels(60, 60)), f"odd name.{ending}")
    file = Path(os.fsdecode(path))
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:20], b"", b"no image at all"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^can't read .*odd name\.{ending} \(.+\)$"):
            decode(path, Look(3, 8, 8, True))


def test_what_can_not_be_shown_is_refused(tmp_path):
    floats = save(tmp_path, Image.fromarray(np.ones((4, 4), np.float32)), "a.tif")
    with pytest.raises(ValueError, match="floats of unknown range"):
        decode(floats, Look(3, 4, 4, False))
    deep = save(tmp_path, Image.fromarray(np.full((4, 4), 70_000, np.int32)), "b.tif")
    with pytest.raises(ValueError, match="don't fit into 16 bits"):
        decode(deep, Look(3, 4, 4, False))
    for gone in (os.fsencode(tmp_path / "gone.png"), os.fsencode(tmp_path)):
        for reader in (measure, fingerprint, lambda p: decode(p, RGB)):
            with pytest.raises(ValueError, match="can't read"):
                reader(gone)


def test_a_name_is_shown_on_one_line():
    assert shown("/a/Bär ü.png") == "/a/Bär ü.png"
    assert shown(b"/a/\xff.png") == "/a/\\xff.png"
    assert "\n" not in shown("/a/b\nc.png")
