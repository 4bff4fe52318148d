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
    certificates: Sequence[Record] = (),
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
        certificates: records of certificates that belong beside the evaluations.

    Returns:
        The HTML page.

    Raises:
        ValueError: images or arrays are not as many as evaluations, or a file can't be written.
    """
    how = {
        "title": title,
        "command": command,
        "timings": timings,
        "arrays": arrays,
        "certificates": certificates,
    }
    page = write_page(folder / "index.html", records, images, **how)  # type: ignore[arg-type]
    said = as_markdown(records, **how)  # type: ignore[arg-type]
    write_bytes(folder / "report.md", said.encode())
    return page
