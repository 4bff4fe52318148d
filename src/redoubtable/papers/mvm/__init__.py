"""Efficient Randomized Defense against Adversarial Attacks in Deep Convolutional Neural Networks.

Sheikholeslami, Jain & Giannakis: MVM sampling with entropy detection, beside SAP and dropout.
"""

from redoubtable.papers.frame import PAPERS, Experiment, Paper, Published
from redoubtable.papers.mvm.adaptive import adaptive, sap_classifier
from redoubtable.papers.mvm.beyond import (
    black_box,
    carlini_wagner,
    false_alarms,
    leaked_seed,
    masks,
    steps,
)
from redoubtable.papers.mvm.figures import figure_1
from redoubtable.papers.mvm.protocol import figure_3, table_1, table_2, table_3
from redoubtable.papers.mvm.scale import SCALES, SETTINGS

_DATA = ("mnist", "svhn", "cifar10")
_TABLE_2 = {
    "clean": (0.987, 0.922, 0.826),
    "JSMA": (0.0270, 0.0032, 0.0020),
    "FGSM": (0.0587, 0.0329, 0.0703),
    "BIM-A": (0.0, 0.0, 0.0057),
}
_ATTACKS = ("FGSM", "BIM-A", "JSMA")
_TABLE_3 = {
    "MVM c = 0.5N": (0.947, 0.982, 0.983, 0.901, 0.741, 0.794, 0.630, 0.578, 0.643),
    "MVM c = N": (0.848, 0.987, 0.982, 0.933, 0.834, 0.885, 0.756, 0.718, 0.804),
    "MVM c = 2N": (0.699, 0.972, 0.936, 0.906, 0.766, 0.934, 0.787, 0.858, 0.899),
    "SAP 50%": (0.613, 0.749, 0.746, 0.752, 0.601, 0.804, 0.757, 0.785, 0.850),
    "SAP 80%": (0.618, 0.713, 0.667, 0.667, 0.568, 0.729, 0.718, 0.736, 0.871),
    "SAP 100%": (0.631, 0.715, 0.628, 0.635, 0.550, 0.692, 0.688, 0.694, 0.878),
    "dropout p = 0.5": (0.845, 0.991, 0.984, 0.951, 0.853, 0.904, 0.701, 0.606, 0.710),
}
assert set(_TABLE_3) == set(SETTINGS)


def _table_2() -> list[Published]:
    return [
        Published(name, value, data, "Table 2", views=("clean", "static"))
        for name, values in _TABLE_2.items()
        for data, value in zip(_DATA, values, strict=True)
    ]


def _table_3() -> list[Published]:
    places = [(data, attack) for data in _DATA for attack in _ATTACKS]
    return [
        Published(f"{attack}, {name}", value, data, "Table 3", views=("static",))
        for name, values in _TABLE_3.items()
        for (data, attack), value in zip(places, values, strict=True)
    ]


EXPERIMENTS = (
    Experiment(
        "table-1",
        "Draws that MVM needs for each draw of SAP",
        table_1,
        claim="Of q values in maps of p channels SAP has to draw some q, MVM q / p.",
    ),
    Experiment(
        "table-2",
        "Accuracy of the network without units",
        table_2,
        published=_table_2(),
        claim="FGSM, BIM-A and JSMA bring it down to a few percent.",
    ),
    Experiment(
        "table-3",
        "Area under the ROC curve of each detector",
        table_3,
        published=_table_3(),
        claim="MVM detects up to 10.2 points better than the best of the others (MNIST, FGSM).",
    ),
    Experiment(
        "figure-1",
        "How likely pixels are drawn: noise, clean and adversarial images",
        figure_1,
        claim="Adversarial images have nearly the probabilities of clean ones, noise uniform ones; "
        "more draws make curves flatter.",
    ),
    Experiment("figure-3", "ROC curves", figure_3, claim="The curves behind table 3."),
    Experiment(
        "adaptive", "Attacks that know all of a detector", adaptive, claim="Not in the paper."
    ),
    Experiment(
        "sap",
        "SAP as a classifier",
        sap_classifier,
        published=[
            Published(
                "SAP 100%",
                0.0,
                "cifar10",
                "Athalye et al. 2018, section 5.3.1",
                views=("adaptive",),
            )
        ],
        claim="Not in the paper; averaged gradients leave nothing.",
    ),
    Experiment(
        "carlini-wagner",
        "Many masks at once under L2, at 5% false positives",
        carlini_wagner,
        claim="Not in the paper.",
    ),
    Experiment(
        "black-box",
        "Search by scores (Square), at 5% false positives",
        black_box,
        claim="Not in the paper.",
    ),
    Experiment(
        "masks",
        "More draws in each gradient, against MVM at 5% false positives",
        masks,
        axis="draws",
        claim="Not in the paper.",
    ),
    Experiment(
        "steps",
        "More steps, against MVM at 5% false positives",
        steps,
        axis="steps",
        claim="Not in the paper.",
    ),
    Experiment(
        "false-alarms",
        "Images that are only to be refused, at 5% false positives",
        false_alarms,
        axis="part of eps",
        claim="Not in the paper.",
    ),
    Experiment(
        "leaked-seed",
        "A defender whose seed is known, at 5% false positives",
        leaked_seed,
        claim="Not in the paper.",
    ),
)


@PAPERS.register("mvm")
def mvm() -> Paper:
    """MVM sampling of feature maps with entropy detection (Sheikholeslami et al.)."""
    return Paper(
        "Efficient Randomized Defense against Adversarial Attacks in Deep Convolutional Neural "
        "Networks (Sheikholeslami, Jain & Giannakis 2019)",
        "https://experts.umn.edu/en/publications/efficient-randomized-defense-against-adversarial-attacks-in-deep-",
        EXPERIMENTS,
        SCALES,
    )
