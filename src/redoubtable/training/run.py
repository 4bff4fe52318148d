"""The training loop itself: the epochs of one run. Every recipe runs in this one."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from redoubtable.bfloat16 import warn_without_bfloat16
from redoubtable.data import ImageSet, to_unit
from redoubtable.models import weight_penalty
from redoubtable.seeding import derive_seed, seeded
from redoubtable.training.augmentation import augment, draw_moves
from redoubtable.training.averaging import Average, measured_anew, statistics_of
from redoubtable.training.checkpoint import Begun, Epoch
from redoubtable.training.optimizers import make_optimizer
from redoubtable.training.processes import Processes
from redoubtable.training.recipes import Recipe
from redoubtable.training.settings import Settings, lr_factor

Show = Callable[[int, int, float, float | None], None]
"""Told the epoch, the steps done in it, the mean loss so far and, at its end, the accuracy."""

Keep = Callable[[Begun], None]
"""Told, after each look at the loss, how far the epoch is; may write a checkpoint."""

_LOOK = 16  # steps between two looks at the loss: each makes the processor wait for the device
_STATISTICS = 100  # batches that the statistics of mean weights are measured on
_BATCH = 500  # images per batch where no gradient is needed
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Run:
    """A network with all it is trained on and by; `epoch` moves it on.

    Args:
        model: changed in place, to channels last in memory too.
        data: what it is trained on.
        validation: what its accuracy is measured on after each epoch, or None.
        recipe: what is lowered.
        settings: epochs, learning rate and the like.
        workers: processes that read image files ahead.

    Attributes:
        processes: that train it together.

    Raises:
        ValueError: the model can't take these images, or has fewer logits than they have classes;
            or there are more processes than images in a batch.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageSet,
        validation: ImageSet | None,
        recipe: Recipe,
        settings: Settings,
        workers: int = 0,
    ) -> None:
        self.model, self.data, self.validation = model, data, validation
        self.recipe, self.settings, self.workers = recipe, settings, workers
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("`model` must have parameters to train, got none that need a gradient")
        self.device = parameters[0].device
        if settings.precision == "fp16" and self.device.type != "cuda":
            raise ValueError(
                f"precision fp16 needs a CUDA device, and the model is on {self.device}; train "
                "with bf16 or fp32"
            )
        if settings.precision == "bf16":
            warn_without_bfloat16(self.device)
        self.processes = Processes(self.device)
        self.classes = check_fit(model, data, self.device)
        if validation is not None:
            check_fit(model, validation, self.device)
        self.steps = math.ceil(len(data) / settings.batch_size)
        if len(data) // self.steps < self.processes.count:
            raise ValueError(
                f"`batch_size` must give each of {self.processes.count} processes an image, got "
                f"{settings.batch_size} for {len(data)} images"
            )
        model.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(parameters, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.average = Average(model, settings.ema) if settings.ema else None
        self.penalised = any(hasattr(m, "penalised") for m in model.modules())
        self.network = self.processes.wrap(model, self.device)

    @property
    def result(self) -> nn.Module:
        """The network to measure and keep: the mean of the weights where there is one."""
        return self.model if self.average is None else self.average.model

    def state(self) -> dict[str, Any]:
        """Return all that training changes, to be kept in a checkpoint."""
        self.recipe.settle()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "recipes": self.processes.gather({k: v.cpu() for k, v in self.recipe.state.items()}),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        self.recipe.state.update(state["recipes"][self.processes.rank])

    def epoch(
        self, number: int, show: Show, begun: Begun | None = None, keep: Keep | None = None
    ) -> Epoch:
        """Train for one pass over the data.

        Order and moves of the images are named by the seed and the epoch, and the recipe's draws by
        the step too, so any step can be the first one after a resume.

        Args:
            number: of the epoch, counted from 1.
            show: told how it goes.
            begun: how far a killed run was in this epoch.
            keep: told how far it is.

        Raises:
            ValueError: the loss or a weight became NaN or infinite.
        """
        began = time.perf_counter()
        begun = begun or Begun(0, torch.zeros(()), 0.0)
        seed, share = self.settings.seed, self.processes.share
        with seeded("order", seed, number):
            batches = torch.randperm(len(self.data)).tensor_split(self.steps)
            moves = draw_moves(len(self.data), self.settings.augment)
        starts = [0, *torch.tensor([len(b) for b in batches]).cumsum(0).tolist()]
        # Equal batches, so that no small last one gives batch norm a poor estimate.
        mine = [b[share(b)] for b in batches[begun.step :]]
        total, lr = begun.total.to(self.device).clone(), 0.0
        self.network.train()
        with (
            seeded("train", seed, number),
            closing(self.data.batches(mine, self.device, self.workers)) as stream,
        ):
            for step, (images, y) in enumerate(stream, begun.step):
                part = share(batches[step])
                first = starts[step] + part.start
                x = to_unit(augment(images, moves[first : first + len(y)]))
                weight = len(y) / len(batches[step])
                for replay in range(self.recipe.replays):
                    done = ((number - 1) * self.steps + step) * self.recipe.replays + replay
                    torch.manual_seed(derive_seed("step", seed, done, self.processes.rank))
                    lr = self._set_lr(done)
                    total += self._step(x, y, weight) * len(y) / self.recipe.replays
                    if self.average is not None:
                        self.average.update(self.model, done)
                if (step + 1) % _LOOK == 0 or step + 1 == self.steps:
                    seen = starts[step + 1]
                    mean = self.processes.sum(total).item() / seen
                    self._check_finite(mean, number)
                    show(number, step + 1, mean, None)
                    if keep is not None and step + 1 < self.steps:
                        seconds = begun.seconds + time.perf_counter() - began
                        keep(Begun(step + 1, total, seconds))
        self.processes.average_buffers(self.model)
        if self.average is not None:
            self.processes.average_buffers(self.average.model)
            if number == self.settings.epochs:
                self.measure_statistics(self.average.model)
        if not all(t.isfinite().all() for t in self.model.state_dict().values()):
            self._check_finite(math.nan, number)
        seconds = begun.seconds + time.perf_counter() - began
        accuracy = None if self.validation is None else self._accuracy(self.validation)
        show(number, self.steps, mean, accuracy)
        return Epoch(number, mean, lr, round(seconds, 3), accuracy)

    @torch.no_grad()
    def measure_statistics(self, model: nn.Module) -> None:
        """Measure the batch norms of the mean weights anew, on moved images of the training data.

        The mean of the statistics of many networks is not what the network of mean weights sees
        (Izmailov et al. 2018, arXiv:1803.05407, section 3.2).
        """
        norms = statistics_of(model)
        if not norms:
            return
        size = min(len(self.data), _STATISTICS * self.settings.batch_size)
        with seeded("statistics", self.settings.seed):
            order = torch.randperm(len(self.data))[:size]
            moves = draw_moves(size, self.settings.augment)
        batches = order.tensor_split(math.ceil(size / self.settings.batch_size))
        starts = [0, *torch.tensor([len(b) for b in batches]).cumsum(0).tolist()]
        mine = [b[self.processes.share(b)] for b in batches]
        with (
            measured_anew(norms),
            seeded("statistics", self.settings.seed, self.processes.rank),
            closing(self.data.batches(mine, self.device, self.workers)) as stream,
        ):
            for step, (images, y) in enumerate(stream):
                first = starts[step] + self.processes.share(batches[step]).start
                model(to_unit(augment(images, moves[first : first + len(y)])))
        self.processes.average_buffers(model)

    def _step(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        """One step of the descent; its loss, detached.

        Args:
            x: this process's images.
            y: their labels.
            weight: their share of the whole batch; gradients are averaged over the processes as if
                they were equal.
        """
        kind = self.settings.precision
        with torch.autocast(self.device.type, _TYPES[kind], enabled=kind != "fp32"):
            loss = self.recipe(self.network, x, y)
        if self.penalised:
            loss = loss + weight_penalty(self.model)
        self.optimizer.zero_grad()
        self.scaler.scale(loss * (weight * self.processes.count)).backward()  # type: ignore[no-untyped-call]
        if self.settings.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach().float()

    def _set_lr(self, step: int) -> float:
        """Set and return the learning rate of a step, counted from 0 over all epochs."""
        steps = self.steps * self.settings.epochs * self.recipe.replays
        lr = self.settings.lr * lr_factor(self.settings, step, steps)
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
    def _accuracy(self, data: ImageSet) -> float:
        """Share of right classes in evaluation mode and full precision."""
        model = self.result.eval()
        indices = torch.arange(len(data))
        mine = torch.split(indices[self.processes.share(indices)], _BATCH)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        with (
            seeded("validation", self.settings.seed),  # for a model with random parts
            closing(data.batches(mine, self.device, self.workers)) as stream,
        ):
            for images, y in stream:
                x = to_unit(images.contiguous(memory_format=torch.channels_last))
                right += (model(x).argmax(1) == y).sum()
        return int(self.processes.sum(right)) / len(data)


@torch.no_grad()
def check_fit(model: nn.Module, data: ImageSet, device: torch.device) -> int:
    """Try one image in evaluation mode; return the number of logits.

    Raises:
        ValueError: the model can't take it, or gives no logit for some class.
    """
    model.eval()
    x = to_unit(data.read(torch.zeros(1, dtype=torch.int64))).to(device)
    try:
        with seeded("fit"):
            logits: Tensor = model(x)
    except Exception as error:  # whatever a network of the user's own raises
        reason = str(error).split("\n", 1)[0]
        raise ValueError(
            f"`model` can't take the images of {data.name}, {data.shape} each ({reason}); "
            "build it for this data set"
        ) from None
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"`model` must give a tensor of logits (N, K), got {type(logits).__name__}; wrap it in "
            "a module that returns them alone"
        )
    if logits.ndim != 2 or logits.shape[1] < data.classes:
        raise ValueError(
            f"`model` must give {data.classes} logits per image for {data.name}, got shape "
            f"{tuple(logits.shape)}; build it with classes={data.classes}"
        )
    return int(logits.shape[1])
