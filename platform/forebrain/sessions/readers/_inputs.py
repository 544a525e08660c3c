"""Inputs on a clock of their own, brought to the frames of a recording.

A frame lasts from its time to that of the next one, or for the usual interval where the next one is missing.
- Marks are added up in the frame in which they fall.
- What lasts from a start to a stop is there in each frame by the share of it that it covers.
- Of samples, a frame has the mean of those that fall into it, or else the last one before.

A table of marks, trials or epochs makes an input of itself, and one of each further column: numbers as levels
while a row lasts, text as an input for each value, times within the rows as marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.clock import read_clock
from forebrain.sessions.inputs import InputKind
from forebrain.sessions.readers._names import depends_on_animal, is_counter, words_of
from forebrain.sessions.readers._time import SECONDS_PER, is_ramp, unit_in_name
from forebrain.sessions.session import Session

MAX_COLUMNS = 64  # of one series; more are a picture or a pose, not inputs to name one by one
MAX_VALUES = 24  # different texts of a column that are an input each
_MAX_TOLD = 3  # inputs of one origin that are told one by one
_MAX_NAMED = 6  # of those that are told together
_MAX_FRAME = 1.5  # usual intervals that a frame may last
_ROUNDING = 1e-3  # of a frame's interval, by which clocks that are written as decimals differ
# Fewer samples, or of more jitter, are a log of changes, each of which lasts until the next.
_MIN_SAMPLES, _IRREGULAR = 16, 0.5
_START = {"start", "starts", "onset", "onsets", "begin", "timestamp", "timestamps"}
_TIME = {"time", "times", "t"}
_STOP = {"stop", "stops", "offset", "offsets", "end", "ends"}
_DURATION = {"duration", "durations", "dur"}
_SPARSE = 5.0  # frames between the events of an animal, at least
# Columns of tables that only number, or point to other things.
_NUMBERING = {"id", "ids", "index", "number", "nr", "count", "frame", "frames"}

Values = np.ndarray | Sequence[str]


@dataclass(frozen=True, eq=False)
class FrameSpans:
    """When each frame of a recording begins and ends, seconds, float64 [T], on the clock of its inputs.

    Attributes:
        interval_s: how long a frame usually lasts.
    """

    start: np.ndarray
    stop: np.ndarray
    interval_s: float

    @classmethod
    def of(cls, session: Session, first_s: float = 0.0) -> FrameSpans | None:
        """By the times of the frames, else by the rate from `first_s` on; None where there is neither, or the
        times run back."""
        start: np.ndarray
        if session.time_s is not None:
            start = np.asarray(session.time_s, np.float64)
            clock = read_clock(start)
            if clock is None:
                return None
            interval = clock.interval_s
            if clock.step_s:  # rounded so coarsely that frames would share a time
                even = interval * np.arange(len(start))
                offsets = [np.median(part) for part in np.split(start - even, clock.breaks)]
                lengths = np.diff([0, *clock.breaks.tolist(), len(start)])
                start = even + np.repeat(offsets, lengths)
            if not (np.diff(start) > 0).all():
                return None
        elif session.rate_hz is not None:
            interval = 1.0 / session.rate_hz
            start = first_s + interval * np.arange(session.num_frames)
        else:
            return None
        following = np.append(start[1:], start[-1] + interval)
        is_late = following > start + _MAX_FRAME * interval
        return cls(start, np.where(is_late, start + interval, following), interval)

    def frames_at(self, times: np.ndarray) -> np.ndarray:
        """int64, the frame in which each time falls; -1 where it falls into none."""
        times = times + _ROUNDING * self.interval_s
        frames = np.searchsorted(self.start, times, side="right") - 1
        is_inside = (frames >= 0) & (times < self.stop[frames] + _ROUNDING * self.interval_s)
        return np.where(is_inside & np.isfinite(times), frames, -1)

    def share(self, frames: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The share of each frame that the stretch from start to stop, seconds, covers."""
        low, high = self.start[frames], self.stop[frames]
        share = (np.minimum(high, stop) - np.maximum(low, start)) / (high - low)
        share = np.where(share > 1 - _ROUNDING, 1.0, share)
        return np.where(share < _ROUNDING, 0.0, share)

    def __str__(self) -> str:
        return f"{self.start[0]:.6g} to {self.stop[-1]:.6g} s"


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of input at the frames of a recording.

    Attributes:
        values: float32 [T], NaN where it is not known.
        planned: whether its future can be known.
        kind: None where the values tell it.
        origin: where it comes from.
        made_of: what, in words: `marks`, `stretches`, or how many samples.
        count: how many marks or stretches; 0 of samples.
        lost: how many of them lie outside of all frames.
    """

    name: str
    values: np.ndarray
    planned: bool
    kind: InputKind | None = None
    unit: str = ""
    origin: str = ""
    made_of: str = ""
    count: int = 0
    lost: int = 0

    def __str__(self) -> str:
        """Its name, where it comes from, and how much of it lies in frames."""
        made_of = (
            f"{self.count - self.lost} of {self.count} {self.made_of} in frames"
            if self.count
            else self.made_of
        )
        return f"{self.name}: {', '.join(filter(None, [self.origin, made_of]))}"


@dataclass(frozen=True, eq=False)
class Samples:
    """A channel as it was sampled: values, [S], at times, [S], in seconds."""

    name: str
    values: np.ndarray
    times: np.ndarray
    planned: bool
    unit: str = ""
    origin: str = ""

    def at(self, spans: FrameSpans) -> Channel | None:
        """At the frames; None where no frame lies within its times."""
        order = np.argsort(self.times, kind="stable")
        times, values = self.times[order], np.asarray(self.values, np.float64)[order]
        is_known = np.isfinite(times) & np.isfinite(values)
        times, values = times[is_known], values[is_known]
        if times.size == 0:
            return None
        slack = _ROUNDING * spans.interval_s
        low = np.searchsorted(times, spans.start - slack)
        high = np.maximum(np.searchsorted(times, spans.stop - slack), low)
        sums = np.concatenate([[0.0], np.cumsum(values)])
        count = high - low
        last = values[np.maximum(low - 1, 0)]
        found = np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), last)
        found[high == 0] = np.nan  # before its first sample
        clock = read_clock(times)
        is_sampled = times.size >= _MIN_SAMPLES and clock is not None and clock.jitter < _IRREGULAR
        if clock is not None and is_sampled:  # it ended, and holds no longer
            found[spans.start > times[-1] + max(_MAX_FRAME * clock.interval_s, spans.interval_s)] = np.nan
        if not np.isfinite(found).any():
            return None
        known = int(np.isfinite(found).sum())
        made_of = f"{times.size} samples, known in {known} of {found.size} frames"
        return Channel(
            self.name, found.astype(np.float32), self.planned, None, self.unit, self.origin, made_of
        )

    def are_marks(self, spans: FrameSpans) -> bool:
        """Whether it rather is a list of events than a log of changes, each of which lasts until the next: at
        uneven times, its values say nothing (one value, none, or a count), or it is of what the animal does
        and has a value in few frames."""
        clock = read_clock(self.times)
        is_even = self.times.size >= _MIN_SAMPLES and clock is not None and clock.jitter < _IRREGULAR
        if is_even or self.times.size < 2:
            return False
        is_sparse = np.ptp(self.times) > _SPARSE * spans.interval_s * self.times.size
        return not self.says_more or (is_sparse and not self.planned)

    @property
    def says_more(self) -> bool:
        """Whether the values tell more than when they are: neither one value, none, nor a count."""
        finite = self.values[np.isfinite(self.values)]
        counts = not self.planned and bool((np.diff(finite) > 0).all())
        return np.unique(finite).size > 1 and not counts and not is_ramp(finite)


@dataclass(frozen=True, eq=False)
class EventTable:
    """Marks or stretches of time, a row each, with what else the rows say.

    Attributes:
        name: of the table, which is an input itself.
        is_prefix: whether names of the inputs that columns make begin with it; else the table is an input
            only where its columns do not tell all rows.
        start: seconds, [E].
        stop: seconds, [E], NaN or not after the start for a mark; None where all are marks.
        columns: by name, numbers or text of each row.
        planned: whether the table tells of what can be planned; columns whose names depend on the animal
            (`choice`, `rewarded`) never can.
        values_are_names: whether the values of a column of text are the inputs' names by themselves.
        units: of columns.
    """

    name: str
    start: np.ndarray
    stop: np.ndarray | None = None
    is_prefix: bool = True
    columns: Mapping[str, Values] = field(default_factory=dict)
    planned: bool = True
    values_are_names: bool = False
    units: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""

    def at(self, spans: FrameSpans, left_out: list[str]) -> Iterator[Channel]:
        """The channels that it makes; none where all of it lies outside of the frames.

        Args:
            left_out: gets names of columns that make no input, and why.
        """
        if not (spans.frames_at(self.start) >= 0).any() and not self._covers(spans):
            return
        labels = {
            name: values
            for name, values in self.columns.items()
            if not (isinstance(values, np.ndarray) and values.dtype.kind in "fiub")
        }
        has_zeros = any(
            (np.asarray(self.columns[name]) == 0).any() for name in self.columns if name not in labels
        )
        if self.is_prefix or not self.columns or (has_zeros and not {*labels, self.name} & {*self.columns}):
            yield self._channel(spans, self.name, np.ones(len(self.start)), self.planned)
        for name, values in self.columns.items():
            planned = self.planned and not depends_on_animal(name)
            whole = f"{self.name}/{name}" if self.is_prefix else name
            if name not in labels:
                yield from self._of_numbers(spans, whole, np.asarray(values, np.float64), planned, left_out)
                continue
            texts = [_tags(value) for value in values]
            distinct = sorted({tag for tags in texts for tag in tags})
            if len(distinct) > MAX_VALUES:
                left_out.append(f"{whole} ({len(distinct)} different texts)")
                continue
            if len(distinct) < 2 and self.is_prefix:
                continue  # the table's own channel says the same
            for value in distinct:
                marked = np.array([float(value in tags) for tags in texts])
                called = value if self.values_are_names else f"{whole}:{value}"
                is_planned = planned and not depends_on_animal(value)
                yield self._channel(spans, called, marked, is_planned, at_end=self.planned and not is_planned)

    def _covers(self, spans: FrameSpans) -> bool:
        stop = self.start if self.stop is None else self.stop
        return bool(((self.start < spans.stop[-1]) & (stop > spans.start[0])).any())

    def _of_numbers(
        self, spans: FrameSpans, name: str, values: np.ndarray, planned: bool, left_out: list[str]
    ) -> Iterator[Channel]:
        finite = np.isfinite(values)
        if set(words_of(name)) & _NUMBERING or is_counter(name) or not finite.any():
            return
        if self.stop is not None and set(words_of(name)) & (_START | _STOP | _TIME):
            late = np.where(self.stop > self.start, self.stop, self.start)
            is_within = (values >= self.start - 1.0) & (values <= late + 1.0)
            if is_within[finite].mean() >= 0.9:
                yield _marks(spans, name, values[finite], np.ones(int(finite.sum())), planned, self.origin)
            else:
                left_out.append(f"{name} (times that lie outside of their rows)")
            return
        if np.unique(values[finite]).size == 1 and finite.all() and self.is_prefix:
            return  # the table's own channel says the same
        yield self._channel(
            spans,
            name,
            np.where(finite, values, 0.0),
            planned,
            self.units.get(name.removeprefix(f"{self.name}/"), ""),
            at_end=not planned,
        )

    def _channel(
        self,
        spans: FrameSpans,
        name: str,
        values: np.ndarray,
        planned: bool,
        unit: str = "",
        at_end: bool = False,
    ) -> Channel:
        """The rows with a value as marks or as what lasts, whichever they are.

        Args:
            at_end: marks where rows end: what the animal makes of a trial is not known before.
        """
        used = values != 0
        start, values = self.start[used], values[used]
        if self.stop is None:
            return _marks(spans, name, start, values, planned, self.origin, unit)
        stop = self.stop[used]
        if at_end:
            end = np.where(np.isfinite(stop), stop, start)
            return _marks(spans, name, end, values, planned, self.origin, unit)
        length = self.stop - self.start
        length = length[np.isfinite(length)]
        if not length.size or np.median(length) < spans.interval_s:
            return _marks(spans, name, start, values, planned, self.origin, unit)
        order = np.argsort(self.start)
        touches = self.start[order][1:] - self.stop[order][:-1] < spans.interval_s
        if used.all() and (values == 1).all() and touches.size and touches.mean() > 0.9:
            return _marks(spans, name, start, values, planned, self.origin, unit)  # always on: when it begins
        return _lasting(spans, name, start, stop, values, planned, self.origin, unit)


def _tags(value: object) -> list[str]:
    """The texts of one cell of a table, which may be a list of tags; empty ones are none."""
    items = value if isinstance(value, list | tuple | np.ndarray) else [value]
    texts = [
        item.decode(errors="replace") if isinstance(item, bytes) else str(item).strip() for item in items
    ]
    return [text for text in texts if text and text.lower() not in ("nan", "none", "n/a", "null")]


def _marks(
    spans: FrameSpans,
    name: str,
    times: np.ndarray,
    values: np.ndarray,
    planned: bool,
    origin: str,
    unit: str = "",
) -> Channel:
    frames = spans.frames_at(times)
    inside = frames >= 0
    found = np.zeros(len(spans.start), np.float32)
    np.add.at(found, frames[inside], values[inside].astype(np.float32))
    return Channel(name, found, planned, "event", unit, origin, "marks", times.size, int((~inside).sum()))


def _lasting(
    spans: FrameSpans,
    name: str,
    start: np.ndarray,
    stop: np.ndarray,
    values: np.ndarray,
    planned: bool,
    origin: str,
    unit: str,
) -> Channel:
    end = np.where(np.isfinite(stop) & (stop > start), stop, start + spans.interval_s)
    low = np.searchsorted(spans.stop, start, side="right")
    high = np.searchsorted(spans.start, end, side="left")
    inside = low < high
    low, last, values = low[inside], high[inside] - 1, values[inside]
    first_share = spans.share(low, start[inside], end[inside])
    last_share = spans.share(last, start[inside], end[inside])
    change = np.zeros(len(spans.start) + 1)  # of what covers frames between a stretch's first and last
    np.add.at(change, np.minimum(low + 1, last), values)
    np.add.at(change, last, -values)
    found = np.cumsum(change)[:-1]
    np.add.at(found, low, values * first_share)
    is_longer = last > low
    np.add.at(found, last[is_longer], (values * last_share)[is_longer])
    found[np.abs(found) < 1e-9 * np.abs(found).max()] = 0.0  # what sums leave where nothing is
    lost = int((~inside).sum())
    return Channel(
        name, found.astype(np.float32), planned, "level", unit, origin, "stretches", start.size, lost
    )


def with_channels(session: Session, channels: Iterable[Channel], left_out: Sequence[str] = ()) -> Session:
    """The session with further inputs; its metadata tell where they come from and what lies outside.

    Raises:
        RecordingError: an input of that name is there.
    """
    channels = list(channels)
    notes = dict(session.metadata)
    if left_out:
        notes["inputs_left_out"] = "; ".join(filter(None, [notes.get("inputs_left_out"), *left_out]))
    if not channels:
        return replace(session, metadata=notes)
    notes["inputs_from"] = "; ".join(filter(None, [notes.get("inputs_from"), *_told(channels)]))
    if lost := [f"{each.name} ({each.lost})" for each in channels if each.lost]:
        notes["inputs_outside"] = ", ".join(filter(None, [notes.get("inputs_outside"), *lost]))
    fields: dict[str, object] = {}
    for member, planned in (("stimulus", True), ("behaviour", False)):
        added = [each for each in channels if each.planned == planned]
        if added:
            before = getattr(session, member)
            columns = [] if before is None else [before]
            columns += [each.values[:, None] for each in added]
            fields[member] = np.concatenate(columns, axis=1).astype(np.float32)
            names = getattr(session, f"{member}_names") or ()
            fields[f"{member}_names"] = (*names, *(each.name for each in added))
    kinds = {each.name: each.kind for each in channels if each.kind is not None}
    units = {each.name: each.unit for each in channels if each.unit}
    return replace(
        session,
        metadata=notes,
        input_kinds={**session.input_kinds, **kinds},
        input_units={**session.input_units, **units},
        **fields,  # type: ignore[arg-type]
    )


def _told(channels: Sequence[Channel]) -> Iterator[str]:
    """Where inputs come from: each by itself, or many of one origin together."""
    by_origin: dict[str, list[Channel]] = {}
    for each in channels:
        by_origin.setdefault(each.origin, []).append(each)
    for origin, members in by_origin.items():
        if len(members) <= _MAX_TOLD or not origin:
            yield from map(str, members)
            continue
        count, lost = sum(each.count for each in members), sum(each.lost for each in members)
        in_frames = f", {count - lost} of {count} marks and stretches in frames" if count else ""
        names = ", ".join(each.name for each in members[:_MAX_NAMED])
        more = f" and {len(members) - _MAX_NAMED} more" if len(members) > _MAX_NAMED else ""
        yield f"{names}{more}: {origin}{in_frames}"


def planned_by_name(session: Session) -> Session:
    """The session with those stimuli among behaviour whose names say that they depend on the animal, such as
    rewards: as a plan they would tell what it is going to do."""
    names = session.stimulus_names or ()
    moved = [column for column, name in enumerate(names) if depends_on_animal(name)]
    if session.stimulus is None or not moved:
        return session
    kept = [column for column in range(len(names)) if column not in moved]
    before = [] if session.behaviour is None else [session.behaviour]
    called = tuple(names[column] for column in moved)
    note = (
        f"{', '.join(called)}: called like what follows from the animal's doing, so not to be planned; the "
        "sidecar's inputs can say otherwise"
    )
    return replace(
        session,
        stimulus=session.stimulus[:, kept] if kept else None,
        stimulus_names=tuple(names[column] for column in kept) or None,
        behaviour=np.concatenate([*before, session.stimulus[:, moved]], axis=1),
        behaviour_names=(*(session.behaviour_names or ()), *called),
        metadata={**session.metadata, "inputs_not_planned": note},
    )


def table_of(
    columns: Mapping[str, Values],
    name: str,
    *,
    start: str | None = None,
    stop: str | None = None,
    unit: str | None = None,
    **more: object,
) -> EventTable | None:
    """A table of events, whose columns of times are told by their names; None where none begins.

    Args:
        start, stop: names of these columns, where they are given.
        unit: of the times; None: as their names state it, else seconds.
        more: further attributes of the table.
    """

    def called(words: set[str], others: set[str] | None = None) -> str | None:
        found = [each for each in columns if set(words_of(each)) & words and _is_numeric(columns[each])]
        found = [each for each in found if not set(words_of(each)) & (others or set())]
        return min(found, key=lambda each: len(words_of(each))) if found else None

    begin = start or called(_START, _STOP | _DURATION) or called(_TIME, _STOP | _DURATION)
    if begin is None:
        return None
    end = stop or called(_STOP)
    length = called(_DURATION) if end is None or end == begin else None

    def seconds_of(column: str) -> np.ndarray:
        scale = SECONDS_PER[unit or unit_in_name(column) or "s"]
        return np.asarray(columns[column], np.float64) * scale

    times = seconds_of(begin)
    stops = seconds_of(end) if end is not None and end != begin else None
    if stops is None and length is not None:
        stops = times + seconds_of(length)
    rest = {key: values for key, values in columns.items() if key not in (begin, end, length)}
    return EventTable(name, times, stops, columns=rest, **more)  # type: ignore[arg-type]


def _is_numeric(values: Values) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind in "fiu"


def refuse_outside(name: str, what: str, first: float, last: float, spans: FrameSpans) -> RecordingError:
    """The error that inputs lie on another clock than the frames."""
    return RecordingError(
        f"{name}: its {what} lie between {first:.6g} and {last:.6g} s, but the frames between {spans}: no "
        "frame has any of it. State offset_s (added to its times) or sync in the sidecar's input_files, or "
        "time_unit if its times are no seconds."
    )
