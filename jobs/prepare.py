"""Prepares recordings for training: python jobs/prepare.py --recordings PATH... --out URI"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.shards.index import SessionEntry, remarks
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import prepare
from forebrain.shards.recordings import find_all
from forebrain_registry.storage import Folder

WINDOW_FRAMES = 64  # the published window: context 48, horizon 16


@dataclass(frozen=True)
class PrepareJobConfig:
    """What to prepare.

    Attributes:
        recordings: files and folders of recordings, or sim://default?seed=0 for simulated ones.
        out: folder or s3://bucket/folder for the shards.
        prepare: how recordings become shards.
    """

    recordings: list[str]
    out: str
    prepare: PrepareConfig = field(default_factory=PrepareConfig)


def main(arguments: Sequence[str]) -> int:
    try:
        config = parse(PrepareJobConfig, arguments, description=__doc__)
        result = prepare(find_all(config.recordings), config.out, config.prepare, progress=_say)
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    for failure in result.failures:
        print(f"cannot be used: {failure}", file=sys.stderr)
    make_console().print(_table(result.sessions))
    for entry in result.sessions:
        for remark in remarks(entry):
            print(f"{entry.id}: {remark}")
    print(
        f"{len(result.sessions)} sessions, {result.num_skipped} of them prepared before, "
        f"{len(result.failures)} cannot be used"
    )
    print(Folder(config.out).uri)
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _table(sessions: tuple[SessionEntry, ...]) -> Table:
    table = Table(title="prepared sessions")
    table.add_column("session", overflow="fold")
    table.add_column("species")
    for name in ("frames", "units", "Hz", "segments", f"windows of {WINDOW_FRAMES}", "findings"):
        table.add_column(name, justify="right")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
