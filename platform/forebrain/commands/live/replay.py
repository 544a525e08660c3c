"""Plays a recording to a server, or noise, and measures how late each forecast is.

The exit status is 1 if too many forecasts were late or lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from forebrain.alone import alone
from forebrain.commands._out import require_free
from forebrain.commands.live import TITLES, Transport
from forebrain.errors import ConfigError
from forebrain.realtime.drift import STRETCH_FRAMES, CoverageClient, drifting, moments
from forebrain.realtime.latency import Latency, latency_histogram
from forebrain.realtime.replay import frames_of, play
from forebrain.scoring.protocols import Part, part_ranges
from forebrain.sessions.clock import read_clock
from forebrain.sessions.repair import MAX_RATE_ERROR, rate_doubt
from forebrain.sessions.resample import bin_events, resample
from forebrain.sessions.session import Session, other_animal
from forebrain.shards.recordings import find_all, open_any
from forebrain_registry.storage import Folder, path_here


@dataclass(frozen=True)
class Config:
    """The recording to play, where to, and how late a forecast may be.

    Attributes:
        recording: file with one session; not given, noise of as many units as the forecaster expects.
        transport: as the forecaster's.
        address: of the frames; for lsl the name of the stream.
        forecasts: address of the forecasts, for `streams`.
        part: what of the recording to play: `train`, `validation`, `test` or `all`.
        frames: how many; each of the part once if not given, 1,000 of noise.
        speed: times the recording's rate; 0 plays the next frame as soon as the last is answered.
        rate_hz: of the frames; the recording's if not given.
        budget_ms: by when a forecast is due; the time between two frames if not given.
        max_miss_rate: a larger part of late or lost forecasts is a failure (exit status 1).
        drift: let the units' scale grow to double and their offset to one deviation over 2,000 frames, and
            say what the forecaster's 80 % intervals cover; over ZeroMQ, with a recording.
        out: folder for latency.json and latency.png.
        overwrite: replace the files that are there.
    """

    recording: str | None = None
    transport: Transport = "requests"
    address: str = "tcp://127.0.0.1:5600"
    forecasts: str = "tcp://127.0.0.1:5601"
    part: Part | Literal["all"] = "test"
    frames: int | None = None
    speed: float = 1.0
    rate_hz: float | None = None
    budget_ms: float | None = None
    max_miss_rate: float = 0.01
    drift: bool = False
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("frames", "rate_hz", "budget_ms"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"--{name} is {value}; expected more than 0.")
        if self.speed < 0:
            raise ConfigError(f"--speed is {self.speed}; expected 0 or more.")
        if self.drift and (self.transport == "lsl" or self.recording is None):
            raise ConfigError("--drift takes a --recording, and intervals over ZeroMQ (requests or streams).")


def run(config: Config, console: Console) -> int:
    """Plays the frames, shows the latency and writes it to `out`."""
    if config.out is None:
        return _played(config, console, None)
    with alone(Folder(config.out)):
        require_free(f"{config.out}/latency.json", config.overwrite)
        return _played(config, console, path_here(config.out))


def _played(config: Config, console: Console, out: Path | None) -> int:
    session = None if config.recording is None else _session(config.recording)
    client, described = _client(config, session)
    names = None
    if session is None:
        session = _noise(described["num_units"], config.frames or 1000)
        ranges = session.segments
    else:
        names = _names(session, described)
        session, told = _as_expected(session, described)
        for each in told:
            console.print(each)
        ranges = session.segments
        if config.part != "all":
            ranges = part_ranges("chronological", config.part, session.num_frames, ranges)
    rate_hz = config.rate_hz or session.rate_hz
    if config.speed and rate_hz is None:
        raise ConfigError(f"{session.id} states no rate; give --rate_hz, or --speed 0.")
    period_s = 1 / (config.speed * rate_hz) if config.speed and rate_hz else 0.0
    num_frames = config.frames or sum(stop - start for start, stop in ranges)
    budget_ms = config.budget_ms or (1e3 * period_s if period_s else float("inf"))
    frames = frames_of(session, ranges, num_frames, names)
    drift = None
    if config.drift:
        client = drift = CoverageClient(client, _columns(session, names, described))
        frames = drifting(frames, *moments(session.frames(0, session.num_frames)))
    console.print(f"playing {num_frames:,} frames of {session.num_units} units of {session.id} ...")
    try:
        played = play(client, frames, num_frames, period_s)
    finally:
        client.close()
    latency = Latency.of(played.latencies_ms, budget_ms)
    console.print(
        latency.as_table(f"{TITLES[config.transport]}: from when a frame is due to its forecast's arrival")
    )
    last, sources = played.last, ", ".join(f"{name} {n:,}" for name, n in played.sources.most_common())
    score = "none" if last.score is None else f"{last.score:.3f}"
    console.print(
        f"forecasts from: {sources}; rolling score against copy: {score}; "
        f"drift: {'yes' if last.drift else 'no'}; "
        f"last frame sent {1e3 * played.late_s:.1f} ms late"
    )
    coverage = None if drift is None else drift.count.coverage()
    if coverage is not None:
        console.print(
            f"of what came, {coverage.whole:.1%} lay in its 80 % intervals; of any {STRETCH_FRAMES} frames "
            f"{coverage.least:.1%} to {coverage.most:.1%}"
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        summary = {**latency.to_json(), "sources": dict(played.sources), "score": last.score}
        if coverage is not None:
            summary["coverage"] = asdict(coverage)
        (out / "latency.json").write_text(
            json.dumps({"config": asdict(config), **summary}, indent=1), encoding="utf-8"
        )
        title = f"{session.num_units:,} units over {TITLES[config.transport]}"
        frame_ms = 1e3 * period_s if period_s else None
        latency_histogram(played.latencies_ms, latency, title, out / "latency.png", frame_ms)
        console.print(f"{out}/latency.json, {out}/latency.png")
    return 0 if latency.miss_rate <= config.max_miss_rate else 1


def _client(config: Config, session: Session | None) -> tuple[Any, dict[str, Any]]:
    """A rig's end of a transport, connected, and what the forecaster says of itself."""
    if config.transport == "lsl":
        if session is None:
            raise ConfigError("over LSL nobody can be asked how many units to play; give --recording.")
        from forebrain.realtime.lsl import LslClient

        lsl = LslClient(config.address, session.num_units, session.rate_hz, session.unit_names)
        lsl.ready()
        return lsl, {}
    from forebrain.realtime.zeromq import RequestClient, StreamClient

    if config.transport == "requests":
        requests = RequestClient(config.address)
        return requests, requests.ask("describe")
    streams = StreamClient(config.address, config.forecasts)
    return streams, streams.ready()


