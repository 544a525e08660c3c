"""Public recordings: a catalogue that is downloaded from and added to."""

from __future__ import annotations

import argparse


def register(subcommands: argparse._SubParsersAction) -> None:
    """Adds the subcommand."""
    parser = subcommands.add_parser("data", help="list, download and add public recordings")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    action = actions.add_parser("list", help="name every recording of the catalogue")
    action.set_defaults(run=_list_data)

    action = actions.add_parser(
        "get",
        help="download recordings, check them and print where they lie; of an address (https, or "
        "dandi:000NNN/PATH) only what reading takes is fetched",
    )
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
    from forebrain.sessions.frames import pieces
    from forebrain.sessions.readers import open_recording
    from forebrain.sessions.remote import fetched_bytes, is_remote

    for name in options.names:
        if not is_remote(name):
            print(get(name))
            continue
        for session in open_recording(name):
            for start, stop in pieces(0, session.num_frames, session.num_units):
                session.frames(start, stop)
            print(f"{session.id}: {session.num_frames} frames x {session.num_units} units")
        print(f"{name}  ({fetched_bytes(name) / 1e6:.1f} MB fetched; prepare and adapt take this address)")
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
