"""What every reproduction is made of: published numbers, scales, experiments, measured rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from redoubtable.registry import Registry, read_arguments, settable_fields
from redoubtable.statistics import Proportion
from redoubtable.training import Settings as Training
from redoubtable.training.settings import Augmentation

View = Literal["clean", "static", "adaptive", "certified", "none"]
"""What an attack knew; "clean" without one, "certified" where no attack can go below, "none" for
what is no accuracy."""


@dataclass(frozen=True)
class Row:
    """One number of an experiment.

    Attributes:
        series: the line of a table, or the curve that it is a point of.
        measure: what is measured.
        view: what the attack knew.
        found: the number with n and interval; None where it was published and not measured here.
        at: its place on the axis of the experiment; None in a table.
        draws: answers per image.
        published: the same number in the paper, in the unit of `found`.
        note: what else must be said of it.
    """

    series: str
    measure: str
    view: View
    found: Proportion | None
    at: float | None = None
    draws: int = 1
    published: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Published:
    """A number of the paper.

    Attributes:
        series: the series of the rows that it belongs beside.
        value: a share, in [0, 1].
        data: the data set that it was measured on; "cifar10-jpeg" is a copy of "cifar10".
        where: in the paper.
        at: place on the axis.
        views: what attacks knew in the rows that it may stand beside.
    """

    series: str
    value: float
    data: str
    where: str
    at: float | None = None
    views: tuple[View, ...] = ("clean", "none")


AUGMENT: Mapping[str, Augmentation] = {"cifar10": "crop+flip", "gtsrb": "crop"}
"""What moves leave a label right; images of other data are left alone."""


@dataclass(frozen=True)
class Scale:
    """How large a reproduction is; papers add what only they have.

    Attributes:
        data: data sets, unless the user names one.
        networks: architectures, smallest first.
        training: of every network, but for what data sets ask for.
        epochs: instead of those of `training`; None for these.
        images: attacked test images.
        clean: test images for clean accuracies; None for all.
        held_out: clean images that thresholds are fitted on; None for all there are.
        draws: answers per image of a random model, for selection and again for the report.
        arguments: of the networks.
        cascade: each attack sees only what stands in any of the draws after those before it; of
            fewer than 20 draws none does, and every attack sees all images.
    """

    data: tuple[str, ...]
    networks: tuple[str, ...]
    training: Training
    images: int
    clean: int | None
    held_out: int | None
    draws: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cascade: bool = False
    epochs: int | None = None

    def networks_on(self, data: str) -> tuple[str, ...]:
        """Return the architectures for a data set."""
        return self.networks

    def training_on(self, data: str) -> Training:
        """Return how networks are trained on a data set, less the seed."""
        epochs = self.epochs or self.training.epochs
        return replace(self.training, augment=AUGMENT.get(family(data), "none"), epochs=epochs)

    def __post_init__(self) -> None:
        """Refuse numbers of images, draws and epochs that are none."""
        for name in ("images", "clean", "held_out", "draws", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` of a scale must be at least 1, got {value}")


@dataclass(frozen=True)
class Experiment:
    """A table or figure of a paper, or what goes beyond it.

    Attributes:
        name: as on the command line, "table-1".
        title: what it shows.
        run: measures the rows in a lab, `(lab) -> rows`; it may also keep pictures there.
        axis: what `Row.at` is; None for a table.
        published: the paper's numbers.
        claim: what the paper says in words.
        data: families of data sets that it is about; empty for any.
    """

    name: str
    title: str
    run: Callable[[Any], Iterable[Row]]
    axis: str | None = None
    published: Sequence[Published] = ()
    claim: str = ""
    data: tuple[str, ...] = ()

    def on(self, data: str) -> bool:
        """Whether it is about a data set; any experiment runs on a stranger's."""
        known = {"cifar10", "gtsrb"}
        return not self.data or family(data) in self.data or family(data) not in known


@dataclass(frozen=True)
class Paper:
    """A paper whose experiments can be run.

    Attributes:
        title: of the paper, with authors and year.
        url: where it is.
        experiments: in their order.
        scales: "smoke", "cpu" and "full".
    """

    title: str
    url: str
    experiments: tuple[Experiment, ...]
    scales: Mapping[str, Scale]


def scaled(scales: Mapping[str, Scale], text: str) -> Scale:
    """Return a scale by its name, `cpu`, or changed, `cpu:images=200,draws=3`.

    Raises:
        ValueError: there is no such scale, or it has no such setting.
    """
    name, _, rest = text.strip().partition(":")
    if name not in scales:
        raise ValueError(f"`scale` must be one of {', '.join(scales)}, got {name!r}")
    kind = type(scales[name])
    return replace(scales[name], **read_arguments(rest, settable_fields(kind), "scale", name))


PAPERS: Registry[Callable[[], Paper]] = Registry("paper")


def family(data: str) -> str:
    """Return the data set that a name is a copy of: "cifar10" of "cifar10-jpeg"."""
    return data.partition("-")[0]


def beside(rows: Iterable[Row], published: Sequence[Published], data: str) -> list[Row]:
    """Put published numbers beside the measured ones; those not measured follow as rows.

    Args:
        rows: as measured on `data`.
        published: the paper's numbers; those of other data sets are left out.
        data: name of a data set.
    """
    open_ = {(p.series, p.at): p for p in published if p.data == family(data)}
    found = []
    for row in rows:
        match = open_.get((row.series, row.at))
        if match is not None and row.view in match.views:
            del open_[row.series, row.at]
            where = f"published: {match.where}"
            note = f"{row.note}; {where}" if row.note else where
            row = replace(row, published=match.value, note=note)
        found.append(row)
    for rest in open_.values():
        note = f"published: {rest.where}; not measured at this scale"
        found.append(
            Row(
                rest.series,
                "accuracy",
                rest.views[0],
                None,
                rest.at,
                published=rest.value,
                note=note,
            )
        )
    return found
