"""Pictures of curves that an experiment kept as arrays: lines, and ROC curves of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from redoubtable.reports.plots import COLOURS, FAINT, INK, blank, in_percent, picture_style, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":")


def curves_picture(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Draw lines, as an SVG's data URI.

    Args:
        arrays: `labels`, the words of the two axes, and `curve/NAME`, (n,) values of each line.
    """
    with picture_style():
        figure, axes = _axes()
        lines = {k.removeprefix("curve/"): v for k, v in arrays.items() if k.startswith("curve/")}
        for index, (name, values) in enumerate(lines.items()):
            axes.plot(np.arange(1, len(values) + 1), values, label=name, **_style(index))
        across, up = (str(word) for word in arrays["labels"])
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_ylim(bottom=0)
        return _finished(figure, axes)


def roc_picture(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Draw the ROC curve of each detector, as an SVG's data URI.

    Args:
        arrays: `clean/NAME` and `attacked/NAME`, (n,) scores of each detector, and `log`, whether
            false positives stand on a logarithmic axis.
    """
    from sklearn.metrics import roc_curve  # slow to import

    with picture_style():
        figure, axes = _axes()
        names = [k.removeprefix("attacked/") for k in arrays if k.startswith("attacked/")]
        least = 1.0
        for index, name in enumerate(names):
            clean, attacked = arrays[f"clean/{name}"], arrays[f"attacked/{name}"]
            truth = np.repeat([0, 1], [len(clean), len(attacked)])
            wrong, right, _ = roc_curve(truth, np.concatenate([clean, attacked]))
            axes.plot(wrong, right, label=name, **_style(index))
            least = min(least, 1 / len(clean))
        if bool(arrays["log"]):
            axes.set_xscale("log")
            axes.set_xlim(least, 1)
        else:
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
            axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("false positives")
        axes.set_ylabel("detected")
        in_percent(axes.yaxis)
        in_percent(axes.xaxis, decimals=None)
        return _finished(figure, axes)


def _style(index: int) -> dict[str, Any]:
    """Colours in turn, then the same ones broken."""
    dash = _DASHES[index // len(COLOURS) % len(_DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": dash, "linewidth": 1.6}


def _axes() -> tuple[Figure, Axes]:
    figure = blank(7.6, 4.2, layout="constrained")
    return figure, figure.subplots()


def _finished(figure: Figure, axes: Axes) -> str:
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return svg(figure)
