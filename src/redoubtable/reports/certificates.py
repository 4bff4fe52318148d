"""A certificate's record as a table in a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from redoubtable.reports.record import Record, with_interval


def show_certificate(record: Record, console: Console | None = None) -> None:
    """Print certified accuracy against the radius, and what the guarantee is.

    Args:
        record: of kind "certificate".
        console: where to; standard output by default.
    """
    console = console or Console()
    s = record["settings"]
    title = f"{record['name']}: certified accuracy under {record['certificate']}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(f"radius ({record['norm']})", justify="right")
    table.add_column("right and certified", justify="right", no_wrap=True)
    for point in record["certified"]:
        table.add_row(_short(point["radius"]), with_interval(point["accuracy"]))
    table.add_row("abstained", with_interval(record["abstained"]))
    console.print(table)
    said = (
        f"Guarantee: {record['guarantee']}. Each certificate is wrong with a probability of at "
        f"most {s['alpha']:g}. {record['data']['n']} images, {s['n0']} + {s['n']} samples each, "
        f"seed {s['seed']}; intervals are of the images."
    )
    console.print(said, highlight=False)


def _short(radius: float) -> str:
    """Three digits after the point, or none where there are none."""
    return f"{radius:.0f}" if radius == int(radius) else f"{radius:.3f}"
