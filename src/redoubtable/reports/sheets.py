"""Clean and attacked images side by side, with what the model answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redoubtable.reports import plots
from redoubtable.reports.record import Record, has_static, strongest

_SMALL = 64
"""Pixels per side up to which many images are shown; of larger ones few, to keep pages light."""
_MANY, _FEW = 8, 3
_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Picture:
    """One image of a sheet.

    Attributes:
        uri: the image itself.
        alt: what it shows, for those who don't see it.
        says: what stands below it, "" for nothing.
        wrong: whether the commonest answer is neither the label nor a rejection.
    """

    uri: str
    alt: str
    says: str = ""
    wrong: bool = False


@dataclass(frozen=True)
class Row:
    """The same kind of picture of every example: a heading, its fine print, the pictures."""

    heading: str
    note: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Sheet:
    """The first images of an evaluation: clean, and under each view's strongest attack.

    Attributes:
        name: the evaluation's.
        heads: per image what it is: "label 7", or its number where labels are unknown.
        rows: clean ones first.
        factor: how much stronger than it is a change is drawn.
    """

    name: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    factor: int


Arrays = Mapping[str, NDArray[Any]]


def sheet(name: str, record: Record, images: Arrays, arrays: Arrays) -> Sheet | None:
    """Return the sheet of one evaluation; none where no images were kept.

    Args:
        name: what to call it.
        record: the evaluation's record.
        images: "clean" and "<view>/<attack>", each (M, C, H, W) in [0, 1].
        arrays: labels and answers, as `Evaluation.arrays` has them; if empty, images carry their
            numbers only.
    """
    clean = images.get("clean")
    if clean is None or not len(clean):
        return None
    clean = clean[: _MANY if max(clean.shape[2:]) <= _SMALL else _FEW]
    labels = arrays.get("y")
    heads = [f"image {i}" if labels is None else f"label {labels[i]}" for i in range(len(clean))]
    shown = _attacked(record, images, len(clean))
    factor = plots.amplification([x_adv - clean for _, _, x_adv in shown])
    rows = [_row("clean", "", clean, heads, _answers(record, "clean", arrays))]
    for view, attack, x_adv in shown:
        rows.append(_row(view, attack, x_adv, heads, _answers(record, f"{view}/{attack}", arrays)))
        changes = [
            Picture(plots.difference(a, b, factor), f"change of {head}, {factor} times as strong")
            for a, b, head in zip(x_adv, clean, heads, strict=True)
        ]
        strength = f"{factor} times as strong" if factor > 1 else "as strong as it is"
        rows.append(Row("change", strength, tuple(changes)))
    return Sheet(name, tuple(heads), tuple(rows), factor)


def _attacked(
    record: Record, images: Arrays, count: int
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """(view, attack, images) of the strongest attack of each view that has images."""
    found = []
    for view in ["static", "adaptive"] if has_static(record) else ["adaptive"]:
        row = strongest(record, view)
        key = f"{view}/{row['attack']}" if row else ""
        if row and key in images:
            found.append((view, row["attack"], images[key][:count]))
    return found


def _row(
    view: str,
    attack: str,
    images: NDArray[np.float32],
    heads: list[str],
    answers: list[tuple[str, bool]] | None,
) -> Row:
    pictures = []
    for i, (image, head) in enumerate(zip(images, heads, strict=True)):
        says, wrong = answers[i] if answers else ("", False)
        alt = f"{head}, {view}{attack and f' {attack}'}{says and f', answered {says}'}"
        pictures.append(Picture(plots.picture(image), alt, says, wrong))
    return Row(view, attack, tuple(pictures))


def _answers(record: Record, key: str, arrays: Arrays) -> list[tuple[str, bool]] | None:
    """Per image the commonest answer, on how many draws if not on all, and whether it is wrong."""
    report, labels = arrays.get(f"{key}/report"), arrays.get("y")
    if report is None or labels is None:
        return None
    rejection = record["model"]["classes"]
    said = []
    for answers, label in zip(report, labels, strict=True):
        values, counts = np.unique(answers, return_counts=True)
        answer, count = int(values[counts.argmax()]), int(counts.max())
        text = "rejected" if answer == rejection else str(answer)
        text += "" if count == len(answers) else f" ({count}{_SPACE}of{_SPACE}{len(answers)})"
        said.append((text, answer not in (label, rejection)))
    return said
