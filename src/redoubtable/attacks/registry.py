"""The attacks by name."""

from typing import Protocol

from torch import nn

from redoubtable.attacks.surrogates import SURROGATES
from redoubtable.attacks.targets import TARGETS
from redoubtable.losses import LOSSES
from redoubtable.registry import Registry
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels


class Attack(Protocol):
    """`attack(model, x, y, threat, *, targets=None, ...) -> x_adv`.

    Returns the strongest legal image found for each example, also on failure. It never decides
    success, prints, moves devices, changes train or eval mode, or leaves hooks or `.grad` behind.
    """

    def __call__(self, model: nn.Module, x: Images, y: Labels, threat: ThreatModel, /) -> Images:
        """Return (N, C, H, W) legal images."""
        ...


ATTACKS: Registry[Attack] = Registry(
    "attack",
    {"loss": LOSSES, "success": LOSSES, "surrogates": SURROGATES, "targets": TARGETS},
)
"""Facts: `threats`, the norms an attack works under, and `access`, what it sees of the model:
"gradient", "score", "label" or "transfer"; `minimal`, whether it looks for the smallest change
and so may stay well inside the radius, and `differences`, whether it compares answers to nearby
images, which bf16 can't tell apart (both False where they are not stated)."""

ARGUMENTS = frozenset(
    {"targets", "steps", "step_size", "restarts", "queries", "loss", "success", "eot", "momentum"}
    | {"batch_size", "alpha", "draws", "stop", "randomness"}
    | {"label", "const", "confidence", "theta", "gamma", "search_steps", "classes"}
    | {"population", "surrogates", "on", "pairs", "sigma", "tanh"}
)
"""The argument names an attack may use; those after the second line are published algorithms' own:
`search_steps` of a binary search, `classes` that are aimed at in turn, the `population` of an
evolution, the `surrogates` that a transfer attack searches on, what a saliency map is taken `on`
and whether of `pairs`, `sigma`, how far away a gradient is estimated, and whether variables are a
`tanh` of the pixels."""


def check_threat(name: str, threat: ThreatModel) -> None:
    """Refuse a threat that an attack does not support.

    Raises:
        ValueError: naming the threats that it does.
    """
    threats = ATTACKS[name].facts["threats"]
    if not isinstance(threat, threats):
        known = ", ".join(t.name for t in threats)
        raise ValueError(f"attack {name!r} works under {known}, not under {threat.name}")
