"""The model against the published one."""

from __future__ import annotations

import argparse


def register(subcommands: argparse._SubParsersAction) -> None:
    """Adds the subcommand."""
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

    from forebrain.commands.parity import check_folder

    all_passed = True
    for result in check_folder(options.folder, options.device):
        print(json.dumps(result), flush=True)
        all_passed &= result["passed"]
    return 0 if all_passed else 1
