"""The command `forebrain`: a module for each subcommand; what that needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from forebrain.commands import cli_adapt, cli_doctor, cli_inspect, cli_live, cli_parity, data
from forebrain.errors import ForebrainError

_COMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
    cli_inspect.register,
    data.register,
    cli_adapt.register,
    cli_adapt.register_forecast,
    cli_live.register,
    cli_doctor.register,
    cli_parity.register,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
        The exit status: 0 if it did what was asked, 1 if not, 2 for a command line that makes no sense, 130
        for Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="forebrain", description="Forecast brain activity.")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for register in _COMMANDS:
        register(subcommands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ForebrainError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
