"""What would be read from recordings."""

from __future__ import annotations

import argparse
import sys


def register(subcommands: argparse._SubParsersAction) -> None:
    """Adds the subcommand."""
    parser = subcommands.add_parser(
        "inspect",
        help="say what would be read from recordings",
        description="Reads and repairs recordings, says what was found, and writes nothing. "
        "The exit status is 1 if none can be used.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="files and folders of recordings, or sim://default?seed=0"
    )
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from forebrain.commands.inspect import as_table, inspect
    from forebrain.console import make_console

    results = list(inspect(options.paths))
    num_usable = sum(result.session is not None for result in results)
    if num_usable:
        make_console().print(as_table(results))
    for result in results:
        for line in result.remarks():
            print(line)
    for result in results:
        if result.error:
            print(f"cannot be used: {result.error}", file=sys.stderr)
    print(f"{num_usable} sessions can be used, {len(results) - num_usable} cannot")
    return 0 if num_usable else 1
