"""Data sets by name, file or folder, and their splits."""

from redoubtable.data.classes import CLASS_LISTS
from redoubtable.data.dataset import Dataset, ImageSet, Split, to_unit
from redoubtable.data.folder import Folder
from redoubtable.data.joined import Joined
from redoubtable.data.loading import load, read
from redoubtable.data.mapped import Mapped, open_mapped
from redoubtable.data.source import DATASETS

__all__ = [
    "CLASS_LISTS",
    "DATASETS",
    "Dataset",
    "Folder",
    "ImageSet",
    "Joined",
    "Mapped",
    "Split",
    "load",
    "open_mapped",
    "read",
    "to_unit",
]
