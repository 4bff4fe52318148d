"""Networks by name, and the folders they are kept in."""

from redoubtable.models.cards import Card, load_model, read_card, save_model
from redoubtable.models.carlini_wagner import carlini_wagner_cifar10, carlini_wagner_mnist
from redoubtable.models.catalogue import MODELS, Architecture, architecture_of, create
from redoubtable.models.denoiser import dae, dunet, dunet_small
from redoubtable.models.detector_nets import detector_gong, detector_small
from redoubtable.models.feinman import feinman_cifar10, feinman_mnist, feinman_svhn
from redoubtable.models.imagenet import resnet101, vgg16
from redoubtable.models.normalize import Normalize
from redoubtable.models.opening import open_model
from redoubtable.models.penalty import weight_penalty
from redoubtable.models.preact import preact_resnet18, wrn_28_10, wrn_34_10
from redoubtable.models.resnet import resnet18, resnet50
from redoubtable.models.resnet_cifar import resnet20, resnet56, resnet110
from redoubtable.models.small_cnn import small_cnn
from redoubtable.models.weights import load_weights

__all__ = [
    "MODELS",
    "Architecture",
    "Card",
    "Normalize",
    "architecture_of",
    "carlini_wagner_cifar10",
    "carlini_wagner_mnist",
    "create",
    "dae",
    "detector_gong",
    "detector_small",
    "dunet",
    "dunet_small",
    "feinman_cifar10",
    "feinman_mnist",
    "feinman_svhn",
    "load_model",
    "load_weights",
    "open_model",
    "preact_resnet18",
    "read_card",
    "resnet18",
    "resnet20",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "save_model",
    "small_cnn",
    "vgg16",
    "weight_penalty",
    "wrn_28_10",
    "wrn_34_10",
]
