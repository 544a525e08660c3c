"""A preview of recordings before anything is prepared: what would be read, and the questions left open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from forebrain.console import Table
from forebrain.errors import RecordingError
from forebrain.sessions import remote
from forebrain.sessions.finding import printable
from forebrain.sessions.inputs import Input, changes, share_of_windows
from forebrain.sessions.questions import RecordingQuestion, as_yaml, flow
from forebrain.sessions.repair import repair
from forebrain.sessions.report import RecordingReport
from forebrain.sessions.session import READER_NOTES, READING_NOTES, Session, numbers_of, twins
from forebrain.sessions.sidecar import check_sidecar, load_yaml, parse_sidecar, read_sidecar_values
from forebrain_registry.storage import Folder

# What readers tell of a session in its metadata, and how a person is told; guesses are among READER_NOTES.
_TOLD = {
    "rate_from": "rate: {rate}, from {}",
    "axis_from": "frames and units: told by {}",
    "identity_from": "identity: {}",
    "variable": "read: {}",
    "read_by": "read by {}",
    **READING_NOTES,
    "left_out": "left out: {}",
    "sampling_rate_from": "sampling rate: from {}",
    "unread": "{}",
    "also_in_the_file": "also in the file: {}",
    "inputs_from": "inputs: {}",
    "inputs_left_out": "left out of the inputs: {}",
    "inputs_not_planned": "{}",
    "valid_frames": "valid frames: {}",
}


@dataclass(frozen=True)
class Inspected:
    """One session of a recording as it would be used, or why it cannot be.

    Attributes:
        address: the recording's.
        format: the reader's name, empty where none knows the file.
        session: after repair; None if it cannot be used.
        report: what repair found.
        error: why the recording or session cannot be used, else empty.
        question: what the user is to answer first, None for nothing.
    """

    address: str
    format: str
    session: Session | None = None
    report: RecordingReport = field(default_factory=RecordingReport)
    error: str = ""
    question: RecordingQuestion | None = None

    def remarks(self) -> Iterator[str]:
        """The facts that a person should know about the session, a line each."""
        if self.session is None:
            return
        metadata = self.session.metadata
        rate_hz = self.session.rate_hz
        signal = "" if self.session.signal == "unknown" else f"; signal: {self.session.signal}"
        yield f"{self.session.id}: format: {self.format}{signal}"
        if rate_hz is None:
            yield f"{self.session.id}: rate: unknown, {metadata.get('rate_from', 'since nothing states it')}"
        rate = "" if rate_hz is None else f"{rate_hz:.4g} Hz"
        for key, words in _TOLD.items():
            if key in metadata and (key != "rate_from" or rate_hz is not None):
                yield f"{self.session.id}: {words.format(metadata[key], rate=rate)}"
        for finding in self.report.findings:
            yield f"{self.session.id}: {finding}"
        for name in READER_NOTES:
            if name in metadata:
                yield f"{self.session.id}: {metadata[name]}"

    def guesses(self) -> dict[str, list[str]]:
        """Keys of a sidecar that would put a word in place of a guess, with what was guessed."""
        if self.session is None:
            return {}
        found: dict[str, list[str]] = {}
        if "identity_note" in self.session.metadata:
            found |= {"subject": [self.session.subject], "session": [self.session.session]}
        if self.session.species == "unknown":
            found["species"] = []
        if self.session.rate_hz is None:
            found["rate_hz"] = []
        return found


def inspect_all(
    addresses: Iterable[str],
    open_recording: Callable[[str], list[Session]],
    format_of: Callable[[str], str],
) -> Iterator[Inspected]:
    """Reads and repairs every session of the recordings, one after the other, and writes nothing.

    Of sessions with one name only the first can be used, as in a prepared set.
    """
    owner: dict[str, str] = {}
    for address in addresses:
        for result in _inspect_one(address, open_recording, format_of):
            session = result.session
            if session is not None and session.id in owner:
                yield Inspected(
                    address,
                    result.format,
                    error=f"{address}: session {session.id} was already found in {owner[session.id]}; "
                    "only that one is used. If they differ, give one another session name in a sidecar file.",
                )
                continue
            if session is not None:
                owner[session.id] = address
            yield result


def _inspect_one(
    address: str, open_recording: Callable[[str], list[Session]], format_of: Callable[[str], str]
) -> Iterator[Inspected]:
    try:
        format_name = format_of(address)
        sessions = open_recording(address)
    except RecordingQuestion as question:
        yield Inspected(address, "", error=str(question), question=question)
        return
    except RecordingError as error:
        yield Inspected(printable(address), "", error=str(error))
        return
    for session in sessions:
        try:
            repaired, report = repair(session)
        except RecordingError as error:
            yield Inspected(address, format_name, error=f"{address}: {error}")
        else:
            yield Inspected(address, format_name, repaired, report)


def same_numbers(results: Iterable[Inspected]) -> Iterator[str]:
    """A line for each session that holds the numbers of one before it, or begins with them."""
    return twins(
        (result.session.id, numbers_of(result.session)) for result in results if result.session is not None
    )


def as_table(results: Sequence[Inspected], name_of: Callable[[str], str]) -> Table:
    """The sessions that can be used, a row each."""
    table = Table(
        "recording", "session", "species", "frames", "units", "Hz", "segments", "findings",
        title="recordings as they would be used", left=[1, 2],
    )  # fmt: skip
    for result in results:
        if result.session is not None:
            table.add_row(name_of(result.address), *_cells(result, result.session))
    return table


def as_input_table(results: Sequence[Inspected], context: int, horizon: int) -> Table | None:
    """The inputs of the sessions that can be used, a row each, and one for all targets of a pattern; None
    where there are none.

    Args:
        context, horizon: of the windows in which changes are counted, frames.
    """
    table = Table(
        "session", "input", "kind", "unit", "can be planned", "changes in frames",
        f"in windows ({context} + {horizon})", title="inputs", keys=2, left=[2, 3, 4],
    )  # fmt: skip
    for result in results:
        if result.session is not None:
            for row in _input_rows(result.session, context, horizon):
                table.add_row(*row)
    return table if table.rows else None


def _input_rows(session: Session, context: int, horizon: int) -> Iterator[tuple[str, ...]]:
    groups: dict[str, list[Input]] = {}
    for each in session.inputs:
        groups.setdefault(each.group, []).append(each)
    segments = session.segments
    in_plan = np.zeros(session.num_frames, bool)

    def row(name: str, kind: str, unit: str, planned: str, changed: np.ndarray) -> tuple[str, ...]:
        windows = share_of_windows(changed, segments, context, horizon)
        in_windows = "none fits" if windows is None else f"{windows:.1%}"
        return session.id, name, kind, unit, planned, f"{changed.mean():.1%}", in_windows

    planned = 0
    for group, members in groups.items():
        changed = changes(session.input_values([group]), segments)
        kind = members[0].kind if members[0].target is None else f"pattern of {len(members)}"
        if members[0].can_be_planned:
            planned += 1
            in_plan |= changed
        yield row(group, kind, members[0].unit, "yes" if members[0].can_be_planned else "no", changed)
    if planned > 1:
        yield row(f"any of the {planned} that can be planned", "", "", "yes", in_plan)


def _cells(result: Inspected, session: Session) -> Iterator[str]:
    yield session.id
    yield session.species
    yield str(session.num_frames)
    yield str(session.num_units)
    yield "unknown" if session.rate_hz is None else f"{session.rate_hz:.4g}"
    yield str(len(session.segments))
    yield str(len(result.report.findings))


# Sidecar files to fill in.


def sidecar_path(address: str) -> Path:
    """The sidecar file that speaks of one recording alone; of one elsewhere it lies on this machine."""
    if remote.is_remote(address):
        return remote.sidecar_path(address)
    path = Path(address)
    return path.with_name(f"{path.name}.session.yaml")


def write_questions(results: Iterable[Inspected]) -> list[Path]:
    """Writes what the recordings leave open into sidecar files to fill in; what is there stays.

    Returns:
        The files written to; a key without a value says nothing, so they change nothing until filled in.

    Raises:
        RecordingError: a sidecar file that is there is not valid.
    """
    written = []
    for result in results:
        path = sidecar_path(result.address)
        known = set(read_sidecar_values(path)) if path.is_file() else set()
        text = ""
        if result.question is not None:
            choices = {key: values for key, values in result.question.choices.items() if key not in known}
            if choices:
                text += as_yaml(RecordingQuestion(str(result.question), choices))
        guesses = {key: values for key, values in result.guesses().items() if key not in known}
        if guesses:
            words = f"{result.address}: nothing in the recording states the following; examples are guesses."
            text += as_yaml(RecordingQuestion(words, guesses))
        if text:
            _append(path, text)
            written.append(path)
    return list(dict.fromkeys(written))


def ask(
    result: Inspected, read_line: Callable[[str], str], show: Callable[[str], None]
) -> dict[str, Any] | None:
    """Asks a person the question that a recording leaves open, and writes the answers into its sidecar file.

    Args:
        read_line: shows a prompt and gives what was typed.
        show: shows a line.

    Returns:
        The answers; None if nothing was answered, or there is no question.
    """
    if result.question is None:
        return None
    show(str(result.question))
    answers: dict[str, Any] = {}
    for key, values in result.question.choices.items():
        for number, value in enumerate(values, start=1):
            show(f"  {number}) {key}: {flow(value)}")
        hint = f"a number of 1 to {len(values)}, or " if values else ""
        answer = _answer(key, values, f"{key} ({hint}a value; empty to pass): ", read_line, show)
        if answer is not None:
            answers[key] = answer
            if key != "sampling_rate_hz":  # one answer settles the question, but this is one of two
                break
    if not answers:
        return None
    path = sidecar_path(result.address)
    empty = _keys_without_value(path)
    if empty & answers.keys():
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        kept = [line for line in lines if line.split(":")[0] not in empty & answers.keys()]
        _write(path, "\n".join(kept) + "\n")
    _append(path, "".join(f"{key}: {flow(value)}\n" for key, value in answers.items()))
    return answers


def _answer(
    key: str,
    values: Sequence[Any],
    prompt: str,
    read_line: Callable[[str], str],
    show: Callable[[str], None],
) -> Any:
    """One answer, asked for until it is valid; None where nothing is typed."""
    while True:
        typed = read_line(prompt).strip()
        if not typed:
            return None
        if typed.isdigit() and 1 <= int(typed) <= len(values):
            return values[int(typed) - 1]
        try:
            parsed: Mapping[str, Any] = load_yaml(f"{key}: {typed}")
            check_sidecar(parsed, "the answer")
            return parsed[key]
        except (RecordingError, yaml.YAMLError, ValueError) as error:
            show(str(error))


def _keys_without_value(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {key for key, value in read_sidecar_values(path).items() if value is None}


def _append(path: Path, text: str) -> None:
    """Adds lines to a sidecar file; it is checked first, and afterwards is valid or as it was."""
    before = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    if before:
        parse_sidecar(path)
        before = before.rstrip("\n") + "\n"
    _write(path, before + text)


def _write(path: Path, text: str) -> None:
    Folder(path.parent).write(path.name, text.encode())
