"""What is here, and what is missing for which job."""

from __future__ import annotations

import argparse
import os


def register(subcommands: argparse._SubParsersAction) -> None:
    """Adds the subcommand."""
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

    from forebrain.commands.doctor import as_json, examine, is_well

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
