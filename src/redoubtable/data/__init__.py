"""Data sets by name or file, and their splits."""

from redoubtable.data.dataset import Dataset, Split, to_unit
from redoubtable.data.loading import DATASETS, load, read

__all__ = ["DATASETS", "Dataset", "Split", "load", "read", "to_unit"]
