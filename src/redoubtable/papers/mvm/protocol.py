"""The paper's protocol: attacks that know nothing of units, then entropies of hard labels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from redoubtable.attacks import ATTACKS
from redoubtable.defenses import mvm_probabilities
from redoubtable.defenses.mvm import keep_probabilities
from redoubtable.defenses.sampling import feature_maps
from redoubtable.detectors import DropoutVariance, by_false_positives, histogram_entropy
from redoubtable.files import digest_model, digest_tensors
from redoubtable.gradients import answers, fast_copy
from redoubtable.papers.frame import Row, family
from redoubtable.papers.lab import Lab
from redoubtable.papers.mvm.scale import (
    BY_LAYER,
    NOISE,
    SETTINGS,
    Sampling,
    attacks_of,
    sampled,
)
from redoubtable.seeding import seeded
from redoubtable.statistics import Proportion, bootstrap_auc, mean_share, wilson
from redoubtable.types import Images, Labels

_PIECE = 100
"""Images whose entropies are kept together."""


def table_1(lab: Lab[Sampling]) -> Iterator[Row]:
    """How many draws MVM needs for each draw of SAP, to keep the same share of the values."""
    network = lab.network("natural")
    x, _ = lab.tensors("test", min(100, lab.scale.images))
    with torch.no_grad():
        maps = feature_maps(network, x)[0]
    for share in (0.5, 0.8, 1.0):
        ratios = _draws_for_draws(maps, share)
        note = f"of (N, {maps.shape[1]}, {maps.shape[2]}, {maps.shape[3]}) maps"
        yield Row(f"SAP {share:.0%}", "draws of MVM for one of SAP", "none", ratios, note=note)


def table_2(lab: Lab[Sampling]) -> Iterator[Row]:
    """What the network is worth without units: clean, and under each attack."""
    network = lab.network("natural")
    _, y = lab.attacked
    yield Row("clean", "accuracy", "clean", lab.accuracy(network))
    for name in attacks_of(lab):
        x_adv = adversarial(lab, name)
        right = _labels(network, x_adv) == y
        found = wilson(int(right.sum()), len(y))
        yield Row(name, "accuracy", "static", found, note="the network has no defense")


def table_3(lab: Lab[Sampling]) -> Iterator[Row]:
    """The area under the ROC curve of each detector, against images made without knowing it."""
    for detector in detectors(lab):
        clean = detector.scores(lab, "clean")
        for attack in attacks_of(lab):
            found = bootstrap_auc(clean, detector.scores(lab, attack), seed=lab.seed)
            yield Row(f"{attack}, {detector.name}", "AUC", "static", found, draws=detector.draws)
        if detector.name in SETTINGS:  # noise of FGSM's size should pass for clean
            found = bootstrap_auc(clean, detector.scores(lab, "noise"), seed=lab.seed)
            yield Row(f"noise, {detector.name}", "AUC", "none", found, draws=detector.draws)


def figure_3(lab: Lab[Sampling]) -> Iterator[Row]:
    """The ROC curves, and what is detected at few false positives."""
    found = detectors(lab)
    for attack in attacks_of(lab):
        arrays: dict[str, NDArray[Any]] = {"log": np.array(family(lab.data) == "mnist")}
        for detector in found:
            clean, suspicious = detector.scores(lab, "clean"), detector.scores(lab, attack)
            arrays |= {f"clean/{detector.name}": clean, f"attacked/{detector.name}": suspicious}
            for rate in (0.01, 0.05):
                threshold = by_false_positives(torch.from_numpy(clean), rate)
                seen = int((suspicious > threshold.value).sum())
                yield Row(
                    f"{attack}, {detector.name}", f"detected at {rate:.0%}", "static",
                    wilson(seen, len(clean)), draws=detector.draws,
                    note="threshold of these very clean images",
                )  # fmt: skip
        lab.picture(f"ROC under {attack}", arrays)


@dataclass(frozen=True)
class Detector:
    """A detector of table 3.

    Attributes:
        name: of its row.
        score: of images, (N, C, H, W) -> (N,).
        digest: of all that scores depend on.
        draws: passes per image.
    """

    name: str
    score: Callable[[Images], torch.Tensor]
    digest: str
    draws: int

    def scores(self, lab: Lab[Sampling], what: str) -> NDArray[Any]:
        """Return the (N,) scores of "clean", "noise" or attacked images, and keep them.

        Only of images that the network without units classifies correctly, as in the paper.
        """
        x = self._images(lab, what)[correct(lab)]
        found = []
        title = f"{self.name}, {what}"
        for number, part in enumerate(_shown(lab, torch.split(x, _PIECE), title)):
            key = {"detector": self.digest, "x": digest_tensors(part), "number": number}

            def make(part: Images = part, number: int = number) -> dict[str, NDArray[Any]]:
                with torch.no_grad(), seeded("scores", lab.seed, title, number):
                    return {"scores": self.score(part).double().numpy()}

            found.append(lab.kept(title, key, make)["scores"])
        return np.concatenate(found)

    @staticmethod
    def _images(lab: Lab[Sampling], what: str) -> Images:
        x, _ = lab.attacked
        if what == "noise":
            sigma = NOISE.get(family(lab.data), NOISE["mnist"])["FGSM"]
            with seeded("noise", lab.seed):
                return (x + sigma * torch.randn(x.shape)).clamp(0, 1)
        return x if what == "clean" else adversarial(lab, what)


def detectors(lab: Lab[Sampling]) -> list[Detector]:
    """Return the rows of table 3, the other reading of draws, and Feinman's score."""
    network, passes = lab.network("natural"), lab.scale.passes
    classes, few = lab.images("test", 1).classes, lab.attacked[0][:2]
    found = []
    for name, text in (SETTINGS | BY_LAYER).items():
        model = sampled(lab, text)
        quick = fast_copy(model, few, lab.precision)  # type: ignore[arg-type]

        def entropy(x: Images, quick: nn.Module = quick) -> torch.Tensor:
            return histogram_entropy(answers(quick, x, passes).argmax(2).T, classes)

        digest = f"{digest_model(model)} {passes} {lab.precision}"
        found.append(Detector(name, entropy, digest, passes))
    if any(isinstance(m, nn.Dropout) for m in network.modules()):
        variance = DropoutVariance(network)
        found.append(
            Detector(
                "variance under dropout (Feinman et al.)",
                lambda x: variance(x, x),
                digest_model(variance),
                variance.draws,
            )
        )
    return found


