"""Training: one loop, and recipes that say what it lowers."""

from redoubtable.training.adversarial import fast, free, pgd, trades
from redoubtable.training.checkpoint import Epoch
from redoubtable.training.distilling import distilled
from redoubtable.training.presets import PRESETS, Preset
from redoubtable.training.recipes import (
    RECIPES,
    Loss,
    Recipe,
    natural,
    subsampled,
    subsampled_uniform,
)
from redoubtable.training.settings import Settings
from redoubtable.training.stored import Stored, read_stored, store
from redoubtable.training.trainer import Trained, train

__all__ = [
    "PRESETS",
    "RECIPES",
    "Epoch",
    "Loss",
    "Preset",
    "Recipe",
    "Settings",
    "Stored",
    "Trained",
    "distilled",
    "fast",
    "free",
    "natural",
    "pgd",
    "read_stored",
    "store",
    "subsampled",
    "subsampled_uniform",
    "trades",
    "train",
]
