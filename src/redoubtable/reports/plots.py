"""Pictures of records as data URIs: matplotlib figures without its global state.

The same record gives the same bytes. Figures stand on a light ground of their own, so that they
can be read on a light and on a dark page; colours are those of Okabe & Ito (2008). Matplotlib is
imported where a figure begins: it is slow to start, and most processes draw none.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from redoubtable.reports.record import Record, area, has_static

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of models, in their order in the record; told apart by the colour-blind."""
GROUND, INK, FAINT = "#FFFFFF", "#22272E", "#D5D9DE"
_COUNTED = {"L0": "pixels that may change", "L0values": "values that may change"}
_SIZE = (5.6, 3.9)
"""Inches; small, so that the text can still be read when a phone shrinks the picture."""
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "redoubtable",
    "path.simplify": False,
}
_SHAPES = ("o", "s", "^", "D", "v", "P")
_UNDATED: dict[str, Any] = {"Date": None, "Creator": None}
_UNSIGNED: dict[str, Any] = {"Software": None}
"""What files must not name: with dates and versions the same record would give other bytes."""
_FACTORS = (100, 50, 20, 10, 5, 2)


def colour(index: int) -> str:
    """Return the colour of the model at a place in its group."""
    return COLOURS[index % len(COLOURS)]


def curve(group: Sequence[Record]) -> str | None:
    """Draw accuracy against eps for the models under one threat; none without a curve.

    Solid lines are adaptive, broken ones static attacks, the bands 95% intervals. The dotted line
    marks the eps of the record.
    """
    if not any(r.get("curve") for r in group):
        return None
    with picture_style():
        figure, axes = _axes()
        for index, record in enumerate(group):
            if record.get("curve"):
                _curve_of(axes, record, index)
        norm, _, eps = group[0]["threat"].partition(":")
        unit = _COUNTED.get(norm, f"eps, {norm} (values in [0, 1])")
        axes.set_xlabel(unit)
        axes.set_ylabel("accuracy")
        radius = _radius(eps)
        if radius is not None:
            axes.axvline(radius, color=INK, linewidth=1, linestyle=":", zorder=1)
        axes.set_xlim(left=0)
        if norm in _COUNTED:
            whole_numbers(axes.xaxis)
        _finish(figure, axes)
        return svg(figure)


def _curve_of(axes: Axes, record: Record, index: int) -> None:
    tint, shape = colour(index), _SHAPES[index % len(_SHAPES)]
    points = record["curve"]
    eps = [p["eps"] for p in points]
    views = [("adaptive", "-", 2.6, 0.22)]
    views += [("static", "--", 1.4, 0.10)] if has_static(record) else []
    for view, line, width, shade in views:
        values, low, high = ([p[view][k] for p in points] for k in ("value", "low", "high"))
        axes.fill_between(eps, low, high, color=tint, alpha=shade, linewidth=0)
        marker = {"marker": shape, "markersize": 5} if view == "adaptive" else {}
        label = _label(f"{record['name']}, {view}")
        axes.plot(eps, values, line, color=tint, linewidth=width, label=label, **marker)  # type: ignore[arg-type]


def roc(group: Sequence[Record]) -> str | None:
    """Draw the ROC curves of the abstaining models under one threat; none without any."""
    if not any(r.get("detection") for r in group):
        return None
    with picture_style():
        figure, axes = _axes()
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="chance")
        for index, record in enumerate(group):
            found = record.get("detection")
            if not found:
                continue
            label = _label(f"{record['name']}, area {area(found['auc'])}")
            fpr, tpr = found["roc"]["fpr"], found["roc"]["tpr"]
            axes.plot(fpr, tpr, color=colour(index), linewidth=2.2, label=label)
        axes.set_xlabel("clean images rejected")
        axes.set_ylabel("attacked images rejected")
        axes.set_xlim(0, 1)
        in_percent(axes.xaxis)
        _finish(figure, axes)
        return svg(figure)


def against(series: Sequence[tuple[str, Mapping[Any, Mapping[str, Any]]]], what: str) -> str:
    """Draw accuracy against a count, a line per model; bands are 95% intervals.

    Args:
        series: per line its name and shares by count.
        what: the counts, for the axis.
    """
    with picture_style():
        figure, axes = _axes()
        for index, (name, shares) in enumerate(series):
            values, low, high = ([p[k] for p in shares.values()] for k in ("value", "low", "high"))
            tint, shape = colour(index), _SHAPES[index % len(_SHAPES)]
            counts = [float(count) for count in shares]
            axes.fill_between(counts, low, high, color=tint, alpha=0.18, linewidth=0)
            axes.plot(
                counts, values, color=tint, linewidth=2.2, marker=shape, markersize=5,
                label=_label(name),
            )  # fmt: skip
        axes.set_xlabel(what)
        axes.set_ylabel("accuracy")
        whole_numbers(axes.xaxis)
        _finish(figure, axes)
        return svg(figure)


