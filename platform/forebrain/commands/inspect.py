"""Reads and repairs recordings and says what was found. Writes nothing but, if asked, sidecars to fill in.

The exit status is 1 if none can be used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from forebrain.errors import ConfigError
from forebrain.sessions import inspection
from forebrain.sessions.inspection import Inspected
from forebrain.shards.recordings import find_all, name_of, open_any

POSITIONAL = "recording"
ALIASES = {"--recordings": "--recording"}  # as scripts have it


@dataclass(frozen=True)
class Config:
    """The recordings to look at.

    Attributes:
        recording: files and folders of recordings, addresses (https, dandi:000NNN/PATH), or
            sim://default?seed=0, or sim://stimulated?kernels=FILE&minutes=20&noise=0.25.
        context, horizon: frames of the windows in which changes of inputs are counted.
        write_sidecar: write what the recordings leave open into sidecar files to fill in; in a terminal, ask
            first.
    """

    recording: list[str]
    context: int = 48
    horizon: int = 16
    write_sidecar: bool = False

    def __post_init__(self) -> None:
        if min(self.context, self.horizon) < 1:
            raise ConfigError(
                f"context is {self.context} and horizon {self.horizon}; expected 1 or more frames."
            )


def run(config: Config, console: Console) -> int:
    """Shows a table of sessions, remarks, and what cannot be used."""
    results = list(inspect(config.recording))
    if config.write_sidecar and sys.stdin.isatty() and sys.stdout.isatty():
        results = _after_asking(config.recording, results)
    num_usable = sum(result.session is not None for result in results)
    if num_usable:
        console.print(as_table(results))
        inputs = inspection.as_input_table(results, config.context, config.horizon)
        if inputs is not None:
            console.print(inputs)
    for result in results:
        for line in result.remarks():
            print(line)
    for result in results:
        if result.error:
            print(f"cannot be used: {result.error}", file=sys.stderr)
    if config.write_sidecar:
        asked = (result for result in results if not result.address.startswith("sim://"))
        for path in inspection.write_questions(asked):
            print(f"questions written to {path}; fill in what you know and run this again")
    print(f"{num_usable} sessions can be used, {len(results) - num_usable} cannot")
    return 0 if num_usable else 1


def _after_asking(addresses: Sequence[str], results: list[Inspected]) -> list[Inspected]:
    """The results once a person has answered the questions; an answer may lead to the next question."""
    passed: set[str] = set()
    while asked := [each for each in results if each.question and each.address not in passed]:
        if inspection.ask(asked[0], input, print) is None:
            passed.add(asked[0].address)
        else:
            results = list(inspect(addresses))
    return results


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
