"""Dropping Pixels for Adversarial Robustness (Hosseini, Kannan & Poovendran 2019)."""

from redoubtable.papers.dropping_pixels.accuracies import figure_2, table_1
from redoubtable.papers.dropping_pixels.attacks import figure_5, figure_6
from redoubtable.papers.dropping_pixels.beyond import certificate, gradients, masks, steps
from redoubtable.papers.dropping_pixels.pictures import figure_3, figure_4
from redoubtable.papers.dropping_pixels.scale import RATE, SCALES, VARIANTS
from redoubtable.papers.frame import PAPERS, Experiment, Paper, Published

_CIFAR = "cifar10"


def _table_1_published() -> list[Published]:
    rate = f"r = {RATE:g}"
    numbers = [
        ("resnet110, original", 0.939, "Table 1, experiment 1"),
        (f"resnet20, {rate}", 0.752, "Table 1, experiment 2"),
        (f"resnet56, {rate}", 0.794, "Table 1, experiment 2"),
        (f"resnet110, {rate}", 0.811, "Table 1, experiment 2"),
        ("resnet110, r ~ U[0, 1]", 0.830, "Table 1, experiment 3"),
    ]
    return [Published(series, value, _CIFAR, where) for series, value, where in numbers]


_VARIANTS = [
    Published(f"resnet110, {title}", value, _CIFAR, "section 3.3")
    for title, value in zip(VARIANTS.values(), (0.789, 0.809), strict=True)
]


EXPERIMENTS = (
    Experiment(
        "table-1",
        "Accuracy on subsampled images",
        table_1,
        published=_table_1_published(),
        claim="At a drop rate of 90% about 4 points (GTSRB) and 13 points (CIFAR-10) are lost; "
        "training at random rates loses less than training at the rate of the test.",
    ),
    Experiment(
        "figure-2",
        "Accuracy against the drop rate, a network for each",
        figure_2,
        axis="drop rate",
        claim="Accuracy stays nearly flat up to high drop rates, then falls.",
    ),
    Experiment(
        "figure-3",
        "Where the mass of explanation maps lies, and the maps; accuracies of section 3.3",
        figure_3,
        published=_VARIANTS,
        claim="Trained at random rates, or with originals mapped to uniform, most of the mass lies "
        "on dropped values; with noisy ones mapped to uniform, on kept values.",
    ),
    Experiment(
        "figure-4",
        "How much of the first filters lies at their centre, and the filters",
        figure_4,
        claim="Trained at a drop rate of 90% filters are concentrated at their centre; at random "
        "rates they are a mixture.",
    ),
    Experiment(
        "figure-5",
        "Accuracy under L0 attacks against the drop rate",
        figure_5,
        axis="drop rate",
        claim="Higher drop rates leave more under attack and less without; with ten masks and "
        "rejection adversarial accuracy is on par with standard accuracy at high drop rates.",
    ),
    Experiment(
        "figure-6",
        "Accuracy under L2 and Linf attacks against the drop rate",
        figure_6,
        axis="drop rate",
        claim="Higher drop rates leave more under attack; the paper gives no numbers.",
    ),
    Experiment(
        "certificate",
        "Proved, attacked knowing all, attacked as in the paper",
        certificate,
        axis="changed pixels",
        claim="Not in the paper.",
    ),
    Experiment(
        "masks",
        "More masks in each gradient: the paper's attack on one mask, ours on the guard",
        masks,
        axis="masks",
        claim="The paper takes ten.",
    ),
    Experiment(
        "steps",
        "More steps: the paper's attack on one mask, ours on the guard",
        steps,
        axis="steps",
        claim="The paper does not say how many steps it takes.",
    ),
    Experiment(
        "gradients",
        "Gradients at a lower drop rate than the guard's: our attack on it",
        gradients,
        axis="drop rate of the gradients",
        claim="The paper attacks at the guard's own rate.",
    ),
)


@PAPERS.register("dropping-pixels")
def dropping_pixels() -> Paper:
    """Random pixel subsampling, votes and rejection by entropy (Hosseini et al. 2019)."""
    return Paper(
        "Dropping Pixels for Adversarial Robustness (Hosseini, Kannan & Poovendran 2019)",
        "https://arxiv.org/abs/1905.00180",
        EXPERIMENTS,
        SCALES,
    )
