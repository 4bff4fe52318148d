"""Training as papers did it: network, recipe and settings under one name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from redoubtable.registry import Registry
from redoubtable.training.settings import Settings

_FEINMAN = "Feinman et al. 2017, https://arxiv.org/abs/1703.00410"
_PLAIN = {"mean": 0.0, "std": 1.0}  # images in [0, 1] as they are


@dataclass(frozen=True)
class Preset:
    """What was trained, and how; `redoubt train --preset` lets single settings be replaced.

    Attributes:
        model: a name in `MODELS`.
        recipe: a text for `RECIPES`.
        settings: epochs, learning rate and the like.
        arguments: of the model.
    """

    model: str
    recipe: str
    settings: Settings
    arguments: Mapping[str, Any] = field(default_factory=dict)


PRESETS: Registry[Callable[[], Preset]] = Registry("preset")


@PRESETS.register("trades-cifar10", paper="Zhang et al. 2019, https://arxiv.org/abs/1901.08573")
def trades_cifar10() -> Preset:
    """TRADES with beta 6 at Linf:0.031, 76 epochs, as in the authors' code.

    The rate is a tenth in epochs 75 and 76, the code's best checkpoint.
    """
    settings = Settings(
        epochs=76,
        weight_decay=2e-4,
        schedule="steps",
        milestones=(74,),
        augment="crop+flip",
    )
    return Preset("resnet18", "trades", settings, _PLAIN)


@PRESETS.register("fast-cifar10", paper="Wong et al. 2020, https://arxiv.org/abs/2001.03994")
def fast_cifar10() -> Preset:
    """FGSM from random starts at Linf:8/255, 15 epochs, cyclic rate up to 0.2."""
    settings = Settings(
        epochs=15, lr=0.2, weight_decay=5e-4, schedule="cyclic", augment="crop+flip"
    )
    norm = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
    return Preset("preact_resnet18", "fast", settings, norm)


@PRESETS.register("free-cifar10", paper="Shafahi et al. 2019, https://arxiv.org/abs/1904.12843")
def free_cifar10() -> Preset:
    """Free adversarial training, each batch replayed 8 times: 80,000 steps in all, in 26 epochs.

    The rate falls nearest to the 40,000th and the 60,000th step, which lie within epochs.
    """
    settings = Settings(
        epochs=26,
        weight_decay=2e-4,
        schedule="steps",
        milestones=(13, 19),
        augment="crop+flip",
    )
    return Preset("wrn_32_10", "free:replays=8", settings, _PLAIN)


@PRESETS.register("natural-cifar10", paper=None)
def natural_cifar10() -> Preset:
    """200 epochs of cross-entropy in a cosine: the undefended network of every comparison."""
    settings = Settings(epochs=200, weight_decay=5e-4, schedule="cosine", augment="crop+flip")
    return Preset("resnet18", "natural", settings, _PLAIN)


def _feinman(name: str, epochs: int) -> Preset:
    settings = Settings(
        epochs=epochs, lr=1.0, optimizer="adadelta", weight_decay=0.0, schedule="constant"
    )
    return Preset(name, "natural", settings)


@PRESETS.register("feinman-mnist", paper=_FEINMAN)
def feinman_mnist() -> Preset:
    """The MNIST network of Feinman et al.: 10 epochs of Adadelta, batches of 128."""
    return _feinman("feinman_mnist", 10)


@PRESETS.register("feinman-cifar10", paper=_FEINMAN)
def feinman_cifar10() -> Preset:
    """The CIFAR-10 network of Feinman et al.: 60 epochs of Adadelta, with its own L2 penalty."""
    return _feinman("feinman_cifar10", 60)


@PRESETS.register("feinman-svhn", paper=_FEINMAN)
def feinman_svhn() -> Preset:
    """The SVHN network of Feinman et al.: 60 epochs of Adadelta, batches of 128."""
    return _feinman("feinman_svhn", 60)


@PRESETS.register("defendr-imagenet", paper="Dornadula et al., Defendr")
def defendr_imagenet() -> Preset:
    """ResNet-101 on 201 classes of ImageNet, all layers: 20 epochs of Adam at 0.001.

    In the paper the last layer alone (2048 inputs, 201 classes) is retrained first, and everything
    starts from that network; there is no such stage here yet. Batches of 128.
    """
    settings = Settings(epochs=20, lr=1e-3, optimizer="adam", weight_decay=0.0, schedule="constant")
    return Preset("resnet101", "natural", settings, {"pretrained": True})
