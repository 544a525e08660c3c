"""The command `forebrain`: a function registers each subcommand; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from forebrain.errors import ForebrainError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
        The exit status: 0 if it did what was asked, 1 if not, 2 for a command line that makes no sense.
    """
    parser = argparse.ArgumentParser(prog="forebrain", description="Forecast brain activity.")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for register in _COMMANDS:
        register(subcommands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except ForebrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _register_inspect(subcommands: argparse._SubParsersAction) -> None:
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
    from forebrain.console import make_console
    from forebrain.inspection import as_table, inspect

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


def _register_data(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser("data", help="list, download and add public recordings")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    action = actions.add_parser("list", help="name every recording of the catalogue")
    action.set_defaults(run=_list_data)

    action = actions.add_parser("get", help="download recordings, check them and print where they lie")
    action.add_argument("names", nargs="+", metavar="NAME")
    action.set_defaults(run=_get_data)

    action = actions.add_parser("add", help="add a recording of your own to the catalogue")
    action.add_argument("name", metavar="NAME")
    action.add_argument("--url", required=True, help="http or https; its last part names the file")
    action.add_argument("--sha256", required=True, help="of the file, 64 hexadecimal digits")
    action.add_argument("--licence", required=True, help="as the source states it")
    action.add_argument("--citation", default="", help="what to cite")
    action.add_argument("--description", default="", help="animal, region, number of neurons, duration")
    action.add_argument("--sidecar", metavar="FILE", help="YAML or JSON: what the file itself does not say")
    action.set_defaults(run=_add_data)


def _list_data(options: argparse.Namespace) -> int:
    from rich.table import Table

    from forebrain.console import make_console
    from forebrain.sessions.catalogue import catalogue

    table = Table(*("name", "description", "licence", "citation"))
    for name, entry in catalogue().items():
        table.add_row(name, entry.description, entry.licence, entry.citation)
    make_console().print(table)
    return 0


def _get_data(options: argparse.Namespace) -> int:
    from forebrain.sessions.catalogue import get

    for name in options.names:
        print(get(name))
    return 0


def _add_data(options: argparse.Namespace) -> int:
    from pathlib import Path

    from forebrain.sessions.catalogue import Entry, add
    from forebrain.sessions.sidecar import read_sidecar_values

    entry = Entry(
        url=options.url,
        sha256=options.sha256.lower(),
        licence=options.licence,
        citation=options.citation,
        description=options.description,
        sidecar=read_sidecar_values(Path(options.sidecar)) if options.sidecar else {},
    )
    print(f"{options.name} added to {add(options.name, entry)}")
    return 0


def _register_parity(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser(
        "parity",
        help="check the model against fixtures of the published one",
        description="Prints a line of JSON for each fixture. The exit status is 1 if one does not pass.",
    )
    parser.add_argument("folder", metavar="DIR", help="fixtures: <name>.json beside <name>.npz")
    parser.add_argument("--device", default="cpu", help="a torch device, for example cuda (default: cpu)")
    parser.set_defaults(run=_parity)


def _parity(options: argparse.Namespace) -> int:
    import json

    from forebrain.parity import check_folder

    all_passed = True
    for result in check_folder(options.folder, options.device):
        print(json.dumps(result), flush=True)
        all_passed &= result["passed"]
    return 0 if all_passed else 1


def _register_live(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser(
        "live",
        help="forecast while recording: serve a model, play a recording to it",
        description="`forebrain live serve --help`, `replay --help` and `soak --help` show the options.",
    )
    parser.add_argument("action", choices=("serve", "replay", "soak"))
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="of the action")
    parser.set_defaults(run=_live)


def _live(options: argparse.Namespace) -> int:
    from forebrain import live
    from forebrain.config import parse
    from forebrain.console import make_console

    console = make_console()
    if options.action == "serve":
        live.run_server(parse(live.ServeConfig, options.options), console)
        return 0
    if options.action == "replay":
        return 0 if live.run_replay(parse(live.ReplayConfig, options.options), console) else 1
    return 0 if live.run_soak(parse(live.SoakJobConfig, options.options), console) else 1


_COMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
    _register_inspect,
    _register_data,
    _register_parity,
    _register_live,
)
