"""Training, start to finish: resume, epochs, checkpoints, and the model that is kept."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from redoubtable.data import ImageSet
from redoubtable.files import digest_model, digest_source_files, locked, make_folder
from redoubtable.models import Architecture, Card, architecture_of, load_model, save_model
from redoubtable.registry import Bound
from redoubtable.training.board import board
from redoubtable.training.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    Begun,
    Checkpoint,
    Epoch,
    note_changed_code,
    read_checkpoint,
    write_checkpoint,
    write_log,
)
from redoubtable.training.recipes import RECIPES, Recipe
from redoubtable.training.run import Run, Show
from redoubtable.training.settings import Settings

_MINUTES = 10.0
"""Between two checkpoints within an epoch."""


@dataclass(frozen=True)
class Trained:
    """What a training run gives.

    Attributes:
        model: the network that was passed in, trained, in evaluation mode.
        rows: the log, one row per epoch, those of before a resume included.
        folder: where the model is saved, or None.
    """

    model: nn.Module
    rows: tuple[Epoch, ...]
    folder: Path | None

    @property
    def validation_accuracy(self) -> float | None:
        """Accuracy on the validation data after the last epoch, or None without such data."""
        return self.rows[-1].validation_accuracy


def train(
    model: nn.Module,
    data: ImageSet,
    recipe: str | Bound[Callable[..., Recipe]],
    settings: Settings,
    *,
    validation: ImageSet | None = None,
    out: str | Path | None = None,
    workers: int = 0,
    tensorboard: bool = False,
    notes: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Trained:
    """Train a network by gradient descent, resumably, in one process or in several.

    Started by `accelerate launch` or `torchrun`, every process calls this with the same arguments
    and trains on its share of each batch; the order and the moves of the images are those of one
    process. Order, moves and what the recipe draws are named by the seed, the epoch, the step and
    the process, and nothing else carries randomness over. So a run that was killed and is called
    again with the same arguments goes on after its last checkpoint and, on the same machine with as
    many threads, ends in the same weights bit for bit as one that was not. There is a checkpoint
    after every epoch and, in one process, every ten minutes.

    Args:
        model: trained in place on the device that it is on, its memory layout changed to channels
            last. With `out` it must come from `create` or `open_model`, so that it can be built
            again.
        data: what it is trained on.
        recipe: a text for `RECIPES` ("subsampled:rate=0.9"), or what a registry made of one.
        settings: epochs, learning rate and the like.
        validation: after each epoch the accuracy on it is measured, in float32; it has no
            influence on the training.
        out: folder for the checkpoints, the log `train.jsonl` and, at the end, the model with its
            card. A folder that holds the same run resumes it, or returns at once if it is
            finished; the weights that `model` then came with don't count.
        workers: processes that read image files ahead; no use for data in memory.
        tensorboard: also write the log for TensorBoard, to `out`/tensorboard.
        notes: for the card: the command that a stranger would type, and what else there is to say.
        progress: show one progress bar on standard error.

    Returns:
        The trained model in evaluation mode, and the log.

    Raises:
        ValueError: the data don't fit each other or the model, the folder holds another run or
            damaged checkpoints or is in use by a run that goes on, the recipe is unknown, or the
            loss became NaN or infinite.
    """
    bound = RECIPES.bind(recipe) if isinstance(recipe, str) else recipe
    if validation is not None and validation.shape[0] != data.shape[0]:
        raise ValueError(
            f"`validation` must have images like `data`, of {data.shape[0]} channels, got "
            f"{validation.shape[0]}"
        )
    if tensorboard and out is None:
        raise ValueError("`tensorboard` needs `out`, the folder to write to")
    folder = None if out is None else Path(out)
    loss = bound.entry.obj(**bound.arguments)
    run = Run(model, data, validation, loss, settings, workers)
    processes = run.processes
    keeper = None
    if folder is not None:
        code = {
            "recipe": digest_source_files(bound.entry.obj),
            "network": digest_source_files(model),
        }
        keeper = _Keeper(folder, run, _identity(run, bound.text, _architecture(model)), code)
    with contextlib.ExitStack() as held:
        try:
            if keeper:
                keeper.hold(held)
            rows = _epochs(run, keeper, folder, progress, tensorboard)
        finally:
            processes.release()
        if run.average is not None:
            model.load_state_dict(run.average.model.state_dict())
        run.optimizer.zero_grad()  # nothing of the training stays on the model but its weights
        model.eval()
        if folder is not None and processes.first:
            told = {"changed code": list(keeper.changes)} if keeper and keeper.changes else {}
            _save(folder, run, bound.text, rows[-1], {**(notes or {}), **told})
        processes.wait()  # whoever goes on finds the model in its folder
    return Trained(model, rows, folder)


def _epochs(
    run: Run, keeper: "_Keeper | None", folder: Path | None, progress: bool, tensorboard: bool
) -> tuple[Epoch, ...]:
    """Train for the epochs that are left; return the log of all."""
    rows, begun = keeper.resume() if keeper else ((), None)
    processes = run.processes
    with (
        _bar(run, len(rows), progress and processes.first) as show,
        board(folder, rows, tensorboard and processes.first) as log,
    ):
        for epoch in range(len(rows) + 1, run.settings.epochs + 1):
            keep = keeper.within(rows) if keeper and processes.count == 1 else None
            rows = (*rows, run.epoch(epoch, show, begun, keep))
            begun = None
            log(rows[-1])
            if keeper:
                keeper.write(rows, None)
    return rows


def _architecture(model: nn.Module) -> Architecture:
    architecture = architecture_of(model)
    if architecture is None:
        raise ValueError(
            "`model` must come from `redoubtable.models.create` to be saved with `out`, since "
            "its card says how to build it; or leave out=None and save it yourself"
        )
    return architecture


def _identity(run: Run, recipe: str, architecture: Architecture) -> dict[str, str]:
    """What two runs must have in common to be one: all but the first weights, which are drawn."""
    sets = {"data": run.data, "validation data": run.validation}
    return {
        "architecture": architecture.text,
        **{k: f"{d.name} {d.split} {d.digest()}" if d else "none" for k, d in sets.items()},
        "recipe": recipe,
        "number of processes": str(run.processes.count),
        **{k: str(v) for k, v in asdict(run.settings).items()},
    }


class _Keeper:
    """Writes and reads the checkpoints of a run; of several processes the first does.

    Attributes:
        changes: of the code, between the calls that the run took.
    """

    def __init__(
        self, folder: Path, run: Run, identity: dict[str, str], code: dict[str, str]
    ) -> None:
        self._folder, self._run, self._identity, self._code = folder, run, identity, code
        self._written = time.monotonic()
        self.changes: tuple[str, ...] = ()

    def hold(self, held: contextlib.ExitStack) -> None:
        """Keep other runs out of the folder: of several processes the first does, for all."""
        lock = locked(self._folder, "training")
        self._run.processes.from_first(lambda: held.enter_context(lock))

    def resume(self) -> tuple[tuple[Epoch, ...], Begun | None]:
        """Put the folder's state into the run, if there is one; return how far it is."""
        checkpoint = self._run.processes.from_first(self._read)
        if checkpoint is None:
            return (), None
        try:
            self._run.load_state(checkpoint.tensors)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self._folder} holds the training of another network of the same name "
                f"({reason}); choose another folder"
            ) from None
        self.changes = checkpoint.changes
        return checkpoint.rows, checkpoint.begun

    def _read(self) -> Checkpoint | None:
        """Make the folder or read its checkpoint, and tidy up after a kill."""
        folder = make_folder(self._folder)
        for left in folder.glob(f"*.{CHECKPOINT}.new*"):  # half written, as large as a checkpoint
            left.unlink()
        found = read_checkpoint(folder, self._identity)
        if found is not None:  # a kill may have come between the checkpoint and its log
            write_log(folder, found.rows)
            if len(found.rows) < self._run.settings.epochs:
                found = note_changed_code(folder, found, self._code)
        return found

    def write(self, rows: tuple[Epoch, ...], begun: Begun | None) -> None:
        """Write the state of the run after these epochs and what has begun of the next."""
        tensors = self._run.state()
        if self._run.processes.first:
            kept = Checkpoint(self._identity, rows, begun, tensors, self._code, self.changes)
            write_checkpoint(self._folder, kept)
        self._written = time.monotonic()

    def within(self, rows: tuple[Epoch, ...]) -> Callable[[Begun], None]:
        """Return what writes a checkpoint within the epoch after `rows`, now and then."""

        def keep(begun: Begun) -> None:
            if time.monotonic() - self._written > 60 * _MINUTES:
                self.write(rows, begun)

        return keep


