"""Image files of any kind and size, decoded to 8-bit arrays of one shape."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Array = npt.NDArray[np.uint8]

ENDINGS = tuple(b".bmp .gif .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
"""What the name of an image file ends in, in small letters."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF (CIPA DC-008-2019, 4.6.4, tag 0x0112)."""
_ORIENTATION = 0x0112
_ENOUGH = 2  # a JPEG may be decoded smaller, but not below that many times the wanted size


class WrongSize(ValueError):
    """A sound image that is not of the one size that all were expected to have."""


@dataclass(frozen=True)
class Look:
    """How the images of a set are to be decoded.

    Attributes:
        channels: 3 (RGB) or 1 (grey, ITU-R 601).
        height: of the result.
        width: of the result.
        resized: whether an image is resized to that; otherwise it must have it.
    """

    channels: int
    height: int
    width: int
    resized: bool


def decode(path: bytes, look: Look) -> Array:
    """Decode an image file to (H, W, C).

    The shorter side is resized to the wanted one, bilinearly with antialiasing, and what is too
    long is cut off equally at both ends. A JPEG of more than twice that size is decoded smaller at
    once, which moves pixels by a few levels and saves most of the time. EXIF orientation is
    respected, transparency stands on white, of several images in a file the first counts, 16-bit
    grey keeps its upper 8 bits.

    Raises:
        ValueError: the file can't be read whole as an image; it is named.
        WrongSize: nothing is resized, and it has another size.
    """
    try:
        with _opened(path) as image:
            if look.resized:
                side = _ENOUGH * max(look.height, look.width)
                image.draft(None, (side, side))
            image.load()
            turn = _TURNS.get(_orientation(image))
            pixels = _plain(image, look.channels)
    except Exception as error:  # damaged files make decoders raise anything
        raise ValueError(f"can't read {shown(path)} ({_reason(error)})") from None
    pixels = pixels if turn is None else pixels.transpose(turn)
    if look.resized:
        pixels = _resized(pixels, look.height, look.width)
    elif (pixels.height, pixels.width) != (look.height, look.width):
        raise WrongSize(
            f"{shown(path)} has {pixels.height}x{pixels.width} pixels where the first training "
            f"image has {look.height}x{look.width}; say with size= to what all are resized"
        )
    return np.asarray(pixels).reshape(look.height, look.width, look.channels)


def measure(path: bytes) -> tuple[int, int]:
    """Return height and width of an image, upright.

    Raises:
        ValueError: the file is no image.
    """
    try:
        with _opened(path) as image:
            turned = _orientation(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:
        raise ValueError(f"can't read {shown(path)} ({_reason(error)})") from None


def fingerprint(path: bytes) -> bytes:
    """Return 16 bytes that name the content of a file.

    Raises:
        ValueError: the file can't be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()[:16]
    except OSError as error:
        raise ValueError(f"can't read {shown(path)} ({error.strerror})") from None


def shown(path: bytes | str | os.PathLike[str]) -> str:
    """Return a file's name on one line, whatever characters it has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else repr(text)


@contextmanager
def _opened(path: bytes) -> Iterator[Image.Image]:
    """An image file, without remarks on its remarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            yield image


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """RGB or grey, opaque, with 8 bits per channel."""
    wanted = "RGB" if channels == 3 else "L"
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range; store it with 8 bits")
    if image.mode.startswith("I"):
        return _upper_bits(image).convert(wanted)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # Grey comes from RGB: a palette or ink has no brightness of its own.
    image = image if image.mode in (wanted, "L", "1") else image.convert("RGB")
    return image if image.mode == wanted else image.convert(wanted)


def _upper_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("its pixels don't fit into 16 bits; store it with 8 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, which is upright, where nothing or nonsense is said."""
    try:
        told = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged remarks don't make a damaged image
        return 1
    return told if told in _TURNS else 1


def _resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize the largest middle part of the wanted proportions, moved by whole new pixels."""
    scale = min(image.width / width, image.height / height)
    box = []
    for length, wanted in ((image.width, width), (image.height, height)):
        start = min(round((length / scale - wanted) / 2) * scale, length - wanted * scale)
        box.append((max(0.0, start), min(length, max(0.0, start) + wanted * scale)))
    (left, right), (upper, lower) = box
    bilinear = Image.Resampling.BILINEAR
    return image.resize((width, height), bilinear, box=(left, upper, right, lower))


def _reason(error: Exception) -> str:
    """The first line of an error, without the name of the file."""
    if isinstance(error, UnidentifiedImageError):
        return "no image, or of an unknown kind"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).split("\n", 1)[0]
