"""The processes of one evaluation: they share a folder, take chunks in turns, and end together."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from redoubtable.evaluation.candidates import Bench
from redoubtable.evaluation.environment import environment
from redoubtable.evaluation.journal import Journal
from redoubtable.evaluation.turns import finish
from redoubtable.files import locked, make_folder, write_bytes
from redoubtable.processes import Group

_FAILED = ".failed"


class StoppedError(ValueError):
    """Another process has failed; the text says which and how."""


class GoneError(ValueError):
    """Another process was killed or is out of reach."""


class Runner:
    """This process's share in an evaluation.

    Every process runs the same program and ends with the same results. What costs time is cut into
    cells of a journal that they share; each is computed by one of them and read by the others.

    Args:
        group: this process and its fellows.
        journal: theirs.
        folder: where one that fails tells the others; None where there are none.

    Attributes:
        journal: where finished work is kept.
        first: whether this is the process that shows and writes.
    """

    def __init__(self, group: Group, journal: Journal, folder: Path | None) -> None:
        self._group, self.journal, self.first = group, journal, group.first
        self._folder = folder
        self._over = False

    def finish(self, *jobs: Callable[[], Any]) -> list[Any]:
        """Return the results of jobs that are made of the journal's cells.

        Raises:
            ValueError: another process has failed.
        """
        return finish(jobs, self.journal.look)

    def agree(self, bench: Bench) -> None:
        """Make sure that all processes would compute the same.

        Raises:
            ValueError: they differ in model, images, threads, device or versions.
        """
        about = environment(bench.device)
        mine: dict[str, Any] = {
            "model": bench.digest,
            "images": bench.data.digests,
            "threads (set OMP_NUM_THREADS)": about["threads"],
            "device": about["device"],
            "versions": (about["redoubtable"], about["packages"]["torch"], bench.code),
        }
        everyone = self.gather(mine)
        for what in mine:
            found = [one[what] for one in everyone]
            if found.count(found[0]) < len(found):
                told = ", ".join(dict.fromkeys(str(f) for f in found)) if what != "images" else ""
                raise ValueError(
                    f"the processes of one evaluation differ in their {what}: {told}; start all "
                    "of them in the same way"
                )

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value; of a process that has failed there is none.

        Raises:
            ValueError: a process has failed, or is gone.
        """
        try:
            found = self._group.gather(value)
        except RuntimeError as error:
            self._over = True
            raise GoneError(
                "a process of the evaluation has ended before the others; give the same command "
                "again, which goes on from what is kept"
            ) from error
        for one in found:
            if isinstance(one, StoppedError):
                self._over = True
                raise one
        return found

    def leave(self) -> None:
        """Wait until nobody still reads what the first process lets go of.

        Raises:
            ValueError: a process has failed.
        """
        try:
            self.gather(None)
        except GoneError:
            warnings.warn(
                "a process of the evaluation has ended before the others, which did its work",
                stacklevel=2,
            )

    def fail(self, error: Exception) -> None:
        """Tell the other processes to stop, and wait until they know."""
        if self._group.count == 1 or self._over:  # then they all know
            return
        if not isinstance(error, StoppedError):
            rank = self._group.rank
            error = StoppedError(f"process {rank} of the evaluation has failed: {error}")
            if self._folder is not None:
                with suppress(OSError, ValueError):
                    write_bytes(self._folder / _FAILED, str(error).encode())
        with suppress(RuntimeError):
            self._group.gather(error)


def _look(folder: Path | None, group: Group) -> None:
    """See whether another process has failed."""
    if folder is not None and group.count > 1:
        with suppress(FileNotFoundError):
            raise StoppedError((folder / _FAILED).read_text(encoding="utf-8"))


@contextmanager
def running(
    out: Path | None, device: torch.device, journal: Path | None = None
) -> Iterator[Runner]:
    """Hold a folder for an evaluation, whether of one process or of several.

    All processes leave together: with their results, or each with an error.

    Args:
        out: the folder of the run, which no other run may use meanwhile; None keeps nothing, and
            several processes then share a folder that is gone afterwards.
        device: of the model in this process.
        journal: another folder for finished work than `out/journal`; several runs may have it.

    Raises:
        ValueError: another run uses `out`, it can't be written to, or the nodes don't share it.
    """
    group = Group(device)
    with ExitStack() as held:
        folder, kept = group.from_first(lambda: _open(out, journal, group, held))
        missing = sum(group.gather(not all(f.is_dir() for f in (folder, kept) if f)))
        if missing:
            raise ValueError(
                f"{missing} of {group.count} processes don't see the folder {folder or kept}; give "
                "folders that all nodes share"
            )
        runner = Runner(group, Journal(kept, partial(_look, folder, group)), folder)
        try:
            yield runner
            runner.leave()
        except Exception as error:
            runner.fail(error)
            raise


def _open(
    out: Path | None, journal: Path | None, group: Group, held: ExitStack
) -> tuple[Path | None, Path | None]:
    """In the first process: lock the run's folder, or make one that is gone at the end.

    Returns:
        The folder and its journal, both there; None where nothing is kept.
    """
    if out is not None:
        held.enter_context(locked(out, "evaluation"))
        (out / _FAILED).unlink(missing_ok=True)
    elif group.count > 1:
        out = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="redoubt-")))
    kept = journal or (out and out / "journal")
    return out, kept and make_folder(kept)
