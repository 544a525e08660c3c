"""Binning and resampling in time: causal, within segments, on frames read slice by slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.frames import BlockFrames, Combine, combine_blocks
from forebrain.sessions.inputs import adds_up
from forebrain.sessions.report import Finding
from forebrain.sessions.session import Session


def bin_events(session: Session, rate_hz: float) -> tuple[Session, Finding]:
    """An event matrix summed into bins of about 1 / `rate_hz` seconds, whole frames each.

    Sparse events cannot be forecast frame by frame; counts a bin can. A bin holds only its own frames, an
    incomplete bin at a segment's end is left out. Of inputs, levels are averaged and marks of events added
    up; a bin's time is that of its last frame.

    Returns:
        The session at the rate that whole frames allow (20 Hz to 2 Hz: 10 frames a bin, exactly 2 Hz), and
        what to report. Unchanged where the rate is unknown or already as low.
    """
    if session.rate_hz is None:
        words = "events were not binned, because the rate is not known"
        return session, Finding("events_not_binned", "kept", words, session.num_frames)
    block = round(session.rate_hz / rate_hz)
    if block <= 1:
        words = (
            f"events were not binned: their rate is {session.rate_hz:.4g} Hz, asked for is {rate_hz:.4g} Hz"
        )
        return session, Finding("events_not_binned", "kept", words, session.num_frames)
    first, stop = [], []
    for start, end in session.segments:
        starts = np.arange(start, end - block + 1, block, dtype=np.int64)
        first.append(starts)
        stop.append(starts + block)
    binned = _in_blocks(session, np.concatenate(first), np.concatenate(stop), "sum", session.rate_hz / block)
    words = (
        f"events were summed in bins of {block} frames: {session.rate_hz:.4g} Hz became "
        f"{binned.rate_hz:.4g} Hz, {session.num_frames} frames became {binned.num_frames}"
    )
    return binned, Finding("events_binned", "repaired", words, binned.num_frames)


def resample(session: Session, rate_hz: float) -> tuple[Session, Finding]:
    """The session at another rate. A new frame depends on no frame recorded after it.

    Downward, a frame is the mean of the frames of its interval (block average, incomplete intervals at a
    segment's end left out); upward, the last frame recorded before it. Of inputs, levels follow the frames;
    marks of events are added up, and stand in one frame where a frame becomes several.

    Raises:
        RecordingError: the session's rate is unknown, or no segment is long enough for one frame.
    """
    if session.rate_hz is None:
        raise RecordingError(
            f"session {session.id}: cannot be resampled to {rate_hz:.4g} Hz, because its rate is not known. "
            "State rate_hz in a sidecar file, or prepare without resample_hz."
        )
    ratio = session.rate_hz / rate_hz  # recorded frames a new frame
    combine: Combine = "mean" if ratio > 1 else "last"
    first, stop = [], []
    for start, end in session.segments:
        length = end - start
        if ratio > 1:
            edges = np.ceil(np.arange(int(length / ratio) + 1) * ratio - 1e-9).astype(np.int64)
            first.append(start + edges[:-1])
            stop.append(start + edges[1:])
        else:
            count = int(np.floor((length - 1) / ratio + 1e-9)) + 1
            latest = start + np.floor(np.arange(count) * ratio + 1e-9).astype(np.int64)
            first.append(latest)
            stop.append(latest + 1)
    resampled = _in_blocks(session, np.concatenate(first), np.concatenate(stop), combine, rate_hz)
    words = (
        f"resampled from {session.rate_hz:.4g} Hz to {rate_hz:.4g} Hz "
        f"({'mean of each interval' if ratio > 1 else 'last frame held'}), {resampled.num_frames} frames"
    )
    return resampled, Finding("resampled", "repaired", words, resampled.num_frames)


def _in_blocks(
    session: Session, first: np.ndarray, stop: np.ndarray, combine: Combine, rate_hz: float
) -> Session:
    """The session with frame i made of recorded frames [first[i], stop[i]); channels follow along."""
    if len(first) == 0:
        raise RecordingError(
            f"session {session.id}: every segment is shorter than one frame at {rate_hz:.4g} Hz. "
            "Prepare with a higher event_rate_hz or resample_hz."
        )
    kinds = {each.name: each.kind for each in session.inputs}

    def combined(values: np.ndarray | None, names: tuple[str, ...] | None) -> np.ndarray | None:
        if values is None:
            return None
        channels = combine_blocks(values, first, stop, "last" if combine == "last" else "mean")
        is_event = np.array(
            [adds_up(kinds[name], channel) for name, channel in zip(names or (), values.T, strict=True)], bool
        )
        if combine == "last":
            is_repeated = np.concatenate([[False], np.diff(first) == 0])
            channels[np.ix_(is_repeated, is_event)] = 0
        else:
            channels[:, is_event] = combine_blocks(values[:, is_event], first, stop, "sum")
        return channels

    split = session.split
    if split is not None and combine != "last":  # a frame that holds any of the test part is never trained on
        split = np.array([split[low:high].max() for low, high in zip(first, stop, strict=True)], split.dtype)
    elif split is not None:
        split = split[first]

    return replace(
        session,
        traces=BlockFrames(session.traces, first, stop, combine),
        rate_hz=rate_hz,
        segment_ids=None if session.segment_ids is None else session.segment_ids[first],
        conditions=None if session.conditions is None else session.conditions[first],
        time_s=None if session.time_s is None else session.time_s[stop - 1],
        stimulus=combined(session.stimulus, session.stimulus_names),
        behaviour=combined(session.behaviour, session.behaviour_names),
        input_kinds=kinds,  # as the frames that were recorded tell them
        split=split,
        repetition=None if session.repetition is None else session.repetition[first],
    )