def adversarial(lab: Lab[Sampling], attack: str) -> Images:
    """Return what one of the paper's attacks makes of the lab's images, without units."""
    threat, text = attacks_of(lab)[attack]
    network, (x, y), bound = lab.network("natural"), lab.attacked, ATTACKS.bind(text)
    key = {"attack": bound.text, "threat": threat.key, "model": digest_model(network), "n": len(x)}

    def make() -> dict[str, NDArray[Any]]:
        searched = fast_copy(network, x[:2])
        made = []
        parts = list(zip(torch.split(x, _PIECE), torch.split(y, _PIECE), strict=True))
        for number, (some, labels) in enumerate(_shown(lab, parts, f"{attack} without units")):
            with seeded("attack", lab.seed, bound.text, number):
                made.append(bound.entry.obj(searched, some, labels, threat, **bound.arguments))
        return {"x_adv": torch.cat(made).numpy()}

    return torch.from_numpy(lab.kept("adversarial images", key, make)["x_adv"])


def correct(lab: Lab[Sampling]) -> torch.Tensor:
    """Return (M,) which of the lab's images the network without units classifies correctly."""
    (x, y), network = lab.attacked, lab.network("natural")

    def make() -> dict[str, NDArray[Any]]:
        return {"right": (_labels(network, x) == y).numpy()}

    key = {"model": digest_model(network), "x": digest_tensors(x, y)}
    right = lab.kept("classified correctly", key, make)["right"]
    return torch.from_numpy(right).nonzero().flatten()


def _shown(lab: Lab[Sampling], parts: Any, what: str) -> Any:
    console = Console(stderr=True)
    bar = lab.progress and console.is_terminal
    return track(parts, what, console=console, transient=True, disable=not bar)


def _labels(network: nn.Module, x: Images) -> Labels:
    with torch.no_grad():
        return torch.cat([network(part).argmax(1) for part in torch.split(x, 250)])


def _draws_for_draws(maps: torch.Tensor, share: float) -> Proportion:
    """The mean, over images, of MVM's draws over SAP's that keep the same share of what is not 0.

    SAP's draws are `share` of the values of a map; MVM's are the first of a fine ladder of numbers
    that keeps as many values. A ratio above 1, where MVM needs more draws than SAP, counts as 1.
    """
    values = maps.flatten(2)  # (N, C, places)
    there = (values > 0).double()
    total = there.sum((1, 2)).clamp_min(1)
    count = round(share * values[0].numel())
    sizes = values.flatten(1).double()
    q = sizes / sizes.sum(1, keepdim=True)
    kept = (keep_probabilities(q, count) * there.flatten(1)).sum(1) / total
    energies, per_place = values.double().square().sum(1), there.sum(1)
    needed = torch.full_like(kept, torch.inf)
    places = energies.shape[1]
    for c in sorted({round(n) for n in np.geomspace(1, 100 * places, 120)}):
        pi = keep_probabilities(mvm_probabilities(energies, c), c)
        enough = (pi * per_place).sum(1) / total >= kept
        needed = torch.where(enough & needed.isinf(), float(c), needed)
    return mean_share((needed / count).clamp_max(1).numpy())
