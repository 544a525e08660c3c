"""A recording made ready for a backbone: repaired as the backbone's own were, and checked that it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forebrain.adaptation.description import Description
from forebrain.adaptation.stretch import last_minutes, rate_of
from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import AdaptationError
from forebrain.scoring.protocols import DEFAULT, LABELLED, PARTS
from forebrain.sessions.preprocessing import Preprocessing, rates_agree
from forebrain.sessions.repair import repair
from forebrain.sessions.report import Finding, RecordingReport
from forebrain.sessions.resample import bin_events, resample
from forebrain.sessions.session import Session
from forebrain.shards.recordings import find_all, open_any


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recording as the backbone will see it.

    Attributes:
        session: repaired, binned and resampled as the backbone expects; every unit has a name.
        windows: its normalised windows.
        report: what was found and done.
        preprocessing: all of it that a later recording, or a stream of frames, has to go through too.
        minutes: of it that were fitted to, where it is not all; see `last_minutes`.
    """

    session: Session
    windows: SessionWindows
    report: RecordingReport
    preprocessing: Preprocessing
    minutes: float | None = None


def open_session(recording: str, session_id: str | None = None) -> Session:
    """The session of a recording.

    Args:
        recording: a file or folder that is one recording.
        session_id: which one, where it holds several.

    Raises:
        RecordingError: it cannot be read.
        AdaptationError: it holds several sessions and none, or an unknown one, was asked for.
    """
    found = [session for address in find_all([recording]) for session in open_any(address)]
    wanted = [session for session in found if session_id in (None, session.id)]
    if len(wanted) != 1:
        raise AdaptationError(
            f"{recording}: {_which(session_id, found)}; give one of them with --session: "
            f"{', '.join(session.id for session in found[:8])}{' and more' * (len(found) > 8)}."
        )
    return wanted[0]


def with_rate(session: Session, rate_hz: float | None) -> Session:
    """A session at a rate that neither it nor its frame times tell; its own where they do, or for None.

    Raises:
        AdaptationError: they tell another.
    """
    if rate_hz is None:
        return session
    own = rate_of(session)
    if own is None:
        return replace(session, rate_hz=rate_hz)
    if not math.isclose(own, rate_hz, rel_tol=0.01):
        says = "states" if session.rate_hz is not None else "its frame times say"
        raise AdaptationError(
            f"session {session.id}: {says} {own:.4g} Hz, and rate_hz is {rate_hz:g}; leave out --rate_hz, or "
            "correct the recording by a sidecar, so that it holds in whatever is done next."
        )
    return session


def prepare_session(
    session: Session,
    description: Description,
    rates_hz: Sequence[float],
    to_rate: bool = False,
    hold_out: Mapping[str, Sequence[float]] | None = None,
    minutes: float | None = None,
) -> Prepared:
    """Repairs a session and checks that a backbone can be adapted to it.

    Args:
        session: as it was recorded.
        description: what the backbone expects.
        rates_hz: what it was trained on.
        to_rate: resample to the nearest of these rates where the recording has another.
        hold_out: values of inputs by name, for protocol `values`.
        minutes: fit to so many minutes before the validation part and to no other frame, see `last_minutes`.
            What is useless of the recording is judged by these minutes and by the test part.

    Raises:
        RecordingError: nothing usable remains.
        AdaptationError: it is too short.
    """
    model, protocol = description.model, description.protocol
    if minutes is not None:
        if protocol != DEFAULT:
            raise AdaptationError(
                f"minutes are counted back from where protocol {DEFAULT} begins to validate, and the "
                f"protocol is {protocol}; leave out --minutes, or give --protocol {DEFAULT}."
            )
        session, protocol = last_minutes(session, minutes, model.context, model.horizon), "given"
        num_fitted = int(np.sum(session.split != 2))
    recorded = session
    # So that what remains of the units can be told from those that repair drops.
    numbered = replace(session, unit_names=tuple(map(str, range(session.num_units))))
    session, report = repair(numbered)
    columns = np.array([int(name) for name in session.unit_names or ()])
    names = recorded.unit_names or tuple(f"unit {column}" for column in range(recorded.num_units))
    session = replace(session, unit_names=tuple(names[column] for column in columns))

    if minutes is not None and not (session.split is not None and {0, 2} <= set(session.split.tolist())):
        raise AdaptationError(
            f"session {session.id}: no frame is usable of the {minutes:g} minutes before its validation "
            "part, or of its test part; give other --minutes, or leave it out."
        )

    recorded_rate_hz = session.rate_hz
    event_rate_hz = resample_hz = None
    if description.event_rate_hz is not None and "event_matrix" in report.kinds():
        event_rate_hz = description.event_rate_hz
        if to_rate and rates_hz and description.resample_hz is None:
            # Bins of another width hold each event once; held frames would repeat it.
            nearest = _nearest(rates_hz, event_rate_hz)
            event_rate_hz = event_rate_hz if rates_agree(nearest, event_rate_hz) else nearest
        session, finding = bin_events(session, event_rate_hz)
        report = report.and_also([finding])
    resample_hz = description.resample_hz
    if resample_hz is None:
        resample_hz, findings = _rate_to_use(session, rates_hz, to_rate)
        report = report.and_also(findings)
    if resample_hz is not None:
        session, finding = resample(session, resample_hz)
        report = report.and_also([finding])
    _require_length(session, description, hold_out, protocol)
    windows = SessionWindows(
        session, protocol, model.context, model.horizon, hold_out, is_short=minutes is not None
    )
    preprocessing = replace(
        windows.preprocessing,
        columns=columns,
        num_recorded=recorded.num_units,
        recorded_rate_hz=recorded_rate_hz,
        event_rate_hz=event_rate_hz,
        resample_hz=resample_hz,
    )
    if minutes is not None and recorded_rate_hz is not None:
        minutes = num_fitted / recorded_rate_hz / 60
    return Prepared(session, windows, report, preprocessing, minutes)