def _session(recording: str) -> Session:
    sessions = [session for address in find_all([recording]) for session in open_any(address)]
    if len(sessions) != 1:
        raise ConfigError(f"{recording} holds {len(sessions)} sessions; expected a file with one.")
    return sessions[0]


def _names(session: Session, described: dict[str, Any]) -> tuple[str, ...] | None:
    """The units' names as a rig would tell them; none where the forecaster's are only numbered."""
    own, columns = described.get("unit_names"), described.get("columns") or ()
    return None if own in (None, [f"unit {column}" for column in columns]) else session.unit_names


def _columns(
    session: Session, names: tuple[str, ...] | None, described: dict[str, Any]
) -> Sequence[int] | None:
    """Of the forecast units among those recorded; None where these are all, in order. Raises ConfigError."""
    if names is None:
        return described["columns"] if session.num_units == described["num_recorded"] else None
    if lost := [name for name in described["unit_names"] if name not in names]:
        raise ConfigError(f"--drift: {session.id} has no unit {lost[0]}; expected all that are forecast.")
    return [names.index(name) for name in described["unit_names"]]


def _as_expected(session: Session, described: dict[str, Any]) -> tuple[Session, list[str]]:
    """The session as the forecaster expects its frames, events in bins and others averaged or held, and what
    was done for that."""
    clock = None if session.time_s is None else read_clock(session.time_s)
    told = [doubt] if (doubt := rate_doubt(session, clock)) else []
    if described.get("unit_names") is not None and "subject" in described:  # no untrained model
        other = other_animal(session, described["dataset"], described["subject"])
        told += [other] if other else []
    if (event_rate_hz := described.get("event_rate_hz")) is not None:
        session, finding = bin_events(session, event_rate_hz)
        if finding.action == "repaired":  # not where they came in bins
            told.append(finding.words)
    rate_hz = described.get("rate_hz")
    if session.rate_hz is None and rate_hz:
        told.append(f"its rate is not known; the forecaster takes its frames to come at {rate_hz:.4g} Hz")
    if rate_hz and session.rate_hz and abs(session.rate_hz / rate_hz - 1) > MAX_RATE_ERROR:
        session, finding = resample(session, rate_hz)
        told.append(finding.words)
    return session, told


def _noise(num_units: int, num_frames: int) -> Session:
    traces = np.random.default_rng(0).standard_normal((min(num_frames, 10_000), num_units), np.float32)
    return Session(traces, None, "none", "noise", f"{num_units} units", "made up")
