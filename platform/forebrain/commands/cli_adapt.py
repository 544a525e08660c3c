"""A published backbone adapted to a recording, and forecasting with what came of it."""

from __future__ import annotations

import argparse


def register(subcommands: argparse._SubParsersAction) -> None:
    """Adds the subcommand."""
    parser = subcommands.add_parser(
        "adapt",
        help="fit a published backbone to a recording",
        description="Fits an interface for a recording's units to a frozen backbone, scores it on the part "
        "held back in time, and writes what forecasts again, a report and pictures.",
    )
    parser.add_argument(
        "--model", required=True, metavar="REF",
        help="name, name@3 or name@alias of a published backbone; or a run folder, with a / in it",
    )  # fmt: skip
    parser.add_argument("--recording", required=True, metavar="FILE", help="as for forebrain inspect")
    parser.add_argument("--session", metavar="ID", help="which session, where the recording holds several")
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument(
        "--mode", default="embeddings", choices=("embeddings", "forecaster", "full", "scratch", "none"),
        help="what is trained: the interface alone (default), the forecaster too, everything, everything "
        "from random weights, or nothing",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, help="optimiser steps (default: 200)")
    parser.add_argument("--batch_size", type=int, help="windows a step")
    parser.add_argument("--learning_rate", type=float, help="of the interface")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of matrix products (default: fp32)")
    parser.add_argument("--seed", type=int, help="of the order of windows and random numbers (default: 0)")
    parser.add_argument(
        "--resample", action="store_true",
        help="bring the recording to the nearest rate that the backbone was trained on",
    )  # fmt: skip
    parser.add_argument(
        "--registry", metavar="URI", help="where the backbone is (default: FOREBRAIN_REGISTRY)"
    )
    parser.set_defaults(run=_adapt)


def _adapt(options: argparse.Namespace) -> int:
    from forebrain.adaptation.artifact import require_new
    from forebrain.adaptation.backbone import Backbone
    from forebrain.adaptation.comparison import compare
    from forebrain.adaptation.fit import FitConfig
    from forebrain.adaptation.recording import open_session
    from forebrain.adaptation.report import save_comparison
    from forebrain.console import Follower, make_console
    from forebrain.evaluation.tables import overview

    given = {name: getattr(options, name) for name in FitConfig.__dataclass_fields__ if name in options}
    config = FitConfig(**{name: value for name, value in given.items() if value is not None})
    require_new(options.out)
    backbone = Backbone.open(options.model, options.registry)
    session = open_session(options.recording, options.session)
    console = make_console()
    comparison = compare(
        backbone, session, options.mode, config, options.resample, progress=Follower(console)
    )
    save_comparison(comparison, options.out)
    for finding in comparison.findings():
        console.print(finding)
    console.print(overview(comparison.test).to_rich())
    if comparison.leak:
        console.print(f"LEAK: {comparison.leak}.", style="bold red")
    console.print(comparison.verdict())
    console.print(f"Report and pictures: {options.out}/report.md")
    return 0


def register_forecast(subcommands: argparse._SubParsersAction) -> None:
    """Adds the subcommand."""
    parser = subcommands.add_parser(
        "forecast",
        help="forecast what comes after a recording's end",
        description="Forecasts what comes after the end of a recording of an animal that was adapted to, as "
        "CSV: a row for each frame ahead, a column for each unit.",
    )
    parser.add_argument("--adapted", required=True, metavar="DIR", help="the --out of forebrain adapt")
    parser.add_argument(
        "--recording", required=True, metavar="FILE", help="of the same units, in their order"
    )
    parser.add_argument("--session", metavar="ID", help="which session, where the recording holds several")
    parser.add_argument("--out", metavar="FILE", help="a CSV file (default: the terminal)")
    parser.add_argument("--registry", metavar="URI", help="where the backbone is (default: where it was)")
    parser.set_defaults(run=_forecast)


def _forecast(options: argparse.Namespace) -> int:
    from forebrain.adaptation.artifact import Adapted
    from forebrain.adaptation.recording import open_session
    from forebrain_registry.storage import Folder

    adapted = Adapted.load(options.adapted, options.registry)
    window = adapted.latest_window(open_session(options.recording, options.session))
    table = adapted.as_csv(adapted.forecast(window))
    if options.out is None:
        print(table, end="")
    else:
        from pathlib import Path

        out = Path(options.out)
        Folder(out.parent).write(out.name, table.encode())
        print(f"{adapted.horizon} frames of {adapted.num_units} units forecast: {out}")
    return 0
