"""The training loop itself: the epochs of one run. Every recipe runs in this one."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from redoubtable.data import Dataset, to_unit
from redoubtable.seeding import seeded
from redoubtable.training.augmentation import augment
from redoubtable.training.checkpoint import Epoch
from redoubtable.training.recipes import Recipe
from redoubtable.training.settings import Settings, lr_factor

Show = Callable[[int, int, float, float | None], None]
"""Told the epoch, the steps done in it, the mean loss so far and, at its end, the accuracy."""

_LOOK = 16  # steps between two looks at the loss: each makes the processor wait for the device
_BATCH = 500  # images per batch where no gradient is needed


class Run:
    """A network with all it is trained on and by; `epoch` moves it on.

    Args:
        model: changed in place, to channels last in memory too.
        data: what it is trained on.
        validation: what its accuracy is measured on after each epoch, or None.
        loss_of: the recipe.
        settings: epochs, learning rate and the like.

    Raises:
        ValueError: the model can't take these images, or has fewer logits than they have classes.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        validation: Dataset | None,
        loss_of: Recipe,
        settings: Settings,
    ) -> None:
        self.model, self.data, self.validation = model, data, validation
        self.loss_of, self.settings = loss_of, settings
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("`model` must have parameters to train, got none that need a gradient")
        self.device = parameters[0].device
        self.classes = _check_fit(model, data, self.device)
        if validation is not None:
            _check_fit(model, validation, self.device)
        self.steps = math.ceil(len(data) / settings.batch_size)
        model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def epoch(self, number: int, show: Show) -> Epoch:
        """Train for one pass over the data.

        Args:
            number: of the epoch, counted from 1; with the seed it names all randomness in it.
            show: told how it goes.

        Raises:
            ValueError: the loss or a weight became NaN or infinite.
        """
        began = time.perf_counter()
        self.model.train()
        total = torch.zeros((), device=self.device)
        seen, lr = 0, 0.0
        with seeded("train", self.settings.seed, number):
            # Equal batches, so that no small last one gives batch norm a poor estimate.
            batches = torch.randperm(len(self.data)).tensor_split(self.steps)
            for step, batch in enumerate(batches):
                lr = self._set_lr((number - 1) * self.steps + step)
                total += self._step(batch) * len(batch)
                seen += len(batch)
                if (step + 1) % _LOOK == 0 or step + 1 == self.steps:
                    mean = total.item() / seen
                    self._check_finite(mean, number)
                    show(number, step + 1, mean, None)
        if not all(t.isfinite().all() for t in self.model.state_dict().values()):
            self._check_finite(math.nan, number)
        seconds = time.perf_counter() - began
        accuracy = None if self.validation is None else self._accuracy(self.validation)
        show(number, self.steps, mean, accuracy)
        return Epoch(number, mean, lr, round(seconds, 3), accuracy)

    def _step(self, batch: Tensor) -> Tensor:
        """One step of the descent; its loss, detached."""
        images = augment(self.data.images[batch].to(self.device), self.settings.augment)
        y = self.data.labels[batch].to(self.device)
        half = self.settings.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            loss = self.loss_of(self.model, to_unit(images), y)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach().float()

    def _set_lr(self, step: int) -> float:
        """Set and return the learning rate of a step, counted from 0 over all epochs."""
        steps = self.steps * self.settings.epochs
        lr = self.settings.lr * lr_factor(self.settings.schedule, step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _check_finite(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss became {loss} in epoch {epoch}; train again with a lower lr (now "
                f"{self.settings.lr:g})"
            )

    @torch.no_grad()
    def _accuracy(self, data: Dataset) -> float:
        """Share of right classes in evaluation mode and full precision."""
        self.model.eval()
        right = 0
        with seeded("validation", self.settings.seed):  # for a model with random parts
            for start in range(0, len(data), _BATCH):
                images = data.images[start : start + _BATCH].to(self.device)
                x = to_unit(images.contiguous(memory_format=torch.channels_last))
                right += int((self.model(x).argmax(1).cpu() == data.labels[start:][:_BATCH]).sum())
        return right / len(data)


@torch.no_grad()
def _check_fit(model: nn.Module, data: Dataset, device: torch.device) -> int:
    """Try one image; return the number of logits."""
    model.eval()
    x = to_unit(data.images[:1]).to(device)
    try:
        with seeded("fit"):
            logits: Tensor = model(x)
    except RuntimeError as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(
            f"`model` can't take the images of {data.name}, {data.shape} each ({reason}); "
            "build it for this data set"
        ) from None
    if logits.ndim != 2 or logits.shape[1] < data.classes:
        raise ValueError(
            f"`model` must give {data.classes} logits per image for {data.name}, got shape "
            f"{tuple(logits.shape)}; build it with classes={data.classes}"
        )
    return int(logits.shape[1])
