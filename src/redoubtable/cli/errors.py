"""One line for every mistake a user can make."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

Command = TypeVar("Command", bound=Callable[..., Any])
BAD_INPUT = 2
_NO_MEMORY = ("can't allocate memory", "out of memory")  # torch's words, on processors and on CUDA


def one_line_errors(command: Command) -> Command:
    """Turn errors of input into one line on the error stream and exit code 2.

    With REDOUBT_TRACEBACK set they keep their traceback, for whoever looks for a bug.
    """

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError) as error:
            if os.environ.get("REDOUBT_TRACEBACK"):
                raise
            print(f"redoubt: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(BAD_INPUT) from error
        except (RuntimeError, MemoryError) as error:
            short = any(word in str(error) for word in _NO_MEMORY) or isinstance(error, MemoryError)
            if os.environ.get("REDOUBT_TRACEBACK") or not short:
                raise
            text = "out of memory; give a smaller --batch-size, and for evaluate a smaller --chunk"
            print(f"redoubt: {text}", file=sys.stderr)
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt:
            print("redoubt: stopped; with --out the same command goes on", file=sys.stderr)
            raise typer.Exit(130) from None

    return guarded  # type: ignore[return-value]


def one_line_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    """Print a warning as one line on the error stream, without the place in the code."""
    print(f"redoubt: warning: {' '.join(str(message).split())}", file=sys.stderr)
