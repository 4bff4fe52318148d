"""Training: one loop, and recipes that say what it lowers."""

from redoubtable.training.checkpoint import Epoch
from redoubtable.training.recipes import RECIPES, Recipe, natural, subsampled
from redoubtable.training.settings import Settings
from redoubtable.training.trainer import Trained, train

__all__ = [
    "RECIPES",
    "Epoch",
    "Recipe",
    "Settings",
    "Trained",
    "natural",
    "subsampled",
    "train",
]
