"""The command `forebrain`: a function registers each subcommand; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
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


def _register_doctor(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser(
        "doctor",
        help="say what is here, and what is missing for which job",
        description="Looks at this machine, the packages, and the storage and cluster that are named. "
        "The exit status is 1 if something that was asked about does not work.",
    )
    parser.add_argument(
        "--storage",
        action="append",
        default=[],
        metavar="URI",
        help="where runs, shards or models are to lie; a small file is written there, read and removed "
        "(may be given several times)",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        default=os.environ.get("RAY_ADDRESS"),
        help="host:port of a Ray cluster's head, or http://host:port, where jobs are submitted "
        "(default: RAY_ADDRESS)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    import json

    from forebrain.doctor import as_json, examine, is_well

    findings, area = [], ""
    for finding in examine(options.storage, options.cluster):
        findings.append(finding)
        if options.json:
            continue
        if finding.area != area:
            area = finding.area
            print(area)
        print(f"  {finding.verdict:8}{finding.text}", flush=True)
        if finding.mend:
            print(f"          -> {finding.mend}")
    if options.json:
        print(json.dumps(as_json(findings), indent=1))
    return 0 if is_well(findings) else 1


def _register_adapt(subcommands: argparse._SubParsersAction) -> None:
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
    from forebrain.console import make_console
    from forebrain.evaluation.tables import overview

    given = {name: getattr(options, name) for name in FitConfig.__dataclass_fields__ if name in options}
    config = FitConfig(**{name: value for name, value in given.items() if value is not None})
    require_new(options.out)
    backbone = Backbone.open(options.model, options.registry)
    session = open_session(options.recording, options.session)
    comparison = compare(backbone, session, options.mode, config, options.resample)
    save_comparison(comparison, options.out)
    console = make_console()
    for finding in comparison.adaptation.prepared.report.findings:
        console.print(str(finding))
    console.print(overview(comparison.test).to_rich())
    if comparison.leak:
        console.print(f"LEAK: {comparison.leak}.", style="bold red")
    console.print(comparison.verdict())
    console.print(f"Report and pictures: {options.out}/report.md")
    return 0


def _register_forecast(subcommands: argparse._SubParsersAction) -> None:
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
    from forebrain.storage import Folder

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
    _register_adapt,
    _register_forecast,
    _register_parity,
    _register_doctor,
    _register_live,
)


if __name__ == "__main__":
    sys.exit(main())
