"""The sampled networks by name, for a command line."""

from torch import nn

from redoubtable.defenses.registry import DEFENSES
from redoubtable.defenses.sampling.sampled import Derivative, Sampled
from redoubtable.defenses.sampling.units import MVM, SAP, Counts, Dropout, Law


@DEFENSES.register("mvm", form="wrapper", relus=True, paper="Sheikholeslami et al. 2019")
def mvm(
    model: nn.Module,
    *,
    share: float = 0.5,
    counts: Counts = "image",
    law: Law = "multinomial",
    solver: str = "exact",
    first: int = 0,
    at_input: bool = False,
    recompute: bool = False,
    derivative: Derivative = "fixed",
) -> Sampled:
    """Sampling of the places of feature maps with the least variance (Sheikholeslami et al.).

    Detection as in the paper is a vote of labels and its entropy around it:
    `vote:draws=100,count=labels` and `reject:score=entropy:votes=100,rule=fpr,level=0.05`.

    Args:
        model: a trained classifier; see `Sampled`.
        share: of the places, how many draws; see `MVM`.
        counts: whose places.
        law: how draws are made.
        solver: of the probabilities, see `mvm_probabilities`.
        first: number of the first ReLU with a unit, from 0.
        at_input: a unit on the image, too.
        recompute: probabilities from the sampled maps, without the unsampled pass.
        derivative: what a backward pass takes a unit for.
    """
    unit = MVM(share, counts, law, solver)
    return Sampled(
        model, unit, first=first, at_input=at_input, recompute=recompute, derivative=derivative
    )


@DEFENSES.register("sap", form="wrapper", relus=True, paper="Dhillon et al. 2018")
def sap(
    model: nn.Module,
    *,
    share: float = 1.0,
    law: Law = "multinomial",
    first: int = 0,
    at_input: bool = False,
    recompute: bool = True,
    derivative: Derivative = "fixed",
) -> Sampled:
    """Stochastic activation pruning (Dhillon et al. 2018), broken by averaged gradients.

    Args:
        model: a trained classifier; see `Sampled`.
        share: of the values of a map, how many draws; see `SAP`.
        law: how draws are made.
        first: number of the first ReLU with a unit, from 0.
        at_input: a unit on the image, too.
        recompute: probabilities from the sampled maps as its authors have it; where SAP is compared
            with MVM they come from an unsampled pass.
        derivative: what a backward pass takes a unit for.
    """
    unit = SAP(share, law)
    return Sampled(
        model, unit, first=first, at_input=at_input, recompute=recompute, derivative=derivative
    )


@DEFENSES.register(
    "dropout", form="wrapper", relus=True, paper="Sheikholeslami et al. 2019, section 3"
)
def dropout(
    model: nn.Module,
    *,
    rate: float = 0.5,
    first: int = 0,
    at_input: bool = False,
    derivative: Derivative = "fixed",
) -> Sampled:
    """Dropout of feature maps at test time, the baseline of MVM sampling.

    Args:
        model: a trained classifier; see `Sampled`.
        rate: share of the values that are dropped.
        first: number of the first ReLU with a unit, from 0.
        at_input: a unit on the image, too.
        derivative: what a backward pass takes a unit for.
    """
    unit = Dropout(rate)
    return Sampled(model, unit, first=first, at_input=at_input, derivative=derivative)
