"""A trained network with sampling units after its ReLUs."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from redoubtable.defenses.sampling.placing import AtFeatureMaps
from redoubtable.defenses.sampling.units import Unit, check_choice
from redoubtable.gradients import images_per_pass
from redoubtable.parts import Facts, Part, bare, facts_of
from redoubtable.types import Images, Logits

Derivative = Literal["fixed", "implicit", "identity"]
"""What a backward pass takes a unit for. A draw has no derivative to the probabilities, so none is
the true one: "fixed" holds probabilities and draws, "implicit" differentiates the factors 1/pi of
what was kept through the probabilities, "identity" lets gradients pass as if nothing were sampled,
which is exact in the mean, because a unit's mean is its input."""


class Sampled(Part):
    """A network whose feature maps are sampled at random; one call is one draw.

    Units stand where a ReLU gives feature maps, that is before flattening. An unsampled pass fixes
    the probabilities of all units, and the draws are made with these (Algorithm 3 of Sheikholeslami
    et al.). The network itself is not touched: `undefended` gives it back.

    Known against it: a unit's mean is the identity, so a confident adversarial image of the network
    without units is one with them (`derivative="identity"`); gradients averaged over draws beat SAP
    (Athalye et al. 2018, arXiv:1802.00420, section 5.3.1) and many masks at once the doubt of
    dropout (Carlini & Wagner 2017, arXiv:1705.07263, section 4.1).

    Args:
        network: a classifier with ReLUs; a part inside is sampled anew in every pass.
        unit: what stands at each place.
        first: number of the first ReLU with a unit, counted in the order of a pass from 0.
        at_input: a unit on the image, too, before the network.
        recompute: probabilities from the sampled maps themselves, without the unsampled pass.
        derivative: see `Derivative`. "fixed" is a fair stand-in for the true one, which is 0 or
            infinite: its mean over draws is the derivative of the mean of one unit.

    Raises:
        TypeError: `unit` is none.
        ValueError: the network has units already, abstains or depends on its batch; `first` is
            negative; `derivative` is unknown.
    """

    def __init__(
        self,
        network: nn.Module,
        unit: Unit,
        *,
        first: int = 0,
        at_input: bool = False,
        recompute: bool = False,
        derivative: Derivative = "fixed",
    ) -> None:
        super().__init__()
        if not isinstance(unit, Unit):
            raise TypeError(f"`unit` must be a Unit, as in MVM(0.5), got {type(unit).__name__}")
        if any(isinstance(m, Sampled) for m in network.modules()):
            raise ValueError("the network has sampling units already; take them out with `bare`")
        if facts_of(network).abstains or facts_of(network).batch_dependent:
            raise ValueError(
                "units stand in a plain classifier; put a rejection around it, and have no part "
                "inside that compares the images of a batch"
            )
        if first < 0:
            raise ValueError(f"`first` must be 0 or more, got {first}")
        check_choice("derivative", derivative, ("fixed", "implicit", "identity"))
        self.network = network
        self.unit = unit
        self.first = first
        self.at_input = at_input
        self.recompute = recompute or not unit.follows_maps
        self.derivative: Derivative = derivative

    @property
    def facts(self) -> Facts:
        """State random maps, and the unsampled pass that draws share.

        A draw that follows the map has no derivative to it; the surrogate is `derivative`.
        """
        return Facts(
            stochastic=True,
            differentiable=not self.unit.follows_maps and self.derivative != "identity",
            batch_dependent=False,
            abstains=False,
            passes=1,
            once=0 if self.recompute else 1,
        )

    def forward(self, x: Images) -> Logits:
        """Return (N, K) logits of one draw.

        Raises:
            ValueError: the network has no ReLU that gives feature maps, from `first` on.
        """
        return self.answers(x, 1)[0]

    def answers(self, x: Images, draws: int) -> Logits:
        """Return (draws, N, K) logits of several draws; what comes before the units runs once.

        Raises:
            ValueError: as for a call.
        """
        if not len(x):
            none: Logits = self.network(x)
            return none.expand(draws, 0, -1)
        given, places = self._given(x)
        # Maps of a quarter of the places have twice the channels as a rule: half the values.
        smaller = max(1, math.isqrt(x.shape[2:].numel() // places))
        size = max(1, smaller * images_per_pass(self.network, x, draws, None) // draws)
        parts = zip(torch.split(x, size), *(torch.split(p, size) for p in given), strict=True)
        return torch.cat([self.draw(part, draws, plan) for part, *plan in parts], 1)

    def _given(self, x: Images) -> tuple[list[Tensor], int]:
        """What all units draw with on images, and how many places the first map has.

        Where units find out themselves it is nothing, and a map is taken to be as large as images.
        """
        if self.recompute:
            return [], x.shape[2:].numel()
        pieces = torch.split(x, images_per_pass(self.network, x, 1, None))
        looks = [self._look(piece) for piece in pieces]
        found = zip(*(probabilities for probabilities, _ in looks), strict=True)
        return [torch.cat(each) for each in found], looks[0][1]

    def probabilities(self, x: Images) -> list[Tensor]:
        """Return what each unit draws with on images, from an unsampled pass."""
        return self._look(x)[0]

    def _look(self, x: Images) -> tuple[list[Tensor], int]:
        """Return `probabilities`, and how many places the first sampled map has."""
        found: list[Tensor] = []
        sizes: list[int] = []
        places = x.shape[2:].numel()

        def sample(maps: Tensor) -> None:
            found.append(self.unit.probabilities(maps, places))
            sizes.append(maps.shape[2:].numel())

        if self.at_input:
            sample(x)

        def keep(number: int, maps: Tensor) -> Tensor:
            if number >= self.first:
                sample(maps)
            return maps

        through = self.derivative == "implicit" and torch.is_grad_enabled()
        with torch.set_grad_enabled(through), AtFeatureMaps(keep, x) as pass_:
            self.network(x)
        self._check_places(pass_.count)
        return found, sizes[0]

    def draw(self, x: Images, draws: int, probabilities: Sequence[Tensor]) -> Logits:
        """Return (draws, N, K) logits, in one pass, of units that draw with what is given.

        Args:
            x: (N, C, H, W) images.
            draws: of each image.
            probabilities: of each unit, as `probabilities` gives them; not looked at where units
                find out themselves (`recompute`).

        Raises:
            ValueError: as for a call.
        """
        given = None if self.recompute else iter(probabilities)
        n, places = len(x), x.shape[2:].numel()

        def sample(maps: Tensor) -> Tensor:
            own = next(given) if given else self.unit.probabilities(maps, places)
            # Maps that differ from draw to draw already have probabilities each of their own.
            times = draws if len(own) == n else 1
            shape = torch.Size((len(own), *maps.shape[1:]))
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.derivative == "implicit"):
                factors = self.unit.factors(own, times, shape, places).to(maps.dtype)
            sets = maps.view(-1, *shape)
            if len(sets) == times and not maps.requires_grad and maps is not x:
                # A ReLU's maps are the pass's own, and memory of one's own is the dearest here.
                return sets.mul_(factors).flatten(0, 1)
            out: Tensor = sets * factors
            if self.derivative == "identity":
                out = sets + (out - sets).detach()
            return out.flatten(0, 1)

        def visit(number: int, maps: Tensor) -> Tensor:
            return sample(maps) if number >= self.first else maps

        shown = sample(x) if self.at_input else x
        with AtFeatureMaps(visit, shown, draws if len(shown) == n else 1) as pass_:
            out: Tensor = self.network(shown)
        self._check_places(pass_.count)
        if len(out) != draws * n:
            raise ValueError(
                f"{draws} draws of {n} images gave {len(out)} answers; the network must give one "
                "answer to each image of its batch"
            )
        return out.view(draws, n, -1)

    def _check_places(self, count: int) -> None:
        if count <= self.first and not self.at_input:
            found = f"{count} ReLUs" if count else "no ReLU"
            raise ValueError(
                f"units stand after ReLUs that give feature maps, from number {self.first} on; the "
                f"network has {found} before flattening. Lower `first`, or sample the image "
                "(`at_input=True`)"
            )

    def undefended(self) -> nn.Module:
        """Return the network without units."""
        return self.network

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"first={self.first}, at_input={self.at_input}, recompute={self.recompute}, "
            f"derivative={self.derivative!r}"
        )


def insert_units(
    model: nn.Module,
    unit: Unit,
    *,
    first: int = 0,
    at_input: bool = False,
    recompute: bool = False,
    derivative: Derivative = "fixed",
) -> Sampled:
    """Return a trained network with sampling units after its ReLUs; see `Sampled`.

    The network is shared, not copied, and nothing in it changes; `remove_units` gives it back.

    Raises:
        TypeError: `unit` is none.
        ValueError: as for `Sampled`.
    """
    return Sampled(
        model,
        unit,
        first=first,
        at_input=at_input,
        recompute=recompute,
        derivative=derivative,
    )


def remove_units(model: nn.Module) -> nn.Module:
    """Return a model without its sampling units, in any composition; it is left as it is."""
    return bare(model, lambda part: isinstance(part, Sampled))