def _save(folder: Path, run: Run, recipe: str, last: Epoch, notes: Mapping[str, Any]) -> None:
    """Write the model and its card, unless the folder has them: a card keeps its versions."""
    architecture = _architecture(run.model)
    factory = architecture.name if ":" in architecture.name else None
    with contextlib.suppress(ValueError):
        if digest_model(load_model(folder, factory=factory)) == digest_model(run.model):
            return
    metrics = {"loss": last.loss}
    if last.validation_accuracy is not None:
        metrics["validation_accuracy"] = last.validation_accuracy
    data = run.data
    about: dict[str, Any] = {
        "name": data.name,
        "split": data.split,
        "images": len(data),
        "shape": list(data.shape),
        "digest": data.digest(),
    }
    if data.class_names is not None:
        about["classes"] = list(data.class_names)
    card = Card(
        architecture=architecture.name,
        arguments=architecture.arguments,
        classes=run.classes,
        data=about,
        recipe=recipe,
        settings=asdict(run.settings),
        metrics=metrics,
        notes=notes,
    )
    save_model(folder, run.model, card)
    (folder / PREVIOUS).unlink(missing_ok=True)


@contextlib.contextmanager
def _bar(run: Run, done: int, progress: bool) -> Iterator[Show]:
    """One progress bar over all epochs that are left; yields what moves it."""
    epochs, steps = run.settings.epochs, run.steps
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[validation]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(
            "", total=epochs * steps, completed=done * steps, epoch="", loss="", validation=""
        )

        def show(epoch: int, step: int, loss: float, accuracy: float | None) -> None:
            fields = {"epoch": f"{epoch}/{epochs}", "loss": f"{loss:.3f}"}
            if accuracy is not None:
                fields["validation"] = f"validation {accuracy:.1%}"
            bar.update(task, completed=(epoch - 1) * steps + step, **fields)  # type: ignore[arg-type]

        yield show