@contextmanager
def picture_style() -> Iterator[None]:
    """Matplotlib's defaults and our few words, whatever a user's matplotlibrc says; then its."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def blank(width: float, height: float, layout: Literal["constrained"] | None) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor=GROUND, layout=layout)


def in_percent(axis: Axis, decimals: int | None = 0) -> None:
    """Label shares in percent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=decimals))


def whole_numbers(axis: Axis) -> None:
    """Label an axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def _axes() -> tuple[Figure, Axes]:
    figure = blank(*_SIZE, layout="constrained")
    return figure, figure.add_subplot(facecolor=GROUND)


_HALF = 26
"""Letters of a name that leave room for a second one in the same line."""


def _finish(figure: Figure, axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    in_percent(axes.yaxis)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the axes: inside, some curve of some record would run beneath it.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=2 if max(map(len, labels), default=0) <= _HALF else 1,
        fontsize=10,
        frameon=False,
        handlelength=2.4,
    )


def _label(text: str) -> str:
    """A legend's text: a dollar sign would start mathematics, a leading underscore hide it."""
    shown = text if len(text) <= 48 else f"{text[:47]}…"
    return " " * shown.startswith("_") + shown.replace("$", r"\$")


def _radius(eps: str) -> float | None:
    top, _, bottom = eps.partition("/")
    try:
        return float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        return None


def svg(figure: Figure) -> str:
    """Return a figure as an SVG's data URI, the same bytes each time."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata=_UNDATED)
    return as_uri("image/svg+xml", content.getvalue())


def as_uri(kind: str, content: bytes) -> str:
    """Return a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# -- images ------------------------------------------------------------------------------------


def picture(image: NDArray[np.float32]) -> str:
    """Return one image as a PNG: (C, H, W) in [0, 1], grey unless it has three channels."""
    from matplotlib.image import imsave

    content = io.BytesIO()
    imsave(content, _pixels(image), format="png", origin="upper", metadata=_UNSIGNED)
    return as_uri("image/png", content.getvalue())


def _pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, 3) in 8 bits."""
    shown = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(0)[..., None].repeat(3, 2)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def montage(
    rows: Sequence[NDArray[np.float32]],
    titles: Sequence[str],
    names: Sequence[str],
    *,
    notes: Sequence[Sequence[str]] | None = None,
    caption: str = "",
    kind: Literal["png", "svg"] = "png",
) -> bytes:
    """Return a picture of images in rows and columns.

    Args:
        rows: per row (M, C, H, W) in [0, 1]; the last ones may have fewer.
        titles: of the M columns.
        names: of the rows.
        notes: per row M words, to stand under its images.
        caption: a line or more under it all.
        kind: of the file.
    """
    count, below = len(titles), 0.22 if notes else 0.0
    height = (1.25 + below) * len(rows) + 0.4
    with picture_style():
        figure = blank(1.1 * count + 1.2, height, layout=None)
        for r, (row, name) in enumerate(zip(rows, names, strict=True)):
            for c, image in enumerate(row):
                axes = figure.add_subplot(len(rows), count, 1 + r * count + c)
                axes.imshow(_pixels(image), interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                if c == 0:
                    axes.set_ylabel(name, fontsize=9)
                if r == 0:
                    axes.set_title(titles[c], fontsize=9)
                if notes:
                    axes.set_xlabel(notes[r][c], fontsize=8, labelpad=2)
        if caption:
            figure.text(0.125, 0.1 - 0.3 / height, caption, fontsize=8, va="top")
        content = io.BytesIO()
        # Pictures of pixels inside an SVG are drawn at this many dots too; they may be enlarged.
        dots, metadata = (120, _UNSIGNED) if kind == "png" else (300, _UNDATED)
        figure.savefig(content, format=kind, dpi=dots, metadata=metadata, bbox_inches="tight")
    return content.getvalue()


def difference(image: NDArray[np.float32], clean: NDArray[np.float32], factor: int) -> str:
    """Return a change as a PNG: mid-grey where there is none, `factor` times as strong."""
    return picture(0.5 + 0.5 * factor * (image - clean))


def amplification(changes: Sequence[NDArray[np.float32]]) -> int:
    """Return the round factor by which changes can be amplified before they leave the range."""
    largest = max((float(np.abs(c).max(initial=0)) for c in changes), default=0.0)
    return next((f for f in _FACTORS if f * largest <= 1 + 1e-6), 1) if largest else 1
