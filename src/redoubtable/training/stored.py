"""Attacked images that are kept, to train on offline (Szegedy et al. 2014; Dornadula et al.)."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS, check_threat, chosen
from redoubtable.data import ImageSet, open_mapped, to_unit
from redoubtable.files import digest_code, digest_model, locked, make_folder, read_json, write_json
from redoubtable.parts import in_eval_mode
from redoubtable.registry import Bound
from redoubtable.seeding import seeded
from redoubtable.threat import ThreatModel
from redoubtable.training.run import check_fit
from redoubtable.types import Images, Labels

CARD, IMAGES, LABELS, PROGRESS = "stored.json", "images.npy", "labels.npy", "progress.json"
Label = Literal["true", "predicted"]
_SCHEMA = 1
_CHUNK = 250


@dataclass(frozen=True)
class Stored:
    """Attacked images in a folder.

    Attributes:
        folder: that holds them.
        card: what they are: attack, threat, scale of eps, label choice, the attacked model, the
            clean images, seed, accuracies.
    """

    folder: Path
    card: Mapping[str, Any]

    def images(self) -> ImageSet:
        """Return the images with their true labels, read from the file as they are needed."""
        data = self.card["data"]
        name = f"{data['name']}-{self.card['attack'].partition(':')[0]}"
        return open_mapped(self.folder, data["split"], name=name, classes=data["classes"])


def store(
    model: nn.Module,
    data: ImageSet,
    attack: str,
    threat: ThreatModel,
    out: str | Path,
    *,
    label: Label = "true",
    model_name: str = "model",
    transfer_to: str | None = None,
    seed: int = 0,
    command: str | None = None,
    progress: bool = True,
) -> Stored:
    """Attack every image of a set and keep the results, as 8-bit numbers like all images.

    What the rounding would put outside the threat is rounded towards the clean image, whose values
    are 8-bit ones too; so every stored image is legal. A run that was stopped goes on when called
    again with the same arguments.

    Args:
        model: what is attacked, in evaluation mode.
        data: clean images.
        attack: a text for `ATTACKS`.
        threat: what may be changed.
        out: folder for the images and their card.
        label: the class that the attack leaves: the true one or the predicted one, which avoids
            that training learns the label from the perturbation ("label leaking", Kurakin et al.
            2017, https://arxiv.org/abs/1611.01236, section 4).
        model_name: what the attacked model is called in the card.
        transfer_to: the model that the images are meant for, where it is not the attacked one.
        seed: of every draw.
        command: what a stranger would type to get the images, for the card.
        progress: show a progress bar on standard error.

    Raises:
        ValueError: the attack does not support the threat, the model can't take the images, the
            folder holds another set, is in use or has no room left, or an attack gave an illegal
            image.
    """
    bound = ATTACKS.bind(attack)
    check_threat(bound.entry.name, threat)
    if label not in get_args(Label):
        raise ValueError(f"`label` must be one of {', '.join(get_args(Label))}, got {label!r}")
    with in_eval_mode(model):
        check_fit(model, data, _device(model))
    folder = make_folder(Path(out))
    about: dict[str, Any] = {
        "schema": _SCHEMA,
        "attack": bound.text,
        "code": digest_code(bound.entry.obj),
        "threat": str(threat),
        "eps scale": "images in [0, 1]",
        "label": label,
        "access": "white box" if transfer_to is None else f"transfer to {transfer_to}",
        "attacked model": {"name": model_name, "digest": digest_model(model)},
        "data": {
            "name": data.name,
            "split": data.split,
            "images": len(data),
            "shape": list(data.shape),
            "classes": data.classes,
            "digest": data.digest(),
        },
        "seed": seed,
        "rounding": "8 bit, towards the clean image where needed",
        "command": command,
    }
    with in_eval_mode(model), locked(folder, "storing"):
        if not _is_whole(folder, about):
            done = _begin(folder, about, data)
            right = _attack_all(model, data, bound, threat, label, seed, folder, *done, progress)
            n = len(data)
            accuracy = {"n": n, "clean": right[0] / n, "stored": right[1] / n}
            write_json(folder / CARD, about | {"accuracy of the attacked model": accuracy})
            (folder / PROGRESS).unlink()
    return read_stored(folder)


def read_stored(folder: str | Path) -> Stored:
    """Read the card of stored images.

    Raises:
        ValueError: there is none, its images were not finished, or it is damaged.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        unfinished = (Path(folder) / PROGRESS).is_file()
        hint = "is not finished; give the same `redoubt store` again" if unfinished else "has none"
        raise ValueError(f"no stored images in {folder}: it {hint}")
    card = read_json(path, "card of stored images")
    if not isinstance(card, dict) or card.get("schema") != _SCHEMA:
        raise ValueError(f"the file at {path} is no card of stored images of schema {_SCHEMA}")
    return Stored(Path(folder), card)


def to_8_bit(x_adv: Images, x: Images, threat: ThreatModel) -> Tensor:
    """Round attacked images to 8 bits inside the threat.

    Args:
        x_adv: (N, C, H, W), legal.
        x: (N, C, H, W), clean, of 8-bit values.
        threat: what may be changed.

    Returns:
        (N, C, H, W), uint8.

    Raises:
        ValueError: an image is outside the threat even when rounded towards the clean one.
    """
    exact = x_adv * 255
    clean = (x * 255).round()
    rounded = exact.round()
    # Every value lies between its clean and its attacked one, so no norm grows.
    inward = torch.where(exact > clean, exact.floor(), exact.ceil())
    legal = threat.contains(rounded / 255, x)
    result = torch.where(legal[:, None, None, None], rounded, inward)
    if not threat.contains(result / 255, x).all():
        raise ValueError(f"the attack gave images outside {threat}")
    return result.to(torch.uint8)


def _is_whole(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether the folder already holds these images, all of them."""
    if not (folder / CARD).is_file():
        return False
    _check_same(read_json(folder / CARD, "card of stored images"), about, folder / CARD)
    return True


def _check_same(found: Any, about: Mapping[str, Any], path: Path) -> None:
    for key, value in about.items():
        there = found.get(key) if isinstance(found, dict) else None
        if key != "command" and there != value:
            raise ValueError(
                f"{path.parent} holds other stored images: their {key} is {there}, not {value}; "
                "choose another folder"
            )


def _begin(folder: Path, about: Mapping[str, Any], data: ImageSet) -> tuple[int, list[int]]:
    """Make the files, or find those of a stopped run; return chunks done and right answers."""
    n, (channels, height, width) = len(data), data.shape
    path = folder / PROGRESS
    if path.is_file():
        found = read_json(path, "progress of stored images")
        _check_same(found, about, path)
        return int(found["done"]), list(found["right"])
    np.save(folder / LABELS, data.labels.numpy(), allow_pickle=False)
    shape = (n, height, width, channels)
    np.lib.format.open_memmap(folder / IMAGES, mode="w+", dtype=np.uint8, shape=shape).flush()
    write_json(path, {**about, "done": 0, "right": [0, 0]})
    return 0, [0, 0]


def _attack_all(
    model: nn.Module,
    data: ImageSet,
    attack: Bound[Callable[..., Images]],
    threat: ThreatModel,
    label: Label,
    seed: int,
    folder: Path,
    done: int,
    right: list[int],
    progress: bool,
) -> list[int]:
    """Attack chunk by chunk; return how many clean and attacked images are classified right."""
    device, offset = _device(model), _offset(folder / IMAGES)
    chunks = torch.split(torch.arange(len(data)), _CHUNK)
    about = read_json(folder / PROGRESS, "progress of stored images")
    console = Console(stderr=True)
    left = range(done, len(chunks))
    for k in track(left, "attacking", console=console, disable=not progress):
        images = data.read(chunks[k])
        x, y = to_unit(images).contiguous().to(device), data.labels[chunks[k]].to(device)
        with seeded("store", seed, attack.text, k):
            answer = _answer(model, x)
            left_class = y if label == "true" else answer
            arguments = chosen(attack.arguments, model, x, left_class)
            x_adv = attack.entry.obj(model, x, left_class, threat, **arguments)
            stored = to_8_bit(x_adv, x, threat)
            after = _answer(model, to_unit(stored))
        rows = stored.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        _write(folder / IMAGES, offset + k * _CHUNK * rows[0].nbytes, rows.tobytes())
        right = [right[0] + int((answer == y).sum()), right[1] + int((after == y).sum())]
        write_json(folder / PROGRESS, {**about, "done": k + 1, "right": right})
    return right


def _offset(path: Path) -> int:
    """Where the images begin in the file of a run that goes on."""
    try:
        return np.lib.format.open_memmap(path, mode="r").offset
    except (OSError, ValueError):
        raise ValueError(
            f"{path} is missing or cut short; delete {path.parent} to start again"
        ) from None


def _write(path: Path, offset: int, content: bytes) -> None:
    """Write into a file, not into memory that maps it: on a full disk that ends the process."""
    try:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(
            f"cannot write to {path} ({error.strerror}); make room, the same call goes on from here"
        ) from None


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def _answer(model: nn.Module, x: Images) -> Labels:
    """The classes that a model gives."""
    answer: Labels = model(x).argmax(1)
    return answer
