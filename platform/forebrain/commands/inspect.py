"""Reads and repairs recordings and says what was found. Writes nothing but, if asked, pictures and sidecars.

What a recording does not state can be tried here: --rate_hz, --species, --subject, --variable hold over the
files and their sidecars. The exit status is 1 if none can be used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from forebrain.commands._out import require_free, write_out
from forebrain.console import Table
from forebrain.errors import ConfigError
from forebrain.scoring.protocols import DEFAULT, PARTS, least_frames, windows_of
from forebrain.sessions import inspection
from forebrain.sessions.finding import printable
from forebrain.sessions.inspection import Inspected
from forebrain.sessions.sidecar import Sidecar, check_sidecar
from forebrain.shards.recordings import find_all, name_of, open_any
from forebrain_registry.lines import one_line
from forebrain_registry.storage import path_here, scratch

POSITIONAL = "recording"
ALIASES = {"--recordings": "--recording"}  # as scripts have it


@dataclass(frozen=True)
class Config:
    """The recordings to look at.

    Attributes:
        recording: files and folders of recordings, addresses (https, dandi:000NNN/PATH), or
            sim://default?seed=0, or sim://stimulated?kernels=FILE&minutes=20&noise=0.25.
        write_sidecar: write what the recordings leave open into sidecar files to fill in; in a terminal, ask
            first.
        rate_hz: frames a second, over what the recordings and their sidecars say.
        species: the species, in the same way.
        subject: the animal's name, in the same way.
        variable: the array to read, where a file holds several.
        picture: PNG file that shows the traces of the first recording as they would be used.
        overwrite: replace the picture that is there.
        context, horizon: frames of the windows that recordings must have room for, and in which changes of
            inputs are counted.
    """

    recording: list[str]
    write_sidecar: bool = False
    rate_hz: float | None = None
    species: str | None = None
    subject: str | None = None
    variable: str | None = None
    picture: str | None = None
    overwrite: bool = False
    context: int = 48
    horizon: int = 16

    def __post_init__(self) -> None:
        if min(self.context, self.horizon) < 1:
            raise ConfigError(f"context is {self.context} and horizon {self.horizon}; expected 1 or more.")

    def said(self) -> Sidecar:
        """What the command line says of the recordings."""
        given = {name: getattr(self, name) for name in ("rate_hz", "species", "subject", "variable")}
        return check_sidecar(
            {name: value for name, value in given.items() if value is not None}, "the command line"
        )


def run(config: Config, console: Console) -> int:
    """Shows a table of sessions, remarks, and what cannot be used."""
    picture = path_here(config.picture) if config.picture else None
    require_free(None if picture is None else str(picture), config.overwrite, "picture")
    said = config.said()
    results = list(inspect(config.recording, said))
    if config.write_sidecar and sys.stdin.isatty() and sys.stdout.isatty():
        results = _after_asking(config.recording, said, results)
    num_usable = sum(result.session is not None for result in results)
    if num_usable:
        console.print(as_table(results))
        inputs = inspection.as_input_table(results, config.context, config.horizon)
        if inputs is not None:
            console.print(inputs)
    for result in results:
        for line in result.remarks():
            print(one_line(line))
    for line in (*too_short(results, config.context, config.horizon), *inspection.same_numbers(results)):
        print(one_line(line))
    for result in results:
        if result.error:
            print(f"cannot be used: {one_line(result.error)}", file=sys.stderr)
    if config.write_sidecar:
        asked = (result for result in results if not result.address.startswith("sim://"))
        for path in inspection.write_questions(asked):
            print(f"questions written to {printable(path)}; fill in what you know and run this again")
    if picture is not None and num_usable:
        write_out(str(picture), _drawn(results), config.overwrite, "picture")
        print(f"Picture: {printable(picture)}")
    print(f"{num_usable} sessions can be used, {len(results) - num_usable} cannot")
    return 0 if num_usable else 1


def too_short(results: Sequence[Inspected], context: int, horizon: int) -> Iterator[str]:
    """What a session needs at least, where one has less."""
    for result in results:
        session = result.session
        if session is None:
            continue
        parts = [
            part
            for part in PARTS
            if not windows_of(DEFAULT, part, session.num_frames, session.segments, context, horizon).count
        ]
        if parts:
            least = least_frames(context, horizon)
            seconds = "" if session.rate_hz is None else f" ({least / session.rate_hz:.3g} s)"
            yield (
                f"{session.id}: too short for forecasts of {horizon} frames from {context}: no such window "
                f"fits into its {' and '.join(parts)} part. At least {least} unbroken frames{seconds} are "
                "needed; --context and --horizon try shorter ones, for a model that was trained on such."
            )


def _drawn(results: Sequence[Inspected]) -> bytes:
    """A picture of the first session."""
    from forebrain.evaluation.recording import draw_recording  # needs matplotlib

    shown = next(result.session for result in results if result.session is not None)
    with scratch() as folder:
        return draw_recording(shown, folder / "picture.png").read_bytes()


def _after_asking(addresses: Sequence[str], said: Sidecar, results: list[Inspected]) -> list[Inspected]:
    """The results once a person has answered the questions; an answer may lead to the next question."""
    passed: set[str] = set()
    while asked := [each for each in results if each.question and each.address not in passed]:
        if inspection.ask(asked[0], input, print) is None:
            passed.add(asked[0].address)
        else:
            results = list(inspect(addresses, said))
    return results


def inspect(addresses: Sequence[str], said: Sidecar | None = None) -> Iterator[Inspected]:
    """Reads and repairs every session at the addresses, one after the other, and writes nothing.

    Args:
        addresses: of files, folders and simulated sets.
        said: what the user says of all of them, over what their sidecar files say.

    Raises:
        RecordingError: there is nothing at an address.
    """
    for result in inspection.inspect_all(find_all(addresses), partial(open_any, given=said), _format_of):
        yield _as_said(result, said)


def _as_said(result: Inspected, said: Sidecar | None) -> Inspected:
    """The result, with what was said here named as such: readers take it for a sidecar's word."""
    session = result.session
    if session is None or said is None or said == Sidecar():
        return result
    told = {
        name: text.replace("the sidecar", "the command line" + (name != "rate_from") * " or the sidecar")
        for name, text in session.metadata.items()
        if name in ("rate_from", "identity_from") and (name != "rate_from" or said.rate_hz)
    }
    return replace(result, session=replace(session, metadata={**session.metadata, **told}))


def as_table(results: Sequence[Inspected]) -> Table:
    """The sessions that can be used, a row each."""
    return inspection.as_table(results, name_of)


def _format_of(address: str) -> str:
    if address.startswith("sim://"):
        return "simulated"
    from forebrain.sessions.readers import reader_name

    return reader_name(address) or ""
