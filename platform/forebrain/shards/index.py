"""The index: what a set of shards holds, session by session, as JSON that never changes by itself.

Two formats are read and one is written. Sets of format 1 hold page checksums, names of units and regions in
each entry, all tars in one folder, and no file of all entries; a session keeps the format it was written in
for as long as it stays in its set.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from forebrain.errors import ShardError
from forebrain.sessions.inputs import Input, InputKind
from forebrain.sessions.report import RecordingReport
from forebrain.sessions.session import READER_NOTES, READING_NOTES, Numbers, Range
from forebrain.shards.fits import persistence_remark
from forebrain.shards.pages import PageShape

FIRST_FORMAT = "forebrain-shards-1"
FORMAT = "forebrain-shards-2"
INDEX_NAME = "index.json"
# Every entry, a line each: one request opens a set of ten thousand sessions.
ENTRIES_NAME = "sessions.jsonl"
Run = tuple[int, int, int]  # frames [start, stop) and their value
# Fields of an entry that are written only where they say something: others have the bytes they had before.
_INPUT_FIELDS = ("input_kinds", "input_units", "split", "repetition")
NUM_PREFIXES = 16  # of tars
# Members of a sample that are read back in pages; what was done to the animal, and what it did.
TRACES, STIMULUS, BEHAVIOUR = "traces", "stimulus", "behaviour"


@dataclass(frozen=True)
class Shard:
    """One tar. `name` is relative to the set's address."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of one segment: one WebDataset sample.

    Attributes:
        shard: position in the entry's `shards`.
        key: WebDataset key in that tar.
        start, num_frames: frames of the session.
        offsets: member -> its first byte in the tar.
    """

    shard: int
    key: str
    start: int
    num_frames: int
    offsets: dict[str, int]

    @property
    def stop(self) -> int:
        return self.start + self.num_frames

    @property
    def offset(self) -> int:
        """First byte of the traces in the tar."""
        return self.offsets[TRACES]


@dataclass(frozen=True)
class Source:
    """The recording a session came from.

    Attributes:
        name: file name, without its folder.
        sha256: of the recording's bytes and of the sidecar files beside it.
        num_sessions: how many sessions the recording holds.
        named: what its path told (`recordings.path_names_of`), where one of the session's names comes from
            there; else empty.
    """

    name: str
    sha256: str
    num_sessions: int
    named: str = ""


@dataclass(frozen=True)
class FirstFormat:
    """The fields of an entry of format 1 that later formats keep in the session's arrays file.

    Attributes:
        page_crc32: of each stretch, checksums of its pages of traces.
    """

    unit_names: tuple[str, ...] | None
    brain_regions: tuple[str, ...] | None
    page_crc32: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SessionEntry:
    """Everything about one prepared session but its frames and what its arrays file holds.

    Attributes:
        rate_hz: frames a second after binning and resampling, None where unknown.
        num_frames, num_units: after repair.
        segments: unbroken frame ranges [start, stop); a window lies within one.
        conditions: frame ranges of each experimental condition by its name; none where they are not known.
        persistence: protocol -> that of the frames of the fit (`Moments.persistence`); none in sets prepared
            before it was known.
        report: what was found in the recording and what was done.
        fits: protocol -> the frame ranges its statistics were fitted on.
        pages: member -> the shape of its pages. Inputs are the members `stimulus`, whose future can be
            planned, and `behaviour`, whose future cannot; their channels are named by `stimulus_names` and
            `behaviour_names`.
        input_kinds, input_units: by a channel's name; none in sets prepared before they were kept.
        split: runs of frames [start, stop) and the part that the recording assigns them, as in
            `Session.split`; none where it assigns none.
        repetition: the same of `Session.repetition`.
        arrays_sha256: of the session's safetensors file (fits, checksums of pages, names and positions of
            units).
        arrays_size: of that file in bytes; 0 in sets prepared before it was kept.
        numbers_sha256: of the traces, whatever they are called and however they are cut into segments; empty
            in sets prepared before it was kept.
        start_sha256: of the first of them (`session.Numbers.start`); empty in sets prepared before it was.
        options_sha256: of the options it was prepared with, and the version of what prepared it.
        first_format: what entries of format 1 hold themselves; None in later ones.
    """

    id: str
    key: str
    dataset: str
    subject: str
    session: str
    species: str
    signal: str
    rate_hz: float | None
    num_frames: int
    num_units: int
    segments: tuple[Range, ...]
    stimulus_names: tuple[str, ...] | None
    behaviour_names: tuple[str, ...] | None
    metadata: dict[str, str]
    report: RecordingReport
    fits: dict[str, tuple[Range, ...]]
    pages: dict[str, PageShape]
    shards: tuple[Shard, ...]
    stretches: tuple[Stretch, ...]
    arrays_sha256: str
    source: Source
    options_sha256: str
    conditions: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    persistence: dict[str, float] = field(default_factory=dict)
    input_kinds: dict[str, InputKind] = field(default_factory=dict)
    input_units: dict[str, str] = field(default_factory=dict)
    split: tuple[Run, ...] = ()
    repetition: tuple[Run, ...] = ()
    arrays_size: int = 0
    numbers_sha256: str = ""
    start_sha256: str = ""
    first_format: FirstFormat | None = None

    @property
    def page_frames(self) -> int:
        """Frames of a page of traces."""
        return self.pages[TRACES].frames

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Channels of `stimulus`, then of `behaviour`; levels where no kind was kept."""
        return tuple(
            Input(name, self.input_kinds.get(name, "level"), self.input_units.get(name, ""), can_be_planned)
            for names, can_be_planned in ((self.stimulus_names, True), (self.behaviour_names, False))
            for name in names or ()
        )

    @property
    def content_sha256(self) -> str:
        """A hash by which sessions of the same numbers are found; that of the arrays, which changes with the
        segments, in sets prepared before that of the numbers was kept."""
        return self.numbers_sha256 or self.arrays_sha256

    @property
    def numbers(self) -> Numbers:
        return Numbers(self.content_sha256, self.start_sha256)

    @property
    def name(self) -> str:
        return entry_name(self.key)

    @property
    def arrays_name(self) -> str:
        return arrays_name(self.key)

    def num_windows(self, num_frames: int) -> int:
        """Windows of `num_frames` frames, stride 1, over the whole session."""
        return sum(max(0, stop - start - num_frames + 1) for start, stop in self.segments)

    def to_bytes(self) -> bytes:
        """The entry, which is of format 2, as one line of JSON."""
        row = {**asdict(self), "report": self.report.to_json()}
        del row["first_format"]
        for name in _INPUT_FIELDS:
            if not row[name]:
                del row[name]
        if not row["source"]["named"]:
            del row["source"]["named"]
        return to_json(row)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> SessionEntry:
        """Raises ShardError where the bytes are no entry of this format."""
        try:
            return cls._from_row(json.loads(data))
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(f"{where}: not an entry of a session; run prepare again.") from error

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> SessionEntry:
        if "pages" not in row:
            row = _from_first_format(row)
        for name in ("stimulus_names", "behaviour_names"):
            row[name] = _tuple(row[name])
        for name in ("split", "repetition"):
            row[name] = tuple((start, stop, value) for start, stop, value in row.get(name, ()))
        row["segments"] = _ranges(row["segments"])
        row["fits"] = {protocol: _ranges(ranges) for protocol, ranges in row["fits"].items()}
        row["conditions"] = {name: _ranges(ranges) for name, ranges in row.get("conditions", {}).items()}
        row["report"] = RecordingReport.from_json(row["report"])
        row["pages"] = {
            name: PageShape(shape["frames"], tuple(shape["edges"])) for name, shape in row["pages"].items()
        }
        row["shards"] = tuple(Shard(**shard) for shard in row["shards"])
        row["stretches"] = tuple(Stretch(**stretch) for stretch in row["stretches"])
        row["source"] = Source(**row["source"])
        return cls(**row)


