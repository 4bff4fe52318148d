"""The folder of a run, read back: its record and the answers to each example."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from redoubtable.reports.classes import Arrays
from redoubtable.reports.record import Record, read_record


@dataclass(frozen=True)
class Run:
    """One evaluation, as its folder has it.

    Attributes:
        folder: where it was read from.
        record: its record.
        arrays: per example and attack: answers, distances, suspicion.
    """

    folder: Path
    record: Record
    arrays: Arrays


def read_run(folder: Path | str) -> Run:
    """Read the folder of one evaluation.

    Raises:
        ValueError: it has no record or no `examples.npz`, they are damaged, or it is a demo's.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{path} is no run folder; give the --out of redoubt evaluate")
    record = read_record(path)
    if record["kind"] != "evaluation":
        raise ValueError(
            f"{path} holds several evaluations; name one, such as {path}/evaluations/<name>"
        )
    file = path / "examples.npz"
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{file} can't be read ({error}); evaluate again into {path}") from None
    n = record["data"]["n"]
    if not {"y", "clean/report", "robust/chosen"} <= set(arrays) or len(arrays["y"]) != n:
        raise ValueError(f"{file} does not belong to its record of {n} images; evaluate again")
    return Run(path, record, arrays)
