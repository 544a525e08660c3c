"""Prepares recordings for training: reads, checks and repairs them into shards with an index.

Sessions that are there already are left as they are. A line names those that are of none of the recordings
given; one of them that is a recording given, under the name that it had before, is replaced. Recordings are
prepared in parallel with Ray, or with `--workers 0` one after another in this process. What cannot be used is
named and stops no other; the exit status is 1 if none can be used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console

from forebrain.console import Table
from forebrain.out_folder import SET, require_own
from forebrain.shards.index import SessionEntry, remarks
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, map_with_ray, prepare
from forebrain.shards.recordings import find_all
from forebrain_registry.lines import one_line
from forebrain_registry.storage import Folder

ALIASES = {"--recordings": "--recording"}  # as scripts have it
WINDOW_FRAMES = 64  # the published window: context 48, horizon 16


@dataclass(frozen=True)
class Config:
    """The recordings to prepare.

    Attributes:
        recording: files and folders of recordings, or sim://default?seed=0 for simulated ones.
        out: folder or s3://bucket/folder for the shards.
        workers: 0: this process alone, without Ray. None: Ray, with all CPUs there are.
        prepare: how recordings become shards.
    """

    recording: list[str]
    out: str
    workers: Literal[0] | None = None
    prepare: PrepareConfig = field(default_factory=PrepareConfig)


def run(config: Config, console: Console) -> int:
    """Prepares, and shows a table of all sessions that are there then."""
    require_own(Folder(config.out), SET)
    result = prepare(
        find_all(config.recording),
        config.out,
        config.prepare,
        run_each=map_with_ray if config.workers is None else map_here,
        progress=_say,
    )
    for failure in result.failures:
        print(f"cannot be used: {one_line(failure)}", file=sys.stderr)
    in_set = sorted((*result.sessions, *result.others), key=lambda entry: entry.id)
    console.print(_table(in_set))
    for entry in result.sessions:
        for remark in remarks(entry):
            _say(f"{entry.id}: {remark}")
    print(
        f"{len(in_set)} sessions, {result.num_skipped + len(result.others)} of them prepared before, "
        f"{len(result.failures)} cannot be used"
    )
    _say(Folder(config.out).uri)
    return 0


def _say(line: str) -> None:
    print(one_line(line), flush=True)


def _table(sessions: Sequence[SessionEntry]) -> Table:
    table = Table(
        "session", "species", "frames", "units", "Hz", "segments", f"windows of {WINDOW_FRAMES}", "findings",
        title="prepared sessions", left=[1],
    )  # fmt: skip
    for entry in sessions:
        table.add_row(
            entry.id,
            entry.species,
            str(entry.num_frames),
            str(entry.num_units),
            "unknown" if entry.rate_hz is None else f"{entry.rate_hz:.4g}",
            str(len(entry.segments)),
            str(entry.num_windows(WINDOW_FRAMES)),
            str(len(entry.report.findings)),
        )
    return table
