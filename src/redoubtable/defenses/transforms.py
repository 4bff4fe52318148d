"""What input transforms have in common."""

from abc import abstractmethod

from torch import nn

from redoubtable.gradients import bpda
from redoubtable.parts import Part
from redoubtable.types import Images


class InputTransform(Part):
    """A part that changes the images before the network sees them.

    A subclass states its facts and defines `transform`; one that states `differentiable=False` also
    defines `surrogate` and says in its docstring why that is a fair stand-in.
    """

    @abstractmethod
    def transform(self, x: Images) -> Images:
        """Return the images that the network sees, of the same shape or another."""

    def surrogate(self, x: Images) -> Images:
        """Return what the backward pass differentiates in place of `transform`."""
        raise NotImplementedError(
            f"{type(self).__name__} says it is not differentiable and must define `surrogate`"
        )

    def forward(self, x: Images) -> Images:
        """Return `transform(x)`, with the surrogate's gradient where it has none of its own."""
        if self.facts.differentiable:
            return self.transform(x)
        return bpda(self.transform, self.surrogate)(x)

    def undefended(self) -> nn.Module:
        """Return the identity: without the transform the network sees the image itself."""
        return nn.Identity()
