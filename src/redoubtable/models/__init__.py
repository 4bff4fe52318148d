"""Networks by name, and the folders they are kept in."""

from redoubtable.models.cards import Card, load_model, read_card, save_model
from redoubtable.models.catalogue import MODELS, Architecture, architecture_of, create
from redoubtable.models.normalize import Normalize
from redoubtable.models.resnet_cifar import resnet20, resnet56, resnet110
from redoubtable.models.small_cnn import small_cnn

__all__ = [
    "MODELS",
    "Architecture",
    "Card",
    "Normalize",
    "architecture_of",
    "create",
    "load_model",
    "read_card",
    "resnet20",
    "resnet56",
    "resnet110",
    "save_model",
    "small_cnn",
]
