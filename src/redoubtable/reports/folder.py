"""A run's report: the pages that stand beside its record."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from redoubtable.files import write_bytes
from redoubtable.reports.classes import Arrays
from redoubtable.reports.html import write_page
from redoubtable.reports.markdown import as_markdown
from redoubtable.reports.record import Record


def write_report(
    folder: Path,
    records: Record | Sequence[Record],
    images: Sequence[Arrays],
    *,
    title: str,
    command: str,
    timings: Mapping[str, float] | None = None,
    arrays: Sequence[Arrays] | None = None,
) -> Path:
    """Write `index.html` and `report.md` into a run's folder.

    Args:
        folder: an existing folder.
        records: one record, a demo's record or several.
        images: per evaluation `Evaluation.images`, or an empty mapping.
        title: the heading.
        command: what to type for the same result.
        timings: seconds by "<model> under <threat>"; other keys are shown too.
        arrays: per evaluation `Evaluation.arrays`.

    Returns:
        The HTML page.

    Raises:
        ValueError: images or arrays are not as many as evaluations, or a file can't be written.
    """
    page = write_page(
        folder / "index.html",
        records,
        images,
        title=title,
        command=command,
        timings=timings,
        arrays=arrays,
    )
    said = as_markdown(records, title=title, command=command, timings=timings, arrays=arrays)
    write_bytes(folder / "report.md", said.encode())
    return page
