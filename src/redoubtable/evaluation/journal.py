"""Finished pieces of work, kept so that a killed run goes on where it stood."""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from redoubtable.evaluation.turns import TakenError
from redoubtable.files import claimed, make_folder, read_sealed, write_sealed
from redoubtable.version import __version__

Arrays = dict[str, NDArray[Any]]


class Journal:
    """A folder of finished cells, each a sealed file named by all that its content depends on.

    A cell is whole or not there, so a run may be killed at any moment; another model, seed, attack
    or version has other names and never meets the wrong cell. Several processes may fill one
    folder: a cell is computed by whoever claims it first, and free again if that one is killed.

    Args:
        folder: where the cells are kept; None keeps nothing.
        look: called before a cell is computed; may raise to end the work.

    Raises:
        ValueError: the folder can't be written to.
    """

    def __init__(self, folder: Path | None, look: Callable[[], None] = lambda: None) -> None:
        self.look = look
        self.folder = make_folder(folder) if folder else None

    def cell(self, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a cell, computed now or taken from the folder.

        A cell that is damaged is computed again, with a warning.

        Raises:
            TakenError: another process is computing it.
        """
        if self.folder is None:
            self.look()
            return compute()
        path = self._path(key)
        if path.exists():
            try:
                return _read(path)
            except ValueError:
                warnings.warn(f"{path} is damaged; its piece of work is done again", stacklevel=2)
                path.unlink(missing_ok=True)
        with claimed(path) as mine:
            if not mine:
                raise TakenError([path])
            if path.exists():  # finished by its claimer just now
                return _read(path)
            self.look()
            arrays = compute()
            _write(path, arrays)
        return arrays

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether the cell is there already."""
        return self.folder is not None and self._path(key).exists()

    def _path(self, key: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        whole = {**key, "versions": [__version__, torch.__version__, torch.get_num_threads()]}
        text = json.dumps(whole, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.cell"


def _read(path: Path) -> Arrays:
    with np.load(io.BytesIO(read_sealed(path, "journal cell")), allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


def _write(path: Path, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_sealed(path, content.getvalue())
