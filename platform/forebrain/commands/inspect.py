"""What would be read from recordings, before anything is prepared: `forebrain inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from forebrain.sessions import inspection
from forebrain.sessions.inspection import Inspected
from forebrain.shards.recordings import find_all, name_of, open_any


def inspect(addresses: Sequence[str]) -> Iterator[Inspected]:
    """Reads and repairs every session at the addresses, one after the other, and writes nothing.

    Raises:
        RecordingError: there is nothing at an address.
    """
    yield from inspection.inspect_all(find_all(addresses), open_any, _format_of)


def as_table(results: Sequence[Inspected]) -> Table:
    """The sessions that can be used, a row each."""
    return inspection.as_table(results, name_of)


def _format_of(address: str) -> str:
    if address.startswith("sim://"):
        return "simulated"
    from forebrain.sessions.readers import reader_name

    return reader_name(address) or ""