def remarks(entry: SessionEntry) -> list[str]:
    """The facts that a person should know about a session, a line each: what was found in it, what its
    reader took and left of the recording, what it guessed, and that its frames do not persist."""
    told = [
        words.format(entry.metadata[name]) for name, words in READING_NOTES.items() if name in entry.metadata
    ]
    notes = [*told, *(entry.metadata.get(name) for name in READER_NOTES)]
    by_protocol = {name: persistence_remark(value) for name, value in entry.persistence.items()}
    said = {name: remark for name, remark in by_protocol.items() if remark is not None}
    if said:
        where = "" if len(said) == len(by_protocol) else f" under protocol {', '.join(said)}"
        notes.append(next(iter(said.values())) + where)
    return [*map(str, entry.report.findings), *(note for note in notes if note is not None)]


@dataclass(frozen=True)
class IndexRow:
    """One session in the index: enough to find its files and to see that they are whole."""

    id: str
    key: str
    entry_sha256: str
    shard_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Index:
    """The whole set. Written last, so a set without an index was not finished.

    Attributes:
        max_window: the longest window that surely lies within one stretch, frames.
        page_bytes: the size of a page, bytes, unless one frame is larger.
        options: the options of prepare.
        sessions: sorted by id.
    """

    max_window: int
    page_bytes: int
    options: dict[str, Any]
    sessions: tuple[IndexRow, ...]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the whole index: changes when an option or any session's data or fits change."""
        return hashlib.sha256(to_json(self._row())).hexdigest()

    def to_bytes(self) -> bytes:
        return to_json({"format": FORMAT, "fingerprint": self.fingerprint, **self._row()})

    def _row(self) -> dict[str, Any]:
        return {
            "max_window": self.max_window,
            "page_bytes": self.page_bytes,
            "options": self.options,
            "sessions": [vars(row) for row in self.sessions],  # asdict copies deeply: a second for 10,000
        }

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Index:
        """Raises ShardError where the bytes are no index of this format, or were changed."""
        try:
            row = json.loads(data)
        except ValueError as error:
            raise _damaged(where, "is not valid JSON") from error
        if not isinstance(row, dict):
            raise _damaged(where, "is not a JSON object")
        if (found := row.pop("format", None)) not in (FIRST_FORMAT, FORMAT):
            raise ShardError(
                f"{where}: {INDEX_NAME} has format {found!r}; this version reads {FIRST_FORMAT!r} and "
                f"{FORMAT!r}. Prepare the recordings again, or use the version that wrote it."
            )
        try:
            expected = row.pop("fingerprint")
            index = cls._from_row(row)
            fingerprint = index.fingerprint
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(where, f"is not of format {FORMAT} ({error!r})") from error
        if fingerprint != expected:
            raise _damaged(where, "does not match its own fingerprint")
        return index

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> Index:
        sessions = tuple(
            IndexRow(**{**session, "shard_sizes": tuple(session["shard_sizes"])})
            for session in row["sessions"]
        )
        return cls(**{**row, "sessions": sessions})


