"""Pictures of a reproduction: small charts side by side, one for each series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch

from redoubtable.explanations import SubsampledMaps
from redoubtable.reports.curves import curves_picture, roc_picture
from redoubtable.reports.explanations import filters_picture, maps_picture
from redoubtable.reports.plots import (
    COLOURS,
    FAINT,
    INK,
    as_uri,
    blank,
    in_percent,
    picture_style,
    svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 5
_LINES = {
    "clean": (INK, ":", "clean"),
    "static": (COLOURS[1], "--", "attacked knowing less"),
    "adaptive": (COLOURS[0], "-", "attacked knowing all"),
    "certified": (COLOURS[2], "-.", "proved"),
    "none": (COLOURS[3], "-", "measured"),
}


def lines(experiment: Mapping[str, Any]) -> str:
    """Draw an experiment against its axis, as an SVG's data URI.

    A chart for each series, a line for each view, bands of 95% intervals; crosses are published.
    """
    rows = experiment["rows"]
    series = list(dict.fromkeys(row["series"] for row in rows))
    columns = min(_COLUMNS, len(series))
    height = math.ceil(len(series) / columns)
    with picture_style():
        figure = blank(2.4 * columns + 1.2, 2.3 * height + 0.9, layout="constrained")
        grid = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(series) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, series, strict=False):
            _chart(axes, name, [r for r in rows if r["series"] == name])
            axes.set_xlabel(experiment["axis"], fontsize=10)
            axes.tick_params(labelbottom=True)  # the chart below may be none
        handles, labels = _legend(grid.flat[: len(series)])
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=1 + columns // 2,
            fontsize=10,
            frameon=False,
        )
        return svg(figure)


def _chart(axes: Axes, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for view, (tint, dash, label) in _LINES.items():
        for measure in dict.fromkeys(r["measure"] for r in rows):
            points = sorted(
                (r for r in rows if (r["view"], r["measure"]) == (view, measure) and r["found"]),
                key=lambda r: r["at"],
            )
            if not points:
                continue
            at = [r["at"] for r in points]
            value, low, high = ([r["found"][k] for r in points] for k in ("value", "low", "high"))
            faint = measure != "accuracy"
            said = f"{label}, {measure.removesuffix(' accuracy')}" if faint else label
            axes.fill_between(at, low, high, color=tint, alpha=0.08 if faint else 0.18, linewidth=0)
            axes.plot(
                at, value, dash, color=tint, label=said, linewidth=1.1 if faint else 2.0,
                marker="o", markersize=2.5 if faint else 4,
            )  # fmt: skip
    known = [r for r in rows if r["published"] is not None and r["at"] is not None]
    if known:
        axes.plot(
            [r["at"] for r in known], [r["published"] for r in known], "x", color=INK,
            markersize=7, label="published",
        )  # fmt: skip
    axes.set_title(name, fontsize=10)
    axes.set_ylim(-0.02, 1.02)
    in_percent(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(charts: Any) -> tuple[list[Any], list[str]]:
    """Each line of all charts once."""
    found: dict[str, Any] = {}
    for axes in charts:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def drawn(path: Path) -> Mapping[str, str]:
    """Draw what an experiment kept as arrays: its name in words and an SVG's data URI.

    Raises:
        ValueError: the file can't be read, or holds nothing that can be drawn.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = dict(content)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} can't be read ({error}); run the experiment again") from None
    if "x_masked" in arrays:
        content = maps_picture(
            SubsampledMaps.of_arrays(arrays), [f"{y}" for y in arrays["y"]], "svg"
        )
    elif "filters" in arrays:
        content = filters_picture(torch.from_numpy(arrays["filters"]), "svg")
    elif any(key.startswith("attacked/") for key in arrays):
        return {"words": path.stem, "source": roc_picture(arrays)}
    elif "labels" in arrays:
        return {"words": path.stem, "source": curves_picture(arrays)}
    else:
        raise ValueError(f"{path} holds {', '.join(arrays)}, of which no picture is drawn")
    return {"words": path.stem, "source": as_uri("image/svg+xml", content)}
