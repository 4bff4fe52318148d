"""A certificate's record as a table, in a terminal and on pages."""

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
    title = f"{record['name']}: certified accuracy under {record['certificate']}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(f"radius ({record['norm']})", justify="right")
    table.add_column("right and certified", justify="right", no_wrap=True)
    for radius, share in certified_rows(record):
        table.add_row(radius, with_interval(share))
    console.print(table)
    console.print(guarantee(record), highlight=False)


def certified_rows(record: Record) -> list[tuple[str, Record]]:
    """Return what a certificate's table shows: radii and shares, abstentions last."""
    points = [(_short(p["radius"]), p["accuracy"]) for p in record["certified"]]
    return [*points, ("abstained", record["abstained"])]


def guarantee(record: Record) -> str:
    """Say in words what is certified, and how sure that is."""
    s = record["settings"]
    return (
        f"Guarantee: {record['guarantee']}. Each certificate is wrong with a probability of at "
        f"most {s['alpha']:g}. {record['data']['n']} images, {s['n0']} + {s['n']} samples each, "
        f"seed {s['seed']}; intervals are of the images."
    )


def _short(radius: float) -> str:
    """Three digits after the point, or none where there are none."""
    return f"{radius:.0f}" if radius == int(radius) else f"{radius:.3f}"