def _damaged(where: str, what: str) -> ShardError:
    return ShardError(
        f"{where}: {INDEX_NAME} {what}, so it was changed or damaged. Remove it and run prepare again: it "
        "writes the index anew, and only those sessions that are missing."
    )


def to_json(value: Any) -> bytes:
    """Compact JSON with sorted keys: equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def entry_name(key: str) -> str:
    return f"sessions/{key}.json"


def arrays_name(key: str) -> str:
    return f"sessions/{key}.safetensors"


def shard_name(key: str, number: int) -> str:
    """The name of a session's tar, under one of 16 prefixes: a store serves and lists each by itself."""
    return f"shards/{key[-1]}/{key}-{number:05d}.tar"


def pages_array(member: str) -> str:
    """Name of the array that holds the checksums of a member's pages, sample after sample, uint32."""
    return f"pages.{member}"


def _from_first_format(row: dict[str, Any]) -> dict[str, Any]:
    """The row of an entry of format 1 as one of this format."""
    crc32 = tuple(tuple(stretch.pop("page_crc32")) for stretch in row["stretches"])
    names, regions = _tuple(row.pop("unit_names")), _tuple(row.pop("brain_regions"))
    for stretch in row["stretches"]:
        stretch["offsets"] = {TRACES: stretch.pop("offset")}
    pages = {TRACES: {"frames": row.pop("page_frames"), "edges": [0, row["num_units"]]}}
    first = FirstFormat(names, regions, crc32)
    return {**row, "pages": pages, "first_format": first}


def _tuple(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def runs_of(values: np.ndarray | None) -> tuple[Run, ...]:
    """Whole numbers, [T], as runs of frames [start, stop) of one value; none of None."""
    if values is None:
        return ()
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return tuple((start, stop, int(values[start])) for start, stop in itertools.pairwise(edges))


def values_of(runs: Sequence[Run]) -> np.ndarray | None:
    """int32 [T], the values that runs stand for; None of none."""
    if not runs:
        return None
    return np.repeat([value for *_, value in runs], [stop - start for start, stop, _ in runs]).astype(
        np.int32
    )


def _ranges(rows: list[list[int]]) -> tuple[Range, ...]:
    return tuple((start, stop) for start, stop in rows)
