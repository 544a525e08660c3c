"""Repair: makes a dirty recording forecastable, and says in plain words what was found and done.

Traces are read in pieces: once where every value is finite, three times where some are missing; and the
first frames once more. Memory does not grow with the recording. Nothing is taken from the future: missing
values hold the last known one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.clock import MAX_TIME_GAP as MAX_TIME_GAP
from forebrain.sessions.clock import FrameClock, read_clock
from forebrain.sessions.frames import Range, RepairedFrames, hold_last, pieces, read_frames
from forebrain.sessions.report import Finding, RecordingReport
from forebrain.sessions.session import Session

MAX_MISSING = 0.1  # a unit with more of its values missing is dropped
MAX_TRIM = 0.05  # at most this part of the frames is given up to units that start late
MIN_GAP_FRAMES = 5  # shorter runs of frames without most units are held, longer ones cut out
MAX_JITTER = 0.1  # spread of the frame intervals, relative to their median
MAX_RATE_ERROR = 0.05  # between the stated rate and the frame times
# A unit whose values take no more steps of float32 in all, and are none of these, is rounded to nothing like
# itself; changes that small beside the values are float64's own rounding.
ROUNDED_STEPS, FLOAT64_ROUNDING = 10, 1e-12
EVENT_ZEROS = 0.98  # zeros in an event matrix
SHORT_SEGMENT_FRAMES = 64  # context 48 and horizon 16, the published window
# Changes from frame to frame of which so much is a sum of so many before them are a filter's: 0.9999 in a
# smoothed recording, 0.02 to 0.40 in 23 others. Judged on the first frames and on some of the units.
SMOOTHED, SMOOTHED_LAGS = 0.95, 4
JUDGED_VALUES, JUDGED_UNITS = 1 << 20, 64


def repair(session: Session) -> tuple[Session, RecordingReport]:
    """A session without missing values, useless units or hidden gaps, and the report of what was done.

    The traces of the result are read through to those of `session` slice by slice; any slice has the same
    values however the reading is cut.

    Rules, in order: units without a finite value, units with more than 10 % of their values missing, units
    whose changes are lost beside their values in float32, constant units and exact copies of an earlier unit
    are dropped; long runs of frames that miss most units are cut out and break the segment; leading frames
    before every unit has a value are cut off (units that would cost more than 5 % of the frames are dropped
    instead); other missing values hold the unit's last value; gaps in the frame times break segments. The
    rest is kept with a warning.

    Raises:
        RecordingError: no unit or fewer than two frames remain, or the traces cannot be read.
    """
    findings: list[Finding] = []
    scan = _scan(session)
    missing = _find_missing(session, scan)

    kept_units = _choose_units(session, scan, missing, findings)
    trim, kept_units = _choose_trim(session, missing, kept_units, findings)
    kept_frames = _cut(missing.gaps, trim, session.num_frames)
    if missing.gaps:
        num_lost = sum(stop - start for start, stop in missing.gaps)
        words = f"{num_lost} frames without most units were cut out; the segment ends there"
        findings.append(
            Finding("gaps", "dropped", words, num_lost, _range_names(missing.gaps), _all_frames(session))
        )
    if kept_units.size == 0 or sum(stop - start for start, stop in kept_frames) < 2:
        raise RecordingError(_nothing_left(session, findings))
    _report_held(missing, kept_units, findings)

    session, breaks = _check_times(session, findings)
    segment_ids = _segments(session, breaks, kept_frames)
    _report_inputs(session, kept_frames, findings)
    repaired = _select(session, kept_frames, kept_units, missing, segment_ids, findings)
    zeros = scan.num_zeros[kept_units].sum() / (kept_units.size * session.num_frames)
    findings.extend(_warnings(repaired, float(zeros), _all_frames(session)))
    return repaired, RecordingReport(tuple(findings))


def repair_units(session: Session, units: np.ndarray) -> tuple[Session, RecordingReport]:
    """A recording of units that were chosen before, cut and held as `repair` would have it, with what was
    found in its times and values.

    Args:
        session: as it was recorded.
        units: int64 [N], columns of its traces that remain, useful here or not. A unit has no finite value
            before its first one.

    Raises:
        RecordingError: the recording ends in frames without most units, or the traces cannot be read.
    """
    missing = _find_missing(session, _scan(session))
    if missing.gaps and missing.gaps[-1][1] == session.num_frames:
        raise RecordingError(
            f"session {session.id}: most units have no value in frames {missing.gaps[-1][0]} to "
            f"{session.num_frames}, its last. Cut them off to use what comes before."
        )
    kept_frames = _cut(missing.gaps, 0, session.num_frames)
    findings: list[Finding] = []
    session, breaks = _check_times(session, findings)
    segment_ids = _segments(session, breaks, kept_frames)
    repaired = _select(session, kept_frames, units, missing, segment_ids, findings)
    return repaired, RecordingReport((*findings, *_still_end(repaired)))


def rate_doubt(session: Session, clock: FrameClock | None) -> str:
    """What is to be said of a rate that is stated while the frame times tell another; else nothing."""
    if clock is None or session.rate_hz is None or abs(clock.rate_hz / session.rate_hz - 1) <= MAX_RATE_ERROR:
        return ""
    return (
        f"the stated rate is {session.rate_hz:.4g} Hz but the frame times say {clock.rate_hz:.4g} Hz; the "
        "stated one counts, and rate_hz in a sidecar corrects it"
    )


@dataclass(frozen=True, eq=False)
class _Scan:
    """The facts about each unit, [N], that one reading of the recording tells."""

    num_missing: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    num_zeros: np.ndarray
    fingerprint: np.ndarray

    @property
    def is_constant(self) -> np.ndarray:
        return self.minimum >= self.maximum


def _scan(session: Session) -> _Scan:
    num_units = session.num_units
    num_missing, num_zeros = np.zeros(num_units, np.int64), np.zeros(num_units, np.int64)
    minimum, maximum = np.full(num_units, np.inf, np.float32), np.full(num_units, -np.inf, np.float32)
    fingerprint = np.zeros(num_units, np.uint64)
    for start, stop in pieces(0, session.num_frames, num_units):
        frames = read_frames(session.traces, start, stop, session.id)
        finite = np.isfinite(frames)
        num_missing += (~finite).sum(axis=0)
        num_zeros += (frames == 0).sum(axis=0)
        minimum = np.minimum(minimum, np.where(finite, frames, np.inf).min(axis=0))
        maximum = np.maximum(maximum, np.where(finite, frames, -np.inf).max(axis=0))
        bits = np.where(finite, frames, np.float32(np.nan)).view(np.uint32)
        fingerprint += _frame_weights(start, stop) @ bits.astype(np.uint64)
    return _Scan(num_missing, minimum, maximum, num_zeros, fingerprint)


def _frame_weights(start: int, stop: int) -> np.ndarray:
    """A pseudo-random odd number for each frame (splitmix64), so that sums of frames are fingerprints."""
    z = np.arange(start + 1, stop + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)


@dataclass(frozen=True, eq=False)
class _Missing:
    """Where values are missing outside of gaps.

    Attributes:
        gaps: frame ranges without most units.
        count: [N], missing values outside of gaps.
        first_known: [N], first frame outside of gaps with a value; num_frames where there is none.
        held: frame -> (units, values) as `RepairedFrames.held`, over all N units.
    """

    gaps: tuple[Range, ...]
    count: np.ndarray
    first_known: np.ndarray
    held: dict[int, tuple[np.ndarray, np.ndarray]]


def _find_missing(session: Session, scan: _Scan) -> _Missing:
    """Tells gaps of the recording (most units missing at once) from missing values of single units."""
    num_frames, num_units = session.num_frames, session.num_units
    if not scan.num_missing.any():
        zeros = np.zeros(num_units, np.int64)
        return _Missing((), zeros, zeros, {})

    # A unit that misses much more than the best ones is bad by itself and tells nothing about gaps.
    shared = np.quantile(scan.num_missing, 0.1)
    witnesses = scan.num_missing <= shared + MAX_MISSING * num_frames
    is_gap = np.zeros(num_frames, bool)
    for start, stop in pieces(0, num_frames, num_units):
        frames = read_frames(session.traces, start, stop, session.id)
        is_gap[start:stop] = (~np.isfinite(frames[:, witnesses])).mean(axis=1) > 0.5
    gaps = tuple((start, stop) for start, stop in _runs(is_gap) if stop - start >= MIN_GAP_FRAMES)
    in_gap = np.zeros(num_frames, bool)
    for start, stop in gaps:
        in_gap[start:stop] = True

    count = np.zeros(num_units, np.int64)
    first_known = np.full(num_units, num_frames, np.int64)
    last = np.full(num_units, np.nan, np.float32)
    held: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for start, stop in pieces(0, num_frames, num_units):
        frames = read_frames(session.traces, start, stop, session.id)
        finite = np.isfinite(frames)
        absent = np.flatnonzero(~finite[0])
        held[start] = (absent, last[absent])
        last = hold_last(frames, last)[-1]
        outside = ~in_gap[start:stop]
        count += (~finite[outside]).sum(axis=0)
        known = finite & outside[:, None]
        first = np.where(known.any(axis=0), start + known.argmax(axis=0), num_frames)
        first_known = np.minimum(first_known, first)
    return _Missing(gaps, count, first_known, held)


def _choose_units(session: Session, scan: _Scan, missing: _Missing, findings: list[Finding]) -> np.ndarray:
    """Columns of the units worth keeping; each dropped one is named in `findings`."""
    num_frames = session.num_frames - sum(stop - start for start, stop in missing.gaps)
    is_kept = np.ones(session.num_units, bool)

    def drop(kind: str, units: np.ndarray, words: str) -> None:
        if units.size:
            is_kept[units] = False
            words = words.format(_units(units.size))
            names = _names(session, units)
            findings.append(Finding(kind, "dropped", words, units.size, names, _all_frames(session)))

    words = "{} without a finite value (above 3.4e38 float32 holds none)"
    drop("empty_units", np.flatnonzero(scan.minimum > scan.maximum), words)
    too_little = np.flatnonzero(is_kept & (missing.count > MAX_MISSING * num_frames))
    drop("missing_units", too_little, f"{{}} with more than {MAX_MISSING:.0%} of the values missing")
    words = "{} whose changes are too small beside their values for float32; subtract an offset from them"
    drop("rounded_units", _rounded(session, scan, np.flatnonzero(is_kept)), words)
    drop("constant_units", np.flatnonzero(is_kept & scan.is_constant), "{} that never changed")
    copies = _copies(session, scan, np.flatnonzero(is_kept))
    drop("duplicate_units", copies, "{} equal to an earlier one in every frame; the first of each was kept")
    return np.flatnonzero(is_kept)


def _rounded(session: Session, scan: _Scan, units: np.ndarray) -> np.ndarray:
    """Those of `units` that change in the recording, and hardly or not at all once they are float32."""
    size = np.maximum(np.abs(scan.minimum), np.abs(scan.maximum))[units]
    with np.errstate(invalid="ignore"):  # of a unit without a value
        few = scan.maximum[units] - scan.minimum[units] <= ROUNDED_STEPS * np.spacing(size)
    suspects, size = units[few & (size > 0)], size[few & (size > 0)]
    if not suspects.size or np.can_cast(np.asarray(session.traces[0:1]).dtype, np.float32):
        return suspects[:0]
    lowest, highest = np.full(suspects.size, np.inf), np.full(suspects.size, -np.inf)
    is_exact = np.ones(suspects.size, bool)
    for start, stop in pieces(0, session.num_frames, 2 * session.num_units):
        values = read_frames(session.traces, start, stop, session.id, np.float64)[:, suspects]
        finite = np.isfinite(values)
        is_exact &= (~finite | (values.astype(np.float32) == values)).all(axis=0)
        lowest = np.minimum(lowest, np.where(finite, values, np.inf).min(axis=0))
        highest = np.maximum(highest, np.where(finite, values, -np.inf).max(axis=0))
    return suspects[~is_exact & (highest - lowest > FLOAT64_ROUNDING * size)]


def _copies(session: Session, scan: _Scan, units: np.ndarray) -> np.ndarray:
    """Those of `units` that equal an earlier one bit for bit; equal fingerprints are verified by reading."""
    _, first, group = np.unique(scan.fingerprint[units], return_index=True, return_inverse=True)
    originals, candidates = units[first][group], units
    suspects = originals != candidates
    originals, candidates = originals[suspects], candidates[suspects]
    if candidates.size == 0:
        return candidates
    equal = np.ones(candidates.size, bool)
    for start, stop in pieces(0, session.num_frames, session.num_units):
        frames = read_frames(session.traces, start, stop, session.id)
        same = (frames[:, originals] == frames[:, candidates]) | ~(
            np.isfinite(frames[:, originals]) | np.isfinite(frames[:, candidates])
        )
        equal &= same.all(axis=0)
    return candidates[equal]


def _choose_trim(
    session: Session, missing: _Missing, units: np.ndarray, findings: list[Finding]
) -> tuple[int, np.ndarray]:
    """How many leading frames to cut off so that every unit has a value, and the units that remain."""
    if not missing.held or units.size == 0:
        return 0, units
    begin = missing.gaps[0][1] if missing.gaps and missing.gaps[0][0] == 0 else 0
    latest = begin + MAX_TRIM * (session.num_frames - begin)
    late = units[missing.first_known[units] > latest]
    if late.size:
        words = f"{_units(late.size)} without a value in the first {MAX_TRIM:.0%} of the frames"
        names = _names(session, late)
        findings.append(Finding("late_units", "dropped", words, late.size, names, _all_frames(session)))
    units = units[missing.first_known[units] <= latest]
    trim = int(missing.first_known[units].max(initial=0))
    if trim > begin:
        words = f"the first {trim - begin} frames, before every unit has a value, were cut off"
        findings.append(
            Finding("leading_frames", "dropped", words, trim - begin, fitted_on=_all_frames(session))
        )
    return trim, units


def _cut(gaps: Iterable[Range], trim: int, num_frames: int) -> tuple[Range, ...]:
    """The frame ranges that remain after `trim` leading frames and `gaps` are cut out."""
    ranges = []
    start = trim
    for low, high in (*gaps, (num_frames, num_frames)):
        if start < low:
            ranges.append((start, low))
        start = max(start, high)
    return tuple(ranges)


def _report_held(missing: _Missing, units: np.ndarray, findings: list[Finding]) -> None:
    count = int(missing.count[units].sum())
    if count:
        affected = int((missing.count[units] > 0).sum())
        words = f"{count} missing values in {_units(affected)} were replaced by the unit's last known value"
        findings.append(Finding("missing_values", "repaired", words, count))


def _report_inputs(session: Session, kept_frames: tuple[Range, ...], findings: list[Finding]) -> None:
    """What is lost of inputs, and which never change."""
    if outside := session.metadata.get("inputs_outside"):
        words = f"marks or stretches of inputs lie outside of all frames and were left out: {outside}"
        findings.append(Finding("inputs_outside", "dropped", words, 1))
    is_kept = np.zeros(session.num_frames, bool)
    for start, stop in kept_frames:
        is_kept[start:stop] = True
    lost: dict[str, int] = {}
    constant = []
    inputs = session.inputs
    for each, values in zip(inputs, session.input_values([each.name for each in inputs]).T, strict=True):
        values = values[np.isfinite(values)] if is_kept.all() else np.where(np.isfinite(values), values, 0)
        if not values.size or values.min() == values.max():
            constant.append(each.name)
        elif not is_kept.all() and each.kind == "event" and (count := int((values[~is_kept] != 0).sum())):
            lost[each.name] = count
    if lost:
        words = "frames that were cut out held marks of inputs, which went with them"
        names = tuple(f"{count} of {name}" for name, count in lost.items())
        findings.append(Finding("inputs_cut_out", "dropped", words, sum(lost.values()), names))
    if constant:
        words = f"{len(constant)} of {len(inputs)} inputs never change, so nothing can be learned of them"
        findings.append(Finding("constant_inputs", "kept", words, len(constant), tuple(constant)))


def _check_times(session: Session, findings: list[Finding]) -> tuple[Session, np.ndarray]:
    """The session with a rate if its frame times tell it, and the frames at which time jumps.

    Frame times that are not finite or run backward as a whole are of no use and are left out.
    """
    nowhere = np.zeros(0, np.int64)
    if session.time_s is None:
        return session, nowhere
    judged_on = _all_frames(session)
    clock = read_clock(session.time_s)
    if clock is None:
        words = "the frame times are not finite or do not run forward; they were left out"
        findings.append(Finding("frame_times", "dropped", words, session.num_frames, fitted_on=judged_on))
        return replace(session, time_s=None), nowhere

    breaks = clock.breaks
    if breaks.size:
        jumps = "1 gap or jump" if breaks.size == 1 else f"{breaks.size} gaps or jumps"
        words = f"{jumps} back in the frame times; the segment ends there"
        names = tuple(f"frame {frame}" for frame in breaks)
        findings.append(Finding("time_gaps", "repaired", words, breaks.size, names, judged_on))
    if clock.strays.size:
        words = (
            f"{clock.strays.size} frame times lie off those around them by themselves, as late or wrong "
            f"stamps "
            "do, and are no gaps"
        )
        names = tuple(f"frame {frame}" for frame in clock.strays)
        findings.append(Finding("stray_times", "kept", words, clock.strays.size, names, judged_on))
    if clock.step_s:
        words = (
            f"the frame times are rounded to {clock.step_s:.4g} s, {clock.step_s / clock.interval_s:.2g} of "
            f"a frame's "
            "interval; gaps shorter than that cannot be seen"
        )
        findings.append(Finding("coarse_times", "kept", words, session.num_frames, fitted_on=judged_on))
    if clock.jitter > MAX_JITTER:
        words = (
            f"the frame intervals vary by {clock.jitter:.0%} around {clock.interval_s:.4g} s; forecasts "
            f"assume even "
            "frames"
        )
        findings.append(Finding("irregular_times", "kept", words, session.num_frames, fitted_on=judged_on))
    if session.rate_hz is None:
        session = replace(session, rate_hz=clock.rate_hz)
        words = f"no rate was stated; {clock.rate_hz:.4g} Hz was taken from the frame times"
        findings.append(Finding("rate_from_times", "repaired", words, 1, fitted_on=judged_on))
    elif words := rate_doubt(session, clock):
        findings.append(Finding("rate_mismatch", "kept", words, 1, fitted_on=judged_on))
    return session, breaks


def _segments(session: Session, breaks: np.ndarray, kept_frames: tuple[Range, ...]) -> np.ndarray | None:
    """int32 [T'] segment numbers from 0: a new one at each stated change, time jump and cut."""
    is_edge = np.zeros(session.num_frames, bool)
    is_edge[breaks] = True
    for labels in (session.segment_ids, session.conditions):
        if labels is not None:
            is_edge[1:] |= np.diff(labels) != 0
    for start, _ in kept_frames:
        is_edge[start] = True
    kept = np.concatenate([is_edge[start:stop] for start, stop in kept_frames])
    kept[0] = False
    return np.cumsum(kept, dtype=np.int32) if kept.any() else None


def _select(
    session: Session,
    kept_frames: tuple[Range, ...],
    kept_units: np.ndarray,
    missing: _Missing,
    segment_ids: np.ndarray | None,
    findings: list[Finding],
) -> Session:
    """The session reduced to what is kept, its traces read through to the recording."""
    column_of = np.full(session.num_units, -1)
    column_of[kept_units] = np.arange(kept_units.size)
    held = {}
    for frame, (units, values) in missing.held.items():
        kept = column_of[units] >= 0
        held[frame] = (column_of[units][kept], values[kept])

    def frames_of(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        return np.concatenate([values[start:stop] for start, stop in kept_frames])

    def names_of(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else tuple(names[unit] for unit in kept_units)

    positions = session.unit_positions
    return replace(
        session,
        traces=RepairedFrames(session.traces, kept_frames, kept_units, held, session.id),
        segment_ids=segment_ids,
        conditions=frames_of(session.conditions),
        time_s=frames_of(session.time_s),
        unit_names=names_of(session.unit_names),
        unit_positions=None if positions is None else np.asarray(positions, np.float32)[kept_units],
        brain_regions=names_of(session.brain_regions),
        stimulus=frames_of(_held_channels("stimulus", session.stimulus, findings)),
        behaviour=frames_of(_held_channels("behaviour", session.behaviour, findings)),
        input_kinds={each.name: each.kind for each in session.inputs},  # as whole channels tell them
        split=frames_of(session.split),
        repetition=frames_of(session.repetition),
    )


def _held_channels(name: str, channels: np.ndarray | None, findings: list[Finding]) -> np.ndarray | None:
    """Stimulus or behaviour as float32, missing values held at the last known one, 0 before the first."""
    if channels is None:
        return None
    channels = np.asarray(channels, np.float32)
    count = int((~np.isfinite(channels)).sum())
    if count:
        words = f"{count} missing {name} values were replaced by the channel's last known value (at first 0)"
        findings.append(Finding(f"missing_{name}", "repaired", words, count))
    return hold_last(channels, np.zeros(channels.shape[1], np.float32))


def _warnings(session: Session, zero_fraction: float, zeros_counted_in: Range) -> list[Finding]:
    """The findings that a reader of the scores should know; nothing is changed."""
    findings = []

    def warn(kind: str, words: str, count: int = 1, fitted_on: Range | None = None) -> None:
        findings.append(Finding(kind, "kept", words, count, fitted_on=fitted_on))

    if session.rate_hz is None:
        warn(
            "unknown_rate",
            "the rate is not known, so forecasts count in frames; a sidecar file can state rate_hz",
        )
    if chunks := session.metadata.get("missing_chunks"):
        warn("missing_chunks", chunks, int(chunks.partition(" ")[0]))
    if zero_fraction >= EVENT_ZEROS:
        words = f"{zero_fraction:.1%} of the values are zero: events, not a fluorescence"
        warn("event_matrix", words, fitted_on=zeros_counted_in)
    findings += _still_end(session)
    described = " ".join(
        [session.signal, *(session.metadata.get(key, "") for key in ("note", "strain", "genotype"))]
    )
    if re.search(r"\bGFP\b|\bcontrol\b", described, re.IGNORECASE):
        warn("control", "described as a control (no calcium signal): its score is a floor, not a result")
    if re.search(r"denois|cnmf", session.signal, re.IGNORECASE):
        warn("denoised", "a denoised signal is smooth by construction, which flatters forecasting scores")
    follows, judged_on = _follows(session)
    if follows >= SMOOTHED:
        words = (
            f"smoothed in time: {follows:.1%} of each change from frame to frame is a sum of the "
            f"{SMOOTHED_LAGS} before it, so scores tell how well the filter is found, and one that looks "
            "ahead cannot run live; use the traces before it"
        )
        warn("smoothed", words, fitted_on=judged_on)
    if re.search(r"mean|average|cluster", session.signal, re.IGNORECASE):
        warn("averaged", "units are averages of many cells, not single cells")
    repeated = {name: n for name, n in Counter(session.unit_names or ()).items() if n > 1}
    if repeated:
        count = sum(repeated.values())
        words = (
            f"{_units(count)} with a name that another one has too, so a live forecaster, which is told "
            "units by name, refuses them; give each its own"
        )
        findings.append(Finding("repeated_names", "kept", words, count, tuple(repeated)))
    lengths = [stop - start for start, stop in session.segments]
    short = sum(length < SHORT_SEGMENT_FRAMES for length in lengths)
    if short:
        words = (
            f"{short} of {len(lengths)} segments are shorter than {SHORT_SEGMENT_FRAMES} frames "
            f"(the shortest {min(lengths)}), so windows of that length do not fit them"
        )
        warn("short_segments", words, short)
    return findings


def _still_end(session: Session) -> list[Finding]:
    """What is to be said of a recording at whose end no unit changes by a bit, which activity does not do;
    nothing of one that is mostly zeros, as events are."""
    num_frames, num_units = session.num_frames, session.num_units
    last, still, zeros, before = read_frames(session.traces, num_frames - 1, num_frames, session.id), 0, 0, 0
    for start, stop in reversed(list(pieces(0, num_frames, num_units))):
        frames = read_frames(session.traces, start, stop, session.id)
        changes = np.flatnonzero((frames != last).any(axis=1))
        if not changes.size:
            still += stop - start
            continue
        end = int(changes[-1]) + 1
        still += len(frames) - end
        zeros, before = int((frames[:end] == 0).sum()), end * num_units
        break
    if still < MIN_GAP_FRAMES or 2 * zeros > before:
        return []
    words = (
        f"in the last {still} frames no unit changes, as where they were not written yet or a camera stands "
        "still; they are read as they are: cut them off if they are no activity"
    )
    return [Finding("still_end", "kept", words, still)]


def _follows(session: Session) -> tuple[float, Range]:
    """The part of units' changes from frame to frame that a sum of the changes before explains, one sum for
    all units, and the frames that it was found on."""
    num_frames = min(session.num_frames, max(1, JUDGED_VALUES // session.num_units))
    units = np.unique(np.linspace(0, session.num_units - 1, JUDGED_UNITS).astype(int))
    products = np.zeros((1 + SMOOTHED_LAGS, 1 + SMOOTHED_LAGS))  # of changes, the newest last
    for start, stop in session.segments:
        stop = min(stop, num_frames)
        if stop - start < SMOOTHED_LAGS + 2:
            continue
        frames = read_frames(session.traces, start, stop, session.id)[:, units]
        changes = np.diff(frames.astype(np.float64), axis=0)
        size = changes.std(axis=0)
        changes = changes[:, size > 0] / size[size > 0]
        lagged = [changes[lag : len(changes) - SMOOTHED_LAGS + lag] for lag in range(1 + SMOOTHED_LAGS)]
        products += [[np.einsum("tn,tn->", one, other) for other in lagged] for one in lagged]
    whole = products[-1, -1]
    for lag in range(SMOOTHED_LAGS):  # what is left of all without what this one explains
        if products[lag, lag] > 1e-12 * whole:
            products -= np.outer(products[:, lag], products[lag]) / products[lag, lag]
    return float(1 - products[-1, -1] / whole) if whole else 0.0, (0, num_frames)


def _nothing_left(session: Session, findings: list[Finding]) -> str:
    found = "; ".join(str(finding) for finding in findings) or "it is too short"
    return (
        f"session {session.id}: nothing usable remains of {session.num_frames} frames x "
        f"{session.num_units} units ({found}). Check that the right variable is read "
        "and that frames and units are not swapped."
    )


def _all_frames(session: Session) -> Range:
    return 0, session.num_frames


def _runs(flags: np.ndarray) -> list[Range]:
    """Ranges [start, stop) of consecutive true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _names(session: Session, units: np.ndarray) -> tuple[str, ...]:
    names = session.unit_names
    return tuple(names[unit] if names else f"unit {unit}" for unit in units)


def _range_names(ranges: Iterable[Range]) -> tuple[str, ...]:
    return tuple(f"frames {start} to {stop}" for start, stop in ranges)


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count} units"
