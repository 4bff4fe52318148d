"""Data sets by name or file, and their splits."""

from redoubtable.data.dataset import Dataset, ImageSet, LazyImages, Split, to_unit
from redoubtable.data.loading import DATASETS, load, read

__all__ = ["DATASETS", "Dataset", "ImageSet", "LazyImages", "Split", "load", "read", "to_unit"]
