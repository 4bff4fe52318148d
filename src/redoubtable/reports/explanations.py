"""Explanations as pictures, as a table in a terminal, and as a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from redoubtable.explanations import (
    SubsampledMaps,
    centre_shares,
    concentration,
    even_share,
    peak_shares,
)
from redoubtable.files import make_folder, write_bytes, write_json, write_npz
from redoubtable.reports.plots import montage
from redoubtable.reports.record import Record, with_interval

Kind = Literal["png", "svg"]
Floats = NDArray[np.float32]
_KINDS: tuple[Kind, ...] = ("png", "svg")
_PERCENTILE = 99
_FILTERS_PER_ROW = 8
_TITLES = (
    "$X$",
    "$X' = X \\circ M$",
    "$E(X)$",
    "$E(X')$",
    "$E(X') \\circ M$\nkept",
    "$E(X') \\circ (1 - M)$\ndropped",
)
_CAPTION = (
    "E is the absolute gradient of the predicted class's logit, added up over the channels. Black "
    "is 0, white the\n99th percentile of E(X), and of E(X') for all three maps of X'. Under the "
    "images: the predicted class, and how much\nof the mass of E(X') lies on kept and on dropped "
    "values. At the left: the label."
)


def maps_picture(maps: SubsampledMaps, labels: Sequence[str], kind: Kind = "png") -> bytes:
    """Draw images in rows and their maps in six columns (Hosseini et al. 2019, figure 3).

    Args:
        maps: of N images.
        labels: N words, what the images are.
        kind: of the file.
    """
    notes = []
    for k, share in enumerate(maps.mass_share.tolist()):
        said = [f"as {int(s.classes[k])}" for s in (maps.on_x, maps.on_masked)]
        notes.append([*said, "", "", *("-" if v != v else f"{v:.0%}" for v in (share, 1 - share))])
    return montage(panels(maps), _TITLES, labels, notes=notes, caption=_CAPTION, kind=kind)


def panels(maps: SubsampledMaps) -> list[Floats]:
    """Return of each image its six panels, (6, C, H, W) in [0, 1].

    Maps are added up over the channels, as their mass is. They are scaled to their 99th percentile,
    a brighter point being cut, since few points are far above all others. The parts of E(X') keep
    its scale: each on its own, the weaker would look as bright as the stronger.
    """
    images = [_array(t) for t in (maps.x, maps.x_masked)]
    on_x, on_masked = (_array(s.values.sum(1, True)) for s in (maps.on_x, maps.on_masked))
    parts = [_array(t.sum(1, keepdim=True)) for t in (maps.on_kept, maps.on_dropped)]
    shape = images[0].shape[1:]
    rows = []
    for k in range(len(on_x)):
        white = _white(on_masked[k])
        grey = [on_x[k] / _white(on_x[k]), *(m[k] / white for m in (on_masked, *parts))]
        maps_of_it = [np.broadcast_to(g, shape).clip(0, 1) for g in grey]
        rows.append(np.stack([*(i[k] for i in images), *maps_of_it]))
    return rows


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().float().numpy())


def _white(values: Floats) -> float:
    """What is drawn as white; of a map that is nearly everywhere 0, its largest value."""
    return float(np.percentile(values, _PERCENTILE)) or float(values.max()) or 1.0


def filters_picture(filters: Tensor, kind: Kind = "png") -> bytes:
    """Draw first-layer filters in a grid, each with the shares of its centre and peak (figure 4).

    Args:
        filters: (F, C, h, w); in colour where C is 3, else the mean over the channels.
        kind: of the file.
    """
    weights = _array(filters)
    shown = 0.5 + 0.5 * weights / (np.abs(weights).max((1, 2, 3), keepdims=True) + 1e-12)
    starts = range(0, len(shown), _FILTERS_PER_ROW)
    rows = [shown[s : s + _FILTERS_PER_ROW] for s in starts]
    both = zip(centre_shares(filters).tolist(), peak_shares(filters).tolist(), strict=True)
    shares = ["zero" if peak != peak else f"{centre:.2f} / {peak:.2f}" for centre, peak in both]
    notes = [shares[s : s + _FILTERS_PER_ROW] for s in starts]
    caption = (
        "Grey is 0; each filter is scaled to its largest weight. Under it: how much of its square "
        f"is at the centre and\nat its strongest tap; means {concentration(filters):.3f} and "
        f"{peak_shares(filters).nanmean().item():.3f}, with equal weights "
        f"{even_share(filters):.3f}."
    )
    columns = [""] * min(len(shown), _FILTERS_PER_ROW)
    return montage(rows, columns, [""] * len(rows), notes=notes, caption=caption, kind=kind)


def write_explanation(
    folder: Path,
    record: Record,
    maps: SubsampledMaps,
    labels: Sequence[str],
    filters: Tensor | None,
    each: NDArray[np.float64],
) -> None:
    """Write `record.json`, the arrays `maps.npz`, and the pictures as PNG and SVG.

    Args:
        folder: made if it is not there.
        record: of kind "explanation".
        maps: of the images that are shown, in `explanation.png`.
        labels: what they are.
        filters: of the first layer, in `filters.png`; None where there are none.
        each: (N,) mass share of each image that was measured.
    """
    make_folder(folder)
    more = {} if filters is None else {"filters": filters.numpy()}
    write_npz(folder / "maps.npz", {**maps.arrays(), **more, "mass_share": each})
    for kind in _KINDS:
        write_bytes(folder / f"explanation.{kind}", maps_picture(maps, labels, kind))
        if filters is not None:
            write_bytes(folder / f"filters.{kind}", filters_picture(filters, kind))
    write_json(folder / "record.json", record)


def show_explanation(record: Record, console: Console | None = None) -> None:
    """Print what was measured, and what it means.

    Args:
        record: of kind "explanation".
        console: where to; standard output by default.
    """
    console = console or Console()
    s, mass, filters = record["settings"], record["mass_share"], record["filters"]
    title = f"{record['name']}: what it looks at under rate={s['rate']:g}, {s['granularity']} masks"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("what", "found", "n"):
        table.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=True)
    table.add_row("values kept", f"{record['kept_share']:.1%}", str(record["data"]["n"]))
    table.add_row("mass of E(X') on them", with_interval(mass), str(mass["n"]))
    accuracy = record["accuracy"]
    table.add_row("accuracy on X'", with_interval(accuracy), str(accuracy["n"]))
    if filters is not None:
        size = "x".join(map(str, filters["shape"][1:]))
        table.add_row("centre of first filters", f"{filters['concentration']:.3f}",
                      f"{filters['shape'][0]} of {size}")  # fmt: skip
        table.add_row("  with equal weights", f"{filters['even_share']:.3f}", "")
        table.add_row("strongest tap of them", f"{filters['peak']:.3f}", "")
    console.print(table)
    said = f"{reading_of(record)} One mask per image, seed {s['seed']}; intervals: of the images."
    console.print(said, highlight=False)


def reading_of(record: Record) -> str:
    """Say in a sentence where the mass of the maps lies."""
    mass, kept = record["mass_share"], record["kept_share"]
    most = "kept" if mass["value"] > 0.5 else "dropped"
    if mass["low"] <= kept <= mass["high"]:
        much = "as much of it as their number has"
    else:
        much = f"{mass['value'] / kept:.1f} times as much of it as their number has"
    return f"Most of the maps' mass lies on {most} values; kept ones have {much}."
