"""Input gradients, surrogates of what has none, and fast copies of a model to search on."""

from redoubtable.gradients.fast_copies import FastCopy, exact_model, fast_copy
from redoubtable.gradients.slopes import (
    CPU_PIECE,
    Slope,
    answers,
    bpda,
    finite_difference,
    images_per_pass,
    input_gradient,
    mean_logits,
)

__all__ = [
    "CPU_PIECE",
    "FastCopy",
    "Slope",
    "answers",
    "bpda",
    "exact_model",
    "fast_copy",
    "finite_difference",
    "images_per_pass",
    "input_gradient",
    "mean_logits",
]
