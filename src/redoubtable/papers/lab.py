"""Where experiments are run: networks, accuracies, attacks and certificates, each made once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from redoubtable.data import ImageSet, read, to_unit
from redoubtable.evaluation import Certified, Evaluation, certified, evaluate, guarded
from redoubtable.evaluation import Settings as EvaluationSettings
from redoubtable.evaluation.guard import needs_clean
from redoubtable.evaluation.journal import Journal
from redoubtable.evaluation.plan import LEAST_DRAWS
from redoubtable.evaluation.watching import watched
from redoubtable.files import digest_model, digest_package, file_name, make_folder, write_npz
from redoubtable.models import MODELS, open_model
from redoubtable.papers.frame import Scale
from redoubtable.seeding import seeded
from redoubtable.statistics import Proportion, wilson
from redoubtable.threat import ThreatModel
from redoubtable.training import train
from redoubtable.types import Images, Labels

S = TypeVar("S", bound=Scale)
_BATCH = 500


@dataclass
class Lab(Generic[S]):
    """One data set at one scale, and a folder where all that is finished is kept.

    Attributes:
        scale: how large everything is.
        data: name of the data set.
        root: folder of data sets.
        out: folder of networks, evaluations and numbers; given again, what is there is taken.
        seed: of everything.
        device: where networks live.
        precision: that attacks search with.
        progress: show progress bars on the error stream.
        command: as it was typed, for the records of evaluations.
        pictures: names of those kept since somebody last cleared the list.
    """

    scale: S
    data: str
    root: Path | None
    out: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    progress: bool = True
    command: str | None = None
    pictures: list[str] = field(default_factory=list)
    _networks: dict[str, nn.Module] = field(default_factory=dict)
    _images: dict[tuple[str, int | None], tuple[Images, Labels]] = field(default_factory=dict)

    def network(self, recipe: str, architecture: str | None = None) -> nn.Module:
        """Return a network trained by a recipe, now or before.

        Args:
            recipe: as on the command line, `subsampled:rate=0.9`.
            architecture: a name in `MODELS`; None for the scale's first on the data.
        """
        architecture = architecture or self.scale.networks_on(self.data)[0]
        name = f"{architecture} {recipe}"
        if name not in self._networks:
            data = self.images("train")
            with seeded("init", self.seed):
                network = open_model(
                    MODELS.text(architecture, self.scale.arguments),
                    classes=data.classes,
                    channels=data.shape[0],
                    size=data.shape[1:],
                )
            settings = replace(self.scale.training_on(self.data), seed=self.seed)
            done = train(
                network.to(self.device),
                data,
                recipe,
                settings,
                out=self.folder("models", name),
                progress=self.progress,
            )
            self._networks[name] = done.model.requires_grad_(False).eval()
        return self._networks[name]

    def images(self, split: str, limit: int | None = None) -> ImageSet:
        """Return one split of the data set."""
        return read(self.data, split, root=self.root, limit=limit)

    def tensors(self, split: str, limit: int | None) -> tuple[Images, Labels]:
        """Return images in [0, 1] and labels of one split."""
        key = (split, limit)
        if key not in self._images:
            self._images[key] = self.images(split, limit).floats(1)
        return self._images[key]

    @property
    def attacked(self) -> tuple[Images, Labels]:
        """The test images that are attacked."""
        return self.tensors("test", self.scale.images)

    def guarded(self, network: nn.Module, defenses: Sequence[str]) -> nn.Module:
        """Return a network behind defenses, calibrated on held-out clean images."""
        clean = self.tensors("validation", self.scale.held_out)
        # The others are put in place at once.
        shown = self.progress and needs_clean(defenses)
        with watched(clean, "fitting a threshold to clean images", shown) as held_out:
            return guarded(network, defenses, held_out, self.seed)

    def accuracy(self, model: nn.Module) -> Proportion:
        """Return the accuracy on clean test images, one answer each."""
        data = self.images("test", self.scale.clean)

        def count() -> dict[str, NDArray[Any]]:
            right, batches = 0, list(torch.split(torch.arange(len(data)), _BATCH))
            with torch.no_grad(), seeded("clean", self.seed):
                looks = data.batches(batches, self.device)
                for x, y in track(
                    looks, f"answers to {data.name}", len(batches), disable=not self.progress,
                    console=Console(stderr=True), transient=True,
                ):  # fmt: skip
                    right += int((model(to_unit(x)).argmax(1) == y).sum())
            return {"right": np.array(right)}

        cell = self.kept("accuracy", {"model": digest_model(model), "data": data.digest()}, count)
        return wilson(int(cell["right"]), len(data))

    def kept(
        self, what: str, key: Mapping[str, Any], make: Callable[[], dict[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]]:
        """Return arrays that are made once for a key, also if the run is killed between."""
        code = digest_package(("cli", "reports"))
        whole = {"what": what, "seed": self.seed, "code": code, **key}
        return Journal(self.folder("numbers")).cell(whole, make)

    def evaluation(
        self,
        name: str,
        model: nn.Module,
        threat: ThreatModel,
        attacks: Sequence[Any] | str,
        *,
        keep: int = 12,
        check: bool = False,
        images: tuple[Images, Labels] | None = None,
        draws: int | None = None,
    ) -> Evaluation:
        """Attack a model on the scale's images, static and adaptive.

        Args:
            name: of the model, for the folder and the record.
            model: with its defense.
            threat: what may change.
            attacks: as for `evaluate`.
            keep: images of each attack that are kept.
            check: run the checks that doubt the result.
            images: other images than `attacked`, and their labels.
            draws: answers per image instead of the scale's.
        """
        x, y = images or self.attacked
        draws = draws or self.scale.draws
        settings = EvaluationSettings(
            draws=draws,
            chunk=min(250, len(x)),
            precision=self.precision,  # type: ignore[arg-type]
            keep=keep,
        )
        return evaluate(
            model,
            x,
            y,
            threat,
            attacks,
            seed=self.seed,
            cascade=(self.scale.cascade and draws >= LEAST_DRAWS) or None,
            settings=settings,
            curve=(),
            check=check,
            out=self.folder("evaluations", f"{name} {threat}"),
            journal=self.folder("journal"),
            name=name,
            data=f"{self.data}, test",
            command=self.command,
            progress=self.progress,
        )

    def certificate(
        self, name: str, model: nn.Module, certificate: str, images: int, **settings: Any
    ) -> Certified:
        """Certify a model on test images; the settings are those of `certified`."""
        return certified(
            model,
            *self.tensors("test", images),
            certificate,
            seed=self.seed,
            out=self.folder("certificates", f"{name} {certificate}"),
            name=name,
            data=f"{self.data}, test",
            command=self.command,
            progress=self.progress,
            **settings,
        )

    def picture(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep what a picture is drawn from."""
        path = self.folder("pictures") / f"{name}.npz"
        write_npz(path, arrays)
        self.pictures.append(path.relative_to(self.out).as_posix())

    def folder(self, *parts: str) -> Path:
        """Return a folder of this data set."""
        return make_folder(self.out.joinpath(self.data, *map(file_name, parts)))