def _which(session_id: str | None, found: Sequence[Session]) -> str:
    if session_id is None:
        return f"holds {len(found)} sessions, and an interface is fitted to one"
    return f"holds no session {session_id!r}"


def _rate_to_use(
    session: Session, rates_hz: Sequence[float], to_rate: bool
) -> tuple[float | None, list[Finding]]:
    """The rate to resample to, None for none, and what to report."""
    if not rates_hz:
        return None, []
    known = ", ".join(list(dict.fromkeys(f"{rate:.4g}" for rate in rates_hz))[:8])
    if session.rate_hz is None:
        words = (
            f"the rate is not known; the backbone was trained at {known} Hz, and a recording of another rate "
            "looks faster or slower to it than it was"
        )
        return None, [Finding("rate_not_checked", "kept", words, 1)]
    rate = session.rate_hz
    nearest = _nearest(rates_hz, rate)
    if rates_agree(nearest, rate):
        return None, []
    if to_rate:
        return nearest, []
    words = (
        f"{rate:.4g} frames a second, and the backbone was trained at {known} Hz: contexts and forecasts "
        "count the recording's own frames, so they are of another length; --resample brings it to "
        f"{nearest:.4g} Hz"
    )
    return None, [Finding("other_rate", "kept", words, 1)]


def _nearest(rates_hz: Sequence[float], rate_hz: float) -> float:
    return min(rates_hz, key=lambda trained: abs(math.log(trained / rate_hz)))


def _require_length(
    session: Session, description: Description, hold_out: Mapping[str, Sequence[float]] | None, protocol: str
) -> None:
    """Raises AdaptationError if a part of the recording holds no window."""
    model = description.model
    length = model.context + model.horizon
    windows = SessionWindows.counts(session, protocol, model.context, model.horizon, hold_out)
    for part in PARTS:
        if part == "validation" and protocol in LABELLED:
            continue  # which need none: choices are made on blocks of time
        if part == "train" and protocol != description.protocol:
            continue  # of a stretch that is too short for a window, statistics are enough
        if not windows[part]:
            longest = max(stop - start for start, stop in session.segments)
            rate = "" if session.rate_hz is None else f" at {session.rate_hz:.4g} Hz"
            raise AdaptationError(
                f"session {session.id}: too short. It has {session.num_frames} frames{rate}, the longest "
                f"unbroken stretch {longest}; its {part} part holds no window of {model.context} + "
                f"{model.horizon} frames. Unbroken recordings need {5 * length} frames, trials {length} "
                "each; for shorter ones take closed forms alone (--model none --context C --horizon H), or "
                "pretrain a backbone with smaller --model.context and --model.horizon."
            )
