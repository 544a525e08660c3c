"""What would be read from recordings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forebrain.sessions.inspection import Inspected


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
    parser.add_argument(
        "--write-sidecar",
        action="store_true",
        help="write what the recordings leave open into sidecar files to fill in; in a terminal, ask first",
    )
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from forebrain.commands.inspect import as_table, inspect
    from forebrain.console import make_console

    results = list(inspect(options.paths))
    if options.write_sidecar and sys.stdin.isatty() and sys.stdout.isatty():
        results = _after_asking(options.paths, results)
    num_usable = sum(result.session is not None for result in results)
    if num_usable:
        make_console().print(as_table(results))
    for result in results:
        for line in result.remarks():
            print(line)
    for result in results:
        if result.error:
            print(f"cannot be used: {result.error}", file=sys.stderr)
    if options.write_sidecar:
        from forebrain.sessions.inspection import write_questions

        for path in write_questions(r for r in results if not r.address.startswith("sim://")):
            print(f"questions written to {path}; fill in what you know and run this again")
    print(f"{num_usable} sessions can be used, {len(results) - num_usable} cannot")
    return 0 if num_usable else 1


def _after_asking(paths: Sequence[str], results: list[Inspected]) -> list[Inspected]:
    """The results once a person has answered the questions; an answer may lead to the next question."""
    from forebrain.commands.inspect import inspect
    from forebrain.sessions.inspection import ask

    passed: set[str] = set()
    while asked := [r for r in results if r.question and r.address not in passed]:
        if ask(asked[0], input, print) is None:
            passed.add(asked[0].address)
        else:
            results = list(inspect(paths))
    return results
