"""Reads and repairs recordings, says what was found, and writes nothing.

The exit status is 1 if none can be used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from forebrain.errors import RecordingError
from forebrain.sessions.repair import repair
from forebrain.sessions.report import RecordingReport
from forebrain.sessions.session import READER_NOTES, Session
from forebrain.shards.recordings import find_all, name_of, open_any

POSITIONAL = "recording"
ALIASES = {"--recordings": "--recording"}  # as scripts have it


@dataclass(frozen=True)
class Config:
    """What to look at.

    Attributes:
        recording: files and folders of recordings, or sim://default?seed=0.
    """

    recording: list[str]


def run(config: Config, console: Console) -> int:
    """Shows a table of sessions, remarks, and what cannot be used."""
    results = list(inspect(config.recording))
    num_usable = sum(result.session is not None for result in results)
    if num_usable:
        console.print(as_table(results))
    for result in results:
        for line in result.remarks():
            print(line)
    for result in results:
        if result.error:
            print(f"cannot be used: {result.error}", file=sys.stderr)
    print(f"{num_usable} sessions can be used, {len(results) - num_usable} cannot")
    return 0 if num_usable else 1


@dataclass(frozen=True)
class Inspected:
    """One session of a recording as it would be used, or why it cannot be.

    Attributes:
        address: the recording's.
        format: the reader's name, empty where none knows the file.
        session: after repair; None if it cannot be used.
        report: what repair found.
        error: why the recording or session cannot be used, else empty.
    """

    address: str
    format: str
    session: Session | None = None
    report: RecordingReport = field(default_factory=RecordingReport)
    error: str = ""

    def remarks(self) -> Iterator[str]:
        """What a person should know of the session, a line each."""
        if self.session is None:
            return
        for finding in self.report.findings:
            yield f"{self.session.id}: {finding}"
        for name in READER_NOTES:
            if name in self.session.metadata:
                yield f"{self.session.id}: {self.session.metadata[name]}"


def inspect(addresses: Sequence[str]) -> Iterator[Inspected]:
    """Reads and repairs every session at the addresses, one after the other, and writes nothing.

    Raises:
        RecordingError: there is nothing at an address.
    """
    for address in find_all(addresses):
        yield from _inspect_one(address)


def as_table(results: Sequence[Inspected]) -> Table:
    """The sessions that can be used, a row each."""
    table = Table(title="recordings as they would be used")
    table.add_column("recording", overflow="fold")
    table.add_column("session", overflow="fold")
    for name in ("format", "species", "signal"):
        table.add_column(name)
    for name in ("frames", "units", "Hz", "segments", "findings"):
        table.add_column(name, justify="right")
    for result in results:
        if result.session is not None:
            table.add_row(*_cells(result, result.session))
    return table


def _inspect_one(address: str) -> Iterator[Inspected]:
    try:
        format_name = _format_of(address)
        sessions = open_any(address)
    except RecordingError as error:
        yield Inspected(address, "", error=str(error))
        return
    for session in sessions:
        try:
            repaired, report = repair(session)
        except RecordingError as error:
            yield Inspected(address, format_name, error=f"{address}: {error}")
        else:
            yield Inspected(address, format_name, repaired, report)


def _format_of(address: str) -> str:
    if address.startswith("sim://"):
        return "simulated"
    from forebrain.sessions.readers import reader_name

    return reader_name(address) or ""


def _cells(result: Inspected, session: Session) -> Iterator[str]:
    yield name_of(result.address)
    yield session.id
    yield result.format
    yield session.species
    yield session.signal
    yield str(session.num_frames)
    yield str(session.num_units)
    yield "unknown" if session.rate_hz is None else f"{session.rate_hz:.4g}"
    yield str(len(session.segments))
    yield str(len(result.report.findings))
