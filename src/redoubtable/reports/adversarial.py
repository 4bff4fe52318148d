"""Adversarial images as files: arrays that can be read as data again, and a picture."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redoubtable.evaluation import Evaluation
from redoubtable.files import make_folder, write_bytes, write_npz
from redoubtable.reports.plots import amplification, montage

_SHOWN = 10
Floats = NDArray[np.float32]


def write_adversarial(folder: Path, done: Evaluation) -> tuple[Path, Path]:
    """Write each example's worst image, and a picture of the first ones.

    `adversarial.npz` has x_test, (N, H, W, C) uint8 if the images were rounded to 8 bits, and else
    x_adv, (N, C, H, W) float32; y_test, the true labels; answers, (N, draws), the model's number of
    classes standing for a rejection; distance, (N,) in the threat's norm; and the clean images in
    the same form, x_clean. Where the clean images are no 8-bit images, the file rounds values that
    no attack changed too, and answers are of the unrounded image.

    Args:
        folder: made if it is not there.
        done: an evaluation that kept the images of all examples.

    Returns:
        The paths of the arrays and of the picture, `sheet.png`.

    Raises:
        ValueError: not all images were kept.
    """
    y, chosen = done.arrays["y"], done.arrays["robust/chosen"]
    clean, x_adv = done.images["clean"], done.adversarial
    if len(x_adv) != len(y):
        raise ValueError(
            f"only {len(x_adv)} of {len(y)} adversarial images were kept; evaluate with "
            f"Settings(keep={len(y)})"
        )
    names, each = list(done.images), np.arange(len(y))
    answers = np.stack([done.arrays[f"{n}/report"] for n in names])[chosen, each]
    distance = np.stack([done.arrays[f"{n}/distance"] for n in names])[chosen, each]
    arrays = {"y_test": y, "answers": answers, "distance": distance}
    if done.record["settings"]["eight_bit"]:
        arrays |= {"x_test": _bytes(x_adv), "x_clean": _bytes(clean)}
    else:
        arrays |= {"x_adv": x_adv, "x_clean": clean}
    make_folder(folder)
    write_npz(folder / "adversarial.npz", arrays)
    write_bytes(folder / "sheet.png", _sheet(done, clean[:_SHOWN], x_adv[:_SHOWN], answers))
    return folder / "adversarial.npz", folder / "sheet.png"


def _bytes(images: Floats) -> NDArray[np.uint8]:
    """(N, H, W, C) in 8 bits."""
    return np.asarray(np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1))


def _sheet(done: Evaluation, clean: Floats, x_adv: Floats, answers: NDArray[np.int16]) -> bytes:
    factor = amplification([x_adv - clean])
    classes = done.record["model"]["classes"]
    titles = []
    for label, said in zip(done.arrays["y"], answers[: len(clean)], strict=False):
        commonest = int(np.bincount(said).argmax())
        titles.append(f"{label} → {'reject' if commonest == classes else commonest}")
    change = np.clip(0.5 + 0.5 * factor * (x_adv - clean), 0, 1)
    return montage([clean, x_adv, change], titles, ["clean", "adversarial", f"change x {factor}"])
