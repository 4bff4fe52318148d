"""The command `redoubt`: one file per sub-command."""

import warnings

import typer

from redoubtable.cli.attack import attack
from redoubtable.cli.audit import audit
from redoubtable.cli.catalogue import env, listing
from redoubtable.cli.certify import certify
from redoubtable.cli.compare import compare
from redoubtable.cli.demo import demo
from redoubtable.cli.errors import one_line_warning
from redoubtable.cli.evaluate import evaluate
from redoubtable.cli.explain import explain
from redoubtable.cli.export import export
from redoubtable.cli.reproduce import reproduce
from redoubtable.cli.store import store
from redoubtable.cli.train import train
from redoubtable.data.memory import keep_freed_memory, keep_to_limit
from redoubtable.version import __version__

app = typer.Typer(
    name="redoubt",
    help="Defend image classifiers against adversarial examples, and doubt every defense.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo)
app.command("train")(train)
app.command("store")(store)
app.command("evaluate")(evaluate)
app.command("attack")(attack)
app.command("certify")(certify)
app.command("explain")(explain)
app.command("audit")(audit)
app.command("compare")(compare)
app.command("export")(export)
app.command("reproduce")(reproduce)
app.command("list")(listing)
app.command("env")(env)


def _version(shown: bool) -> None:
    if shown:
        print(f"redoubt {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Defend image classifiers against adversarial examples, and doubt every defense."""


def main() -> None:
    """Run the command line."""
    warnings.showwarning = one_line_warning
    if not keep_to_limit():
        keep_freed_memory()
    app()
