"""Training, start to finish: resume, epochs, checkpoints, and the model that is kept."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from redoubtable.data import Dataset
from redoubtable.files import digest_model, make_folder
from redoubtable.models import Architecture, Card, architecture_of, load_model, save_model
from redoubtable.registry import Bound
from redoubtable.training.checkpoint import (
    Checkpoint,
    Epoch,
    read_checkpoint,
    write_checkpoint,
    write_log,
)
from redoubtable.training.recipes import RECIPES, Recipe
from redoubtable.training.run import Run, Show
from redoubtable.training.settings import Settings


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
    data: Dataset,
    recipe: str | Bound[Callable[..., Recipe]],
    settings: Settings,
    *,
    validation: Dataset | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Trained:
    """Train a network by stochastic gradient descent, resumably.

    Each epoch draws the order of the images, their augmentation and what the recipe draws from
    `seeded("train", seed, epoch)`, and nothing else carries randomness over. So a run that was
    killed and is called again with the same arguments goes on after its last whole epoch and, on
    the same machine with as many threads, ends in the same weights bit for bit as one that was not.

    Args:
        model: trained in place on the device that it is on, its memory layout changed to channels
            last. With `out` it must come from `create`, so that it can be built again.
        data: what it is trained on.
        recipe: a text for `RECIPES` ("subsampled:rate=0.9"), or what a registry made of one.
        settings: epochs, learning rate and the like.
        validation: after each epoch the accuracy on it is measured, in float32; it has no
            influence on the training.
        out: folder for the checkpoint, the log `train.jsonl` and, at the end, the model with its
            card. A folder that holds the same run resumes it, or returns at once if it is
            finished; the weights that `model` then came with don't count.
        progress: show one progress bar on standard error.

    Returns:
        The trained model in evaluation mode, and the log.

    Raises:
        ValueError: the data don't fit each other, the folder holds another run or a damaged
            checkpoint, the recipe is unknown, or the loss became NaN or infinite.
    """
    bound = RECIPES.bind(recipe) if isinstance(recipe, str) else recipe
    if validation is not None and validation.shape[0] != data.shape[0]:
        raise ValueError(
            f"`validation` must have images like `data`, of {data.shape[0]} channels, got "
            f"{validation.shape[0]}"
        )
    folder = None if out is None else Path(out)
    loss_of = bound.entry.obj(**bound.arguments)
    run = Run(model, data, validation, loss_of, settings)
    rows: tuple[Epoch, ...] = ()
    identity: dict[str, str] = {}
    if folder is not None:
        architecture = architecture_of(model)
        if architecture is None:
            raise ValueError(
                "`model` must come from `redoubtable.models.create` to be saved with `out`, since "
                "its card says how to build it; or leave out=None and save it yourself"
            )
        make_folder(folder)
        identity = _identity(architecture, data, validation, bound.text, settings)
        rows = _resume(run, folder, identity)
    with _bar(run, len(rows), progress) as show:
        for epoch in range(len(rows) + 1, settings.epochs + 1):
            rows = (*rows, run.epoch(epoch, show))
            if folder is not None:
                state = Checkpoint(identity, rows, model.state_dict(), run.optimizer.state_dict())
                write_checkpoint(folder, state)
    model.eval()
    if folder is not None:
        _save(folder, run, bound.text, rows[-1])
    return Trained(model, rows, folder)


def _identity(
    architecture: Architecture,
    data: Dataset,
    validation: Dataset | None,
    recipe: str,
    settings: Settings,
) -> dict[str, str]:
    """What two runs must have in common to be one: all but the first weights, which are drawn."""
    sets = {"data": data, "validation data": validation}
    return {
        "architecture": architecture.text,
        **{k: f"{d.name} {d.split} {d.digest()}" if d else "none" for k, d in sets.items()},
        "recipe": recipe,
        **{k: str(v) for k, v in asdict(settings).items()},
    }


def _resume(run: Run, folder: Path, identity: Mapping[str, str]) -> tuple[Epoch, ...]:
    """Put the folder's state into the run, if there is one; return the epochs it already has."""
    checkpoint = read_checkpoint(folder, identity)
    if checkpoint is None:
        return ()
    run.model.load_state_dict(checkpoint.model)
    run.optimizer.load_state_dict(dict(checkpoint.optimizer))
    write_log(folder, checkpoint.rows)  # a kill may have come between the checkpoint and its log
    return checkpoint.rows


def _save(folder: Path, run: Run, recipe: str, last: Epoch) -> None:
    """Write the model and its card, unless the folder has them: a card keeps its versions."""
    architecture = architecture_of(run.model)
    assert architecture is not None  # `train` has refused such a model
    with contextlib.suppress(ValueError):
        if digest_model(load_model(folder)) == digest_model(run.model):
            return
    metrics = {"loss": last.loss}
    if last.validation_accuracy is not None:
        metrics["validation_accuracy"] = last.validation_accuracy
    data = run.data
    card = Card(
        architecture=architecture.name,
        arguments=architecture.arguments,
        classes=run.classes,
        data={
            "name": data.name,
            "split": data.split,
            "images": len(data),
            "shape": list(data.shape),
            "digest": data.digest(),
        },
        recipe=recipe,
        settings=asdict(run.settings),
        metrics=metrics,
    )
    save_model(folder, run.model, card)


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
