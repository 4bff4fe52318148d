"""The processes of one evaluation: they share a folder, take chunks in turns, and end together."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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


class Runner:
    """This process's share in an evaluation.

    Every process runs the same program and ends with the same results. What costs time is cut into
    cells of a journal that they share; each is computed by one of them and read by the others.

    Args:
        group: this process and its fellows.
        journal: theirs.

    Attributes:
        journal: where finished work is kept.
        first: whether this is the process that shows and writes.
    """

    def __init__(self, group: Group, journal: Journal) -> None:
        self._group, self.journal, self.first = group, journal, group.first

    def finish(self, *jobs: Callable[[], Any]) -> list[Any]:
        """Return the results of jobs that are made of the journal's cells.

        Raises:
            ValueError: another process has failed.
        """
        return finish(jobs, self._look)

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
        everyone = self._group.gather(mine)
        for what in mine:
            found = [one[what] for one in everyone]
            if found.count(found[0]) < len(found):
                told = ", ".join(dict.fromkeys(str(f) for f in found)) if what != "images" else ""
                raise ValueError(
                    f"the processes of one evaluation differ in their {what}: {told}; start all "
                    "of them in the same way"
                )

    def fail(self, error: BaseException) -> None:
        """Tell the other processes to stop."""
        if self._group.count > 1 and self.journal.folder is not None:
            text = f"process {self._group.rank} of the evaluation has failed: {error}"
            with suppress(OSError, ValueError):
                write_bytes(self.journal.folder / _FAILED, text.encode("utf-8", "replace"))

    def _look(self) -> None:
        if self._group.count > 1 and self.journal.folder is not None:
            with suppress(FileNotFoundError):
                raise ValueError((self.journal.folder / _FAILED).read_text(encoding="utf-8"))


@contextmanager
def running(out: Path | None, device: torch.device) -> Iterator[Runner]:
    """Hold a folder for an evaluation, whether of one process or of several.

    Args:
        out: the folder of the run, which no other run may use meanwhile; None keeps nothing, and
            several processes then share a folder that is gone afterwards.
        device: of the model in this process.

    Raises:
        ValueError: another run uses `out`, it can't be written to, or the nodes don't share it.
    """
    group = Group(device)
    with ExitStack() as held:
        folder = group.from_first(lambda: _open(out, group, held))
        missing = sum(group.gather(folder is not None and not folder.is_dir()))
        if missing:
            raise ValueError(
                f"{missing} of {group.count} processes don't see the folder {folder}; give an "
                "--out that all nodes share"
            )
        runner = Runner(group, Journal(folder))
        try:
            yield runner
        except BaseException as error:
            runner.fail(error)
            raise
        group.wait()  # nobody still reads what the first process lets go of


def _open(out: Path | None, group: Group, held: ExitStack) -> Path | None:
    """In the first process: lock the run's folder, or make one that is gone at the end."""
    if out is not None:
        held.enter_context(locked(out, "evaluation"))
        folder = make_folder(out / "journal")
        (folder / _FAILED).unlink(missing_ok=True)
        return folder
    if group.count == 1:
        return None
    return Path(held.enter_context(tempfile.TemporaryDirectory(prefix="redoubt-")))
