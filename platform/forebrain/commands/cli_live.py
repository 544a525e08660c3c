"""Forecasting while recording."""

from __future__ import annotations

import argparse


def register(subcommands: argparse._SubParsersAction) -> None:
    """Adds the subcommand."""
    parser = subcommands.add_parser(
        "live",
        help="forecast while recording: serve a model, play a recording to it",
        description="`forebrain live serve --help`, `replay --help` and `soak --help` show the options.",
    )
    parser.add_argument("action", choices=("serve", "replay", "soak"))
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="of the action")
    parser.set_defaults(run=_live)


def _live(options: argparse.Namespace) -> int:
    from forebrain.commands import live
    from forebrain.config import parse
    from forebrain.console import make_console

    console = make_console()
    if options.action == "serve":
        live.run_server(parse(live.ServeConfig, options.options), console)
        return 0
    if options.action == "replay":
        other_names = {"--budget-ms": "--budget_ms"}
        config = parse(live.ReplayConfig, options.options, short=other_names)
        return 0 if live.run_replay(config, console) else 1
    return 0 if live.run_soak(parse(live.SoakJobConfig, options.options), console) else 1
